//! The guest's processor, as the engine sees it.
//!
//! [`GuestCpu`] hides who executes the instructions. [`crate::kvm`] implements it with KVM;
//! [`fake`] implements it with a script, so that the engine, recording and replay can be tested
//! without a hypervisor.

pub mod debug;
pub mod fake;
mod state;

pub use logging_channel::entry::{CountedStop, Registers};

pub use self::state::CpuState;

/// RFLAGS.TF and RF, which debugging sets (Intel SDM volume 1, section 3.4.3).
pub(crate) const RFLAGS_TF: u64 = 1 << 8;
pub(crate) const RFLAGS_RF: u64 = 1 << 16;

/// Why the processor stopped.
///
/// [`Exit::Io`], [`Exit::Mmio`], [`Exit::Halt`], [`Exit::Msr`] and [`Exit::TaskPriority`] are
/// *deterministic*: given the same guest state and the same inputs they come at the same instruction in every run, and their
/// ordinal is the clock of the log. The others depend on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Port I/O. The bytes are in [`GuestCpu::io_data`]: to be read for an output, to be filled
    /// in for an input.
    Io(PortAccess),
    /// Access to guest-physical memory that is not RAM; bytes as for [`Exit::Io`].
    Mmio {
        /// Guest-physical address.
        address: u64,
        /// Whether the guest writes.
        write: bool,
        /// Width in bytes, 1 to 8.
        len: u8,
    },
    /// HLT, with RIP behind it. Reports RFLAGS.IF.
    Halt {
        /// Whether an interrupt can end the halt.
        interruptible: bool,
    },
    /// A filtered model specific register. Answer with [`GuestCpu::finish_msr`].
    Msr {
        /// Register number.
        index: u32,
        /// The value written, or `None` for a read.
        write: Option<u64>,
    },
    /// A MOV to CR8 lowered the task priority, with RIP behind it: an interrupt that waited may be
    /// delivered now. One that raises it makes no exit.
    TaskPriority,
    /// Triple fault.
    TripleFault,
    /// The host had something to do (a signal, a kick). Not deterministic.
    Kicked,
    /// The guest can take an interrupt now, as asked for with
    /// [`GuestCpu::request_interrupt_window`]. Not a deterministic exit, but normalised to the
    /// first instruction boundary where RFLAGS.IF is set outside an interrupt shadow.
    InterruptWindow,
}

/// One port I/O exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortAccess {
    /// Port number.
    pub port: u16,
    /// Whether the guest writes (OUT) or reads (IN).
    pub write: bool,
    /// Width of one access in bytes: 1, 2 or 4.
    pub size: u8,
    /// Number of accesses; more than 1 for string instructions with a REP prefix.
    pub count: u32,
}

/// Why the processor could not go on. All of these end the virtual machine.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// The hypervisor refused an operation.
    #[error("the hypervisor failed to {action}")]
    Hypervisor {
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The hypervisor could not emulate an instruction of the guest.
    #[error(
        "the hypervisor could not emulate the guest's instruction at {rip:#x} \
         (bytes {bytes:02x?}, suberror {suberror}); run `ftvm doctor` to see whether this host \
         can carry guests"
    )]
    Emulation {
        /// Guest RIP.
        rip: u64,
        /// KVM's internal error number.
        suberror: u32,
        /// The instruction's bytes, as far as known.
        bytes: Vec<u8>,
    },
    /// The hardware refused to enter the guest.
    #[error("the processor refused to enter the guest (hardware reason {reason:#x})")]
    Entry {
        /// KVM's hardware_entry_failure_reason.
        reason: u64,
    },
    /// The performance counter failed.
    #[error("the performance counter that names the guest's stops failed: {0}")]
    Counter(String),
    /// A state that another processor saved does not fit this one.
    #[error("the processor cannot take over the state of the other host's: {0}")]
    State(String),
    /// An exit that this VMM does not know.
    #[error("the hypervisor reported an exit that ftvm does not know: {0}")]
    UnknownExit(String),
}

impl CpuError {
    /// What becomes of a system's answer to the attempt to `action`.
    pub(crate) fn failed_to<E: Into<std::io::Error>>(action: &'static str) -> impl Fn(E) -> Self {
        move |source| Self::Hypervisor {
            action,
            source: source.into(),
        }
    }
}

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

/// Why a place named by a counter was not reached.
#[derive(Debug, thiserror::Error)]
pub enum SeekError {
    /// This processor has no counter.
    #[error(
        "the log names a place by a performance counter, and this host has none that can be used: \
         `ftvm doctor` says why"
    )]
    NoCounter,
    /// The processor went elsewhere.
    #[error("{0}")]
    Missed(String),
    /// The processor could not go on.
    #[error(transparent)]
    Cpu(#[from] CpuError),
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

    /// Digest of the general purpose registers, RIP and RFLAGS at the last exit. Cheap: taken
    /// for most log entries.
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

    /// The guest-physical address of a linear one, if it is mapped.
    fn translate(&mut self, linear: u64) -> Option<u64>;

    /// RIP at the last exit.
    ///
    /// # Errors
    /// [`CpuError::Hypervisor`] when KVM refuses.
    fn rip(&mut self) -> Result<u64, CpuError>;

    /// The place where the processor stands is an execution point, from which a counter of retired
    /// events counts: a deterministic exit, or a place that was made one.
    ///
    /// # Errors
    /// [`CpuError::Counter`].
    fn execution_point(&mut self) -> Result<(), CpuError> {
        Ok(())
    }

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

    /// What a debugger needs, if this processor has it.
    fn for_debugger(&mut self) -> Option<&mut dyn debug::DebugCpu> {
        None
    }
}

/// Folds register values into 32 bits. Every step is a bijection of the running hash, so one
/// changed value always changes the 64-bit state; the fold at the end keeps the chance of a
/// false match at 2^-32. It must be cheap: it is taken for most log entries.
pub(crate) fn digest(values: &[u64]) -> u32 {
    fold(values.iter().copied())
}

/// [`digest`] of any sequence.
pub(crate) fn fold(values: impl Iterator<Item = u64>) -> u32 {
    // The odd multiplier is the 64-bit golden ratio, as in Fibonacci hashing.
    let hash = values.fold(0x6674_766d, |hash: u64, value| {
        (hash.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    });
    (hash >> 32) as u32 ^ hash as u32
}
