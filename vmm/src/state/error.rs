//! Why a state cannot be taken over.

use super::patch::PatchError;
use crate::cpu::CpuError;
use crate::devices::DeviceStateError;

/// Why a state cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Its encoding is wrong.
    #[error(transparent)]
    Patch(#[from] PatchError),
    /// The processor does not take it, or could not be asked.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// The devices do not take it.
    #[error("the devices do not take the state")]
    Devices(#[from] DeviceStateError),
    /// A program wrote to much memory without an exit. The whole state does not have to wait aside.
    #[error("a state delta has more than {mib} MiB that must wait for its end, and {room}")]
    NoRoom {
        /// How much came.
        mib: usize,
        /// How much more there is room for.
        room: String,
    },
    /// Guest memory did not come beside the log as it should.
    #[error("guest memory did not come: {0}")]
    Memory(String),
    /// A transfer of the whole state has no devices.
    #[error("a transfer of the whole state came without the devices")]
    NoDevices,
}
