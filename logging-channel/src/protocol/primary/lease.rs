//! How long this host may take its backup for one that has not gone live.
//!
//! A backup goes live when it has heard nothing from its primary for the heartbeat timeout. So
//! whoever knows that the backup received something which was *sent* at a time, knows that the
//! backup has not gone live until a timeout after that time. An acknowledgement proves it for the
//! entry that it acknowledges, an echo for the heartbeat that it names; when they are *read* says
//! nothing. A primary that was frozen finds acknowledgements in its socket when it wakes up, and the
//! outputs that they let out would come from two hosts.
//!
//! The two hosts measure that time each with a clock of its own. The lease is as much shorter as those may
//! go apart ([`DRIFT`]).

use std::time::{Duration, Instant};

/// The part of a time by which the clocks of two hosts differ at most. Each may be off by 500 in a
/// million, the most that Linux allows for NTP's frequency. Who slews them faster is told not to in
/// docs/two-machines.md.
const DRIFT: u32 = 1000;

/// Until when outputs may leave.
#[derive(Debug)]
pub(super) struct Lease {
    term: Duration,
    /// When the latest was sent of what the backup is known to have received.
    proof: Instant,
    /// Until when it held at the latest. Not for proof that is older than the term when it comes.
    held: Instant,
}

impl Lease {
    /// A lease that is proven `now`, for a backup that goes live after a silence of `timeout`.
    pub(super) fn new(timeout: Duration, now: Instant) -> Self {
        let term = timeout - timeout / DRIFT;
        Self {
            term,
            proof: now,
            held: now + term,
        }
    }

    /// The backup received what was sent at `sent`, as is known `now`.
    pub(super) fn prove(&mut self, sent: Instant, now: Instant) {
        self.proof = self.proof.max(sent);
        if self.end() >= now {
            self.held = self.end();
        }
    }

    /// Outputs wait for it from now on, and not before.
    pub(super) fn begin(&mut self, now: Instant) {
        self.held = self.held.max(now);
    }

    /// Until when it held at the latest, or will: outputs could leave until then.
    pub(super) fn held(&self) -> Instant {
        self.held
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

    const TIMEOUT: Duration = Duration::from_millis(500);
    const TERM: Duration = Duration::from_micros(499_500);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn it_ends_before_a_backup_goes_live_whose_clock_is_faster() {
        let start = Instant::now();
        let lease = Lease::new(TIMEOUT, start);
        let (slow, fast) = (1.0 - 500e-6, 1.0 + 500e-6);
        let ends = (lease.end() - start).as_secs_f64() / slow;
        assert!(ends <= TIMEOUT.as_secs_f64() / fast, "{ends}");
    }

    #[test]
    fn only_what_was_sent_later_prolongs_it() {
        let start = Instant::now();
        let mut lease = Lease::new(TIMEOUT, start);
        assert_eq!(lease.end(), start + TERM);
        lease.prove(start + ms(300), start + ms(310));
        lease.prove(start + ms(100), start + ms(320));
        assert_eq!(lease.end(), start + ms(300) + TERM);
    }

    #[test]
    fn proof_that_comes_too_late_prolongs_nothing() {
        let start = Instant::now();
        let mut lease = Lease::new(TIMEOUT, start);
        for n in 1..100u32 {
            let sent = start + ms(100) * n;
            lease.prove(sent, sent + TERM + ms(1));
        }
        assert_eq!(lease.held(), start + TERM);
        let sent = start + ms(20_000);
        lease.prove(sent, sent + TERM);
        assert_eq!(lease.held(), sent + TERM);
    }
}
