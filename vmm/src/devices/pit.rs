//! The 8254 programmable interval timer (Intel 82C54 data sheet, 231244-006).
//!
//! Channel 0 drives interrupt line 0, channel 2 can be gated and read through port 0x61. The
//! model has no clock of its own: every access and every [`Pit::advance`] brings the guest's
//! monotonic time along, which comes from the log.

use serde::{Deserialize, Serialize};

use super::guest_time::{MAX_GUEST_TIME, SHORTEST_PERIOD, bounded_period, forget_missed};

/// Input clock of the 8254 in Hz.
pub const FREQUENCY_HZ: u64 = 1_193_182;
const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// [`SHORTEST_PERIOD`] in ticks of the input clock.
const SHORTEST_PERIOD_TICKS: u64 = SHORTEST_PERIOD * FREQUENCY_HZ / 1_000_000_000;

fn ticks_in(nanos: u64) -> u64 {
    (u128::from(nanos) * u128::from(FREQUENCY_HZ) / NANOS_PER_SECOND) as u64
}

/// Nanoseconds until `ticks` ticks have passed, rounded up so that they have.
fn nanos_for(ticks: u64) -> u64 {
    (u128::from(ticks) * NANOS_PER_SECOND).div_ceil(u128::from(FREQUENCY_HZ)) as u64
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
enum Access {
    Low,
    High,
    #[default]
    LowThenHigh,
}

/// Which byte of a two-byte access comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
enum Half {
    #[default]
    Low,
    High,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Channel {
    mode: u8,
    access: Access,
    write_half: Half,
    read_half: Half,
    /// Low byte written, waiting for the high one.
    low_byte: u8,
    /// Reload value, 1 to 65,536; 0 while nothing was loaded.
    reload: u64,
    /// Guest time of the last load.
    loaded_at: u64,
    /// Counter latched for reading.
    latched: Option<u16>,
    /// Status byte latched for reading.
    status: Option<u8>,
    /// Interrupts of the running load that were raised already, or never will be.
    fired: u64,
}

impl Channel {
    fn check(&self) -> Result<(), &'static str> {
        if self.mode > 5 {
            return Err("no such mode");
        }
        if self.reload > 0x1_0000 {
            return Err("a count of more than 16 bits");
        }
        if self.fired > 0 && self.reload == 0 {
            return Err("a counter that was not loaded ran out");
        }
        // Also what keeps next_rise() from overflowing.
        let last_rise = u128::from(self.period()) * u128::from(self.fired) * NANOS_PER_SECOND
            / u128::from(FREQUENCY_HZ);
        if u128::from(self.loaded_at).saturating_add(last_rise) > u128::from(MAX_GUEST_TIME) {
            return Err("a time that no guest reaches");
        }
        Ok(())
    }

    fn is_periodic(&self) -> bool {
        matches!(self.mode, 2 | 3)
    }

    fn load(&mut self, value: u16, now: u64) {
        self.reload = if value == 0 {
            0x1_0000
        } else {
            u64::from(value)
        };
        self.loaded_at = now;
        self.fired = 0;
    }

    fn elapsed(&self, now: u64) -> u64 {
        ticks_in(now.saturating_sub(self.loaded_at))
    }

    fn counter(&self, now: u64) -> u16 {
        if self.reload == 0 {
            return 0;
        }
        let elapsed = self.elapsed(now);
        match self.mode {
            2 => (self.reload - elapsed % self.reload) as u16,
            3 => (self.reload - (elapsed * 2) % self.reload) as u16,
            _ => self.reload.wrapping_sub(elapsed) as u16,
        }
    }

    fn output(&self, now: u64) -> bool {
        if self.reload == 0 {
            return self.mode != 0;
        }
        let elapsed = self.elapsed(now);
        match self.mode {
            0 => elapsed >= self.reload,
            2 => elapsed % self.reload != self.reload - 1,
            3 => elapsed % self.reload < self.reload.div_ceil(2),
            _ => true,
        }
    }

    /// Ticks of the input clock from one interrupt to the next.
    fn period(&self) -> u64 {
        if self.is_periodic() && self.reload != 0 {
            bounded_period(self.reload, SHORTEST_PERIOD_TICKS)
        } else {
            self.reload
        }
    }

    /// How often the channel's output has raised an interrupt since the load.
    fn rises(&self, now: u64) -> u64 {
        match self.period() {
            0 => 0,
            period if self.is_periodic() => self.elapsed(now) / period,
            period => u64::from(self.elapsed(now) >= period),
        }
    }

    /// Guest time at which the output raises the next interrupt.
    fn next_rise(&self) -> Option<u64> {
        if self.reload == 0 || (!self.is_periodic() && self.fired > 0) {
            return None;
        }
        Some(self.loaded_at + nanos_for(self.period() * (self.fired + 1)))
    }

    fn write(&mut self, value: u8, now: u64) {
        match (self.access, self.write_half) {
            (Access::Low, _) => self.load(u16::from(value), now),
            (Access::High, _) => self.load(u16::from(value) << 8, now),
            (Access::LowThenHigh, Half::Low) => {
                self.low_byte = value;
                self.write_half = Half::High;
            }
            (Access::LowThenHigh, Half::High) => {
                self.write_half = Half::Low;
                self.load(u16::from_le_bytes([self.low_byte, value]), now);
            }
        }
    }

    fn read(&mut self, now: u64) -> u8 {
        if let Some(status) = self.status.take() {
            return status;
        }
        let [low, high] = self
            .latched
            .unwrap_or_else(|| self.counter(now))
            .to_le_bytes();
        match (self.access, self.read_half) {
            (Access::Low, _) => {
                self.latched = None;
                low
            }
            (Access::High, _) => {
                self.latched = None;
                high
            }
            (Access::LowThenHigh, Half::Low) => {
                self.read_half = Half::High;
                low
            }
            (Access::LowThenHigh, Half::High) => {
                self.read_half = Half::Low;
                self.latched = None;
                high
            }
        }
    }

    fn latch(&mut self, now: u64) {
        if self.latched.is_none() {
            self.latched = Some(self.counter(now));
        }
    }

    fn latch_status(&mut self, now: u64) {
        if self.status.is_none() {
            let access = match self.access {
                Access::Low => 0x10,
                Access::High => 0x20,
                Access::LowThenHigh => 0x30,
            };
            self.status = Some(u8::from(self.output(now)) << 7 | access | self.mode << 1);
        }
    }
}

/// The timer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pit {
    channels: [Channel; 3],
    /// Port 0x61, bits 0 (gate of channel 2) and 1 (speaker).
    speaker: u8,
    /// Rises of channel 0 that the interrupt controller has not been given yet.
    due: u64,
}

impl Pit {
    /// Whether an access to this port needs the guest's time.
    #[must_use]
    pub fn owns(port: u16) -> bool {
        matches!(port, 0x40..=0x43 | 0x61)
    }

    /// Whether a guest could have brought the timer into this state; if not, what is wrong.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        for channel in &self.channels {
            channel.check()?;
        }
        if self.due > self.channels[0].fired {
            return Err("more interrupts are due than there were");
        }
        if self.speaker > 3 {
            return Err("no such bit in port 0x61");
        }
        Ok(())
    }

    /// Guest time of the next interrupt.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.channels[0].next_rise()
    }

    /// Lets guest time pass up to `now`.
    pub fn advance(&mut self, now: u64) {
        let channel = &mut self.channels[0];
        let rises = channel.rises(now);
        self.due += rises.saturating_sub(channel.fired);
        channel.fired = channel.fired.max(rises);
    }

    /// Takes one interrupt that is due. A periodic timer's ticks are never merged: a guest that
    /// counts them would fall behind the time.
    pub fn take_due(&mut self) -> bool {
        let due = self.due > 0;
        self.due = self.due.saturating_sub(1);
        due
    }

    /// As [`Pit::take_due`], for a guest that has a clock. Ticks that it missed are forgotten, and
    /// up to 25 more are left out.
    pub fn take_due_merged(&mut self) -> bool {
        forget_missed(&mut self.due, &mut self.channels[0].fired);
        self.take_due()
    }

    /// Reads a port at guest time `now`.
    pub fn read(&mut self, port: u16, now: u64) -> u8 {
        match port {
            0x40..=0x42 => self.channels[usize::from(port - 0x40)].read(now),
            0x61 => {
                // Bit 4 toggles with the memory refresh, every 15 µs on a PC.
                let refresh = u8::from(!(now / 15_085).is_multiple_of(2)) << 4;
                self.speaker | refresh | u8::from(self.channels[2].output(now)) << 5
            }
            _ => 0xff,
        }
    }

    /// Writes a port at guest time `now`.
    pub fn write(&mut self, port: u16, value: u8, now: u64) {
        match port {
            0x40..=0x42 => {
                self.channels[usize::from(port - 0x40)].write(value, now);
                if port == 0x40 {
                    self.due = 0;
                }
            }
            0x43 => self.write_control(value, now),
            0x61 => {
                // A rising gate starts channel 2 again.
                if value & 1 != 0 && self.speaker & 1 == 0 {
                    self.channels[2].loaded_at = now;
                }
                self.speaker = value & 3;
            }
            _ => {}
        }
    }

    fn write_control(&mut self, value: u8, now: u64) {
        let select = value >> 6;
        if select == 3 {
            // Read-back command.
            for (n, channel) in self.channels.iter_mut().enumerate() {
                if value & (2 << n) != 0 {
                    if value & 0x20 == 0 {
                        channel.latch(now);
                    }
                    if value & 0x10 == 0 {
                        channel.latch_status(now);
                    }
                }
            }
            return;
        }
        let channel = &mut self.channels[usize::from(select)];
        let access = match value >> 4 & 3 {
            0 => return channel.latch(now),
            1 => Access::Low,
            2 => Access::High,
            _ => Access::LowThenHigh,
        };
        let mode = match value >> 1 & 7 {
            mode @ 0..=5 => mode,
            mode => mode - 4, // 6 and 7 are 2 and 3
        };
        *channel = Channel {
            mode,
            access,
            ..Channel::default()
        };
        if select == 0 {
            self.due = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::guest_time::MOST_LEFT_OUT;

    const MS: u64 = 1_000_000;

    fn program(mode: u8, count: u16, now: u64) -> Pit {
        let mut pit = Pit::default();
        pit.write(0x43, 0x30 | mode << 1, now);
        let [low, high] = count.to_le_bytes();
        pit.write(0x40, low, now);
        assert_eq!(
            pit.next_deadline(),
            None,
            "only the second byte loads the counter"
        );
        pit.write(0x40, high, now);
        pit
    }

    #[test]
    fn periodic_ticks_are_counted_not_merged() {
        let mut pit = program(2, 4773, 5 * MS); // 250 Hz
        let first = pit.next_deadline().expect("running");
        assert!((9 * MS..9 * MS + 2000).contains(&first), "{first}");
        pit.advance(first - 1);
        assert!(!pit.take_due());
        pit.advance(5 * MS + 41 * MS);
        assert_eq!((0..20).filter(|_| pit.take_due()).count(), 10);
    }

    #[test]
    fn merged_ticks_leave_a_guest_that_was_held_up_time() {
        let mut pit = program(2, 4773, 0); // 250 Hz
        let period = pit.next_deadline().expect("running");
        pit.advance(period);
        assert!(pit.take_due_merged() && !pit.take_due_merged());
        let second = pit.next_deadline().expect("running");
        assert!(second.abs_diff(2 * period) < 2, "in time: none is left out");

        // Three are missed, and as many left out behind the fifth.
        pit.advance(5 * period + 100);
        assert!(pit.take_due_merged() && !pit.take_due_merged());
        let next = pit.next_deadline().expect("running");
        assert!(next.abs_diff(9 * period) < 2, "{next}");
        pit.advance(next - 1);
        assert!(!pit.take_due_merged());
        pit.advance(next);
        assert!(pit.take_due_merged() && !pit.take_due_merged());

        pit.advance(2009 * period + 100);
        assert!(pit.take_due_merged() && !pit.take_due_merged());
        let next = pit.next_deadline().expect("running");
        assert!(
            next.abs_diff((2009 + MOST_LEFT_OUT + 1) * period) < 1000,
            "{next}"
        );
        assert_eq!(pit.check(), Ok(()));
    }

    /// Otherwise a guest could have an interrupt every 838 ns, and its host would do nothing else.
    #[test]
    fn a_short_period_leaves_interrupts_out_and_counts_on() {
        for (count, period) in [(1, 238), (2, 238), (100, 300), (237, 474), (238, 238)] {
            let mut pit = program(2, count, 0);
            for n in 1..5 {
                let at = pit.next_deadline().expect("running");
                assert_eq!(at, nanos_for(n * period), "count {count}");
                pit.advance(at);
                assert!(pit.take_due() && !pit.take_due());
            }
            assert_eq!(pit.check(), Ok(()));
        }
        // In the middle of a period, the counter has run out many times.
        let mut pit = program(2, 100, 0);
        pit.write(0x43, 0x00, nanos_for(130));
        assert_eq!((pit.read(0x40, 0), pit.read(0x40, 0)), (70, 0));
    }

    #[test]
    fn deadline_is_exactly_when_the_tick_falls_due() {
        for count in [1, 2, 17, 4773, 65_535, 0] {
            let mut pit = program(2, count, 123_456_789);
            for _ in 0..100 {
                let at = pit.next_deadline().expect("running");
                pit.advance(at - 1);
                assert!(!pit.take_due(), "count {count}: early");
                pit.advance(at);
                assert!(pit.take_due(), "count {count}: late");
            }
        }
    }

    #[test]
    fn one_shot_fires_once() {
        for mode in [0, 4] {
            let mut pit = program(mode, 1193, 0);
            let at = pit.next_deadline().expect("running");
            pit.advance(at);
            assert!(pit.take_due());
            assert_eq!(pit.next_deadline(), None);
            pit.advance(at + 1000 * MS);
            assert!(!pit.take_due());
        }
    }

    #[test]
    fn latched_count_stays_until_read() {
        let mut pit = program(2, 10_000, 0);
        pit.write(0x43, 0x00, MS);
        let low = pit.read(0x40, 2 * MS);
        let high = pit.read(0x40, 3 * MS);
        assert_eq!(u16::from_le_bytes([low, high]), 10_000 - 1193);
    }

    #[test]
    fn channel_2_output_shows_in_port_61() {
        let mut pit = Pit::default();
        pit.write(0x61, 1, 0);
        pit.write(0x43, 0xb0, 0);
        pit.write(0x42, 0xa9, 0);
        pit.write(0x42, 0x04, 0); // 1193 ticks: 1 ms
        assert_eq!(pit.read(0x61, MS / 2) & 0x20, 0);
        assert_eq!(pit.read(0x61, 2 * MS) & 0x20, 0x20);
    }
}
