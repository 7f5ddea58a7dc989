//! How a transfer of memory comes to an end, however fast the guest writes.
//!
//! Memory is sent in *rounds*: what was written during one is sent in the next. The guest runs
//! between the *stops* in which that is done. A transfer is complete with a stop in which all that
//! was written since the last round was sent, so that no stop takes longer than one may.
//!
//! A round that is not half as large as the one before says that the guest writes too fast for that.
//! From then on stops are twice as long, and the guest runs half as long in between, until
//! [`Pace::longest_stop`] and one part in fifty. If that is not enough, it runs half as long each time
//! still, down to 250 µs. QEMU's migration capability `auto-converge` is alike. A shorter run is none
//! where it takes long to enter the guest: it would be stopped again before its first instruction.
//!
//! In that time a guest can write to a few hundred pages that KVM watches, each of which costs it an
//! exit inside KVM, and to as many of those that are not watched (`kvm::write_log`) as its memory
//! takes. If rounds do not shrink even then, the link carries less than an eightieth of what the guest
//! writes, 50 MB/s of 4 GB/s, and they never would: the rest goes in one stop.
//!
//! A delta's rounds do not shrink under shadow paging: its looks are hidden ([`Look`](crate::cpu::Look)),
//! so each round has all that was written since the last one that was not. That is given up once before
//! a stop without a limit (`StateKeeper::delta`).
//!
//! The size of a round is that of the pages that are to be looked at, whether the guest wrote them or
//! not: a stop that is too short to look at all pages that are not watched ends no transfer.

use std::time::Duration;

use super::pace::Pace;

/// At first the guest runs this many times as long as it is stopped.
const GUEST_SHARE: u32 = 3;

/// At this level stops are as long as they may be.
const LONG_STOPS: u32 = 5;

/// At this level the guest runs for the shortest time, 250 µs.
const HIGHEST: u32 = LONG_STOPS + 2;

/// How a transfer of memory comes to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Convergence {
    /// How often a round was too large.
    level: u32,
    /// Pages of the last round.
    round: u64,
}

impl Convergence {
    /// Nobody waits for the transfer: the guest keeps most of its time if it can.
    pub(super) fn at_leisure() -> Self {
        Self {
            level: 0,
            round: u64::MAX,
        }
    }

    /// An input waits for the end of the transfer.
    pub(super) fn at_once() -> Self {
        Self {
            level: LONG_STOPS,
            round: u64::MAX,
        }
    }

    /// How long the guest may be stopped; `None` if it is to be the last time.
    pub(super) fn stop(&self, pace: &Pace) -> Option<Duration> {
        (self.level <= HIGHEST).then(|| {
            let longer = 1 << self.level.min(LONG_STOPS);
            (pace.transfer_slice * longer).min(pace.longest_stop)
        })
    }

    /// How long it runs between two stops: at least half as long as the shortest stop, as long as
    /// longer stops are of use.
    pub(super) fn run(&self, pace: &Pace) -> Duration {
        let least = pace.transfer_slice / 2;
        let level = self.level.min(HIGHEST);
        match level.checked_sub(LONG_STOPS) {
            Some(above) => least / (1 << above),
            None => (pace.transfer_slice * GUEST_SHARE / (1 << level)).max(least),
        }
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
        /// Sends all of memory. Milliseconds of the longest stop, of all stops, and of the guest's
        /// own time.
        fn transfer(self, mut convergence: Convergence) -> (f64, f64, f64) {
            let pace = Pace::default();
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            let (mut left, mut written) = (self.pages as f64, 0.0f64);
            let (mut longest, mut stopped, mut ran) = (0.0f64, 0.0, 0.0);
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
                    return (longest, stopped, ran);
                }
                if is_round {
                    convergence.begin_round((work - old) as u64);
                }
                ran += ms(convergence.run(&pace));
                written += self.writes * ms(convergence.run(&pace));
                written = written.min(self.pages as f64);
            }
        }
    }

    proptest! {
        /// Up to a guest that writes 16 times as fast as the transfer sends.
        #[test]
        fn no_stop_is_longer_than_it_may_be_and_every_transfer_ends(
            pages in 1u64..1 << 20,
            sent in 20.0..1000.0,
            ratio in 0.0..16.0,
        ) {
            let guest = Guest { pages, writes: ratio * sent, sent };
            let longest_stop = Pace::default().longest_stop.as_secs_f64() * 1e3;
            for convergence in [Convergence::at_leisure(), Convergence::at_once()] {
                let (longest, stopped, ran) = guest.transfer(convergence);
                prop_assert!(longest <= longest_stop + 1e-6, "{longest} ms");
                // In every round less than half of the last one.
                let once = pages as f64 / sent;
                prop_assert!(stopped <= once * 9.0 + longest_stop, "{stopped} of {once} ms");
                prop_assert!(ran >= stopped / 50.0 - 1.0, "{ran} beside {stopped} ms");
            }
        }

        /// Up to one that writes 80 times as fast: 4 GB/s over 50 MB/s.
        #[test]
        fn no_stop_is_longer_than_it_may_be_on_a_slow_link(
            pages in 1u64..1 << 20,
            sent in 2.0..1000.0,
            ratio in 0.0..80.0,
        ) {
            let guest = Guest { pages, writes: ratio * sent, sent };
            let longest_stop = Pace::default().longest_stop.as_secs_f64() * 1e3;
            for convergence in [Convergence::at_leisure(), Convergence::at_once()] {
                let (longest, stopped, _) = guest.transfer(convergence);
                prop_assert!(longest <= longest_stop + 1e-6, "{longest} ms");
                let once = pages as f64 / sent;
                // The first two rounds, one at each level, and then in every one less than half of it.
                let rounds = f64::from(HIGHEST) + 3.0;
                prop_assert!(stopped <= once * rounds + longest_stop, "{stopped} of {once} ms");
            }
        }

        /// Pages that are not watched are looked at in every round, and need not have been written:
        /// if they did not count, no stop would become long enough for all of them.
        #[test]
        fn pages_that_are_looked_at_in_every_round_lengthen_stops_until_one_does(
            pages in 1u64..1 << 13,
            looked_at in 400.0..4000.0,
        ) {
            let guest = Guest { pages, writes: f64::INFINITY, sent: looked_at };
            let (longest, stopped, _) = guest.transfer(Convergence::at_leisure());
            let once = pages as f64 / looked_at;
            prop_assert!(longest <= (4.0 * once).max(2.0), "{longest} ms");
            prop_assert!(stopped <= 8.0 * once + 2.0, "{stopped} of {once} ms");
        }

        #[test]
        fn a_guest_that_writes_little_keeps_its_time(pages in 1u64 << 14..1 << 20, ratio in 0.0..0.15) {
            let guest = Guest { pages, writes: ratio * 200.0, sent: 200.0 };
            let (longest, stopped, ran) = guest.transfer(Convergence::at_leisure());
            prop_assert!(longest <= 8.0, "{longest} ms");
            prop_assert!(ran > stopped * 2.0, "{ran} beside {stopped} ms");
        }
    }

    #[test]
    fn the_slowest_link_makes_one_long_stop() {
        let guest = Guest {
            pages: 10_000,
            writes: 1e9,
            sent: 1.0,
        };
        let (longest, _, _) = guest.transfer(Convergence::at_leisure());
        assert!(longest >= 10_000.0, "{longest} ms");
    }
}
