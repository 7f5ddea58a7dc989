//! Why the processor could not go on.

/// Why the processor could not go on.
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
    /// The performance counter failed. The guest goes on without: see
    /// [`CountingCpu`](crate::counter::CountingCpu), which this does not leave.
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

/// Why a place named by a counter was not reached.
#[derive(Debug, thiserror::Error)]
pub enum SeekError {
    /// This processor has no counter.
    #[error(
        "the log names a place by a performance counter, and this host has none that can be used: \
         `ftvm doctor` says why"
    )]
    NoCounter,
    /// This processor's counter is not to be used any more.
    #[error("{0}")]
    Lost(String),
    /// The counter stopped the processor too late, which is no difference of the guest's.
    #[error("{0}")]
    Overrun(String),
    /// The processor went elsewhere.
    #[error("{0}")]
    Missed(String),
    /// The processor could not go on.
    #[error(transparent)]
    Cpu(#[from] CpuError),
}
