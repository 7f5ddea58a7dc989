//! How the memory of a transfer comes to an end: in *rounds*, of what was written during the one before,
//! until the rest is sent in less time than the guest may stand still for.

use std::time::Duration;

use crate::cpu::Look;
use crate::ram::PAGE;
use crate::sources::pace::TransferPace;
use crate::state::Round;

/// So many rounds have to bring half of what was left.
const PATIENCE: u32 = 4;

/// Time between two words about that.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// Fewer pages say nothing of the speed.
const SAMPLE: u64 = 64;

/// The guest's thread gives the threads that send, which are behind it, at most so many times the processor
/// that they had, when it stands still.
const FASTER_IN_PAUSE: f64 = 4.0;

/// A rest that takes this part of the pause is not worth another round.
const SMALL_SHARE: f64 = 0.125;

/// A guest that is slowed down runs and stands still once in this time.
const PERIOD: Duration = Duration::from_millis(40);

/// At most 31 parts of 32 of it are taken from the guest.
const MOST_LEVELS: u32 = 5;

/// What comes after a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The rest fits the pause.
    Stop,
    /// Another round.
    Round,
    /// Another round, which is to be told: the guest writes, and the network takes, so many bytes a second.
    DoesNotConverge { guest: u64, network: u64 },
}

/// The rounds of a transfer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rounds {
    pace: TransferPace,
    /// The guest may notice that pages are watched.
    may_watch: bool,
    /// Which pages were written is known from one round to the next. Until then, each round looks at all
    /// that the guest has written since anybody asked.
    watches: bool,
    /// Pages a second that were looked at, and sent where they had changed: of late,
    speed: Option<f64>,
    /// and at best.
    best: f64,
    /// Rounds so far.
    count: u32,
    /// So many pages fitted the pause.
    fitted: Option<u64>,
    /// Half of so many pages are to be left,
    from: u64,
    /// and so many rounds did not bring that.
    stuck: u32,
    /// The guest runs one part in 2^level of its time.
    level: u32,
    told: Option<Duration>,
}

impl Rounds {
    pub(super) fn new(pace: TransferPace) -> Self {
        Self {
            pace,
            may_watch: true,
            watches: false,
            speed: None,
            best: 0.0,
            fitted: None,
            count: 0,
            from: u64::MAX,
            stuck: 0,
            level: 0,
            told: None,
        }
    }

    /// In which pages are never watched, because the guest is followed meanwhile.
    pub(super) fn hidden(self) -> Self {
        Self {
            may_watch: false,
            ..self
        }
    }

    /// How to look for what was written.
    ///
    /// To watch a page for writes costs the guest an exit inside KVM at its next write to each, which takes a
    /// guest with much memory in use most of its time for a while. To look at a page that has not changed
    /// costs some part of what it takes to send it, and not the guest. So pages are not watched as long as all
    /// that it may have written can be looked at in the pause.
    pub(super) fn look(&self) -> Look {
        match self.watches {
            true => Look::Open,
            false => Look::Hidden,
        }
    }

    /// Rounds so far.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// `round` is over, and so many pages were written in the `time` since it began, until `now`.
    pub(super) fn over(
        &mut self,
        round: &Round,
        written: u64,
        time: Duration,
        now: Duration,
    ) -> Next {
        self.count += 1;
        // The first one had all of memory, most of which may be zero.
        let pages = match self.count {
            1 => round.sent,
            _ => round.looked_at,
        };
        if pages >= SAMPLE || self.speed.is_none() {
            let speed = pages as f64 / round.took.as_secs_f64().max(1e-6);
            self.speed = Some(speed);
            self.best = self.best.max(speed);
        }
        let left = written as f64;
        let speed = self.speed.unwrap_or_default();
        // A busy guest slows a short round down that waits for its processor. It does not, when it stands.
        let in_pause = self.best.min(speed * FASTER_IN_PAUSE);
        let fits = in_pause * self.pace.max_pause.as_secs_f64();
        if left <= fits {
            let is_small = left <= fits * SMALL_SHARE;
            if is_small || self.fitted.is_some_and(|before| written > before / 2) {
                return Next::Stop;
            }
            // A short round makes the pause shorter yet.
            self.fitted = Some(written);
            return Next::Round;
        }
        let finds_few = self.count > 1 && round.sent < round.looked_at / 2;
        if self.may_watch && !self.watches && finds_few {
            // They are too many to look at, and most have not changed.
            (self.watches, self.speed, self.best) = (true, None, 0.0);
            return Next::Round;
        }
        if written <= self.from / 2 {
            self.from = written;
            self.stuck = 0;
            return Next::Round;
        }
        self.stuck += 1;
        if self.stuck < PATIENCE {
            return Next::Round;
        }
        self.stuck = 0;
        if self.pace.throttles && self.level < MOST_LEVELS {
            self.level += 1;
            self.from = written;
        }
        let changed = round.sent as f64 / round.looked_at.max(1) as f64;
        let guest = left * changed / time.as_secs_f64().max(1e-6);
        if guest < speed || self.told.is_some_and(|told| now < told + TELL_AGAIN) {
            return Next::Round;
        }
        self.told = Some(now);
        let bytes = |pages| (pages * PAGE as f64) as u64;
        Next::DoesNotConverge {
            guest: bytes(guest),
            network: bytes(speed),
        }
    }

    /// For how long the guest runs, and then stands still, if it is slowed down.
    pub(super) fn throttle(&self) -> Option<(Duration, Duration)> {
        let run = PERIOD / (1 << self.level);
        (self.level > 0).then(|| (run, PERIOD - run))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Milliseconds that a guest stands still at the end, and what was told, of a transfer over a link that
    /// takes `speed` pages a millisecond, of a guest that writes to `hot` pages, `writes` a millisecond.
    fn transfer(
        rounds: &mut Rounds,
        (pages, hot): (u64, u64),
        writes: f64,
        speed: f64,
    ) -> (Option<f64>, u32) {
        let (mut due, mut now, mut told) = (pages, Duration::ZERO, 0);
        for _ in 0..200 {
            let took = due as f64 / speed;
            let runs = match rounds.throttle() {
                None => 1.0,
                Some((run, hold)) => run.as_secs_f64() / (run + hold).as_secs_f64(),
            };
            let written = ((writes * runs * took) as u64).min(hot);
            let time = Duration::from_secs_f64(took / 1e3);
            now += time;
            let round = Round {
                looked_at: due,
                sent: due,
                bytes: 0,
                took: time,
            };
            match rounds.over(&round, written, time, now) {
                Next::Stop => return (Some(written as f64 / speed), told),
                Next::Round => {}
                Next::DoesNotConverge { .. } => told += 1,
            }
            due = written;
        }
        (None, told)
    }

    fn of(throttles: bool) -> Rounds {
        Rounds::new(TransferPace {
            throttles,
            ..TransferPace::DEFAULT
        })
    }

    proptest! {
        #[test]
        fn a_guest_that_writes_less_than_the_network_takes_stands_still_for_no_longer_than_it_may(
            pages in 1u64..1 << 20,
            speed in 1.0..1000.0,
            ratio in 0.0..0.95,
            throttles in any::<bool>(),
        ) {
            let mut rounds = of(throttles);
            let (pause, told) = transfer(&mut rounds, (pages, pages), ratio * speed, speed);
            prop_assert!(pause.is_some_and(|pause| pause <= 100.0 + 1e-6), "{pause:?}");
            prop_assert_eq!(told, 0);
        }

        #[test]
        fn one_that_writes_faster_is_slowed_down_only_if_that_is_asked_for(
            speed in 1.0..1000.0,
            ratio in 1.5..10.0,
        ) {
            let pages = 1 << 24;
            let mut rounds = of(false);
            let (pause, told) = transfer(&mut rounds, (pages, pages), ratio * speed, speed);
            prop_assert!(pause.is_none() && told > 0);
            let mut rounds = of(true);
            let (pause, _) = transfer(&mut rounds, (pages, pages), ratio * speed, speed);
            prop_assert!(pause.is_some_and(|pause| pause <= 100.0 + 1e-6), "{pause:?}");
        }
    }

    fn round(sent: u64, millis: u64) -> Round {
        Round {
            looked_at: sent,
            sent,
            bytes: 0,
            took: Duration::from_millis(millis),
        }
    }

    fn next(rounds: &mut Rounds, round: &Round, written: u64) -> Next {
        rounds.over(round, written, round.took, Duration::ZERO)
    }

    #[test]
    fn short_rounds_that_wait_for_the_processor_make_no_network_slow() {
        let mut rounds = of(false);
        assert_eq!(next(&mut rounds, &round(10_000, 1000), 2000), Next::Round);
        assert_eq!(next(&mut rounds, &round(2000, 800), 900), Next::Round);
        assert_eq!(next(&mut rounds, &round(900, 360), 900), Next::Stop);
        // But one that has become slow is.
        let mut rounds = of(false);
        assert_eq!(next(&mut rounds, &round(10_000, 1000), 2000), Next::Round);
        for _ in 0..10 {
            assert_ne!(next(&mut rounds, &round(900, 900), 900), Next::Stop);
        }
    }

    #[test]
    fn a_pause_that_another_round_makes_much_shorter_waits_for_it() {
        let mut rounds = of(false);
        assert_eq!(next(&mut rounds, &round(10_000, 1000), 800), Next::Round);
        assert_eq!(next(&mut rounds, &round(800, 80), 300), Next::Round);
        assert_eq!(
            next(&mut rounds, &round(300, 30), 120),
            Next::Stop,
            "little"
        );
        let mut rounds = of(false);
        assert_eq!(next(&mut rounds, &round(10_000, 1000), 800), Next::Round);
        assert_eq!(
            next(&mut rounds, &round(800, 80), 500),
            Next::Stop,
            "no half"
        );
    }

    /// A guest that has written to much of its memory, and writes to few pages now.
    #[test]
    fn pages_are_watched_only_if_they_are_too_many_to_look_at() {
        let looked_at = |pages, sent, millis| Round {
            looked_at: pages,
            ..round(sent, millis)
        };
        // Each row is a round of these pages, of which so many were sent in so many milliseconds, and
        // how many were written meanwhile.
        type Row = ((u64, u64, u64), u64, Next, Look);
        let check = |rows: &[Row]| {
            let mut rounds = of(false);
            for &((pages, sent, millis), written, expected, look) in rows {
                let round = looked_at(pages, sent, millis);
                assert_eq!(next(&mut rounds, &round, written), expected, "{round:?}");
                assert_eq!(rounds.look(), look, "{round:?}");
            }
        };
        // Looked at in 40 ms, which fits.
        check(&[
            ((60_000, 40_000, 2000), 40_000, Next::Round, Look::Hidden),
            ((40_000, 100, 40), 40_000, Next::Round, Look::Hidden),
            ((40_000, 100, 40), 40_000, Next::Stop, Look::Hidden),
        ]);
        // In 4 s. The look that begins to watch names them all once more, and the next one those that were
        // written.
        let (many, all) = (4_000_000, 6_000_000);
        check(&[
            ((all, many, 200_000), many, Next::Round, Look::Hidden),
            ((many, 100, 4000), many, Next::Round, Look::Open),
            ((many, 100, 4000), many, Next::Round, Look::Open),
            ((many, 100, 4000), 100, Next::Stop, Look::Open),
        ]);
    }

    #[test]
    fn pages_of_a_guest_that_is_followed_are_never_watched() {
        let mut rounds = of(false).hidden();
        for _ in 0..20 {
            let round = Round {
                looked_at: 4_000_000,
                ..round(100, 4000)
            };
            assert_eq!(next(&mut rounds, &round, 4_000_000), Next::Round);
            assert_eq!(rounds.look(), Look::Hidden);
        }
    }

    #[test]
    fn it_is_told_what_the_guest_writes_and_what_the_network_takes() {
        let mut rounds = of(false);
        let round = Round {
            looked_at: 10_000,
            sent: 10_000,
            bytes: 0,
            took: Duration::from_secs(1),
        };
        let second = Duration::from_secs(1);
        let words: Vec<Next> = (1..=30)
            .map(|n| rounds.over(&round, 20_000, second, second * n))
            .filter(|next| *next != Next::Round)
            .collect();
        let (guest, network) = (20_000 * 4096, 10_000 * 4096);
        assert_eq!(words[0], Next::DoesNotConverge { guest, network });
        assert_eq!(words.len(), 3, "and not all the time");
    }
}
