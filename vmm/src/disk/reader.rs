//! The shared disk as a backup reads it (`--backup-reads=disk`).

use std::thread;
use std::time::{Duration, Instant};

use disk_server::nbd::client::{self, Connection};
use disk_server::nbd::protocol::ErrorCode;

use super::link::LinkSettings;
use super::pieces::pieces;
use super::target::DiskTarget;
use super::{DiskOp, SharedDisk, SharedReadError};

/// Reads the disk on the guest's thread, over a connection that does not write.
///
/// A read that fails is tried again for ever: the primary's succeeded, so the disk is well, and
/// only the way to it is not. The primary changes nothing there before this read is done.
pub struct DiskReader {
    target: DiskTarget,
    settings: LinkSettings,
    connection: Option<Connection>,
    cookie: u64,
    /// Since when people know that the disk server is lost.
    told: Option<Instant>,
}

impl DiskReader {
    /// A reader of `target`, which is opened plainly. Nothing is connected yet.
    #[must_use]
    pub fn new(target: DiskTarget, settings: LinkSettings) -> Self {
        Self {
            target: DiskTarget {
                writer: None,
                ..target
            },
            settings,
            connection: None,
            cookie: 0,
            told: None,
        }
    }

    fn connect(&mut self) -> anyhow::Result<&mut Connection> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => client::connect(
                &self.target.server,
                &self.target.export_name(),
                self.settings.connect_timeout,
            )?,
        };
        Ok(self.connection.insert(connection))
    }

    /// One attempt.
    fn attempt(&mut self, offset: u64, len: u32) -> anyhow::Result<Vec<u8>> {
        self.cookie += 1;
        let first = self.cookie;
        let connection = self.connect()?;
        let op = DiskOp::Read { offset, len };
        let parts = pieces(&op, connection.export.blocks.max_payload);
        for (cookie, part) in (first..).zip(&parts) {
            connection.requests.read(cookie, part.offset, part.len)?;
        }
        connection.requests.flush_buffer()?;
        let mut data = vec![0; len as usize];
        for _ in &parts {
            let reply = connection.replies.next_reply()?;
            let read = reply.result.map_err(|code: ErrorCode| {
                anyhow::anyhow!("the disk server cannot read {len} bytes at {offset}: {code:?}")
            })?;
            // The client has checked both.
            let part = &parts[(reply.cookie - first) as usize];
            data[part.range()].copy_from_slice(&read);
        }
        self.cookie += parts.len() as u64;
        Ok(data)
    }
}

impl SharedDisk for DiskReader {
    fn read(&mut self, offset: u64, len: u32) -> Result<Vec<u8>, SharedReadError> {
        let mut pause = self.settings.first_pause;
        loop {
            match self.attempt(offset, len) {
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
}
