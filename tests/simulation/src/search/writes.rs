//! Runs that write the guest's disk.

use disk_server::arbiter::Claimant;

use super::process::Run;
use super::world::World;
use crate::defect::Defect;
use crate::rule::Rule;

impl World {
    /// Whether a run may be told that it has won this epoch. If not, it asks again.
    pub(super) fn is_clear(&mut self, epoch: u64, holder: &Claimant) -> bool {
        let waits = !self.has(Defect::FenceDoesNotWait);
        let disk = self.server.disk.as_mut();
        disk.is_none_or(|disk| disk.won(epoch, holder, waits))
    }

    /// A run opens its disk, for the first time or anew.
    pub(super) fn open_disk(&mut self, run: Run) {
        let epoch = self.owner(run).map(|it| it.core.epoch());
        if let (Some(disk), Some(epoch)) = (&mut self.server.disk, epoch) {
            disk.connect(run, epoch);
        }
    }

    pub(super) fn write_disk(&mut self, run: Run) {
        self.happened.writes += 1;
        if let Some(disk) = &mut self.server.disk {
            disk.write(run);
        }
    }

    /// A worker of the disk server gets on.
    pub(super) fn work(&mut self, write: usize) {
        let anybody = self.has(Defect::FenceLetsAnybodyIn);
        let disk = self.server.disk.as_mut();
        if disk.and_then(|disk| disk.work(write, anybody)).is_some() {
            let what = "a write lands of a run that is not the primary any more";
            self.fail(Rule::OnlyPrimaryActs, what);
        }
    }
}
