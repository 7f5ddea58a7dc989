//! One connection's access to one export.

use std::io;
use std::sync::Arc;

use super::counters::{Counted, LeftBehind, MOST_LEFT_BEHIND, Operation};
use super::{Exports, Fenced};
use crate::fence::{Membership, Refusal, Right, WaitLimit};
use crate::logging::Limited;
use crate::nbd::{ExportName, RequestedExport};
use crate::storage::{Allocation, FlushError, Zeroing};

// What is done under one permit, in bytes at most: a claim waits for the permit, and with it a
// failover. Requests of a whole connection may be under way at a time.

/// A disk that is slow, or throttled by its dirty pages, takes seconds for a request of 32 MiB.
const WRITTEN_AT_A_TIME: u64 = 1 << 20;
/// Where the file system has no better way, they are written.
const ZEROES_AT_A_TIME: u64 = 4 << 20;
/// Nothing is written, but some devices take their time, and they do nothing about a range that is
/// smaller than their unit.
const DISCARDED_AT_A_TIME: u64 = 32 << 20;

/// Why an export cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenExportError {
    /// There is no such export.
    #[error("there is no export {0}")]
    Unknown(ExportName),
    /// The export belongs to another machine, or to none.
    #[error("{export} does not belong to {vm}; --export {export}=PATH,vm={vm} would make it so")]
    NotTheOwner {
        /// The export.
        export: ExportName,
        /// Who asks.
        vm: String,
    },
    /// A writer of an export that cannot be written.
    #[error("{0} is exported read-only: no machine can run on it")]
    ReadOnly(ExportName),
    /// The epoch is not the client's, or not clear yet.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The disk keeps requests of too many clients that have left.
    #[error(
        "{MOST_LEFT_BEHIND} clients of {0} have left while the disk had requests of theirs, and it \
         is not done with them: try again later, and see the kernel's log of the disk server's host"
    )]
    Hangs(ExportName),
}

/// Why an export was not modified.
#[derive(Debug, thiserror::Error)]
pub enum ModifyError {
    /// The connection was opened read-only.
    #[error("this connection cannot write")]
    ReadOnly,
    /// The connection's right has ended.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The storage failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// How a connection may use an export.
#[derive(Debug)]
pub struct Access {
    target: Arc<Fenced>,
    /// `None`: read only.
    right: Option<Right>,
    /// Of an open connection whose client says who it is.
    client: Option<Membership>,
    /// Of an open connection.
    _counted: Option<Counted>,
    multi_conn: bool,
}

impl Access {
    /// What [`Access::open`] would give, without taking over from an earlier connection.
    ///
    /// # Errors
    /// See [`OpenExportError`].
    pub(crate) fn look(
        exports: &Exports,
        requested: &RequestedExport,
    ) -> Result<Access, OpenExportError> {
        let name = requested.export();
        let target = exports
            .get(name)
            .ok_or_else(|| OpenExportError::Unknown(name.clone()))?;
        let right = match requested {
            RequestedExport::Plain(_) | RequestedExport::Tagged { .. } => {
                let right = match &target.fence {
                    None => Some(Right::Plain { epoch: 0 }),
                    Some(fence) => fence.plain(),
                };
                right.filter(|_| !target.export.read_only)
            }
            RequestedExport::Writer { export, vm, epoch } => {
                let fence = target.fence.as_ref().filter(|fence| fence.vm() == vm);
                let fence = fence.ok_or_else(|| OpenExportError::NotTheOwner {
                    export: export.clone(),
                    vm: vm.to_string(),
                })?;
                if target.export.read_only {
                    return Err(OpenExportError::ReadOnly(export.clone()));
                }
                fence.check_writer(*epoch)?;
                // No connection has the number 0, so that this right is good for looking only.
                Some(Right::Writer {
                    epoch: *epoch,
                    number: 0,
                })
            }
        };
        Ok(Access {
            target: Arc::clone(target),
            right,
            client: None,
            _counted: None,
            multi_conn: matches!(requested, RequestedExport::Plain(_)),
        })
    }

    /// Opens an export for a connection. A writer, and a client that says who it is, take over from
    /// their connections before: when this returns, no write of those is under way, and none will
    /// be.
    ///
    /// # Errors
    /// See [`OpenExportError`].
    pub(crate) fn open(
        exports: &Exports,
        requested: &RequestedExport,
        limit: WaitLimit<'_>,
    ) -> Result<Access, OpenExportError> {
        let opened =
            Access::look(exports, requested).and_then(|access| access.join(requested, limit));
        if let (RequestedExport::Writer { export, .. }, Err(OpenExportError::Refused(refusal))) =
            (requested, &opened)
            && !matches!(refusal, Refusal::NotYet(_))
            && let Some(target) = exports.get(export)
        {
            target.counters.refuse_connection();
        }
        opened
    }

    /// Takes over from earlier connections, where this kind does.
    fn join(
        mut self,
        requested: &RequestedExport,
        limit: WaitLimit<'_>,
    ) -> Result<Access, OpenExportError> {
        if self.target.counters.left_behind(self.is_writer()) >= MOST_LEFT_BEHIND {
            return Err(OpenExportError::Hangs(self.target.export.name.clone()));
        }
        match (requested, &self.target.fence) {
            (RequestedExport::Writer { export, epoch, .. }, Some(fence)) => {
                self.right = Some(fence.open_writer(export, *epoch, limit)?);
            }
            (RequestedExport::Tagged { tag, .. }, None) => {
                self.client = Some(
                    self.target
                        .clients
                        .join(*tag, None, limit)
                        .map_err(Refusal::from)?,
                );
            }
            (RequestedExport::Tagged { tag, .. }, Some(fence)) => {
                let epoch = match self.right {
                    Some(Right::Plain { epoch }) => epoch,
                    _ => fence.epoch().0,
                };
                let client = self.target.clients.join(*tag, Some(epoch), limit);
                let client = client.map_err(Refusal::from)?;
                if self.right.is_some() {
                    // Connecting anew does not make its memory of the disk a new one.
                    fence.check_since(client.since().unwrap_or(epoch), epoch)?;
                }
                self.client = Some(client);
            }
            _ => {}
        }
        self._counted = Some(Counted::new(&self.target.counters));
        Ok(self)
    }

    /// In bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.target.size()
    }

    /// What the export is called on whatever way it is reached.
    pub(crate) fn identity(&self) -> &str {
        self.target.identity()
    }

    /// The number of this start of the server.
    pub(crate) fn boot(&self) -> u64 {
        self.target.boot()
    }

    /// A line for people who ask about the export.
    pub(crate) fn description(&self) -> String {
        self.target.description()
    }

    /// Lets failures of the export's storage into the log, up to a rate.
    pub(crate) fn failures(&self) -> &Limited {
        &self.target.failures
    }

    /// The same for requests without the right. Apart: a host that was replaced can cause any number of
    /// them, and none of the failures is to be left out for that.
    pub(crate) fn refusals(&self) -> &Limited {
        &self.target.refusals
    }

    /// Whether it was opened read-only, which does not change any more.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.right.is_none()
    }

    /// Whether several connections of this kind may be used as one.
    #[must_use]
    pub fn is_multi_conn(&self) -> bool {
        self.multi_conn
    }

    fn is_writer(&self) -> bool {
        matches!(self.right, Some(Right::Writer { .. }))
    }

    /// The client has left. Until the result is dropped, the disk may have requests of it.
    pub(crate) fn leave_behind(&self) -> LeftBehind {
        LeftBehind::new(&self.target.counters, self.is_writer())
    }

    /// Fills `data` from `offset` on.
    ///
    /// # Errors
    /// The storage's.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let length = data.len() as u64;
        let storage = self.target.export.storage.storage();
        let counters = &self.target.counters;
        counters.counted(Operation::Read, length, || storage.read(offset, data))
    }

    /// The same without waiting for the medium; see
    /// [`Storage::read_at_hand`](crate::storage::Storage::read_at_hand).
    ///
    /// # Errors
    /// The storage's.
    pub fn read_at_hand(&self, offset: u64, data: &mut [u8]) -> io::Result<bool> {
        let length = data.len() as u64;
        let storage = self.target.export.storage.storage();
        let running = (self.target.counters.operations(Operation::Read)).begin();
        let read = storage.read_at_hand(offset, data);
        // What was not read is read anew, and counted then.
        if let Ok(true) = read {
            running.done(length);
        }
        read
    }

    /// Writes `data` from `offset` on.
    ///
    /// # Errors
    /// See [`ModifyError`]. Some of it may have been written, in whole multiples of a sector where
    /// offset and length are such multiples.
    pub fn write(&self, offset: u64, mut data: &[u8]) -> Result<(), ModifyError> {
        let storage = self.target.export.storage.storage();
        in_pieces(
            offset,
            data.len() as u64,
            WRITTEN_AT_A_TIME,
            |at, length| {
                let (piece, rest) = data.split_at(length as usize);
                data = rest;
                self.modify(Operation::Write, length, || storage.write(at, piece))
            },
        )
    }

    /// Writes zeroes.
    ///
    /// # Errors
    /// See [`ModifyError`]. Some of the range may have been zeroed.
    pub fn zero(&self, offset: u64, length: u64, how: Zeroing) -> Result<(), ModifyError> {
        let storage = self.target.export.storage.storage();
        // What is to be fast is done whole or not at all, and holds nobody up.
        let most = if how.only_if_fast {
            u64::MAX
        } else {
            ZEROES_AT_A_TIME
        };
        in_pieces(offset, length, most, |at, length| {
            self.modify(Operation::Zero, length, || storage.zero(at, length, how))
        })
    }

    /// Gives a range up.
    ///
    /// # Errors
    /// See [`ModifyError`]. Some of the range may have been given up.
    pub fn discard(&self, offset: u64, length: u64) -> Result<(), ModifyError> {
        let storage = self.target.export.storage.storage();
        in_pieces(offset, length, DISCARDED_AT_A_TIME, |at, length| {
            self.modify(Operation::Discard, length, || storage.discard(at, length))
        })
    }

    /// Brings everything that was written before to stable storage, whoever wrote it. A failure ends
    /// the server.
    ///
    /// # Errors
    /// See [`FlushError`].
    pub fn flush(&self) -> Result<(), FlushError> {
        // Needs no permit: it changes nothing that anybody can read.
        (self.target.counters).counted(Operation::Flush, 0, || self.target.flush())
    }

    /// What is allocated; see [`Storage::allocations`](crate::storage::Storage::allocations).
    ///
    /// # Errors
    /// The storage's.
    pub fn allocations(
        &self,
        offset: u64,
        length: u64,
        most: usize,
    ) -> io::Result<Vec<Allocation>> {
        self.target
            .export
            .storage
            .storage()
            .allocations(offset, length, most)
    }

    /// The range will be read soon.
    pub fn prefetch(&self, offset: u64, length: u64) {
        self.target
            .export
            .storage
            .storage()
            .prefetch(offset, length);
    }

    /// Modifies the storage if, and as long as, this connection has the right to.
    fn modify(
        &self,
        operation: Operation,
        bytes: u64,
        carry_out: impl FnOnce() -> io::Result<()>,
    ) -> Result<(), ModifyError> {
        let right = self.right.ok_or(ModifyError::ReadOnly)?;
        let refused = |refusal| {
            self.target.counters.refuse_request();
            ModifyError::Refused(refusal)
        };
        let newest = self.client.as_ref().map(Membership::enter).transpose();
        let _newest = newest.map_err(refused)?;
        let name = &self.target.export.name;
        let fence = self.target.fence.as_ref();
        let permit = fence.map(|fence| fence.enter(name, right)).transpose();
        let _permit = permit.map_err(refused)?;
        let running = self.target.counters.operations(operation).begin();
        match carry_out() {
            Ok(()) => running.done(bytes),
            // It would not be fast, which was asked.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => return Err(error.into()),
            Err(error) => {
                running.failed();
                return Err(error.into());
            }
        }
        Ok(())
    }
}

/// Does something to a range piece by piece, at least once. Pieces end at multiples of `most`, so
/// that no block of a file system or device is in two of them.
fn in_pieces<E>(
    mut offset: u64,
    mut length: u64,
    most: u64,
    mut act: impl FnMut(u64, u64) -> Result<(), E>,
) -> Result<(), E> {
    loop {
        let piece = length.min(most - offset % most);
        act(offset, piece)?;
        offset += piece;
        length -= piece;
        if length == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_range_and_end_at_multiples() {
        let pieces = |offset, length| {
            let mut pieces = Vec::new();
            let done: Result<(), ()> = in_pieces(offset, length, 8, |at, length| {
                pieces.push((at, length));
                Ok(())
            });
            done.unwrap();
            pieces
        };
        assert_eq!(pieces(3, 0), [(3, 0)]);
        assert_eq!(pieces(3, 5), [(3, 5)]);
        assert_eq!(pieces(3, 15), [(3, 5), (8, 8), (16, 2)]);
        let mut calls = 0;
        let failed = in_pieces(0, 24, 8, |at, _| {
            calls += 1;
            if at == 8 { Err(at) } else { Ok(()) }
        });
        assert_eq!((failed, calls), (Err(8), 2));
    }
}
