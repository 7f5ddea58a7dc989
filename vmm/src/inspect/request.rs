//! What the debugger's thread and the guest's thread say to each other.

use crossbeam_channel::Sender;
use logging_channel::entry::Registers;

use crate::cpu::debug::{FloatRegisters, SystemRegisters};

/// The registers that a debugger sees.
pub(super) struct Snapshot {
    pub(super) general: Registers,
    pub(super) system: SystemRegisters,
    pub(super) float: FloatRegisters,
}

/// What the debugger asks for. The first four only while the guest is stopped.
pub(super) enum Request {
    /// Its registers.
    Registers(Sender<Snapshot>),
    /// Memory at a linear address, as far as it is mapped.
    Memory {
        address: u64,
        len: usize,
        reply: Sender<Vec<u8>>,
    },
    /// Sets or removes a breakpoint. `false` where none can be.
    Breakpoint {
        address: u64,
        set: bool,
        reply: Sender<bool>,
    },
    /// One instruction.
    Step,
    /// Up to a breakpoint or [`Request::Interrupt`].
    Continue,
    /// Stop where you are.
    Interrupt,
    /// The debugger is gone.
    Detach,
    /// The replay is to end.
    Kill,
}

/// Why the guest stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    Step,
    Breakpoint,
    Interrupted,
}
