//! The CMOS clock (Motorola MC146818A), read-only time in BCD, 24 hours, UTC.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The clock chip at ports 0x70 (index) and 0x71 (data). The time comes with each read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cmos {
    index: u8,
}

/// Calendar fields of a point in time.
struct Calendar {
    second: u8,
    minute: u8,
    hour: u8,
    weekday: u8,
    day: u8,
    month: u8,
    year: u16,
}

impl Calendar {
    /// From days since the epoch to a date in the proleptic Gregorian calendar: Howard Hinnant,
    /// "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
    fn at(unix: Duration) -> Self {
        let (days, second_of_day) = (unix.as_secs() / 86_400, unix.as_secs() % 86_400);
        let z = days + 719_468;
        let era = z / 146_097;
        let day_of_era = z % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let month = if shifted_month < 10 {
            shifted_month + 3
        } else {
            shifted_month - 9
        };
        Self {
            second: (second_of_day % 60) as u8,
            minute: (second_of_day / 60 % 60) as u8,
            hour: (second_of_day / 3600) as u8,
            weekday: ((days + 4) % 7 + 1) as u8,
            day: (day_of_year - (153 * shifted_month + 2) / 5 + 1) as u8,
            month: month as u8,
            year: (year_of_era + era * 400 + u64::from(month <= 2)) as u16,
        }
    }
}

fn bcd(value: u8) -> u8 {
    ((value / 10) << 4) | (value % 10)
}

impl Cmos {
    /// Whether a guest could have brought the chip into this state; if not, what is wrong.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.index > 0x7f {
            return Err("there is no such register");
        }
        Ok(())
    }

    /// Selects a register. Bit 7 (NMI mask) has no effect.
    pub fn select(&mut self, value: u8) {
        self.index = value & 0x7f;
    }

    /// Whether reading the selected register needs the wall clock.
    #[must_use]
    pub fn needs_time(&self) -> bool {
        matches!(self.index, 0 | 2 | 4 | 6..=9 | 0x32)
    }

    /// Reads the selected register; `unix_nanos` is the wall clock, needed when
    /// [`Cmos::needs_time`].
    #[must_use]
    pub fn read(&self, unix_nanos: u64) -> u8 {
        let now = Calendar::at(Duration::from_nanos(unix_nanos));
        match self.index {
            0 => bcd(now.second),
            2 => bcd(now.minute),
            4 => bcd(now.hour),
            6 => bcd(now.weekday),
            7 => bcd(now.day),
            8 => bcd(now.month),
            9 => bcd((now.year % 100) as u8),
            0x32 => bcd((now.year / 100) as u8),
            0x0a => 0x26, // 32.768 kHz time base, no update in progress
            0x0b => 0x02, // 24 hours, BCD
            0x0d => 0x80, // battery good
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(unix_seconds: u64) -> [u8; 8] {
        [0x32, 9, 8, 7, 4, 2, 0, 6].map(|index| {
            let mut cmos = Cmos::default();
            cmos.select(index);
            assert!(cmos.needs_time());
            cmos.read(unix_seconds * 1_000_000_000)
        })
    }

    #[test]
    fn shows_dates_as_bcd() {
        assert_eq!(fields(0), [0x19, 0x70, 1, 1, 0, 0, 0, 5]);
        // 2024-02-29 23:59:58, a Thursday; 2000-03-01 00:00:00, a Wednesday.
        assert_eq!(
            fields(1_709_251_198),
            [0x20, 0x24, 2, 0x29, 0x23, 0x59, 0x58, 5]
        );
        assert_eq!(fields(951_868_800), [0x20, 0x00, 3, 1, 0, 0, 0, 4]);
    }
}
