//! What the backup is told of what the server may lose.

use crate::disk::followed::DiskNotice;
use crate::disk::unflushed::Unflushed;

/// What the backup knows by now. As long as this host and it are together it is told of every change.
#[derive(Debug, Default)]
pub(super) struct BackupView {
    /// The number of the start since which the server has what no flush has covered, or that it is
    /// not known.
    boot: Option<Option<u64>>,
    lost: bool,
}

impl BackupView {
    /// What is new. Nothing that a backup knows depends on the order of the two.
    pub(super) fn news(&mut self, unflushed: &Unflushed) -> [Option<DiskNotice>; 2] {
        let lost = unflushed.is_lost();
        let was_lost = std::mem::replace(&mut self.lost, lost);
        let boot = unflushed.boot();
        // Where nothing can be lost there is nothing to doubt, as before the first connection.
        let counts = boot.is_some() || !unflushed.is_empty();
        let since = (counts && self.boot != Some(boot)).then(|| {
            self.boot = Some(boot);
            boot.map_or(DiskNotice::Doubt, DiskNotice::Since)
        });
        [(lost && !was_lost).then_some(DiskNotice::Lost), since]
    }
}
