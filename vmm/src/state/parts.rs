//! What a state transfer carries beside memory.

use logging_channel::codec::MAX_STATE_PART;
use serde::{Deserialize, Serialize};

use super::patch::{self, PatchError};
use super::seal::SEAL_BYTES;

/// Most bytes before compression.
const LARGEST: usize = 1024 * 1024;

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
    /// Packs it; `None` if it does not fit an entry of the log together with its seal.
    pub(super) fn pack(&self) -> Option<Vec<u8>> {
        let raw = postcard::to_allocvec(self).expect("a vector takes everything");
        let packed = lz4_flex::block::compress_prepend_size(&raw);
        (packed.len() + SEAL_BYTES <= MAX_STATE_PART).then_some(packed)
    }

    pub(super) fn unpack(bytes: &[u8]) -> Result<Self, PatchError> {
        let raw = patch::unpack(bytes, LARGEST)?;
        postcard::from_bytes(&raw).map_err(|error| PatchError::Malformed(error.to_string()))
    }
}
