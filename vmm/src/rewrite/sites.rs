//! What is looked for in an image, and what stands in its place afterwards.

/// The port that stands for the time stamp counter. Nothing on a PC answers there.
pub const TSC_PORT: u16 = 0xec;

pub(super) const RDTSC: [u8; 2] = [0x0f, 0x31];
pub(super) const IN_EAX: [u8; 2] = [0xe5, TSC_PORT as u8];

/// First of eight ports that stand for writing CR4 from a register, by the register's number in
/// instruction encodings (RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI).
pub const CR4_PORT: u16 = 0xe0;

/// The port that stands for a hypercall.
pub const HYPERCALL_PORT: u16 = 0xea;

/// What was found and rewritten.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sites {
    /// Virtual addresses of time stamp counter reads, ascending.
    pub tsc: Vec<u64>,
    /// Virtual addresses of writes to CR4.
    pub cr4: Vec<u64>,
    /// Virtual addresses of hypercalls.
    pub hypercalls: Vec<u64>,
    /// Virtual addresses of IRETQs, left as they are, ascending.
    pub iretqs: Vec<u64>,
    /// What the kernel reads in place of the counter, most of the time.
    pub copy: Option<TscCopy>,
}

impl Sites {
    /// Whether nothing was rewritten.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tsc.is_empty() && self.cr4.is_empty() && self.hypercalls.is_empty()
    }
}

/// The copy of the time stamp counter that the kernel reads ([`crate::tsc_cache`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TscCopy {
    /// Guest-physical address.
    pub address: u64,
    /// How many of the time stamp counter reads use it.
    pub reads: usize,
}

/// How a kernel reads its time stamp counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelReads {
    /// Every read is an exit and gives the time at which it is made.
    Exact,
    /// Most reads are no exit, and give the time that the guest got last.
    Cached,
}

/// Why an image cannot be rewritten.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    /// It is not a (whole) ELF file.
    #[error("{0}")]
    NotElf(String),
    /// It has no executable sections.
    #[error(
        "the image has no section headers or no executable sections, so its instructions cannot \
         be found: use the vmlinux of a distribution's kernel, not a stripped copy"
    )]
    NoCode,
    /// It reads the TSC nowhere.
    #[error(
        "the image has no rdtsc instruction: it is not a Linux kernel for x86-64, or it was \
         rewritten before"
    )]
    NoSites,
}

/// New bytes for the file, at an offset.
pub(super) struct Patch {
    pub(super) offset: usize,
    pub(super) bytes: Vec<u8>,
}
