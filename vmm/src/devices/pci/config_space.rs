//! The 256-byte configuration space of one function (PCI Local Bus 3.0, chapter 6).

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BAR0: usize = 0x10;
const BAR1: usize = 0x14;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const FIRST_CAPABILITY: usize = 0x40;

const COMMAND_IO: u16 = 1;
const COMMAND_MEMORY: u16 = 2;
const STATUS_INTERRUPT: u16 = 1 << 3;
const STATUS_CAPABILITIES: u16 = 1 << 4;

/// The I/O base address register 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bar {
    /// First port.
    pub base: u16,
    /// Number of ports, a power of two.
    pub size: u16,
}

/// The memory base address register 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryBar {
    /// First guest-physical address.
    pub base: u32,
    /// Number of bytes, a power of two of at least 16.
    pub size: u32,
}

/// Configuration space of a function with at most one I/O BAR and one memory BAR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigSpace {
    bytes: [u8; 256],
    /// Bits that the guest may write.
    writable: [u8; 256],
    bar_size: u16,
    memory_bar_size: u32,
    last_capability: usize,
    next_free: usize,
}

impl ConfigSpace {
    /// A function with these identifiers; `class` is base class, subclass, interface.
    #[must_use]
    pub fn new(
        vendor: u16,
        device: u16,
        class: [u8; 3],
        revision: u8,
        subsystem: (u16, u16),
    ) -> Self {
        let mut space = Self {
            bytes: [0; 256],
            writable: [0; 256],
            bar_size: 0,
            memory_bar_size: 0,
            last_capability: 0,
            next_free: FIRST_CAPABILITY,
        };
        space.set(0x00, &vendor.to_le_bytes());
        space.set(0x02, &device.to_le_bytes());
        space.set(0x08, &[revision, class[2], class[1], class[0]]);
        space.set(0x2c, &subsystem.0.to_le_bytes());
        space.set(0x2e, &subsystem.1.to_le_bytes());
        space.writable[COMMAND] = 0x07;
        space.writable[COMMAND + 1] = 0x05;
        space.writable[0x0c] = 0xff; // cache line size
        space.writable[INTERRUPT_LINE] = 0xff;
        space
    }

    /// Places the I/O BAR and switches I/O decoding on, as firmware would.
    #[must_use]
    pub fn with_io_bar(mut self, bar: Bar) -> Self {
        self.bar_size = bar.size;
        self.set(BAR0, &(u32::from(bar.base) | 1).to_le_bytes());
        let decoded = !(u32::from(bar.size) - 1) & 0xffff_fffc;
        self.writable[BAR0..BAR0 + 4].copy_from_slice(&decoded.to_le_bytes());
        self.switch_on(COMMAND_IO);
        self
    }

    /// Places the memory BAR (32 bits, not prefetchable) and switches memory decoding on, as
    /// firmware would.
    #[must_use]
    pub fn with_memory_bar(mut self, bar: MemoryBar) -> Self {
        self.memory_bar_size = bar.size;
        self.set(BAR1, &bar.base.to_le_bytes());
        let decoded = !(bar.size - 1) & 0xffff_fff0;
        self.writable[BAR1..BAR1 + 4].copy_from_slice(&decoded.to_le_bytes());
        self.switch_on(COMMAND_MEMORY);
        self
    }

    fn command(&self) -> u16 {
        u16::from_le_bytes([self.bytes[COMMAND], self.bytes[COMMAND + 1]])
    }

    fn switch_on(&mut self, bit: u16) {
        let command = self.command() | bit;
        self.set(COMMAND, &command.to_le_bytes());
    }

    /// Routes interrupt pin A to a line of the 8259 pair.
    #[must_use]
    pub fn with_interrupt(mut self, line: u8) -> Self {
        self.set(INTERRUPT_LINE, &[line, 1]);
        self
    }

    /// Appends a capability: `body` follows its id and next pointer. Returns its offset.
    pub fn add_capability(&mut self, id: u8, body: &[u8]) -> u8 {
        let at = self.next_free;
        assert!(
            at + 2 + body.len() <= 256,
            "capabilities exceed the configuration space"
        );
        self.set(at, &[id, 0]);
        self.set(at + 2, body);
        let link = if self.last_capability == 0 {
            CAPABILITIES
        } else {
            self.last_capability + 1
        };
        self.bytes[link] = at as u8;
        self.last_capability = at;
        self.next_free = (at + 2 + body.len()).next_multiple_of(4);
        let status = u16::from_le_bytes([self.bytes[STATUS], self.bytes[STATUS + 1]]);
        self.set(STATUS, &(status | STATUS_CAPABILITIES).to_le_bytes());
        at as u8
    }

    /// Lets the guest write a range.
    pub fn make_writable(&mut self, offset: u8, len: usize) {
        self.writable[usize::from(offset)..usize::from(offset) + len].fill(0xff);
    }

    /// Lets the guest write some bits.
    pub fn make_bits_writable(&mut self, offset: u8, bits: &[u8]) {
        let at = usize::from(offset);
        self.writable[at..at + bits.len()].copy_from_slice(bits);
    }

    /// Shows the function's interrupt in the status register.
    pub fn set_interrupt_status(&mut self, asserted: bool) {
        let status = u16::from_le_bytes([self.bytes[STATUS], self.bytes[STATUS + 1]]);
        let status = if asserted {
            status | STATUS_INTERRUPT
        } else {
            status & !STATUS_INTERRUPT
        };
        self.set(STATUS, &status.to_le_bytes());
    }

    /// The I/O BAR where it is now, if I/O decoding is on.
    #[must_use]
    pub fn io_bar(&self) -> Option<Bar> {
        let enabled = self.command() & COMMAND_IO != 0;
        let base = u16::from_le_bytes([self.bytes[BAR0], self.bytes[BAR0 + 1]]) & 0xfffc;
        (enabled && self.bar_size != 0 && base != 0).then_some(Bar {
            base,
            size: self.bar_size,
        })
    }

    /// The memory BAR where it is now, if memory decoding is on.
    #[must_use]
    pub fn memory_bar(&self) -> Option<MemoryBar> {
        let enabled = self.command() & COMMAND_MEMORY != 0;
        let mut word = [0; 4];
        word.copy_from_slice(&self.bytes[BAR1..BAR1 + 4]);
        let base = u32::from_le_bytes(word) & 0xffff_fff0;
        (enabled && self.memory_bar_size != 0 && base != 0).then_some(MemoryBar {
            base,
            size: self.memory_bar_size,
        })
    }

    /// What the guest and the device made of the function, for [`ConfigSpace::with_state`].
    pub(in crate::devices) fn state(&self) -> Vec<u8> {
        self.bytes.to_vec()
    }

    /// The same function in a saved state; an error says how it differs from this function in
    /// what cannot change.
    pub(in crate::devices) fn with_state(&self, state: &[u8]) -> Result<Self, &'static str> {
        let bytes: [u8; 256] = state
            .try_into()
            .map_err(|_| "a configuration space has 256 bytes")?;
        for (n, (saved, here)) in bytes.iter().zip(&self.bytes).enumerate() {
            let shown = if n == STATUS {
                STATUS_INTERRUPT as u8
            } else {
                0
            };
            if (saved ^ here) & !self.writable[n] & !shown != 0 {
                return Err("the configuration space is of another function");
            }
        }
        Ok(Self {
            bytes,
            ..self.clone()
        })
    }

    /// Reads `data.len()` bytes (1, 2 or 4).
    pub fn read(&self, offset: u8, data: &mut [u8]) {
        for (n, byte) in data.iter_mut().enumerate() {
            *byte = self
                .bytes
                .get(usize::from(offset) + n)
                .copied()
                .unwrap_or(0xff);
        }
    }

    /// Writes the writable bits of `data`.
    pub fn write(&mut self, offset: u8, data: &[u8]) {
        for (n, value) in data.iter().enumerate() {
            if let Some(byte) = self.bytes.get_mut(usize::from(offset) + n) {
                let mask = self.writable[usize::from(offset) + n];
                *byte = *byte & !mask | value & mask;
            }
        }
    }

    fn set(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function() -> ConfigSpace {
        ConfigSpace::new(0x1af4, 0x1041, [2, 0, 0], 1, (0x1af4, 1))
            .with_io_bar(Bar {
                base: 0xc000,
                size: 0x100,
            })
            .with_interrupt(5)
    }

    fn read32(space: &ConfigSpace, at: u8) -> u32 {
        let mut data = [0; 4];
        space.read(at, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn bar_can_be_sized_and_moved() {
        let mut space = function();
        assert_eq!(
            space.io_bar(),
            Some(Bar {
                base: 0xc000,
                size: 0x100
            })
        );
        space.write(0x10, &[0xff; 4]);
        assert_eq!(read32(&space, 0x10), 0xffff_ff01);
        space.write(0x10, &0xd001u32.to_le_bytes());
        assert_eq!(
            space.io_bar(),
            Some(Bar {
                base: 0xd000,
                size: 0x100
            })
        );
        space.write(0x04, &[0, 0]);
        assert_eq!(space.io_bar(), None);
    }

    #[test]
    fn identity_cannot_be_written() {
        let mut space = function();
        space.write(0, &[0; 4]);
        assert_eq!(read32(&space, 0), 0x1041_1af4);
        assert_eq!(read32(&space, 0x3c) & 0xffff, 0x0105);
    }

    #[test]
    fn capabilities_are_linked() {
        let mut space = function();
        let first = space.add_capability(9, &[1, 2, 3]);
        let second = space.add_capability(9, &[4]);
        assert_eq!(read32(&space, 0x34) as u8, first);
        assert_eq!((read32(&space, first) >> 8) as u8, second);
        assert_eq!((read32(&space, second) >> 8) as u8, 0);
        assert_ne!(read32(&space, 4) >> 16 & 0x10, 0);
    }

    #[test]
    fn reads_past_the_end_are_all_ones() {
        assert_eq!(read32(&function(), 0xfe) >> 16, 0xffff);
    }
}
