//! Whether a state is one in which all may stay as it is.

use super::process::{Follows, Process, Role};
use super::questions::operator;
use super::world::World;

impl World {
    /// Whether nothing has to happen any more: the guest runs, has answered all there is, and has the
    /// backup that there is; or it has ended, and the disk server knows.
    pub(super) fn is_settled(&self) -> bool {
        let idle = |it: &Process| matches!(it.role, Role::Idle(_));
        if self.processes.iter().all(idle) {
            self.is_over()
        } else {
            !self.happened.forced && self.is_quiet()
        }
    }

    /// No process has a part in the guest any more, and somebody knows why.
    fn is_over(&self) -> bool {
        let record = &self.server.record;
        if self.happened.forced {
            return record.holder == Some(operator());
        }
        let gave_up = self.happened.abandons > 0;
        record.is_stopped() && (self.happened.ended || gave_up)
            || self.happened.lost
            || self.happened.gone.iter().any(|run| self.server.holds(*run))
    }

    /// The guest runs, has answered the client, and has the backup that there is.
    fn is_quiet(&self) -> bool {
        let processes = self.processes.iter();
        let mut runners = processes.clone().filter_map(|it| Some((it, it.runs()?)));
        let (Some((runner, runs)), None) = (runners.next(), runners.next()) else {
            return false;
        };
        let quiet = runner.closing.is_none() && !runs.ended && runs.held.is_empty();
        let backup = |it: &Process| match &it.role {
            Role::Follows(it) => protects(it),
            Role::Waits { .. } => false,
            Role::Idle(_) | Role::Runs(_) => true,
        };
        quiet
            && self.replied.len() == self.bounds.requests
            && (runs.live.is_alone() || runs.live.is_protected())
            && processes.clone().all(backup)
    }

    /// What is wrong with a state from which nothing leads to a settled one.
    pub(super) fn judge_the_end(&self) -> &'static str {
        if self.is_left() {
            "there is a copy of the guest, and no way to go on with it"
        } else if self.happened.ended || self.happened.forced {
            "the guest's end or start is not known to all"
        } else {
            "the guest is gone, and nobody killed the host that runs it"
        }
    }
}

fn protects(it: &Follows) -> bool {
    it.follower.is_protecting() && (it.cold || it.follower.executes()) && !it.over
}
