//! PCI bus 0, reached through configuration mechanism #1 (PCI Local Bus 3.0, section 3.2.2.3.2).
//!
//! Functions are placed at boot: their BARs, interrupt line and pin are filled in here, as firmware
//! would. ACPI tells the guest of the bus, and not of what is on it.

mod config_space;
pub mod msix;

pub use config_space::{Bar, ConfigSpace, MemoryBar};

use serde::{Deserialize, Serialize};

/// Ports of configuration mechanism #1.
pub const ADDRESS_PORT: u16 = 0xcf8;
/// Where memory BARs are: above the largest guest's memory.
pub const MEMORY_WINDOW: MemoryBar = MemoryBar {
    base: 0xe000_0000,
    size: 0x1000_0000,
};
/// Data port; all four bytes are ports of their own.
pub const DATA_PORT: u16 = 0xcfc;

/// The configuration address register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConfigAddress(u32);

impl ConfigAddress {
    /// Bits that are there; the others read as 0.
    const BITS: u32 = 0x80ff_fffc;

    /// Writes the register (whole, 32 bits).
    pub fn write(&mut self, value: u32) {
        self.0 = value & Self::BITS;
    }

    /// Whether a guest could have written this; if not, what is wrong.
    pub(super) fn check(self) -> Result<(), &'static str> {
        if self.0 & !Self::BITS != 0 {
            return Err("no such bit in the address register");
        }
        Ok(())
    }

    /// Reads it back.
    #[must_use]
    pub fn read(self) -> u32 {
        self.0
    }

    /// The device number on bus 0 and the register offset that a data access at `DATA_PORT + n`
    /// means; `None` when disabled or for another bus or function.
    #[must_use]
    pub fn target(self, n: u16) -> Option<(u8, u8)> {
        let enabled = self.0 >> 31 != 0;
        let bus_and_function = self.0 & 0x00ff_0700;
        (enabled && bus_and_function == 0)
            .then(|| ((self.0 >> 11 & 0x1f) as u8, (self.0 & 0xfc) as u8 + n as u8))
    }
}

/// The host bridge at 00:00.0: there so that a guest recognises the mechanism.
#[must_use]
pub fn host_bridge() -> ConfigSpace {
    // Intel 440FX, class 06 (bridge), subclass 00 (host).
    ConfigSpace::new(0x8086, 0x1237, [0x06, 0x00, 0x00], 0x02, (0, 0))
}
