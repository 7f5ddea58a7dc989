//! When the entries were appended that are not acknowledged yet.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::entry::Lsn;

/// Entries that were appended within this time share a sample.
const GRAIN: Duration = Duration::from_millis(1);

/// Most samples kept. Beyond them, entries are taken to be as old as the newest sample.
const MAX_SAMPLES: usize = 16 * 1024;

/// Remembers when some of the entries were appended, to a millisecond, until they are acknowledged.
#[derive(Debug, Default)]
pub(super) struct Ages {
    /// Last of the entries that were appended at a time, or shortly after it, in order.
    samples: VecDeque<(Lsn, Instant)>,
}

/// What the backup has not acknowledged.
#[derive(Debug, Default)]
pub(super) struct Unacknowledged {
    /// Outputs: somebody waits for each.
    pub(super) outputs: Ages,
    /// The first entry of each batch: who has received one has not long been without news.
    pub(super) batches: Ages,
}

impl Unacknowledged {
    /// Everything up to `lsn` was acknowledged. Returns when the latest entry of that was appended, as
    /// far as it is remembered.
    pub(super) fn acknowledged(&mut self, lsn: Lsn) -> Option<Instant> {
        let output = self.outputs.acknowledged(lsn);
        output.max(self.batches.acknowledged(lsn))
    }
}

impl Ages {
    /// The entry `lsn` was appended.
    pub(super) fn appended(&mut self, lsn: Lsn, now: Instant) {
        let full = self.samples.len() == MAX_SAMPLES;
        match self.samples.back_mut() {
            Some((last, at)) if full || now.saturating_duration_since(*at) < GRAIN => *last = lsn,
            _ => self.samples.push_back((lsn, now)),
        }
    }

    /// Everything up to `lsn` was acknowledged. Returns when the latest entry of that was appended,
    /// or a little earlier; `None` if there is none.
    pub(super) fn acknowledged(&mut self, lsn: Lsn) -> Option<Instant> {
        let mut latest = None;
        while let Some(&(last, at)) = self.samples.front()
            && last <= lsn
        {
            self.samples.pop_front();
            latest = Some(at);
        }
        latest
    }

    /// When the oldest entry was appended that is not acknowledged.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.samples.front().map(|&(_, at)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn an_entry_is_remembered_until_it_is_acknowledged_whatever_came_after_it() {
        let start = Instant::now();
        let mut ages = Ages::default();
        assert_eq!(ages.oldest(), None);
        ages.appended(Lsn(4), start);
        ages.appended(Lsn(6), start + GRAIN / 2);
        ages.appended(Lsn(9), start + ms(30));
        assert_eq!(ages.acknowledged(Lsn(3)), None);
        assert_eq!(ages.acknowledged(Lsn(5)), None, "6 still waits");
        assert_eq!(ages.oldest(), Some(start));
        assert_eq!(ages.acknowledged(Lsn(8)), Some(start));
        assert_eq!(ages.oldest(), Some(start + ms(30)));
        assert_eq!(ages.acknowledged(Lsn(20)), Some(start + ms(30)));
        assert_eq!(ages.oldest(), None);
    }

    #[test]
    fn the_number_of_samples_is_bounded() {
        let start = Instant::now();
        let mut ages = Ages::default();
        let count = MAX_SAMPLES as u64 + 10;
        for n in 1..=count {
            ages.appended(Lsn(n), start + ms(2) * n as u32);
        }
        assert_eq!(ages.samples.len(), MAX_SAMPLES);
        assert_eq!(
            ages.acknowledged(Lsn(count - 1)).map(|at| at > start),
            Some(true)
        );
        assert!(ages.oldest().is_some(), "the last one still waits");
    }
}
