//! One connection's access to one export.

use std::io;
use std::sync::Arc;

use super::counters::Counted;
use super::{Exports, Fenced};
use crate::fence::{Membership, Refusal, Right};
use crate::nbd::{ExportName, RequestedExport};
use crate::storage::{Allocation, FlushError, Zeroing};

/// The most zeroes that are written under one permit, in bytes. A claim waits for the permit, and
/// writing gigabytes of zeroes takes long where the file system has no better way.
const ZEROES_AT_A_TIME: u64 = 32 << 20;

/// Why an export cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
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
    /// The epoch is not the client's.
    #[error(transparent)]
    Refused(#[from] Refusal),
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
    /// See [`OpenError`].
    pub(crate) fn look(
        exports: &Exports,
        requested: &RequestedExport,
    ) -> Result<Access, OpenError> {
        let name = requested.export();
        let target = exports
            .get(name)
            .ok_or_else(|| OpenError::Unknown(name.clone()))?;
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
                let fence = fence.ok_or_else(|| OpenError::NotTheOwner {
                    export: export.clone(),
                    vm: vm.to_string(),
                })?;
                if target.export.read_only {
                    return Err(OpenError::ReadOnly(export.clone()));
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
    /// See [`OpenError`].
    pub(crate) fn open(
        exports: &Exports,
        requested: &RequestedExport,
    ) -> Result<Access, OpenError> {
        let opened = Access::look(exports, requested).and_then(|access| access.join(requested));
        if let (Err(OpenError::Refused(_)), Some(target)) =
            (&opened, exports.get(requested.export()))
        {
            target.counters.refuse_connection();
        }
        opened
    }

    /// Takes over from earlier connections, where this kind does.
    fn join(mut self, requested: &RequestedExport) -> Result<Access, OpenError> {
        match (requested, &self.target.fence) {
            (RequestedExport::Writer { export, epoch, .. }, Some(fence)) => {
                self.right = Some(fence.open_writer(export, *epoch)?);
            }
            (RequestedExport::Tagged { tag, .. }, None) => {
                self.client = Some(self.target.clients.join(*tag, None));
            }
            (RequestedExport::Tagged { tag, .. }, Some(fence)) => {
                let epoch = match self.right {
                    Some(Right::Plain { epoch }) => epoch,
                    _ => fence.epoch().0,
                };
                let client = self.target.clients.join(*tag, Some(epoch));
                if self.right.is_some() {
                    // Connecting anew does not make its memory of the disk a new one.
                    fence.check_since(client.since().unwrap_or(epoch), epoch)?;
                }
                self.client = Some(client);
            }
            _ => {}
        }
        self._counted = Some(Counted::new(&self.target));
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

    /// Fills `data` from `offset` on.
    ///
    /// # Errors
    /// The storage's.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.target.export.storage.storage().read(offset, data)
    }

    /// Writes `data` from `offset` on.
    ///
    /// # Errors
    /// See [`ModifyError`]. Only after an error of the storage may some of it have been written.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), ModifyError> {
        self.modify(|| self.target.export.storage.storage().write(offset, data))
    }

    /// Writes zeroes.
    ///
    /// # Errors
    /// See [`ModifyError`]. Some of the range may have been zeroed.
    pub fn zero(&self, mut offset: u64, mut length: u64, how: Zeroing) -> Result<(), ModifyError> {
        loop {
            let piece = length.min(ZEROES_AT_A_TIME);
            self.modify(|| {
                self.target
                    .export
                    .storage
                    .storage()
                    .zero(offset, piece, how)
            })?;
            offset += piece;
            length -= piece;
            if length == 0 {
                return Ok(());
            }
        }
    }

    /// Gives a range up.
    ///
    /// # Errors
    /// See [`ModifyError`].
    pub fn discard(&self, offset: u64, length: u64) -> Result<(), ModifyError> {
        self.modify(|| self.target.export.storage.storage().discard(offset, length))
    }

    /// Brings everything that was written before to stable storage, whoever wrote it.
    ///
    /// # Errors
    /// See [`FlushError`].
    pub fn flush(&self) -> Result<(), FlushError> {
        // Needs no permit: it changes nothing that anybody can read.
        self.target.export.storage.flush()
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
    fn modify(&self, operation: impl FnOnce() -> io::Result<()>) -> Result<(), ModifyError> {
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
        Ok(operation()?)
    }
}
