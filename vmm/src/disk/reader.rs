//! The shared disk as a backup reads it (`--backup-reads=disk`).

use std::thread;
use std::time::{Duration, Instant};

use disk_server::nbd::client::{Connection, Reply};
use logging_channel::DiskIdentity;
use transport::Endpoint;

use super::link::{self, LinkSettings};
use super::pieces::{Piece, pieces};
use super::target::DiskTarget;
use super::{DiskOp, SharedDisk, SharedRead, SharedReadError};

/// Reads the disk on the guest's thread, over a connection that does not write.
///
/// A read that fails is tried again for ever: the primary's succeeded, so the disk is well, and
/// only the way to it is not. The primary changes nothing there before this read is done.
///
/// With the read that the replay waits for, those that it will come to are sent, so that a guest
/// with many reads under way does not wait for one after the other. Nobody looks at their replies
/// before the replay has come to them. What waits in the connection meanwhile is bounded by what
/// the device has in flight.
pub struct DiskReader {
    target: DiskTarget,
    identity: DiskIdentity,
    endpoint: Endpoint,
    settings: LinkSettings,
    connection: Option<Connection>,
    /// On this connection, and not asked for yet.
    begun: Vec<Begun>,
    /// Of the next command. No cookie is used twice.
    cookie: u64,
    /// Since when people know that the disk server is lost.
    told: Option<Instant>,
}

/// A read that was sent.
struct Begun {
    read: SharedRead,
    /// The cookie of the first part; the others follow.
    first: u64,
    parts: Vec<Piece>,
    missing: usize,
    data: Vec<u8>,
}

impl Begun {
    /// Which part a reply is to.
    fn part(&self, cookie: u64) -> Option<&Piece> {
        let index = cookie.checked_sub(self.first)?;
        self.parts.get(usize::try_from(index).ok()?)
    }
}

impl DiskReader {
    /// A reader of `target`, which is opened plainly, and read as long as it is `identity`. Nothing is
    /// connected yet.
    #[must_use]
    pub fn new(
        target: DiskTarget,
        identity: DiskIdentity,
        endpoint: Endpoint,
        settings: LinkSettings,
    ) -> Self {
        Self {
            target: DiskTarget {
                writer: None,
                client: None,
                ..target
            },
            identity,
            endpoint,
            settings,
            connection: None,
            begun: Vec::new(),
            cookie: 0,
            told: None,
        }
    }

    /// How many reads were sent, and not asked for yet.
    #[must_use]
    pub fn begun(&self) -> usize {
        self.begun.len()
    }

    fn connect(&mut self) -> anyhow::Result<&mut Connection> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                self.begun.clear();
                let timeout = self.settings.connect_timeout;
                link::open(&self.target, &self.identity, &self.endpoint, timeout)?
            }
        };
        Ok(self.connection.insert(connection))
    }

    /// Sends a read, unless it was sent. Whether it was sent now.
    fn begin(&mut self, read: SharedRead) -> anyhow::Result<bool> {
        if self.begun.iter().any(|begun| begun.read == read) {
            return Ok(false);
        }
        let first = self.cookie;
        let SharedRead { offset, len, .. } = read;
        let connection = self.connect()?;
        let parts = pieces(
            &DiskOp::Read { offset, len },
            connection.export.blocks.max_payload,
        );
        for (cookie, part) in (first..).zip(&parts) {
            connection.requests.read(cookie, part.offset, part.len)?;
        }
        self.cookie += parts.len() as u64;
        self.begun.push(Begun {
            read,
            first,
            missing: parts.len(),
            parts,
            data: vec![0; len as usize],
        });
        Ok(true)
    }

    /// Takes a reply, which may be to a read that nobody wants any more.
    fn take(&mut self, wanted: SharedRead, reply: Reply) -> anyhow::Result<()> {
        let to = |begun: &Begun| begun.part(reply.cookie).is_some();
        let Some(at) = self.begun.iter().position(to) else {
            return Ok(());
        };
        let begun = &mut self.begun[at];
        let SharedRead { offset, len, .. } = begun.read;
        match reply.result {
            Ok(read) => {
                // The client has checked how much it is.
                if let Some(range) = begun.part(reply.cookie).map(Piece::range) {
                    begun.data[range].copy_from_slice(&read);
                    begun.missing -= 1;
                }
            }
            Err(code) if begun.read == wanted => {
                anyhow::bail!("the disk server cannot read {len} bytes at {offset}: {code:?}")
            }
            // It is sent again when it is wanted.
            Err(_) => drop(self.begun.remove(at)),
        }
        Ok(())
    }

    /// One attempt.
    fn attempt(&mut self, read: SharedRead, ahead: &[SharedRead]) -> anyhow::Result<Vec<u8>> {
        self.connect()?;
        self.begun
            .retain(|begun| begun.read == read || ahead.contains(&begun.read));
        let mut sent = self.begin(read)?;
        for next in ahead {
            sent |= self.begin(*next)?;
        }
        if sent {
            self.connect()?.requests.flush_buffer()?;
        }
        loop {
            let found = self
                .begun
                .iter()
                .position(|begun| begun.read == read && begun.missing == 0);
            if let Some(at) = found {
                return Ok(self.begun.remove(at).data);
            }
            let reply = self.connect()?.replies.next_reply()?;
            self.take(read, reply)?;
        }
    }
}

impl SharedDisk for DiskReader {
    fn read(&mut self, read: SharedRead, ahead: &[SharedRead]) -> Result<Vec<u8>, SharedReadError> {
        let mut pause = self.settings.first_pause;
        loop {
            match self.attempt(read, ahead) {
                Ok(data) => {
                    if let Some(since) = self.told.take() {
                        log::info!(
                            "the disk server is back after {} ms; the backup goes on",
                            since.elapsed().as_millis()
                        );
                    }
                    return Ok(data);
                }
                Err(error) => {
                    self.connection = None;
                    self.begun.clear();
                    if self.told.is_none() {
                        self.told = Some(Instant::now());
                        log::warn!("the backup waits to read {}: {error:#}", self.target);
                    }
                }
            }
            thread::sleep(pause);
            pause = (pause * 2).min(self.settings.longest_pause.max(Duration::from_millis(1)));
        }
    }

    fn forget(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.requests.disconnect();
        }
        self.begun.clear();
    }
}
