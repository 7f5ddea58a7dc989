//! Why the processor stopped.

/// Why the processor stopped.
///
/// [`Exit::Io`], [`Exit::Mmio`], [`Exit::Halt`], [`Exit::Msr`] and [`Exit::TaskPriority`] are
/// *deterministic*: given the same guest state and the same inputs they come at the same
/// instruction in every run, and their ordinal is the clock of the log. The others depend on the
/// host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Port I/O. The bytes are in [`GuestCpu::io_data`](super::GuestCpu::io_data): to be read for
    /// an output, to be filled in for an input.
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
    /// A filtered model specific register. Answer with
    /// [`GuestCpu::finish_msr`](super::GuestCpu::finish_msr).
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
    /// [`GuestCpu::request_interrupt_window`](super::GuestCpu::request_interrupt_window). Not a deterministic exit, but normalised to the
    /// first instruction boundary where RFLAGS.IF is set outside an interrupt shadow.
    ///
    /// With a task priority of 15 it opens on Intel's processors, and not on AMD's, whose virtual
    /// interrupt has priority 15 (APM volume 2, section 15.21.4). Interrupts of the local APIC wait for
    /// a lower one anyway; those of the 8259, which do not, wait on AMD's for the next deterministic exit
    /// or stop, of which [`Exit::TaskPriority`] is one. Either way the place follows from the guest.
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
