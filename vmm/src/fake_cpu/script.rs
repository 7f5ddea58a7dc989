//! What a fake processor executes.

use std::collections::BTreeMap;

/// One step of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Writes a port.
    Out {
        /// Port.
        port: u16,
        /// Width in bytes.
        size: u8,
        /// Value.
        value: u32,
    },
    /// Reads a port.
    In {
        /// Port.
        port: u16,
        /// Width in bytes.
        size: u8,
    },
    /// Reads the time stamp counter, as a rewritten kernel does.
    ReadTsc,
    /// Reads a model specific register that exits.
    ReadMsr(u32),
    /// Writes a model specific register that exits.
    WriteMsr(u32, u64),
    /// Reads memory where there is none.
    ReadHole(u64),
    /// Writes memory where there is none: a device's registers.
    WriteHole {
        /// Guest-physical address.
        address: u64,
        /// Value.
        value: u32,
    },
    /// Ends an interrupt of the local APIC as Linux does: without an exit if bit 0 of a word says
    /// so, which it clears; otherwise by a write to the register.
    EndInterrupt {
        /// Guest-physical address of the word, of 32 bits.
        word: u64,
    },
    /// Writes CR8.
    SetTaskPriority(u8),
    /// Loads guest memory.
    Load {
        /// Guest-physical address.
        address: u64,
        /// Bytes.
        len: usize,
    },
    /// Stores to guest memory.
    Store {
        /// Guest-physical address.
        address: u64,
        /// Value.
        value: u16,
    },
    /// This many instructions without an exit.
    Compute(u32),
    /// Enables interrupts after the next instruction.
    Sti,
    /// Disables interrupts.
    Cli,
    /// Halts.
    Halt,
}

/// What a [`FakeCpu`](super::FakeCpu) executes: [`Script::main`], then a halt with interrupts disabled.
#[derive(Debug, Clone, Default)]
pub struct Script {
    /// From the start, with interrupts disabled.
    pub main: Vec<Op>,
    /// Interrupt handlers by vector. They run with interrupts disabled and return at their end.
    pub handlers: BTreeMap<u8, Vec<Op>>,
}
