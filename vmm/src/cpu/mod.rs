//! The guest's processor, as the engine sees it.
//!
//! [`GuestCpu`] hides who executes the instructions. [`crate::kvm`] implements it with KVM;
//! [`crate::fake_cpu`] implements it with a script, so that the engine, recording and replay can be tested
//! without a hypervisor.

pub mod debug;
mod error;
mod exit;
mod state;

use logging_channel::entry::hash_words;
pub use logging_channel::entry::{CountedStop, Registers};
pub(crate) use logging_channel::entry::{RFLAGS_RF, RFLAGS_TF};

pub use self::error::{CpuError, SeekError};
pub use self::exit::{Exit, PortAccess};
pub use self::state::{CpuState, Look};
use crate::ram::GuestRam;

/// How a stop of the guest is named by a counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Counted {
    /// The processor stands at the place that this names.
    At(CountedStop),
    /// It does not: the processor has no counter, or cannot stop at such a place. The processor
    /// stands somewhere, as after an [`Exit::Kicked`].
    Unnamed,
    /// It came to an exit on the way to such a place. The next [`GuestCpu::run`] returns that, and
    /// nothing may be done with the processor before.
    Exit,
}

/// One virtual processor.
pub trait GuestCpu: CpuState {
    /// Runs the guest until its next exit. Completes the pending I/O or MSR access first.
    ///
    /// # Errors
    /// [`CpuError`] when the guest cannot go on.
    fn run(&mut self) -> Result<Exit, CpuError>;

    /// The bytes of the last [`Exit::Io`] or [`Exit::Mmio`].
    fn io_data(&mut self) -> &mut [u8];

    /// Completes the last exit as a time stamp counter read: `value` in EDX:EAX, as RDTSC leaves
    /// it. For the port I/O that stands in for a rewritten RDTSC.
    fn finish_tsc(&mut self, value: u64);

    /// Completes the last [`Exit::Msr`]: `Some` is the value read (ignored for a write), `None`
    /// raises #GP in the guest.
    fn finish_msr(&mut self, value: Option<u64>);

    /// Whether an interrupt can be injected right now.
    fn ready_for_interrupt(&mut self) -> bool;

    /// Delivers an external interrupt before the next instruction. Only when
    /// [`GuestCpu::ready_for_interrupt`].
    ///
    /// # Errors
    /// [`CpuError::Hypervisor`] when KVM refuses.
    fn inject(&mut self, vector: u8) -> Result<(), CpuError>;

    /// Asks for (or no longer wants) an [`Exit::InterruptWindow`].
    fn request_interrupt_window(&mut self, wanted: bool);

    /// General registers at the last exit.
    ///
    /// # Errors
    /// [`CpuError::Hypervisor`] when KVM refuses.
    fn registers(&mut self) -> Result<Registers, CpuError>;

    /// Digest of the general registers as they are [compared](Registers::compared), at the last exit.
    /// Cheap: taken for most log entries.
    ///
    /// # Errors
    /// [`CpuError::Hypervisor`] when KVM refuses.
    fn register_digest(&mut self) -> Result<u32, CpuError>;

    /// Replaces the general registers, RIP and RFLAGS (not CR3).
    ///
    /// # Errors
    /// [`CpuError::Hypervisor`] when KVM refuses.
    fn set_registers(&mut self, registers: &Registers) -> Result<(), CpuError>;

    /// Writes CR4, with all that a MOV to CR4 brings about. `false` if that would be a #GP: the
    /// processor does not have what the value says, or not here.
    ///
    /// # Errors
    /// [`CpuError::Hypervisor`] when KVM fails.
    fn write_cr4(&mut self, value: u64) -> Result<bool, CpuError>;

    /// Makes a fault of the last exit, a write to a port by OUT with an immediate operand: the guest
    /// goes on with a #GP there, error code 0. For an OUT that stands in for another instruction.
    ///
    /// # Errors
    /// [`CpuError`].
    fn raise_general_protection(&mut self) -> Result<(), CpuError>;

    /// The task priority at the last exit, 0 to 15: CR8.
    fn task_priority(&mut self) -> u8;

    /// Sets the task priority, 0 to 15.
    fn set_task_priority(&mut self, class: u8);

    /// Linear base address of the interrupt descriptor table.
    ///
    /// # Errors
    /// [`CpuError::Hypervisor`] when KVM refuses.
    fn idt_base(&mut self) -> Result<u64, CpuError>;

    /// The guest-physical address of a linear one, if it is mapped. The guest does not notice: no entry
    /// of its page tables is marked.
    fn translate(&mut self, linear: u64) -> Option<u64>;

    /// RIP at the last exit.
    ///
    /// # Errors
    /// [`CpuError::Hypervisor`] when KVM refuses.
    fn rip(&mut self) -> Result<u64, CpuError>;

    /// The place where the processor stands is an execution point, from which a counter of retired
    /// events counts: a deterministic exit, or a place that was made one.
    fn execution_point(&mut self) {}

    /// After an [`Exit::Kicked`]: goes on to the next place that a counter of retired events names,
    /// if this processor has one.
    ///
    /// # Errors
    /// [`CpuError`].
    fn counted_stop(&mut self) -> Result<Counted, CpuError> {
        Ok(Counted::Unnamed)
    }

    /// Runs from the last deterministic exit to the place that `stop` names, so that the
    /// processor stands there as after an [`Exit::Kicked`].
    ///
    /// # Errors
    /// [`SeekError`]; the processor is somewhere else then.
    fn seek(&mut self, stop: &CountedStop) -> Result<(), SeekError> {
        let _ = stop;
        Err(SeekError::NoCounter)
    }

    /// Names no stop by a count any more, for this reason.
    fn stop_counting(&mut self, reason: &str) {
        let _ = reason;
    }

    /// A processor of another machine, in this one's state and with this `memory`, a copy of the
    /// guest's, wherever this one stands with no access pending. What it does changes nothing here.
    /// `None` if this processor has nothing for debuggers.
    ///
    /// # Errors
    /// [`CpuError`].
    fn twin(&mut self, memory: &GuestRam) -> Result<Option<Box<dyn GuestCpu>>, CpuError> {
        let _ = memory;
        Ok(None)
    }

    /// What a debugger needs, if this processor has it.
    fn for_debugger(&mut self) -> Option<&mut dyn debug::DebugCpu> {
        None
    }
}

/// Digest of the general purpose registers, RIP and RFLAGS, as they are [compared](Registers::compared).
pub(crate) fn register_digest(registers: Registers) -> u32 {
    let Registers {
        gpr, rip, rflags, ..
    } = registers.compared();
    digest_of(gpr.into_iter().chain([rip, rflags]))
}

/// The [hash](hash_words) of register values in 32 bits: see [`fold`]. It must be cheap: it is taken
/// for most log entries.
pub(crate) fn digest(values: &[u64]) -> u32 {
    digest_of(values.iter().copied())
}

/// [`digest`] of any sequence.
pub(crate) fn digest_of(values: impl Iterator<Item = u64>) -> u32 {
    fold(hash_words(values))
}

/// Folds a hash into 32 bits, which keeps the chance of a false match at 2^-32.
pub(crate) fn fold(hash: u64) -> u32 {
    (hash >> 32) as u32 ^ hash as u32
}
