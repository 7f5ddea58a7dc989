//! Why a trial failed.

use crate::counter::Fault;
use crate::cpu::CpuError;
use crate::engine::EngineError;
use crate::kvm::MachineError;
use crate::state::NoRoom;

/// Why a trial failed.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// No micro-guest could be made.
    #[error("this host cannot run the micro-guest")]
    Machine(#[from] MachineError),
    /// The processor failed.
    #[error("the micro-guest's processor cannot go on")]
    Cpu(#[from] CpuError),
    /// The guest sees that it is counted.
    #[error("the guest is not the same when its instructions are counted: {0}")]
    Visible(String),
    /// An interrupt that was injected gets lost between two processors.
    #[error(
        "an interrupt that was injected when the guest's state was saved does not come first where \
         that is loaded: the guest stands at {rip:#x} in place of the interrupt's handler"
    )]
    Forgotten {
        /// Where the guest stands.
        rip: u64,
    },
    /// The recording ended before its time.
    #[error("the micro-guest could not be recorded")]
    Recording(#[source] EngineError),
    /// The replay differs, or could not go on.
    #[error("the replay is not what was recorded")]
    Replay(#[source] EngineError),
    /// The guest did not do what it is for.
    #[error(
        "the micro-guest counted {ticks} of {interrupts} interrupts, {page_faults} page faults and \
         {undefined} undefined instructions: this host's KVM does not run it as it should"
    )]
    Lost {
        /// Interrupts that were delivered.
        interrupts: u64,
        /// Those that the guest counted.
        ticks: u64,
        /// Page faults that it counted.
        page_faults: u64,
        /// Undefined instructions that it counted.
        undefined: u64,
    },
    /// There is no room for what is kept of the guest's memory.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// Nobody noticed what was wrong with a counter.
    #[error("a counter with a fault was not noticed: {0:?}")]
    Unnoticed(Fault),
    /// A replay of a log that was falsified did not differ.
    #[error("a stop that was moved by one instruction in the log was not noticed in the replay")]
    Blind,
}
