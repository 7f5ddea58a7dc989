//! How far a counter is trusted that was wrong before.

use std::collections::VecDeque;

use super::Why;

/// So many searches that failed among the last [`LATELY`] are the counter's fault, whatever each of
/// them looked like: state deltas name stops without one.
pub(super) const MANY: usize = 3;

/// An overrun in a million stops is no reason to do without a counter.
pub(super) const LATELY: u64 = 1000;

/// More is not allowed for: the guest would be brought from breakpoint to breakpoint for all of it.
const MOST_MARGIN: u64 = 100_000;

/// What the searches for places have shown.
#[derive(Debug, Default)]
pub(super) struct Trust {
    searches: u64,
    /// Which of them failed.
    failed: VecDeque<u64>,
    /// Events that are allowed for beyond the counter's own skid.
    margin: u64,
}

impl Trust {
    /// Events that are allowed for beyond the counter's own skid.
    pub(super) fn margin(&self) -> u64 {
        self.margin
    }

    /// A place was found.
    pub(super) fn found(&mut self) {
        self.searches += 1;
    }

    /// A place was missed. How often lately.
    pub(super) fn missed<E>(&mut self, why: &Why<E>) -> usize {
        if let Why::Overrun { late } = why {
            let wider = late.saturating_mul(2).min(MOST_MARGIN);
            self.margin = self.margin.max(wider);
        }
        self.searches += 1;
        let now = self.searches;
        self.failed.retain(|search| now - search < LATELY);
        self.failed.push_back(now);
        self.failed.len()
    }
}

/// Compares, over the steps of a search, what was counted with the branches that were executed.
#[derive(Debug, Default)]
pub(super) struct StepCheck {
    counted: i64,
    executed: Branches,
}

/// Conditional branches that a processor executed in steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Branches {
    /// All of them.
    pub all: u64,
    /// Among them LOOP and JCXZ, of which makers do not say that their counters count them.
    pub unusual: u64,
}

/// The host may be told of a branch's stop before or after it: no more than that.
const SLACK: i64 = 1;

impl StepCheck {
    /// One step went from one count and number of branches to the next. Why the counter is not to
    /// be trusted, if it is not.
    pub(super) fn step(&mut self, counts: [u64; 2], branches: [Branches; 2]) -> Option<String> {
        let [before, after] = counts;
        self.counted += after.wrapping_sub(before).cast_signed();
        self.executed.all += branches[1].all - branches[0].all;
        self.executed.unusual += branches[1].unusual - branches[0].unusual;
        let most = self.executed.all.cast_signed();
        let least = most - self.executed.unusual.cast_signed();
        let counted = self.counted;
        if counted > most + SLACK {
            Some(format!(
                "it counts more than the guest's branches: {counted} in steps over {most} (the \
                 host's, or those of a system management interrupt)"
            ))
        } else if counted < least - SLACK {
            Some(format!(
                "it loses counts: {counted} in steps over {least} branches of the guest"
            ))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STUCK: Why<()> = Why::Stuck;

    #[test]
    fn rare_misses_are_forgotten() {
        let mut trust = Trust::default();
        for _ in 0..10 {
            assert!(trust.missed(&STUCK) < MANY);
            for _ in 0..LATELY {
                trust.found();
            }
        }
        for nth in 1..=MANY {
            assert_eq!(trust.missed(&STUCK), nth);
            trust.found();
        }
    }

    #[test]
    fn an_overrun_widens_the_margin_within_bounds() {
        let mut trust = Trust::default();
        for (late, margin) in [(700, 1400), (30, 1400), (u64::MAX, MOST_MARGIN)] {
            trust.missed(&Why::<()>::Overrun { late });
            assert_eq!(trust.margin(), margin);
        }
    }

    /// Steps: what is counted in each, and the branch that it is over, if any.
    fn found(steps: &[(i64, Option<bool>)]) -> Option<String> {
        let mut check = StepCheck::default();
        let (mut count, mut branches) = (1000u64, Branches::default());
        steps.iter().find_map(|&(counted, branch)| {
            let before = (count, branches);
            count = count.wrapping_add_signed(counted);
            branches.all += u64::from(branch.is_some());
            branches.unusual += u64::from(branch == Some(true));
            check.step([before.0, count], [before.1, branches])
        })
    }

    #[test]
    fn a_counter_is_wrong_that_differs_by_more_than_its_moment() {
        const JCC: Option<bool> = Some(false);
        const LOOP: Option<bool> = Some(true);
        assert_eq!(found(&[(0, None), (1, JCC), (0, None), (1, JCC)]), None);
        assert_eq!(found(&[(1, None), (0, JCC), (1, None), (0, JCC)]), None);
        assert_eq!(found(&[(0, LOOP), (0, LOOP), (1, LOOP), (0, LOOP)]), None);
        for (steps, word) in [
            (&[(300, JCC)][..], "counts more"),
            (&[(1, JCC), (2, None)], "counts more"),
            (&[(0, JCC), (0, None), (0, JCC)], "loses"),
            (&[(1, JCC), (-900, None)], "loses"),
        ] {
            let told = found(steps).expect("it is noticed");
            assert!(told.contains(word), "{told}");
        }
    }
}
