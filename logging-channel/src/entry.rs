//! Log entries: what the primary saw that a replay could not know by itself.
//!
//! An [`Entry`] is one logged input or marker. Its place in the log is its [`Lsn`]; its place in
//! the guest's instruction stream is its [`ExecutionPoint`]. Everything else that happens in the
//! guest (interrupt lines, priorities, injection, device state) follows from these by rule and is
//! therefore never logged.

use std::fmt;
use std::ops::Range;

use xxhash_rust::xxh64::Xxh64;

/// Log sequence number. The first entry of a log has LSN 1; 0 means "nothing yet".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The LSN of the first entry of a log.
    pub const FIRST: Lsn = Lsn(1);

    /// The LSN that follows this one.
    #[must_use]
    pub fn next(self) -> Lsn {
        Lsn(self.0 + 1)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A place in the guest's instruction stream.
///
/// `exits` counts *deterministic* VM exits since reset (port I/O, MMIO, HLT, filtered MSRs):
/// exits that come at the same instruction in every run. Exits that the host causes (signals,
/// interrupt windows, debug stops) do not count, unless the primary made one of them a place of
/// its own: a stop that is logged by its count or by the state there ([`Payload::Counted`],
/// [`Payload::State`]) is one that every replay makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ExecutionPoint {
    /// Ordinal of the last deterministic exit before this point; the first exit is 1.
    pub exits: u64,
    /// Where after that exit: `None` is at the exit itself.
    pub landmark: Option<Landmark>,
}

impl ExecutionPoint {
    /// The point at the deterministic exit with ordinal `exits`.
    #[must_use]
    pub fn at_exit(exits: u64) -> Self {
        Self {
            exits,
            landmark: None,
        }
    }
}

impl fmt::Display for ExecutionPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.landmark {
            None => write!(f, "exit {}", self.exits),
            Some(mark) => write!(f, "exit {} then rip {:#x}", self.exits, mark.rip),
        }
    }
}

/// A recognisable place between two deterministic exits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Landmark {
    /// Guest RIP.
    pub rip: u64,
}

/// One logged input or marker, without its LSN (which is its position in the log).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where in the instruction stream it belongs.
    pub point: ExecutionPoint,
    /// Digest of the guest's general registers at `point`, where the primary took one. A replay
    /// that has another digest there has diverged.
    pub check: Option<u32>,
    /// What was logged.
    pub payload: Payload,
}

/// What an [`Entry`] says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// The value given to a time stamp counter read (RDTSC, RDTSCP, RDMSR of IA32_TSC).
    Tsc(u64),
    /// Guest monotonic time, in nanoseconds since reset, given to an exit that reads a timer
    /// device (8254 counter latch, PM timer).
    Clock(u64),
    /// Wall clock, in nanoseconds since the Unix epoch, given to a CMOS clock read.
    WallClock(u64),
    /// Asynchronous input: the timers reached this guest monotonic time, in nanoseconds since
    /// reset.
    Tick(u64),
    /// Asynchronous input: an Ethernet frame for the guest.
    NetRx(Vec<u8>),
    /// Asynchronous input: bytes typed at the console.
    ConsoleInput(Vec<u8>),
    /// The interrupt with this vector was delivered at the entry's landmark, where the interrupt
    /// window opened. Delivery follows by rule; the entry verifies that it came at the same place.
    Interrupt(u8),
    /// The guest produced an output here. The output leaves the primary only after this entry
    /// was acknowledged (Output Rule, Scales et al. 2010, section 2.2).
    Output(OutputMarker),
    /// The primary got here; everything before this point has been logged. Moves the backup's
    /// horizon when nothing else does. At a landmark: the interrupt window opened here, and there
    /// was nothing to deliver.
    Progress,
    /// All general registers, for recordings that are verified at every exit.
    Registers(Box<Registers>),
    /// Hashes of consecutive pages of guest memory, for the end of a verified recording.
    MemoryHashes {
        /// Guest frame number (guest physical address / 4096) of the first hash.
        first_page: u64,
        /// One hash a 4 KiB page.
        hashes: Vec<u64>,
    },
    /// The guest ended here, in order. Only [`Payload::MemoryHashes`] may follow.
    Shutdown(ShutdownReason),
    /// Part of a transfer of the guest's state, in place of its execution: the primary stopped at
    /// a place that only its state names, or the backup needs all of it.
    State(StatePart),
    /// Part of the end of a renewal, a transfer of the guest's whole state beside its execution: a backup that
    /// only keeps the log has less to execute from there on. All parts are at one place of the log, one behind
    /// the other. Who follows the log passes over them.
    Renewal(StatePart),
    /// The backup has taken the whole state over, with which its session began: from here on outputs wait
    /// for it, and it may go on alone. Before, it may not.
    Protected {
        /// Guest monotonic time here, in nanoseconds since reset: the backup may not have another value.
        clock: u64,
        /// Wall clock here, in nanoseconds since the Unix epoch.
        wall_clock: u64,
    },
    /// Digest of the guest's state here, to be compared.
    Digest(Box<StateDigest>),
    /// The primary stopped the guest here, at a place that a counter and its registers name.
    Counted(Box<CountedStop>),
    /// Part of what a read of the disk found. The [`Payload::DiskDone`] that follows, at the same
    /// execution point, says which request's it is.
    DiskData(Vec<u8>),
    /// Asynchronous input: a request to the disk was completed.
    DiskDone {
        /// Which: requests are numbered in the order in which the guest made them.
        id: u64,
        /// How it went.
        outcome: DiskOutcome,
    },
}

impl Payload {
    /// Whether the primary does something when this entry is acknowledged, and not before.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        matches!(self, Self::Output(_) | Self::Shutdown(_))
    }
}

/// How a request to the disk went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiskOutcome {
    /// It was done. What a read found is in the [`Payload::DiskData`] before.
    Done,
    /// It was a read, and was done. The backup is to read the shared disk itself.
    Shared {
        /// CRC-32 (IEEE) of what the primary found.
        crc: u32,
    },
    /// The disk failed: VIRTIO_BLK_S_IOERR.
    Failed,
    /// The disk does not know such requests: VIRTIO_BLK_S_UNSUPP.
    Unsupported,
}

/// Part of a transfer of the guest's state. The contents are the VMM's: this crate carries them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatePart {
    /// A transfer of the whole state begins, with this number: what follows does not build on what the
    /// backup has, and its memory comes over the session's memory streams. Without it, a transfer is a
    /// delta to the last point at which both sides had the same state.
    Begin(u32),
    /// Memory that changed, of a delta.
    Pages(Vec<u8>),
    /// All memory of a transfer of the whole state was sent, in so many blocks.
    Memory(u64),
    /// What is not memory, as far as it does not fit the commit.
    Rest(Vec<u8>),
    /// The end of the rest of the state. The transfer is complete, and the guest is at this
    /// entry's execution point.
    Commit(Vec<u8>),
}

/// Digest of a part of the guest's state.
///
/// A digest of all of it goes over memory in as many parts as it takes, from the first page to the
/// last, each at an execution point of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StateDigest {
    /// Numbers of the pages that it covers.
    pub range: Range<u64>,
    /// Those of them that changed since the last digest or state transfer, by ascending number.
    pub pages: Vec<PageDigest>,
    /// Processor and devices; only in the last part.
    pub last: Option<PartDigests>,
}

/// Digest of one page of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageDigest {
    /// Guest frame number (guest physical address / 4096).
    pub page: u64,
    /// Digest of its 4 KiB.
    pub digest: u32,
}

/// Digests of what is not memory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PartDigests {
    /// General registers, whole, so that a difference can be named.
    pub registers: Registers,
    /// Digests of other parts of the processor, and of the devices, in the VMM's order.
    pub parts: Vec<u32>,
}

/// A place between two deterministic exits, named by a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CountedStop {
    /// Counted events (retired branches or instructions, as both hosts count) since the last
    /// deterministic exit.
    pub count: u64,
    /// General registers, which tell places with the same count apart.
    pub registers: Registers,
}

/// Which output a marker stands for, with enough to see that the replay produced the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputMarker {
    /// Where the output goes.
    pub channel: OutputChannel,
    /// Its length in bytes.
    pub len: u32,
    /// Lower half of the XXH64 of its bytes.
    pub hash: u32,
}

impl OutputMarker {
    /// The marker of an output of `len` bytes that is described by these bytes, one part behind the
    /// other. Every frame has one, so its hash is one that costs little on every processor.
    #[must_use]
    pub fn new(channel: OutputChannel, len: u32, parts: &[&[u8]]) -> Self {
        let mut hash = Xxh64::new(0);
        parts.iter().for_each(|part| hash.update(part));
        Self {
            channel,
            len,
            hash: hash.digest() as u32,
        }
    }
}

/// Where an output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputChannel {
    /// An Ethernet frame to the client network.
    Net,
    /// Bytes to the console.
    Console,
    /// A change of the shared disk. Its length is that of the part of the disk that is changed.
    Disk,
}

/// Why the guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ShutdownReason {
    /// Halted with interrupts disabled: what Linux does on power-off without ACPI.
    PowerOff,
    /// The guest asked for a reset (8042 pulse, port 0xCF9).
    Reset,
    /// Triple fault: the guest crashed.
    TripleFault,
    /// The user stopped the recording; the guest would have gone on.
    Stopped,
}

/// RFLAGS.TF and RF (Intel SDM volume 1, section 3.4.3).
pub const RFLAGS_TF: u64 = 1 << 8;
/// See [`RFLAGS_TF`].
pub const RFLAGS_RF: u64 = 1 << 16;

/// The guest's general registers and what identifies its address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Registers {
    /// RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP, R8–R15, in this order.
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// CR3.
    pub cr3: u64,
}

impl Registers {
    /// Names of [`Registers::fields`], in their order.
    pub const NAMES: [&'static str; 19] = [
        "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", "r8", "r9", "r10", "r11", "r12",
        "r13", "r14", "r15", "rip", "rflags", "cr3",
    ];

    /// All values, in the order of [`Registers::NAMES`].
    #[must_use]
    pub fn fields(&self) -> [u64; 19] {
        let mut all = [0; 19];
        all[..16].copy_from_slice(&self.gpr);
        all[16] = self.rip;
        all[17] = self.rflags;
        all[18] = self.cr3;
        all
    }

    /// What two runs of a guest have in common: all but RFLAGS.TF and RF.
    ///
    /// Debugging sets both, and at an exit RF depends on the host. Intel's processors save it as 1 at
    /// a violation of nested page tables, which one host has at a place and the other has not, and as
    /// 0 at an instruction that exits (SDM volume 3, section 28.3.3); AMD's have rules of their own. It
    /// changes nothing but whether a breakpoint stops the next instruction once more. State transfers
    /// have both flags as they were.
    #[must_use]
    pub fn compared(self) -> Self {
        Self {
            rflags: self.rflags & !(RFLAGS_TF | RFLAGS_RF),
            ..self
        }
    }
}

/// The hash of a page of memory in [`Payload::MemoryHashes`]: [`hash_words`] of what it holds.
#[must_use]
pub fn page_hash(page: &[u8]) -> u64 {
    let (words, _) = page.as_chunks::<8>();
    hash_words(words.iter().map(|word| u64::from_le_bytes(*word)))
}

/// A hash of words. Every step is a bijection of the state, so sequences in which one word differs
/// never hash the same.
pub fn hash_words(words: impl Iterator<Item = u64>) -> u64 {
    // The odd multiplier is the 64-bit golden ratio, as in Fibonacci hashing.
    words.fold(0x6674_766d, |hash: u64, word| {
        (hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    })
}

#[cfg(test)]
mod tests {
    use super::page_hash;

    #[test]
    fn every_bit_of_a_page_counts() {
        let mut page = [0; 4096];
        let empty = page_hash(&page);
        for bit in (0..page.len() * 8).step_by(1013) {
            page[bit / 8] = 1 << (bit % 8);
            assert_ne!(page_hash(&page), empty);
            page[bit / 8] = 0;
        }
        assert_eq!(page_hash(&page), empty);
    }
}
