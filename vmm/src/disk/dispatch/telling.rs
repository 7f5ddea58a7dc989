//! What the backup is told of what the server may lose.

use super::super::followed::DiskNotice;
use super::super::unflushed::Unflushed;
use super::Dispatcher;

/// What the backup knows by now. As long as this host and it are together it is told of every change.
#[derive(Default)]
pub(super) struct BackupView {
    /// The number of the start since which the server has what no flush has covered, or that it is
    /// not known.
    boot: Option<Option<u64>>,
    lost: bool,
}

impl BackupView {
    /// What is new. Nothing that a backup knows depends on the order of the two.
    fn news(&mut self, unflushed: &Unflushed) -> [Option<DiskNotice>; 2] {
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

impl Dispatcher {
    /// Tells the backup what it cannot know by itself.
    pub(super) fn tell_backup(&mut self) {
        if self.is_followed() {
            for notice in self.backup_view.news(&self.unflushed).into_iter().flatten() {
                (self.complete)(notice.completion());
            }
        }
    }

    /// Tells the backup of changes that need not be kept any more.
    pub(super) fn log_notice(&self, notice: DiskNotice) {
        if self.is_followed() {
            (self.complete)(notice.completion());
        }
    }

    fn is_followed(&self) -> bool {
        self.log.is_some() && !self.alone && !self.halted
    }
}
