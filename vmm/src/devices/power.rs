//! ACPI's fixed power management registers (ACPI 6.5, sections 4.8.3.1 and 4.8.3.2), as far as a
//! machine has them that has no buttons and does not sleep: the guest can be in ACPI mode, and
//! switch itself off.

use serde::{Deserialize, Serialize};

/// First port of the event block: status and enable, 16 bits each.
pub const EVENT_PORT: u16 = 0x600;
/// Port of the control register, 16 bits.
pub const CONTROL_PORT: u16 = 0x604;
/// Interrupt line of ACPI, which nothing raises.
pub const LINE: u8 = 9;
/// Value of SLP_TYP that means "off" (S5).
pub const OFF: u8 = 5;

const ENABLE_PORT: u16 = EVENT_PORT + 2;
/// The control register says that ACPI's events are interrupts of ACPI: it cannot be otherwise.
const SCI_ENABLE: u16 = 1;
const SLEEP_TYPE: u16 = 0b111 << 10;
const SLEEP_ENABLE: u16 = 1 << 13;

/// The registers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Power {
    enable: u16,
    /// SLP_TYP. That sleep is to begin is never read back (SLP_EN is write-only).
    control: u16,
    off: bool,
}

impl Power {
    /// Whether a guest could have brought the registers into this state; if not, what is wrong.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.control & !SLEEP_TYPE != 0 {
            return Err("no such bit in the control register");
        }
        Ok(())
    }

    /// Whether a port is one of the registers'.
    #[must_use]
    pub fn owns(port: u16) -> bool {
        (EVENT_PORT..CONTROL_PORT + 2).contains(&port)
    }

    /// Reads a port.
    pub fn read(&self, port: u16, data: &mut [u8]) {
        let registers = [
            [0, 0], // nothing ever happened
            self.enable.to_le_bytes(),
            (self.control | SCI_ENABLE).to_le_bytes(),
        ]
        .concat();
        let from = usize::from(port - EVENT_PORT);
        for (n, byte) in data.iter_mut().enumerate() {
            *byte = registers.get(from + n).copied().unwrap_or(0xff);
        }
    }

    /// Writes a register, whole.
    pub fn write(&mut self, port: u16, data: &[u8]) {
        let Some(word) = data.get(..2) else { return };
        let value = u16::from_le_bytes([word[0], word[1]]);
        match port {
            ENABLE_PORT => self.enable = value,
            CONTROL_PORT => {
                self.control = value & SLEEP_TYPE;
                self.off |= value & SLEEP_ENABLE != 0 && value & SLEEP_TYPE == u16::from(OFF) << 10;
            }
            _ => {}
        }
    }

    /// Whether the guest switched itself off.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.off
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(power: &Power, port: u16) -> u16 {
        let mut data = [0; 2];
        power.read(port, &mut data);
        u16::from_le_bytes(data)
    }

    #[test]
    fn it_is_in_acpi_mode_and_nothing_happens() {
        let mut power = Power::default();
        power.write(EVENT_PORT, &[0xff, 0xff]);
        power.write(ENABLE_PORT, &[0x20, 0x01]);
        power.write(CONTROL_PORT, &[0, 0]);
        assert_eq!(read(&power, EVENT_PORT), 0);
        assert_eq!(read(&power, ENABLE_PORT), 0x0120);
        assert_eq!(read(&power, CONTROL_PORT), 1);
        assert!(!power.is_off());
    }

    #[test]
    fn only_the_right_kind_of_sleep_is_off() {
        let write = |value: u16| {
            let mut power = Power::default();
            power.write(CONTROL_PORT, &value.to_le_bytes());
            power.is_off()
        };
        assert!(write(5 << 10 | 1 << 13));
        assert!(!write(5 << 10));
        assert!(!write(1 << 10 | 1 << 13));
    }
}
