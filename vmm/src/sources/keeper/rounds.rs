//! How the memory of a transfer comes to an end: in *rounds*, of what was written during the one before,
//! until the rest is sent in less time than the guest may stand still for.

use std::time::Duration;

use crate::ram::PAGE;
use crate::sources::pace::TransferPace;
use crate::state::Round;

/// So many rounds have to bring half of what was left.
const PATIENCE: u32 = 4;

/// Time between two words about that.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// Fewer pages say nothing of the time that one takes.
const SAMPLE: u64 = 64;

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
    /// Seconds that it takes to look at a page, of late,
    looking: Option<f64>,
    /// and to send one: of a host that has nothing else to do, as while the guest stands still.
    sending: Option<f64>,
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
            looking: None,
            sending: None,
            fitted: None,
            count: 0,
            from: u64::MAX,
            stuck: 0,
            level: 0,
            told: None,
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
        learn(&mut self.looking, round.looking, round.looked_at);
        learn(&mut self.sending, round.sending, round.sent);
        // If all of them have changed.
        let page = self.looking.unwrap_or_default() + self.sending.unwrap_or_default();
        let (pause, longest) = (page * written as f64, self.pace.max_pause.as_secs_f64());
        if pause <= longest {
            let is_small = pause <= longest * SMALL_SHARE;
            if is_small || self.fitted.is_some_and(|before| written > before / 2) {
                return Next::Stop;
            }
            // A short round makes the pause shorter yet.
            self.fitted = Some(written);
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
        if written < round.looked_at || self.told.is_some_and(|told| now < told + TELL_AGAIN) {
            return Next::Round;
        }
        self.told = Some(now);
        let changed = round.sent as f64 / round.looked_at.max(1) as f64;
        let seconds = time.as_secs_f64().max(1e-6);
        let bytes = |pages: f64| (pages * PAGE as f64 / seconds) as u64;
        Next::DoesNotConverge {
            guest: bytes(written as f64 * changed),
            network: bytes(round.sent as f64),
        }
    }

    /// For how long the guest runs, and then stands still, if it is slowed down.
    pub(super) fn throttle(&self) -> Option<(Duration, Duration)> {
        let run = PERIOD / (1 << self.level);
        (self.level > 0).then(|| (run, PERIOD - run))
    }
}

/// Makes that so many pages took so long what one takes.
fn learn(page: &mut Option<f64>, took: Duration, pages: u64) {
    if pages >= SAMPLE || pages > 0 && page.is_none() {
        *page = Some(took.as_secs_f64() / pages as f64);
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
                sending: time,
                ..Round::default()
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
            sending: Duration::from_millis(millis),
            ..Round::default()
        }
    }

    fn next(rounds: &mut Rounds, round: &Round, written: u64) -> Next {
        rounds.over(round, written, round.sending, Duration::ZERO)
    }

    /// All that it was made of before was looked at, and most of it had not changed: that was quick, and what
    /// is left has.
    #[test]
    fn a_rest_that_has_changed_takes_longer_than_pages_that_had_not() {
        let relook = Round {
            looked_at: 40_000,
            looking: Duration::from_millis(40),
            ..round(100, 10)
        };
        let mut rounds = of(false);
        assert_eq!(next(&mut rounds, &round(40_000, 4000), 40_000), Next::Round);
        assert_eq!(next(&mut rounds, &relook, 10_000), Next::Round);
        let mut rounds = of(false);
        assert_eq!(next(&mut rounds, &round(40_000, 4000), 40_000), Next::Round);
        assert_eq!(next(&mut rounds, &relook, 100), Next::Stop);
    }

    /// Its first round had next to nothing to send, and says what that takes.
    #[test]
    fn most_of_a_guests_memory_may_be_zeros() {
        let mut rounds = of(false);
        let first = Round {
            looked_at: 16_000_000,
            looking: Duration::from_secs(16),
            ..round(100, 1)
        };
        assert_eq!(next(&mut rounds, &first, 1000), Next::Stop);
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

    #[test]
    fn it_is_told_what_the_guest_writes_and_what_the_network_takes() {
        let mut rounds = of(false);
        let round = round(10_000, 1000);
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
