//! Completions of requests to the disk, as a replay puts them together from the log.

use logging_channel::entry::{DiskOutcome, Lsn};

use crate::devices::Input;
use crate::disk::{DiskCompletion, DiskError, MAX_TRANSFER, SharedDisk, SharedRead};
use crate::engine::{Difference, Interruption, Moment, Step};

/// Puts completions together.
#[derive(Default)]
pub(super) struct Completions {
    /// For reads that the log leaves to the backup.
    pub(super) shared: Option<Box<dyn SharedDisk>>,
    /// What is known of the next one.
    data: Vec<u8>,
}

impl Completions {
    /// A new one begins.
    pub(super) fn begin(&mut self) {
        self.data.clear();
    }

    /// The guest is in another state from here on.
    pub(super) fn forget(&mut self) {
        self.data.clear();
        if let Some(disk) = &mut self.shared {
            disk.forget();
        }
    }

    /// Whether a part was taken, and the end is to come.
    pub(super) fn is_begun(&self) -> bool {
        !self.data.is_empty()
    }

    /// Takes a part of what was read; `false` if it is more than any request is for.
    pub(super) fn take(&mut self, part: &[u8]) -> bool {
        self.data.extend_from_slice(part);
        self.data.len() <= MAX_TRANSFER as usize
    }

    /// The completion that entry `lsn` makes complete.
    pub(super) fn finish(
        &mut self,
        at: &mut Moment<'_>,
        lsn: Lsn,
        id: u64,
        outcome: DiskOutcome,
    ) -> Step<Input> {
        let result = match outcome {
            DiskOutcome::Done => Ok(std::mem::take(&mut self.data)),
            DiskOutcome::Shared { crc } => Ok(self.read_shared(at, lsn, id, crc)?),
            DiskOutcome::Failed => Err(DiskError::Io),
            DiskOutcome::Unsupported => Err(DiskError::Unsupported),
        };
        Ok(Input::Disk(DiskCompletion::new(id, result)))
    }

    fn read_shared(
        &mut self,
        at: &mut Moment<'_>,
        lsn: Lsn,
        id: u64,
        logged: u32,
    ) -> Step<Vec<u8>> {
        let Some(read) = at.devices.waiting_read(id) else {
            return Ok(Vec::new()); // the guest does not wait for it any more
        };
        let Some(disk) = &mut self.shared else {
            return Err(Interruption::Failed(
                "the log leaves reads of the disk to the backup, and this replay has no disk"
                    .into(),
            ));
        };
        // Those that the guest waits for as well: each of them comes next, some time. The primary
        // changes nothing there before this host has executed them, as with this one.
        let mut ahead = at.devices.settled_reads();
        ahead.retain(|other| other.id != id);
        let SharedRead { offset, len, .. } = read;
        let data = disk
            .read(read, &ahead)
            .map_err(|error| Interruption::Failed(error.to_string()))?;
        let replayed = crc32fast::hash(&data);
        if logged != replayed || data.len() != len as usize {
            return Err(Interruption::diverged(
                at.point,
                lsn,
                Difference::SharedRead {
                    offset,
                    len,
                    logged,
                    replayed,
                },
            ));
        }
        Ok(data)
    }
}
