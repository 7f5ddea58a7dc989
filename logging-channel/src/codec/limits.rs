//! What a batch and an entry may hold, checked when it is written and when it is read.

/// Most bytes of a network frame, of console input, or of what was read from the disk in one entry:
/// the largest IP packet, and what stands before it.
pub const MAX_FRAME: usize = 64 * 1024 + 64;

/// Most page hashes in one entry.
pub const MAX_HASHES: usize = 4096;

/// Most bytes in one part of a state transfer.
pub const MAX_STATE_PART: usize = 64 * 1024;

/// Most pages in one entry of a digest.
pub const MAX_PAGE_DIGESTS: usize = 4096;

/// Most parts, beside general registers and pages, of a digest.
pub const MAX_PART_DIGESTS: usize = 64;

/// Most bytes of a batch's body.
pub const MAX_BODY: usize = 1024 * 1024;

/// Most entries of a batch. Bounds what a body of one-byte entries unfolds to in memory.
pub const MAX_BATCH_ENTRIES: usize = 64 * 1024;

/// More than the largest entry takes: its data, and every other field at its longest.
pub(super) const MAX_ENTRY: usize = MAX_FRAME + 1024;
