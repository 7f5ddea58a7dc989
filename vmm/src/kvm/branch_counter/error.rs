//! Why a processor's counter cannot be used.

use std::io;

use crate::counter::table::Signature;
use crate::kvm::MachineError;
use crate::kvm::probe::ProbeError;

/// Why there is no counter, or none that can be used. Each says how to mend it.
#[derive(Debug, thiserror::Error)]
pub enum CounterError {
    /// The table has no event for this processor.
    #[error(
        "no event that counts conditional branches exactly is known for this processor \
         ({signature:x?}): add it to vmm/src/counter/table.rs if you know one"
    )]
    UnknownProcessor {
        /// What CPUID says.
        signature: Signature,
    },
    /// The kernel was built without performance events.
    #[error("this kernel has no performance events: use one with CONFIG_PERF_EVENTS")]
    NoKernelSupport,
    /// There are no hardware events.
    #[error(
        "this host has no performance monitoring unit (PMU): where it is a virtual machine, let \
         its host pass one through (QEMU: -cpu host,pmu=on)"
    )]
    NoPmu,
    /// The counters are another guest's, or make no interrupts.
    #[error(
        "this host's counters cannot be used for guests now: if another virtual machine has a PMU \
         that KVM lends it, stop that one, or load kvm_intel or kvm_amd with enable_mediated_pmu=0; \
         if this host is a virtual machine, give it a local APIC"
    )]
    NotForGuests,
    /// This kernel does not know that some cores are of another kind.
    #[error(
        "this processor's cores are of several kinds, which this kernel does not tell apart: use \
         Linux 5.13 or newer"
    )]
    KindsOfCores,
    /// The guest's thread may not run on cores that count.
    #[error(
        "this processor's cores are of several kinds, and ftvm may run on efficiency cores only: \
         allow it performance cores (taskset, CPUAffinity= or AllowedCPUs= of systemd)"
    )]
    NoPerformanceCore,
    /// The system's settings forbid it.
    #[error(
        "perf_event_paranoid{} forbids it: run as root, give ftvm CAP_PERFMON, or set \
         kernel.perf_event_paranoid to 1 with sysctl",
        level.map_or_else(String::new, |level| format!(" is {level} and"))
    )]
    Forbidden {
        /// Value of the setting, if it can be read.
        level: Option<i32>,
    },
    /// A security module or a container forbids it.
    #[error(
        "the system does not permit perf_event_open: give ftvm CAP_PERFMON, and allow the call in \
         its container's seccomp profile"
    )]
    NotPermitted,
    /// The kernel cannot tell guest and host apart.
    #[error("this kernel cannot count in guests only: use Linux 5.10 or newer on the host")]
    NoGuestCounting,
    /// Others use the counters.
    #[error(
        "all of the processor's counters are in use: stop what uses them (perf, the NMI \
             watchdog: set kernel.nmi_watchdog to 0 with sysctl)"
    )]
    Busy,
    /// It was not on the processor all the time that the guest was.
    #[error(
        "it did not count for {nanos} ns while the guest ran: others took it (perf, the NMI watchdog: \
         set kernel.nmi_watchdog to 0 with sysctl), or the guest's thread was moved to a core of \
         another kind (taskset, cpuset)"
    )]
    Absent {
        /// For how long, in nanoseconds.
        nanos: u64,
    },
    /// A call failed for another reason.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// No micro-guest can be made to measure with.
    #[error("no micro-guest can be made to measure the counter with")]
    Machine(#[from] MachineError),
    /// The micro-guest did not run.
    #[error("the micro-guest to measure the counter with did not run")]
    MicroGuest(#[from] ProbeError),
    /// The count is wrong.
    #[error(
        "it is not exact: it counted {counted} where the micro-guest had {executed} conditional \
         branches ({during})"
    )]
    NotExact {
        /// What the guest was doing.
        during: &'static str,
        /// Branches that it executed.
        executed: u64,
        /// Branches that were counted.
        counted: u64,
    },
    /// Something that no measurement shows is not right.
    #[error("{0}")]
    Caveat(&'static str),
    /// It counts what the host does.
    #[error("it counts the host's branches as well: {0} while the guest did not run")]
    CountsHost(u64),
    /// It does not interrupt the guest.
    #[error(
        "it does not interrupt the guest: {branches} conditional branches after it was to, the \
         guest still ran"
    )]
    NoInterrupt {
        /// How many went by.
        branches: u64,
    },
}

/// An error of a call.
pub(super) fn system(action: &'static str) -> impl Fn(io::Error) -> CounterError {
    move |source| CounterError::System { action, source }
}
