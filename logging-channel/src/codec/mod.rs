//! Batches: how entries are written, on the wire and in files alike.
//!
//! ```text
//!   offset  size  field
//!        0     4  magic "FTVB"
//!        4     4  length of the body, at most 1 MiB
//!        8     8  LSN of the first entry
//!       16     4  number of entries, 1 to 65,536
//!       20     4  CRC-32 of the body
//!       24     4  CRC-32 of bytes 0 to 23
//!       28     …  body: the entries, one after the other (see `entries.rs`)
//! ```
//!
//! All integers are little-endian; CRC-32 is the IEEE one.
//!
//! The header has a checksum of its own so that a flipped bit in the length is found before the
//! reader waits for bytes that will never come, and so that a file that was cut can be told from
//! one that was damaged.
//!
//! A batch decodes on its own: execution points and counters are coded against earlier entries of
//! the *same* batch. What only holds between batches (consecutive LSNs, exits that never go back)
//! is checked by [`LogOrder`].
//!
//! **Version policy.** A batch carries no version; the handshake and the file header do. Any
//! change here, a new kind of entry included, is a new [`PROTOCOL_VERSION`]: the two hosts of a pair
//! write what both of them speak ([`VERSIONS`]), and a recording is replayed by the version that made it.

mod entries;
mod error;
mod kind;
mod limits;
mod state;

pub use error::{EncodeError, EntryError};
pub use kind::{Kind, KindCount, KindCounts};
pub use limits::{
    MAX_BATCH_ENTRIES, MAX_BODY, MAX_FRAME, MAX_HASHES, MAX_PAGE_DIGESTS, MAX_PART_DIGESTS,
    MAX_STATE_PART,
};

pub use crate::bytes::FieldError;
use crate::bytes::Fields;
use crate::entry::{Entry, Lsn};
use transport::Versions;

/// Version of everything that this crate writes: handshake, stream, heartbeats and files.
pub const PROTOCOL_VERSION: u16 = 13;

/// The versions that this crate speaks with a peer: this one, and the one before it. (13 is the first that says
/// with which others it gets on.)
pub const VERSIONS: Versions = Versions {
    oldest: 13,
    // The build for tests of upgrades has one more, with bytes of its own.
    newest: PROTOCOL_VERSION + cfg!(feature = "next-protocol") as u16,
};

/// Length of a batch's header.
pub const HEADER_LEN: usize = 28;

pub(crate) const BATCH_MAGIC: [u8; 4] = *b"FTVB";

/// Collects entries into batches, in log order.
///
/// Knows what holds across batches too: the next LSN and the last execution point.
#[derive(Debug)]
pub struct BatchEncoder {
    context: entries::Context,
    /// The open batch; starts with room for its header.
    bytes: Vec<u8>,
    count: u32,
    next: Lsn,
    last_exits: u64,
}

/// A batch whose checksums have not been computed yet.
///
/// Entries are added by the vCPU's thread under a lock; the checksums need neither.
#[derive(Debug)]
pub struct UnsealedBatch {
    bytes: Vec<u8>,
    first: Lsn,
    count: u32,
}

impl BatchEncoder {
    /// An encoder whose first entry will have LSN `first`.
    #[must_use]
    pub fn new(first: Lsn) -> Self {
        Self {
            context: entries::Context::default(),
            bytes: vec![0; HEADER_LEN],
            count: 0,
            next: first,
            last_exits: 0,
        }
    }

    /// Adds `entry` to the open batch and returns its LSN. After an error the batch is as before.
    pub fn push(&mut self, entry: &Entry) -> Result<Lsn, EncodeError> {
        if self.is_full() {
            return Err(EncodeError::BatchFull);
        }
        entries::admit(&entry.payload)?;
        if entry.point.exits < self.last_exits {
            return Err(EncodeError::ExitsDecreased {
                last: self.last_exits,
                found: entry.point.exits,
            });
        }
        self.context.write(entry, &mut self.bytes);
        self.last_exits = entry.point.exits;
        self.count += 1;
        let lsn = self.next;
        self.next = lsn.next();
        Ok(lsn)
    }

    /// Length of the open batch, its header included; 0 when it holds no entry.
    #[must_use]
    pub fn len(&self) -> usize {
        if self.is_empty() { 0 } else { self.bytes.len() }
    }

    /// Whether the open batch holds no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether the open batch must be taken before the next entry.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.bytes.len() - HEADER_LEN > MAX_BODY - limits::MAX_ENTRY
            || self.count as usize >= MAX_BATCH_ENTRIES
    }

    /// The LSN that the next entry will have.
    #[must_use]
    pub fn next_lsn(&self) -> Lsn {
        self.next
    }

    /// Takes the open batch and opens another; `None` if it holds no entry.
    pub fn take(&mut self) -> Option<UnsealedBatch> {
        if self.is_empty() {
            return None;
        }
        let mut bytes = Vec::with_capacity(self.bytes.len());
        bytes.resize(HEADER_LEN, 0);
        self.context = entries::Context::default();
        let count = std::mem::take(&mut self.count);
        Some(UnsealedBatch {
            bytes: std::mem::replace(&mut self.bytes, bytes),
            first: Lsn(self.next.0 - u64::from(count)),
            count,
        })
    }
}

impl UnsealedBatch {
    /// Fills in the header and returns the batch as it is sent.
    #[must_use]
    pub fn seal(mut self) -> Vec<u8> {
        let (header, body) = self.bytes.split_at_mut(HEADER_LEN);
        header[0..4].copy_from_slice(&BATCH_MAGIC);
        header[4..8].copy_from_slice(&(body.len() as u32).to_le_bytes());
        header[8..16].copy_from_slice(&self.first.0.to_le_bytes());
        header[16..20].copy_from_slice(&self.count.to_le_bytes());
        header[20..24].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
        let crc = crc32fast::hash(&header[..24]);
        header[24..28].copy_from_slice(&crc.to_le_bytes());
        self.bytes
    }

    /// Length of the batch, its header included.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// LSN of its last entry.
    #[must_use]
    pub fn last(&self) -> Lsn {
        Lsn(self.first.0 + u64::from(self.count) - 1)
    }
}

/// Why bytes are not a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end before the batch does.
    #[error("{have} bytes of a batch of at least {needed}")]
    Incomplete {
        /// How many bytes there must be at least.
        needed: usize,
        /// How many there are.
        have: usize,
    },
    /// Something else starts here.
    #[error("no batch starts here: magic {found:02x?}")]
    Magic {
        /// What is there in place of the magic.
        found: [u8; 4],
    },
    /// The header was damaged.
    #[error("damaged batch header: its checksum is {found:#010x}, computed {computed:#010x}")]
    HeaderChecksum {
        /// The checksum in the header.
        found: u32,
        /// The checksum of the header.
        computed: u32,
    },
    /// The header's checksum is right, but it promises what no writer of this version writes.
    #[error(
        "impossible batch header: {body_len} bytes, {count} entries from LSN {first} (limits: {MAX_BODY} bytes, {MAX_BATCH_ENTRIES} entries)"
    )]
    Bounds {
        /// Promised length of the body.
        body_len: u32,
        /// Promised number of entries.
        count: u32,
        /// LSN of the first entry.
        first: Lsn,
    },
    /// The body was damaged.
    #[error("damaged batch body: its checksum is {found:#010x}, computed {computed:#010x}")]
    BodyChecksum {
        /// The checksum in the header.
        found: u32,
        /// The checksum of the body.
        computed: u32,
    },
    /// An entry cannot be read, though the checksum is right: another version wrote it.
    #[error("entry with LSN {lsn} cannot be read")]
    Entry {
        /// Which entry.
        lsn: Lsn,
        /// Why.
        #[source]
        source: EntryError,
    },
    /// Bytes follow the last entry of the body.
    #[error("{0} bytes follow the last entry of a batch")]
    Trailing(usize),
}

/// The header of a batch, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    body_len: u32,
    first: Lsn,
    count: u32,
    body_crc: u32,
}

impl BatchHeader {
    /// Reads and checks a header.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new(bytes);
        let mut read = || -> Result<_, FieldError> {
            Ok((
                fields.array::<4>()?,
                fields.u32()?,
                fields.u64()?,
                fields.u32()?,
                fields.u32()?,
                fields.u32()?,
            ))
        };
        let (magic, body_len, first, count, body_crc, header_crc) =
            read().expect("the header's fields are as long as the header");
        if magic != BATCH_MAGIC {
            return Err(DecodeError::Magic { found: magic });
        }
        let computed = crc32fast::hash(&bytes[..24]);
        if header_crc != computed {
            return Err(DecodeError::HeaderChecksum {
                found: header_crc,
                computed,
            });
        }
        let first = Lsn(first);
        // An entry takes at least one byte: what claims more entries than bytes is not ours.
        if body_len as usize > MAX_BODY
            || count as usize > MAX_BATCH_ENTRIES
            || count == 0
            || count > body_len
            || first < Lsn::FIRST
            || first.0.checked_add(u64::from(count)).is_none()
        {
            return Err(DecodeError::Bounds {
                body_len,
                count,
                first,
            });
        }
        Ok(Self {
            body_len,
            first,
            count,
            body_crc,
        })
    }

    /// Length of the body that follows the header.
    #[must_use]
    pub fn body_len(&self) -> usize {
        self.body_len as usize
    }

    /// Reads the body.
    pub fn decode_body(&self, body: &[u8]) -> Result<Batch, DecodeError> {
        if body.len() != self.body_len() {
            return Err(DecodeError::Incomplete {
                needed: HEADER_LEN + self.body_len(),
                have: HEADER_LEN + body.len(),
            });
        }
        let computed = crc32fast::hash(body);
        if computed != self.body_crc {
            return Err(DecodeError::BodyChecksum {
                found: self.body_crc,
                computed,
            });
        }
        let mut fields = Fields::new(body);
        let mut context = entries::Context::default();
        let mut entries = Vec::with_capacity(self.count as usize);
        for n in 0..self.count {
            let entry = context.read(&mut fields).map_err(|source| {
                let lsn = Lsn(self.first.0 + u64::from(n));
                DecodeError::Entry { lsn, source }
            })?;
            entries.push(entry);
        }
        if !fields.is_empty() {
            return Err(DecodeError::Trailing(fields.remaining()));
        }
        Ok(Batch {
            first: self.first,
            entries,
        })
    }
}

/// A batch, decoded: consecutive entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// LSN of the first entry.
    pub first: Lsn,
    /// The entries; never empty when decoded.
    pub entries: Vec<Entry>,
}

impl Batch {
    /// Decodes the batch at the start of `bytes`; also returns its length.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), DecodeError> {
        let incomplete = |needed| DecodeError::Incomplete {
            needed,
            have: bytes.len(),
        };
        let (head, rest) = bytes
            .split_first_chunk()
            .ok_or_else(|| incomplete(HEADER_LEN))?;
        let header = BatchHeader::decode(head)?;
        let body = rest
            .get(..header.body_len())
            .ok_or_else(|| incomplete(HEADER_LEN + header.body_len()))?;
        Ok((header.decode_body(body)?, HEADER_LEN + body.len()))
    }

    /// LSN of the last entry.
    #[must_use]
    pub fn last(&self) -> Lsn {
        Lsn(self.first.0 + self.entries.len() as u64 - 1)
    }
}

/// Checks what holds between the batches of a log.
#[derive(Debug, Clone)]
pub struct LogOrder {
    next: Lsn,
    exits: u64,
}

/// How a batch does not fit the log before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// Entries are missing or repeated.
    #[error("the log goes on at LSN {found}, expected {expected}: entries are missing or repeated")]
    Lsn {
        /// The LSN that had to follow.
        expected: Lsn,
        /// The LSN that did.
        found: Lsn,
    },
    /// Execution goes back.
    #[error("LSN {lsn} is at exit {found}, before the exit {last} of the entry that precedes it")]
    Exits {
        /// Which entry.
        lsn: Lsn,
        /// `exits` of the entry before.
        last: u64,
        /// Its own.
        found: u64,
    },
}

impl Default for LogOrder {
    fn default() -> Self {
        Self {
            next: Lsn::FIRST,
            exits: 0,
        }
    }
}

impl LogOrder {
    /// Admits the next batch of the log.
    pub fn admit(&mut self, batch: &Batch) -> Result<(), OrderError> {
        if batch.first != self.next {
            return Err(OrderError::Lsn {
                expected: self.next,
                found: batch.first,
            });
        }
        for (lsn, entry) in (batch.first.0..).map(Lsn).zip(&batch.entries) {
            if entry.point.exits < self.exits {
                return Err(OrderError::Exits {
                    lsn,
                    last: self.exits,
                    found: entry.point.exits,
                });
            }
            self.exits = entry.point.exits;
            self.next = lsn.next();
        }
        Ok(())
    }

    /// LSN of the last entry admitted; 0 if there was none.
    #[must_use]
    pub fn last(&self) -> Lsn {
        Lsn(self.next.0 - 1)
    }
}
