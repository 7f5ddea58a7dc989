//! Since when outputs wait for their acknowledgement.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::entry::Lsn;

/// Outputs that were appended within this time share a sample.
const GRAIN: Duration = Duration::from_millis(1);

/// Most samples kept. Beyond them, outputs are taken to be as old as the newest sample.
const MAX_SAMPLES: usize = 16 * 1024;

/// Remembers when outputs were appended until they are acknowledged; to a millisecond.
#[derive(Debug, Default)]
pub(super) struct Awaited {
    /// Last output that was appended at a time, or shortly after it, in order.
    samples: VecDeque<(Lsn, Instant)>,
}

impl Awaited {
    /// The output `lsn` was appended.
    pub(super) fn appended(&mut self, lsn: Lsn, now: Instant) {
        let full = self.samples.len() == MAX_SAMPLES;
        match self.samples.back_mut() {
            Some((last, at)) if full || now.saturating_duration_since(*at) < GRAIN => *last = lsn,
            _ => self.samples.push_back((lsn, now)),
        }
    }

    /// Everything up to `lsn` was acknowledged. Returns when the latest output of that was
    /// appended, or a little earlier; `None` if there is none.
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

    /// When the oldest output was appended that waits.
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
    fn an_output_waits_until_it_is_acknowledged_whatever_came_after_it() {
        let start = Instant::now();
        let mut awaited = Awaited::default();
        assert_eq!(awaited.oldest(), None);
        awaited.appended(Lsn(4), start);
        awaited.appended(Lsn(6), start + GRAIN / 2);
        awaited.appended(Lsn(9), start + ms(30));
        assert_eq!(awaited.acknowledged(Lsn(3)), None);
        assert_eq!(awaited.acknowledged(Lsn(5)), None, "6 still waits");
        assert_eq!(awaited.oldest(), Some(start));
        assert_eq!(awaited.acknowledged(Lsn(8)), Some(start));
        assert_eq!(awaited.oldest(), Some(start + ms(30)));
        assert_eq!(awaited.acknowledged(Lsn(20)), Some(start + ms(30)));
        assert_eq!(awaited.oldest(), None);
    }

    #[test]
    fn the_number_of_samples_is_bounded() {
        let start = Instant::now();
        let mut awaited = Awaited::default();
        let count = MAX_SAMPLES as u64 + 10;
        for n in 1..=count {
            awaited.appended(Lsn(n), start + ms(2) * n as u32);
        }
        assert_eq!(awaited.samples.len(), MAX_SAMPLES);
        assert_eq!(
            awaited.acknowledged(Lsn(count - 1)).map(|at| at > start),
            Some(true)
        );
        assert!(awaited.oldest().is_some(), "the last one still waits");
    }
}
