//! How long this host may take its backup for one that has not gone live.
//!
//! A backup goes live when it has heard nothing from its primary for the heartbeat timeout. So
//! whoever knows that the backup received something which was *sent* at a time, knows that the
//! backup has not gone live until a timeout after that time. An acknowledgement proves it for the
//! entry that it acknowledges, an echo for the heartbeat that it names; when they are *read* says
//! nothing. A primary that was frozen finds acknowledgements in its socket when it wakes up, and the
//! outputs that they let out would come from two hosts.

use std::time::{Duration, Instant};

/// Until when outputs may leave.
#[derive(Debug)]
pub(super) struct Lease {
    term: Duration,
    /// When the latest was sent of what the backup is known to have received.
    proof: Instant,
}

impl Lease {
    /// A lease that is proven `now`, with the heartbeat timeout as its term.
    pub(super) fn new(term: Duration, now: Instant) -> Self {
        Self { term, proof: now }
    }

    /// The backup received what was sent at `sent`.
    pub(super) fn prove(&mut self, sent: Instant) {
        self.proof = self.proof.max(sent);
    }

    /// When it ends. What the network takes adds nothing: the backup may have heard at once what was
    /// sent, however late it is known here.
    pub(super) fn end(&self) -> Instant {
        self.proof + self.term
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: Duration = Duration::from_millis(500);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn only_what_was_sent_later_prolongs_it() {
        let start = Instant::now();
        let mut lease = Lease::new(TERM, start);
        assert_eq!(lease.end(), start + TERM);
        lease.prove(start + ms(300));
        lease.prove(start + ms(100));
        assert_eq!(lease.end(), start + ms(300) + TERM);
    }
}
