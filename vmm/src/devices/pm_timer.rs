//! The ACPI power management timer (ACPI 6.5, section 4.8.2.1): a 24-bit counter at 3.579545 MHz.
//!
//! Linux takes it without ACPI tables when told its port (`pmtmr=0x608`).

/// Port of the counter.
pub const PORT: u16 = 0x608;

const FREQUENCY_HZ: u128 = 3_579_545;

/// The counter at guest time `now` (nanoseconds).
#[must_use]
pub fn read(now: u64) -> u32 {
    (u128::from(now) * FREQUENCY_HZ / 1_000_000_000) as u32 & 0x00ff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_wraps() {
        assert_eq!(read(0), 0);
        assert_eq!(read(1_000_000_000), 3_579_545);
        assert!(read(4_686_900_000) > 0x00ff_0000);
        assert!(read(4_687_000_000) < 0x0000_1000);
    }
}
