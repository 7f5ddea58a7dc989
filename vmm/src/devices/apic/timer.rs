//! The local APIC's timer (Intel SDM volume 3, section 11.5.4): one-shot and periodic.
//!
//! It has no clock of its own: every access and every [`Timer::advance`] brings the guest's
//! monotonic time along, which comes from the log.

use serde::{Deserialize, Serialize};

use crate::devices::guest_time::{MAX_GUEST_TIME, SHORTEST_PERIOD, bounded_period, forget_missed};

/// Nanoseconds of one tick of the timer's input clock: 1 GHz, before the divisor.
const NANOS_PER_TICK: u64 = 1;
/// Bits of the divide configuration register that are there: 0, 1 and 3.
const DIVIDE_BITS: u32 = 0b1011;

/// What the local vector table says of the timer's mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) enum Mode {
    #[default]
    OneShot,
    Periodic,
    /// The TSC-deadline mode, which CPUID does not offer, and what is reserved: never runs out.
    Stopped,
}

impl Mode {
    /// Of an entry of the local vector table.
    pub(super) fn of(entry: u32) -> Self {
        match entry >> 17 & 0b11 {
            0 => Self::OneShot,
            1 => Self::Periodic,
            _ => Self::Stopped,
        }
    }
}

/// The timer, without its entry in the local vector table.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Timer {
    mode: Mode,
    /// Divide configuration register.
    divide: u32,
    /// Initial count register; 0 when stopped.
    initial: u32,
    /// Guest time at which the count was started, or seems to have been: see
    /// [`Timer::set_divide`].
    started_at: u64,
    /// Interrupts of the running count since then.
    fired: u64,
    /// Interrupts that were not raised yet.
    due: u64,
}

impl Timer {
    /// Whether a guest whose local vector table has `entry` for the timer could have brought it
    /// into this state; if not, what is wrong.
    pub(super) fn check(&self, entry: u32) -> Result<(), &'static str> {
        if self.mode != Mode::of(entry) {
            return Err("the timer has another mode than its entry in the local vector table");
        }
        if self.divide & !DIVIDE_BITS != 0 {
            return Err("no such divisor");
        }
        let stopped = self.initial == 0 || self.mode == Mode::Stopped;
        if stopped && (self.fired > 0 || self.due > 0) {
            return Err("a count that was not started ran out");
        }
        if self.mode == Mode::OneShot && (self.fired > 1 || self.due > self.fired) {
            return Err("a count that runs out once did so several times");
        }
        // One a nanosecond is the most that a guest gets.
        if self.due > MAX_GUEST_TIME {
            return Err("more interrupts are due than there can be");
        }
        // Also what keeps next_deadline() from overflowing.
        let last = u128::from(self.period()) * u128::from(self.fired);
        if u128::from(self.started_at).saturating_add(last) > u128::from(MAX_GUEST_TIME) {
            return Err("a time that no guest reaches");
        }
        Ok(())
    }

    /// Nanoseconds of one count of the current count register.
    fn count_nanos(&self) -> u64 {
        // Bits 3, 1 and 0: 000 divides by 2, 110 by 128, 111 by 1.
        let code = (self.divide >> 1 & 0b100) | (self.divide & 0b11);
        NANOS_PER_TICK << ((code + 1) & 0b111)
    }

    /// Nanoseconds from the start of a count to its interrupt, and between two of them.
    fn period(&self) -> u64 {
        let period = u64::from(self.initial) * self.count_nanos();
        if self.mode == Mode::Periodic && period != 0 {
            bounded_period(period, SHORTEST_PERIOD)
        } else {
            period
        }
    }

    /// How many interrupts of the running count there were up to guest time `now`.
    fn ends(&self, now: u64) -> u64 {
        let elapsed = now.saturating_sub(self.started_at);
        match (self.mode, self.period()) {
            (Mode::Stopped, _) | (_, 0) => 0,
            (Mode::OneShot, period) => u64::from(elapsed >= period),
            (Mode::Periodic, period) => elapsed / period,
        }
    }

    /// Guest time of the next interrupt.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        let idle = match self.mode {
            Mode::Stopped => true,
            Mode::OneShot => self.fired > 0,
            Mode::Periodic => false,
        };
        (!idle && self.initial != 0).then(|| self.started_at + self.period() * (self.fired + 1))
    }

    /// Lets guest time pass up to `now`.
    pub(super) fn advance(&mut self, now: u64) {
        let ends = self.ends(now);
        self.due = self.due.saturating_add(ends.saturating_sub(self.fired));
        self.fired = self.fired.max(ends);
    }

    /// Takes one interrupt that is due. Those of a periodic timer that the guest missed are
    /// forgotten, as on hardware, and up to 25 more are left out. A guest that counts them for lack
    /// of a clock is told to count the 8254's.
    pub(super) fn take_due(&mut self) -> bool {
        forget_missed(&mut self.due, &mut self.fired);
        let due = self.due > 0;
        self.due = self.due.saturating_sub(1);
        due
    }

    /// Whether interrupts are due.
    pub(super) fn is_due(&self) -> bool {
        self.due > 0
    }

    /// Nobody takes the interrupts that are due.
    pub(super) fn forget_due(&mut self) {
        self.due = 0;
    }

    /// The mode was written to the local vector table. What is due is forgotten when it changes.
    pub(super) fn set_mode(&mut self, mode: Mode) {
        if mode != self.mode {
            self.mode = mode;
            self.stop();
        }
    }

    /// Stops the count.
    pub(super) fn stop(&mut self) {
        self.initial = 0;
        self.fired = 0;
        self.due = 0;
    }

    /// A write to the initial count register starts the count, or stops it with 0.
    pub(super) fn start(&mut self, count: u32, now: u64) {
        self.stop();
        self.initial = count;
        self.started_at = now;
    }

    pub(super) fn initial_count(&self) -> u32 {
        self.initial
    }

    /// The current count register.
    pub(super) fn current_count(&self, now: u64) -> u32 {
        let elapsed = now.saturating_sub(self.started_at) / self.count_nanos();
        let initial = u64::from(self.initial);
        match self.mode {
            Mode::Stopped => 0,
            _ if initial == 0 => 0,
            Mode::OneShot => initial.saturating_sub(elapsed) as u32,
            Mode::Periodic => (initial - elapsed % initial) as u32,
        }
    }

    pub(super) fn divide(&self) -> u32 {
        self.divide
    }

    /// A running count goes on from here with the new divisor.
    pub(super) fn set_divide(&mut self, value: u32, now: u64) {
        self.advance(now);
        let left = self.current_count(now);
        self.divide = value & DIVIDE_BITS;
        if self.initial != 0 && self.mode != Mode::Stopped {
            // What was counted with the old divisor would be counted again with the new one: it
            // is as if the new one had counted it. Not from before the reset: a guest that does
            // this as early waits longer.
            let done = u64::from(self.initial - left) * self.count_nanos();
            self.started_at = now.saturating_sub(done);
            if self.mode == Mode::Periodic {
                self.fired = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::guest_time::MOST_LEFT_OUT;

    /// A count with divisor 16, and how long it takes.
    const COUNT: u32 = 20_000;
    const PERIOD: u64 = 16 * COUNT as u64;

    fn running(mode: Mode, divide: u32, count: u32) -> Timer {
        let mut timer = Timer::default();
        timer.set_mode(mode);
        timer.set_divide(divide, 0);
        timer.start(count, 1000);
        timer
    }

    #[test]
    fn divisors_are_those_of_the_manual() {
        for (code, divisor) in [
            (0, 2),
            (1, 4),
            (2, 8),
            (3, 16),
            (8, 32),
            (9, 64),
            (10, 128),
            (11, 1),
        ] {
            let timer = running(Mode::OneShot, code, 10);
            assert_eq!(timer.next_deadline(), Some(1000 + 10 * divisor), "{code}");
        }
    }

    #[test]
    fn one_shot_runs_out_once() {
        let mut timer = running(Mode::OneShot, 11, 500);
        timer.advance(1499);
        assert!(!timer.take_due());
        assert_eq!(timer.current_count(1499), 1);
        timer.advance(9000);
        assert!(timer.take_due());
        assert!(!timer.take_due());
        assert_eq!(timer.current_count(9000), 0);
        assert_eq!(timer.next_deadline(), None);
    }

    /// How many interrupts are due.
    fn taken(timer: &mut Timer) -> usize {
        std::iter::from_fn(|| timer.take_due().then_some(())).count()
    }

    #[test]
    fn a_periodic_count_begins_anew() {
        let mut timer = running(Mode::Periodic, 3, COUNT);
        for end in 1..100 {
            let at = timer.next_deadline().expect("it runs");
            assert_eq!(at, 1000 + end * PERIOD);
            timer.advance(at - 1);
            assert_eq!(taken(&mut timer), 0);
            timer.advance(at + 5);
            assert_eq!(taken(&mut timer), 1);
        }
        assert_eq!(timer.current_count(1000 + PERIOD + 5), COUNT);
        assert_eq!(timer.current_count(1000 + 2 * PERIOD - 1), 1);
    }

    /// Otherwise a guest could have an interrupt every nanosecond, and its host would do nothing
    /// else.
    #[test]
    fn a_short_period_leaves_interrupts_out_and_counts_on() {
        for (count, period) in [
            (1, SHORTEST_PERIOD),
            (3, 200_001),
            (150_000, 300_000),
            (200_001, 200_001),
        ] {
            let mut timer = running(Mode::Periodic, 11, count);
            for n in 1..5 {
                let at = timer.next_deadline().expect("it runs");
                assert_eq!(at, 1000 + n * period, "count {count}");
                timer.advance(at);
                assert_eq!(taken(&mut timer), 1);
            }
            assert_eq!(timer.check(1 << 17), Ok(()));
        }
        let timer = running(Mode::Periodic, 11, 1000);
        assert_eq!(timer.current_count(1000 + 1300), 700);
        let at = running(Mode::OneShot, 11, 1).next_deadline();
        assert_eq!(at, Some(1001), "each costs the guest an exit");
    }

    #[test]
    fn missed_ticks_are_one_and_leave_the_guest_time() {
        let mut timer = running(Mode::Periodic, 3, COUNT);
        // Two are missed, and as many left out behind the third.
        timer.advance(1000 + 3 * PERIOD + 5);
        assert_eq!(taken(&mut timer), 1);
        assert_eq!(timer.next_deadline(), Some(1000 + 6 * PERIOD));
        timer.advance(1000 + 6 * PERIOD - 1);
        assert_eq!(taken(&mut timer), 0);
        timer.advance(1000 + 2006 * PERIOD);
        assert_eq!(taken(&mut timer), 1);
        let left_out = 2006 + MOST_LEFT_OUT;
        assert_eq!(
            timer.next_deadline(),
            Some(1000 + (left_out + 1) * PERIOD),
            "not all that it missed"
        );
        assert_eq!(timer.check(1 << 17), Ok(()));
    }

    #[test]
    fn a_count_of_zero_and_another_mode_stop_it() {
        let mut timer = running(Mode::Periodic, 11, 10);
        timer.advance(1100);
        timer.start(0, 1100);
        assert!(!timer.take_due());
        assert_eq!(timer.next_deadline(), None);
        let mut timer = running(Mode::Periodic, 11, 10);
        timer.set_mode(Mode::Stopped);
        timer.advance(1100);
        assert!(!timer.take_due());
        assert_eq!(timer.check(0b10 << 17), Ok(()));
    }

    #[test]
    fn another_divisor_counts_on_from_what_is_left() {
        let mut timer = running(Mode::OneShot, 11, 1000);
        timer.set_divide(0, 1400);
        assert_eq!(timer.current_count(1400), 600);
        assert_eq!(timer.next_deadline(), Some(1400 + 1200));
    }

    #[test]
    fn a_periodic_count_with_another_divisor_keeps_its_next_end() {
        let mut timer = running(Mode::Periodic, 11, 1_000_000);
        timer.set_divide(0, 1000 + 50_400_000);
        assert_eq!(timer.current_count(50_401_000), 600_000);
        assert_eq!(timer.next_deadline(), Some(50_401_000 + 1_200_000));
        timer.advance(50_401_000 + 1_200_000);
        assert_eq!(taken(&mut timer), 1);
        assert_eq!(timer.check(1 << 17), Ok(()));
    }
}
