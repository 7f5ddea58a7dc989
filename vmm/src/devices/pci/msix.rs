//! Message-signalled interrupts of a function (PCI Local Bus 3.0, section 6.8.2, MSI-X).
//!
//! The table and the pending bits are in one memory BAR of 4 KiB. Drivers touch it when they set
//! interrupts up, and not for each of them.

use serde::{Deserialize, Serialize};

use super::ConfigSpace;
use crate::devices::apic::Message;

/// Size of the BAR in bytes.
pub const BAR_BYTES: u32 = 0x1000;
const CAPABILITY: u8 = 0x11;
/// Number of the BAR that the table is in.
const TABLE_BAR: u32 = 1;
const ENTRY_BYTES: u16 = 16;
/// Offset of the pending bits.
const PENDING: u16 = 0x800;

/// Message control.
const ENABLE: u16 = 1 << 15;
const FUNCTION_MASK: u16 = 1 << 14;
/// Vector control of an entry.
const MASKED: u32 = 1;

/// No vector (virtio 1.2, section 4.1.5.1.2).
pub const NO_VECTOR: u16 = 0xffff;

/// One entry of the table: address, data, vector control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    address: u64,
    data: u32,
    control: u32,
    pending: bool,
}

impl Entry {
    /// Whether its message is wanted and not masked.
    fn is_ready(&self) -> bool {
        self.pending && self.control & MASKED == 0
    }
}

/// The table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Msix {
    entries: Vec<Entry>,
    /// Offset of the capability.
    at: u8,
}

impl Msix {
    /// A table with so many entries, and its capability in `config_space`.
    #[must_use]
    pub fn new(entries: u16, config_space: &mut ConfigSpace) -> Self {
        let mut body = Vec::with_capacity(10);
        body.extend_from_slice(&(entries - 1).to_le_bytes());
        body.extend_from_slice(&TABLE_BAR.to_le_bytes());
        body.extend_from_slice(&(u32::from(PENDING) | TABLE_BAR).to_le_bytes());
        let at = config_space.add_capability(CAPABILITY, &body);
        let control = (ENABLE | FUNCTION_MASK).to_le_bytes();
        config_space.make_bits_writable(at + 2, &control);
        let masked = Entry {
            address: 0,
            data: 0,
            control: MASKED,
            pending: false,
        };
        Self {
            entries: vec![masked; usize::from(entries)],
            at,
        }
    }

    /// Whether the table of the function `here`, with this configuration space, could be in this
    /// state between events; if not, what is wrong.
    pub(in crate::devices) fn check(
        &self,
        here: &Self,
        config_space: &ConfigSpace,
    ) -> Result<(), &'static str> {
        if self.entries.len() != here.entries.len() || self.at != here.at {
            return Err("the function has another table of messages");
        }
        if self
            .entries
            .iter()
            .any(|entry| entry.control & !MASKED != 0)
        {
            return Err("no such bit in the control of a message");
        }
        if self.entries.iter().any(|entry| entry.address & 3 != 0) {
            return Err("a message's address is not a multiple of 4");
        }
        if self.sends(config_space) && self.entries.iter().any(Entry::is_ready) {
            return Err("a message waits that nothing holds back");
        }
        Ok(())
    }

    fn control(&self, config_space: &ConfigSpace) -> u16 {
        let mut word = [0; 2];
        config_space.read(self.at + 2, &mut word);
        u16::from_le_bytes(word)
    }

    /// Whether the function sends messages in place of its interrupt pin.
    #[must_use]
    pub fn is_enabled(&self, config_space: &ConfigSpace) -> bool {
        self.control(config_space) & ENABLE != 0
    }

    /// Whether messages are sent, but for those that are masked one by one.
    fn sends(&self, config_space: &ConfigSpace) -> bool {
        self.control(config_space) & (ENABLE | FUNCTION_MASK) == ENABLE
    }

    /// Whether there is such a vector.
    #[must_use]
    pub fn has(&self, vector: u16) -> bool {
        usize::from(vector) < self.entries.len()
    }

    /// Wants the message of a vector to be sent.
    pub fn raise(&mut self, vector: u16) {
        if let Some(entry) = self.entries.get_mut(usize::from(vector)) {
            entry.pending = true;
        }
    }

    /// No message is wanted any more: the function was reset.
    pub fn forget_pending(&mut self) {
        for entry in &mut self.entries {
            entry.pending = false;
        }
    }

    /// Takes a message that is to be sent now.
    pub fn take(&mut self, config_space: &ConfigSpace) -> Option<Message> {
        if !self.sends(config_space) {
            return None;
        }
        let entry = self.entries.iter_mut().find(|entry| entry.is_ready())?;
        entry.pending = false;
        Some(Message {
            address: entry.address,
            data: entry.data,
        })
    }

    /// Reads the BAR.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        data.fill(0);
        let word = |at: u16| -> u32 {
            if at >= PENDING {
                let pending = |(n, entry): (usize, &Entry)| u32::from(entry.pending) << n;
                return if at == PENDING {
                    self.entries.iter().enumerate().map(pending).sum()
                } else {
                    0
                };
            }
            let Some(entry) = self.entries.get(usize::from(at / ENTRY_BYTES)) else {
                return 0;
            };
            match at % ENTRY_BYTES {
                0 => entry.address as u32,
                4 => (entry.address >> 32) as u32,
                8 => entry.data,
                _ => entry.control,
            }
        };
        for (at, chunk) in (offset & !3..).step_by(4).zip(data.chunks_mut(4)) {
            let bytes = word(at).to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }

    /// Writes the BAR: whole words, as drivers must.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        for (at, chunk) in (offset..).step_by(4).zip(data.as_chunks::<4>().0) {
            let value = u32::from_le_bytes(*chunk);
            let Some(entry) = self.entries.get_mut(usize::from(at / ENTRY_BYTES)) else {
                return;
            };
            match at % ENTRY_BYTES {
                0 => entry.address = entry.address & !0xffff_ffff | u64::from(value & !3),
                4 => entry.address = entry.address & 0xffff_ffff | u64::from(value) << 32,
                8 => entry.data = value,
                12 => entry.control = value & MASKED,
                _ => {} // not at a word's start: undefined, and nobody does
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VECTOR: u16 = 1;

    fn function() -> (ConfigSpace, Msix) {
        let mut space = ConfigSpace::new(0x1af4, 0x1041, [2, 0, 0], 1, (0x1af4, 1));
        let msix = Msix::new(3, &mut space);
        (space, msix)
    }

    fn set_control(space: &mut ConfigSpace, msix: &Msix, control: u16) {
        space.write(msix.at + 2, &control.to_le_bytes());
    }

    fn program(msix: &mut Msix) {
        let at = VECTOR * ENTRY_BYTES;
        msix.write(at, &0xfee0_1000u64.to_le_bytes());
        msix.write(at + 8, &0x4021u32.to_le_bytes());
        msix.write(at + 12, &0u32.to_le_bytes());
    }

    #[test]
    fn the_capability_tells_the_size_and_only_two_bits_can_be_written() {
        let (mut space, msix) = function();
        set_control(&mut space, &msix, 0xffff);
        assert_eq!(msix.control(&space), ENABLE | FUNCTION_MASK | 2);
        let mut words = [0; 8];
        space.read(msix.at + 4, &mut words[..4]);
        space.read(msix.at + 8, &mut words[4..]);
        assert_eq!(words, [1, 0, 0, 0, 1, 8, 0, 0]);
    }

    #[test]
    fn a_message_is_sent_once() {
        let (mut space, mut msix) = function();
        program(&mut msix);
        set_control(&mut space, &msix, ENABLE);
        msix.raise(VECTOR);
        let message = Message {
            address: 0xfee0_1000,
            data: 0x4021,
        };
        assert_eq!(msix.take(&space), Some(message));
        assert_eq!(msix.take(&space), None);
        msix.raise(NO_VECTOR);
        assert_eq!(msix.take(&space), None);
    }

    #[test]
    fn masked_ones_wait_and_show_as_pending() {
        let (mut space, mut msix) = function();
        program(&mut msix);
        msix.raise(VECTOR);
        assert_eq!(msix.take(&space), None, "not enabled");
        set_control(&mut space, &msix, ENABLE | FUNCTION_MASK);
        assert_eq!(msix.take(&space), None);
        set_control(&mut space, &msix, ENABLE);
        msix.write(VECTOR * ENTRY_BYTES + 12, &1u32.to_le_bytes());
        assert_eq!(msix.take(&space), None);
        let mut pending = [0; 8];
        msix.read(PENDING, &mut pending);
        assert_eq!(pending, [1 << VECTOR, 0, 0, 0, 0, 0, 0, 0]);
        msix.write(VECTOR * ENTRY_BYTES + 12, &0u32.to_le_bytes());
        assert!(msix.take(&space).is_some());
    }

    #[test]
    fn the_table_reads_as_written_and_ends() {
        let (_, mut msix) = function();
        program(&mut msix);
        let mut data = [0; 8];
        msix.read(VECTOR * ENTRY_BYTES, &mut data);
        assert_eq!(u64::from_le_bytes(data), 0xfee0_1000);
        msix.write(3 * ENTRY_BYTES, &[0xff; 8]);
        msix.read(3 * ENTRY_BYTES, &mut data);
        assert_eq!(data, [0; 8]);
    }
}
