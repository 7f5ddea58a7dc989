//! A guest that is handed over to its backup by plan.

use ftvm_vmm::protocol::epoch::Input;

use super::process::{Process, Run, Runs};
use super::world::World;
use crate::defect::Defect;

impl World {
    /// Whether a run has left the next epoch to its backup: its guest stands still.
    pub(super) fn leaves_next(&self, run: Run) -> bool {
        let owner = self.process(run).and_then(|it| it.owner.as_ref());
        owner.is_some_and(|it| it.core.leaves_next()) && !self.has(Defect::RunsOnAfterHandOver)
    }

    /// Whether an operator may have its backup go on: one that protects the guest, has executed everything, and
    /// of which all replies have left.
    pub(super) fn may_hand_over(&self, process: &Process, it: &Runs) -> bool {
        let all = it.live.appended().0 - it.live.base().0;
        let has_all = it.session().is_some_and(|session| {
            session.heard.executed == all && !session.heard.needs_state && !session.transfer
        });
        let settled = (process.owner.as_ref()).is_some_and(|it| it.inbox.is_empty());
        self.happened.hand_overs < self.bounds.hand_overs
            && it.live.is_protected()
            && has_all
            && settled
            && it.held.is_empty()
    }

    pub(super) fn hand_over(&mut self, run: Run) {
        self.happened.hand_overs += 1;
        let epoch = self.owner(run).map_or(0, |it| it.core.epoch());
        self.tell(run, Input::HandOver(epoch));
        self.runs(run).live.hand_over();
        self.lose_backup(run);
        if self.has(Defect::RunsOnAfterHandOver) {
            self.runs(run).go_on_alone();
        }
    }
}
