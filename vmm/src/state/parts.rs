//! What a state transfer carries beside memory.

use logging_channel::codec::MAX_STATE_PART;
use serde::{Deserialize, Serialize};

use super::patch::{self, PatchError};
use super::seal::SEAL_BYTES;

/// Most bytes of the devices' state: twice what it takes with a full backlog of large frames, and no
/// more than [`crate::devices::Devices::load`] looks at.
pub(super) const LARGEST_DEVICES: usize = 8 << 20;

/// Most bytes before compression: the processor's state has some kilobytes, always the same.
const LARGEST: usize = LARGEST_DEVICES + (1 << 20);

/// Most bytes after it: what LZ4 makes of bytes that cannot be compressed.
const LARGEST_PACKED: usize = LARGEST + LARGEST / 255 + 64;

/// So much of it goes into an entry of the log: the last one has a seal, too.
pub(super) const PIECE: usize = MAX_STATE_PART - SEAL_BYTES;

/// The last part of a state transfer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rest {
    /// The processor, as [`crate::cpu::CpuState::save`] gives it.
    #[serde(with = "serde_bytes")]
    pub(super) cpu: Vec<u8>,
    /// The devices, in a transfer of the whole state; in a delta both sides have the same.
    pub(super) devices: Option<serde_bytes::ByteBuf>,
}

impl Rest {
    pub(super) fn pack(&self) -> Vec<u8> {
        let raw = postcard::to_allocvec(self).expect("a vector takes everything");
        lz4_flex::block::compress_prepend_size(&raw)
    }
}

/// Puts the pieces of a packed [`Rest`] together.
#[derive(Debug, Default)]
pub(super) struct Pieces(Vec<u8>);

impl Pieces {
    /// Another transfer begins.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }

    /// Whether none came yet.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next piece.
    pub(super) fn add(&mut self, piece: &[u8]) -> Result<(), PatchError> {
        let len = self.0.len() + piece.len();
        if len > LARGEST_PACKED {
            return Err(PatchError::TooLarge {
                bytes: len,
                limit: LARGEST_PACKED,
            });
        }
        self.0.extend_from_slice(piece);
        Ok(())
    }

    /// All of them are there.
    pub(super) fn unpack(&mut self) -> Result<Rest, PatchError> {
        let raw = patch::unpack(&std::mem::take(&mut self.0), LARGEST)?;
        postcard::from_bytes(&raw).map_err(|error| PatchError::Malformed(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::Dice;

    fn rest(bytes: usize) -> Rest {
        let mut dice = Dice(1);
        let noise = (0..bytes).map(|_| dice.roll(256) as u8);
        Rest {
            cpu: vec![7; 100],
            devices: Some(noise.collect::<Vec<u8>>().into()),
        }
    }

    #[test]
    fn pieces_are_put_together() {
        let rest = rest(LARGEST_DEVICES);
        let packed = rest.pack();
        assert!(packed.len() <= LARGEST_PACKED && packed.len() > PIECE);
        let mut pieces = Pieces::default();
        pieces.add(b"of another transfer").expect("few");
        pieces.forget();
        for piece in packed.chunks(PIECE) {
            pieces.add(piece).expect("not too many");
        }
        assert_eq!(pieces.unpack(), Ok(rest));
        assert!(pieces.unpack().is_err(), "they are used up");
    }

    #[test]
    fn what_is_too_much_is_refused() {
        let mut pieces = Pieces::default();
        let refused = (0..=LARGEST_PACKED / PIECE + 1).find(|_| pieces.add(&[0; PIECE]).is_err());
        assert_eq!(refused, Some(LARGEST_PACKED / PIECE));
        let mut block = lz4_flex::block::compress_prepend_size(&[0; 100]);
        block[..4].copy_from_slice(&(LARGEST as u32 + 1).to_le_bytes());
        pieces.forget();
        pieces.add(&block).expect("few bytes");
        assert!(matches!(pieces.unpack(), Err(PatchError::TooLarge { .. })));
    }
}
