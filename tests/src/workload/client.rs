//! A client at work, and what it saw.

use std::time::{Duration, Instant};

use parking_lot::MutexGuard;

use crate::error::{Error, Result};
use crate::wait::{LIMIT, wait_until};
use crate::worker::Worker;

/// How many replies show that a client goes on. All but the first are to requests that were made meanwhile.
const REPLIES: usize = 5;
/// What a client saw.
#[derive(Debug, Clone, Default)]
pub struct ClientRecord {
    /// Every reply: when, and the number in it. The first is 1, and each is its predecessor plus
    /// one.
    pub replies: Vec<(Instant, u64)>,
    /// The first reply that was not its predecessor plus one, and what it should have been.
    pub irregular: Option<(u64, u64)>,
    /// Connections after the first one.
    pub reconnects: u32,
    /// The highest number that the server has at the end.
    pub final_counter: Option<u64>,
    /// How many acknowledged numbers the server does not have at the end, as far as it tells more
    /// than the highest one.
    pub missing: u64,
    /// How many numbers the server has more than once at the end, each time after the first.
    pub duplicates: u64,
    /// What went wrong.
    pub trouble: Option<String>,
}

impl ClientRecord {
    /// The longest time from one reply to the next that was not over before `since`.
    #[must_use]
    pub fn longest_gap(&self, since: Instant) -> Duration {
        let pairs = self.replies.windows(2);
        let later = pairs.filter(|pair| pair[1].0 > since);
        let gaps = later.map(|pair| pair[1].0 - pair[0].0);
        gaps.max().unwrap_or_default()
    }

    /// The highest number that was acknowledged.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.replies
            .iter()
            .map(|(_, value)| *value)
            .max()
            .unwrap_or(0)
    }

    /// What shows already that the connection broke or something was lost, if anything does.
    pub(crate) fn loss(&self) -> Option<String> {
        let broken = (self.reconnects > 0).then(|| format!("{} reconnects", self.reconnects));
        let irregular = self
            .irregular
            .map(|(got, expected)| format!("the reply {got} in place of {expected}"));
        self.trouble.clone().or(broken).or(irregular)
    }

    /// What was lost by the end, if anything was: something that was acknowledged is not there, or is there
    /// twice, or the connection is not the first one.
    #[must_use]
    pub fn lost(&self) -> Option<String> {
        let (counter, acked) = (self.final_counter, self.acked());
        let is_all = (counter, self.missing, self.duplicates) == (Some(acked), 0, 0);
        self.loss().or_else(|| {
            (!is_all).then(|| {
                format!(
                    "of {acked} that it acknowledged the server has {counter:?}, lacks {}, and has {} twice",
                    self.missing, self.duplicates
                )
            })
        })
    }

    /// Takes in a reply.
    pub(super) fn reply(&mut self, at: Instant, value: u64) {
        let expected = self.replies.last().map_or(0, |(_, value)| *value) + 1;
        if value != expected && self.irregular.is_none() {
            self.irregular = Some((value, expected));
        }
        self.replies.push((at, value));
    }
}

/// A client at work. It stops when this value is dropped.
#[derive(Debug)]
pub struct Client(pub(super) Worker<ClientRecord>);

impl Client {
    /// The number in the newest reply, and 0 before the first one.
    #[must_use]
    pub fn counter(&self) -> u64 {
        self.last_reply().map_or(0, |(_, value)| value)
    }

    /// The first reply.
    #[must_use]
    pub fn first_reply(&self) -> Option<(Instant, u64)> {
        self.record().replies.first().copied()
    }

    /// The newest reply.
    #[must_use]
    pub fn last_reply(&self) -> Option<(Instant, u64)> {
        self.record().replies.last().copied()
    }

    /// What was seen up to now.
    pub(crate) fn record(&self) -> MutexGuard<'_, ClientRecord> {
        self.0.record()
    }

    /// What went wrong, if something did.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.record().trouble.clone()
    }

    /// Waits until some replies more have come; `when` tells what was before.
    ///
    /// # Errors
    ///
    /// When the client is in trouble, or nothing comes.
    pub fn goes_on(&self, when: &str) -> Result<()> {
        let count = || self.record().replies.len();
        let before = count();
        let what = format!("replies {when}");
        wait_until(&what, LIMIT, || match self.trouble() {
            Some(trouble) => Err(Error::Client {
                what: what.clone(),
                trouble,
            }),
            None => Ok(count() >= before + REPLIES),
        })
    }

    /// [`ClientRecord::longest_gap`] up to now.
    #[must_use]
    pub fn longest_gap(&self, since: Instant) -> Duration {
        self.record().longest_gap(since)
    }

    /// Sends no more requests, asks over the same connection what the server has, and gives what
    /// was seen.
    #[must_use]
    pub fn finish(self) -> ClientRecord {
        self.0.finish()
    }

    /// As [`Client::finish`], for a client that must have lost nothing.
    ///
    /// # Panics
    ///
    /// When it has: [`ClientRecord::lost`].
    pub fn lost_nothing(self) -> ClientRecord {
        let record = self.finish();
        assert_eq!(record.lost(), None);
        record
    }

    /// Waits for nothing any more, and gives what was seen.
    #[must_use]
    pub fn abandon(self) -> ClientRecord {
        self.0.abandon()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_counts_from_the_last_reply_before() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let replies = [(0, 1), (500, 2), (600, 3), (900, 4), (950, 5)];
        let record = ClientRecord {
            replies: replies.map(|(ms, value)| (at(ms), value)).to_vec(),
            ..ClientRecord::default()
        };
        let gap = |ms| record.longest_gap(at(ms));
        assert_eq!(gap(650), Duration::from_millis(300));
        assert_eq!(gap(510), Duration::from_millis(300));
        assert_eq!(gap(400), Duration::from_millis(500));
        assert_eq!(gap(940), Duration::from_millis(50));
    }

    #[test]
    fn a_gap_and_a_repetition_are_noticed() {
        let now = Instant::now();
        let seen = |values: &[u64]| {
            let mut record = ClientRecord::default();
            for value in values {
                record.reply(now, *value);
            }
            record
        };
        assert_eq!(seen(&[1, 2, 3]).irregular, None);
        assert_eq!(seen(&[1, 2, 2, 3]).irregular, Some((2, 3)));
        assert_eq!(seen(&[1, 3]).irregular, Some((3, 2)));
        assert_eq!(seen(&[2]).irregular, Some((2, 1)));
        assert_eq!(seen(&[1, 2, 1]).acked(), 2);
    }
}
