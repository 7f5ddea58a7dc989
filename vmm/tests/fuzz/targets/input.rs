//! Choices, made by the bytes of an input.

use super::MEMORY;

/// The input that is left. At its end all choices are 0.
pub(crate) struct Input(Vec<u8>);

impl Input {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self(bytes.iter().rev().copied().collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.0.pop().unwrap_or(0)
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    pub(crate) fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    /// A number below `sides`, at most 256.
    pub(crate) fn below(&mut self, sides: u16) -> u16 {
        u16::from(self.byte()) % sides
    }

    /// True but for one of `sides`.
    pub(crate) fn chance(&mut self, sides: u16) -> bool {
        self.below(sides) != 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.below(from.len() as u16))]
    }

    /// A number of the kinds that go wrong.
    pub(crate) fn number(&mut self) -> u64 {
        let byte = u64::from(self.byte());
        match byte >> 5 {
            0..=2 => byte,
            3 => u64::from(u16::from_le_bytes(self.bytes())),
            4 => u64::from(self.word()),
            5 => u64::from_le_bytes(self.bytes()),
            6 => 1 << (byte & 0x1f) << (self.byte() & 0x1f),
            _ => (byte & 0x1f).wrapping_neg(),
        }
    }

    /// A guest-physical address: mostly in memory, often at its end, now and then beyond.
    pub(crate) fn address(&mut self) -> u64 {
        let byte = self.byte();
        match byte >> 5 {
            0..=4 => u64::from(u16::from_le_bytes([self.byte(), byte & 0xf])) * 16 % MEMORY,
            5 => MEMORY - u64::from(byte & 0x1f),
            6 => u64::from(byte & 0x1f).wrapping_neg(),
            _ => self.number(),
        }
    }

    /// How long a buffer is.
    pub(crate) fn len(&mut self) -> u32 {
        let byte = u32::from(self.byte());
        match byte >> 5 {
            0..=1 => byte & 0x1f,
            2..=4 => 512 * (byte & 0x1f),
            5 => 16 * u32::from(u16::from_le_bytes(self.bytes())),
            6 => MEMORY as u32 - (byte & 0x1f),
            _ => self.word(),
        }
    }
}
