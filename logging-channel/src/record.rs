//! A log in a file.
//!
//! ```text
//!   envelope "ftvm-log" (see `handshake`), kind 5, body: identity, seed, host report
//!   batch …                                (see `codec`)
//!   batch …
//!   control message Goodbye {last LSN}     (see `control`): the log is complete
//! ```
//!
//! A file without the last part is *cut*: the recording ended without [`RecordWriter::finish`] or
//! the file lost its end. Everything up to the last whole batch can be read.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use crate::bytes::Fields;
use crate::codec::{
    BatchEncoder, BatchHeader, DecodeError, EncodeError, HEADER_LEN, Kind, KindCounts, LogOrder,
    OrderError, PROTOCOL_VERSION,
};
use crate::control::{CONTROL_MAGIC, Control, ControlError};
use crate::entry::{Entry, Lsn};
use crate::handshake::{ENVELOPE_LEN, Envelope, HandshakeError, kind};
use crate::host::HostReport;
use crate::identity::{Identity, IdentityError};
use crate::seed::Seed;

const FILE_MAGIC: [u8; 8] = *b"ftvm-log";

/// A batch is written when it has this many bytes: large enough that writing costs little, small
/// enough that a recording that dies loses little.
const BATCH_BYTES: usize = 64 * 1024;

/// Why a log file cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The file cannot be made.
    #[error("cannot create the log file {path}: choose a place that can be written")]
    Create {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Writing failed.
    #[error("cannot write the log file {path}: what was written so far can be replayed")]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The VM's identity is not valid.
    #[error("the log's identity is not valid")]
    Identity(#[from] IdentityError),
    /// The entry is not valid.
    #[error("the entry cannot be logged")]
    Entry(#[from] EncodeError),
}

/// Writes a log to a file.
///
/// Dropped without [`RecordWriter::finish`], it writes what it holds and leaves the file without
/// its end: a reader then sees a cut log, which is what it is.
#[derive(Debug)]
pub struct RecordWriter {
    file: File,
    path: PathBuf,
    encoder: BatchEncoder,
    kinds: KindCounts,
    finished: bool,
}

impl RecordWriter {
    /// Creates the file, or empties it, and writes its header: whose log it is, with which random
    /// numbers that begins, and what the host can do that records it.
    pub fn create(
        path: impl AsRef<Path>,
        identity: &Identity,
        seed: Seed,
        host: &HostReport,
    ) -> Result<Self, WriteError> {
        let path = path.as_ref().to_owned();
        let mut body = Vec::new();
        identity.encode(&mut body)?;
        body.extend_from_slice(seed.bytes());
        host.encode(&mut body);
        let header = Envelope::seal(FILE_MAGIC, PROTOCOL_VERSION, kind::FILE, &body);
        let created = File::create(&path).and_then(|mut file| {
            file.write_all(&header)?;
            Ok(file)
        });
        match created {
            Ok(file) => Ok(Self {
                file,
                path,
                encoder: BatchEncoder::new(Lsn::FIRST),
                kinds: KindCounts::default(),
                finished: false,
            }),
            Err(source) => Err(WriteError::Create { path, source }),
        }
    }

    /// Appends an entry. It reaches the file with its batch.
    pub fn append(&mut self, entry: &Entry) -> Result<Lsn, WriteError> {
        let before = self.encoder.len();
        let lsn = self.encoder.push(entry)?;
        let grown = self.encoder.len() - before;
        self.kinds.add(Kind::of(&entry.payload), grown as u64);
        if self.encoder.len() >= BATCH_BYTES || self.encoder.is_full() {
            self.flush()?;
        }
        Ok(lsn)
    }

    /// Entries and bytes by kind of entry, so far.
    #[must_use]
    pub fn kinds(&self) -> KindCounts {
        self.kinds
    }

    /// Writes the open batch.
    pub fn flush(&mut self) -> Result<(), WriteError> {
        let Some(batch) = self.encoder.take() else {
            return Ok(());
        };
        self.write(&batch.seal())
    }

    /// Completes the log and waits until the file is on the disk. Returns the last LSN.
    pub fn finish(mut self) -> Result<Lsn, WriteError> {
        self.finished = true;
        self.flush()?;
        let last = Lsn(self.encoder.next_lsn().0 - 1);
        self.write(&Control::Goodbye(last).encode())?;
        self.file.sync_all().map_err(|source| WriteError::Write {
            path: self.path.clone(),
            source,
        })?;
        Ok(last)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.file
            .write_all(bytes)
            .map_err(|source| WriteError::Write {
                path: self.path.clone(),
                source,
            })
    }
}

impl Drop for RecordWriter {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = self.flush()
        {
            log::warn!("{error}");
        }
    }
}

/// Why a file cannot be opened as a log.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be read.
    #[error("cannot read the log file {path}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is something else.
    #[error("{path} is not an ftvm log: give the file that `ftvm record` wrote")]
    NotALog {
        /// Which file.
        path: PathBuf,
    },
    /// Another version wrote the file.
    #[error(
        "{path} was recorded with format version {found}, this ftvm reads version {PROTOCOL_VERSION}: replay it with the ftvm that recorded it"
    )]
    OtherVersion {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: u16,
    },
    /// The file ends within its header.
    #[error("{path} is cut: it ends within its header, so nothing of it can be replayed")]
    Cut {
        /// Which file.
        path: PathBuf,
    },
    /// The header was damaged.
    #[error("{path} is corrupt: its header is damaged, so nothing of it can be replayed")]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// How.
        #[source]
        source: HandshakeError,
    },
}

/// Why a log file cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Reading failed.
    #[error("cannot read the log at byte {offset}, after LSN {last}")]
    Io {
        /// Where.
        offset: u64,
        /// The last entry that was read.
        last: Lsn,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The log has no end.
    #[error(
        "the log is cut: it ends at byte {offset} without its end mark; the last entry that can be read has LSN {last}"
    )]
    Cut {
        /// Where the last whole batch ends.
        offset: u64,
        /// The last entry that was read.
        last: Lsn,
    },
    /// The log was damaged.
    #[error("the log is corrupt at byte {offset}; the last entry that can be read has LSN {last}")]
    Corrupt {
        /// Where the damaged part starts.
        offset: u64,
        /// The last entry that was read.
        last: Lsn,
        /// How.
        #[source]
        source: Corruption,
    },
}

/// How a log was damaged.
#[derive(Debug, thiserror::Error)]
pub enum Corruption {
    /// A batch cannot be read.
    #[error(transparent)]
    Batch(#[from] DecodeError),
    /// A batch does not fit the one before.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// The end mark cannot be read.
    #[error(transparent)]
    End(#[from] ControlError),
    /// The end mark is for another log.
    #[error("the end mark says that the last entry has LSN {0}")]
    OtherEnd(Lsn),
    /// A control message other than the end mark.
    #[error("a control message that belongs on the wire")]
    Misplaced,
    /// Something follows the end mark.
    #[error("bytes follow the end mark")]
    AfterEnd,
}

/// Reads a log from a file: an iterator over its entries that ends after the first error.
#[derive(Debug)]
pub struct RecordReader {
    file: BufReader<File>,
    /// Where the next part starts.
    offset: u64,
    order: LogOrder,
    entries: std::iter::Zip<std::ops::RangeFrom<u64>, std::vec::IntoIter<Entry>>,
    body: Vec<u8>,
    seed: Seed,
    host: HostReport,
    ended: bool,
}

impl RecordReader {
    /// Opens a log and reads its header.
    pub fn open(path: impl AsRef<Path>) -> Result<(Identity, Self), OpenError> {
        let path = path.as_ref();
        let io_error = |source| OpenError::Io {
            path: path.to_owned(),
            source,
        };
        let mut file = BufReader::with_capacity(BATCH_BYTES, File::open(path).map_err(io_error)?);

        let mut header = [0; ENVELOPE_LEN];
        let have = read_up_to(&mut file, &mut header).map_err(io_error)?;
        let compared = have.min(FILE_MAGIC.len());
        if header[..compared] != FILE_MAGIC[..compared] {
            return Err(OpenError::NotALog { path: path.into() });
        }
        if have < ENVELOPE_LEN {
            return Err(OpenError::Cut { path: path.into() });
        }
        let corrupt = |source| OpenError::Corrupt {
            path: path.into(),
            source,
        };
        let envelope = Envelope::open(FILE_MAGIC, &header).map_err(corrupt)?;
        if envelope.version != PROTOCOL_VERSION {
            return Err(OpenError::OtherVersion {
                path: path.into(),
                found: envelope.version,
            });
        }
        let found = envelope.kind;
        if found != kind::FILE {
            return Err(corrupt(HandshakeError::Kind { found }));
        }
        let mut body = vec![0; envelope.body_len];
        if read_up_to(&mut file, &mut body).map_err(io_error)? < body.len() {
            return Err(OpenError::Cut { path: path.into() });
        }
        envelope.check_body(&body).map_err(corrupt)?;
        let mut fields = Fields::new(&body);
        let identity = Identity::decode(&mut fields).map_err(|error| corrupt(error.into()))?;
        let seed = fields
            .array()
            .map_err(|error| corrupt(error.into()))?
            .into();
        let host = HostReport::decode(&mut fields).map_err(|error| corrupt(error.into()))?;
        if !fields.is_empty() {
            let error = IdentityError::Trailing(fields.remaining());
            return Err(corrupt(error.into()));
        }
        let reader = Self {
            file,
            offset: (ENVELOPE_LEN + body.len()) as u64,
            order: LogOrder::default(),
            entries: (0..).zip(Vec::new()),
            body,
            seed,
            host,
            ended: false,
        };
        Ok((identity, reader))
    }

    /// What the recorded guest's random numbers began with.
    #[must_use]
    pub fn seed(&self) -> Seed {
        self.seed
    }

    /// What the host could do that recorded it.
    #[must_use]
    pub fn host(&self) -> &HostReport {
        &self.host
    }

    /// The last entry of the batches read so far.
    fn last_lsn(&self) -> Lsn {
        self.order.last()
    }

    fn corrupt(&self, source: impl Into<Corruption>) -> ReadError {
        ReadError::Corrupt {
            offset: self.offset,
            last: self.last_lsn(),
            source: source.into(),
        }
    }

    /// Fills `buffer` or says that the log is cut.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), ReadError> {
        let (offset, last) = (self.offset, self.last_lsn());
        match read_up_to(&mut self.file, buffer) {
            Ok(have) if have == buffer.len() => Ok(()),
            Ok(_) => Err(ReadError::Cut { offset, last }),
            Err(source) => Err(ReadError::Io {
                offset,
                last,
                source,
            }),
        }
    }

    /// Reads the next batch; `false` at the end of a complete log.
    fn read_batch(&mut self) -> Result<bool, ReadError> {
        let mut header = [0; HEADER_LEN];
        self.fill(&mut header)?;
        if header[..4] == CONTROL_MAGIC {
            self.read_end(&header)?;
            return Ok(false);
        }
        let header = BatchHeader::decode(&header).map_err(|error| self.corrupt(error))?;
        let mut body = std::mem::take(&mut self.body);
        body.resize(header.body_len(), 0);
        self.fill(&mut body)?;
        let batch = header
            .decode_body(&body)
            .map_err(|error| self.corrupt(error))?;
        self.order
            .admit(&batch)
            .map_err(|error| self.corrupt(error))?;
        self.body = body;
        self.offset += (HEADER_LEN + header.body_len()) as u64;
        self.entries = (batch.first.0..).zip(batch.entries);
        Ok(true)
    }

    fn read_end(&mut self, mark: &[u8; HEADER_LEN]) -> Result<(), ReadError> {
        match Control::decode(mark) {
            Ok(Control::Goodbye(last)) if last == self.last_lsn() => {}
            Ok(Control::Goodbye(last)) => return Err(self.corrupt(Corruption::OtherEnd(last))),
            Ok(_) => return Err(self.corrupt(Corruption::Misplaced)),
            Err(error) => return Err(self.corrupt(error)),
        }
        self.offset += HEADER_LEN as u64;
        match self.fill(&mut [0]) {
            Err(ReadError::Cut { .. }) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => Err(self.corrupt(Corruption::AfterEnd)),
        }
    }
}

impl Iterator for RecordReader {
    type Item = Result<(Lsn, Entry), ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((lsn, entry)) = self.entries.next() {
                return Some(Ok((Lsn(lsn), entry)));
            }
            if self.ended {
                return None;
            }
            match self.read_batch() {
                Ok(true) => {}
                Ok(false) => self.ended = true,
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

/// Like `read_exact`, but says how much there was when the file ends early.
fn read_up_to(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut have = 0;
    while have < buffer.len() {
        match file.read(&mut buffer[have..]) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(have)
}
