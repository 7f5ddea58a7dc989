//! How a state delta comes to an end, however fast the guest writes.
//!
//! An input waits for it. Memory is sent in *rounds*: what was written during one is sent in the next. The
//! guest runs between the *stops* in which that is done, each as long as it may be. A delta is complete with
//! a stop in which all that was written since the last round was sent, so that no stop takes longer than one
//! may.
//!
//! A round that is not half as large as the one before says that the guest writes too fast for that. From
//! then on the guest runs half as long each time, down to 250 µs. QEMU's migration capability
//! `auto-converge` is alike. A shorter run is none where it takes long to enter the guest: it would be
//! stopped again before its first instruction.
//!
//! In that time a guest can write to a few hundred pages that KVM watches, each of which costs it an
//! exit inside KVM, and to as many of those that are not watched (`kvm::write_log`) as its memory
//! takes. If rounds do not shrink even then, the link carries less than an eightieth of what the guest
//! writes, and they never would: the rest goes in one stop.
//!
//! Rounds do not shrink under shadow paging: the looks are hidden ([`Look`](crate::cpu::Look)), so each
//! round has all that was written since the last one that was not. That is given up once before a stop
//! without a limit (`StateKeeper::delta`).
//!
//! The size of a round is that of the pages that are to be looked at, whether the guest wrote them or
//! not: a stop that is too short to look at all pages that are not watched ends no delta.

use std::time::Duration;

use super::pace::Pace;

/// For how long the guest runs at first.
const RUN: Duration = Duration::from_millis(1);

/// At this level the guest runs for the shortest time, 250 µs.
const HIGHEST: u32 = 2;

/// How a state delta comes to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Convergence {
    /// How often a round was too large.
    level: u32,
    /// Pages of the last round.
    round: u64,
}

impl Default for Convergence {
    fn default() -> Self {
        Self {
            level: 0,
            round: u64::MAX,
        }
    }
}

impl Convergence {
    /// How long the guest may be stopped; `None` if it is to be the last time.
    pub(super) fn stop(&self, pace: &Pace) -> Option<Duration> {
        (self.level <= HIGHEST).then_some(pace.longest_stop)
    }

    /// How long it runs between two stops.
    pub(super) fn run(&self) -> Duration {
        RUN / (1 << self.level.min(HIGHEST))
    }

    /// A round of `pages` pages begins that was not sent in one stop.
    pub(super) fn begin_round(&mut self, pages: u64) {
        if pages > self.round / 2 {
            self.level += 1;
        }
        self.round = pages;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A guest and a transfer of its memory.
    #[derive(Debug, Clone, Copy)]
    struct Guest {
        pages: u64,
        /// Pages that it writes in a millisecond, each another one.
        writes: f64,
        /// Pages that are sent in a millisecond.
        sent: f64,
    }

    impl Guest {
        /// Sends all of memory. Milliseconds of the longest stop, and of all.
        fn transfer(self, mut convergence: Convergence) -> (f64, f64) {
            let pace = Pace::default();
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            let (mut left, mut written) = (self.pages as f64, 0.0f64);
            let (mut longest, mut stopped) = (0.0f64, 0.0);
            loop {
                let time = convergence.stop(&pace).map_or(f64::INFINITY, ms);
                let old = left;
                let is_round = left / self.sent <= time;
                if is_round {
                    left = written;
                    written = 0.0;
                }
                let work = if is_round { old + left } else { left };
                let took = (work / self.sent).min(time);
                // A page is sent as a whole, and what is left of a sum is no page.
                left = (work - took * self.sent + 1e-6).floor();
                longest = longest.max(took);
                stopped += took;
                if is_round && left <= 0.0 {
                    return (longest, stopped);
                }
                if is_round {
                    convergence.begin_round((work - old) as u64);
                }
                written += self.writes * ms(convergence.run());
                written = written.min(self.pages as f64);
            }
        }
    }

    proptest! {
        /// Up to a guest that writes 80 times as fast as is sent: 4 GB/s over 50 MB/s.
        #[test]
        fn no_stop_is_longer_than_it_may_be_and_every_delta_ends(
            pages in 1u64..1 << 20,
            sent in 2.0..1000.0,
            ratio in 0.0..80.0,
        ) {
            let guest = Guest { pages, writes: ratio * sent, sent };
            let longest_stop = Pace::default().longest_stop.as_secs_f64() * 1e3;
            let (longest, stopped) = guest.transfer(Convergence::default());
            prop_assert!(longest <= longest_stop + 1e-6, "{longest} ms");
            let once = pages as f64 / sent;
            // The first two rounds, one at each level, and then in every one less than half of it.
            let rounds = f64::from(HIGHEST) + 3.0;
            prop_assert!(stopped <= once * rounds + longest_stop, "{stopped} of {once} ms");
        }
    }

    #[test]
    fn the_slowest_link_makes_one_long_stop() {
        let guest = Guest {
            pages: 10_000,
            writes: 1e9,
            sent: 1.0,
        };
        let (longest, _) = guest.transfer(Convergence::default());
        assert!(longest >= 10_000.0, "{longest} ms");
    }
}
