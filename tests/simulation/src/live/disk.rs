//! The disk of a process that runs the guest.

use ftvm_vmm::disk::DiskRequest;
use ftvm_vmm::disk::progress::Reached;
use logging_channel::entry::Lsn;

use super::Runner;
use crate::defect::Defect;
use crate::disk::guest::described;
use crate::disk::wire::Item;
use crate::env::Env;
use crate::event::Timer;
use crate::guest::Entry;

impl Runner {
    /// The guest asks for something.
    pub(super) fn ask_disk(&mut self, request: DiskRequest, env: &mut Env) {
        let of = self.of;
        env.note(|| format!("{of}: asks its disk: {}", described(&request)));
        let commit = request.op.modifies().then(|| {
            let lsn = self.append(Entry::Change(request.clone()), env);
            self.flush(env);
            lsn
        });
        self.disk.submit(request, commit, env);
    }

    /// What the guest has asked for, on a host before, and nothing has come of. None of it has an entry that
    /// it waits for.
    pub(super) fn ask_disk_again(&mut self, env: &mut Env) {
        let unfinished: Vec<_> = self.guest.rest.disk.unfinished().collect();
        for request in unfinished {
            let of = self.of;
            env.note(|| format!("{of}: asks its disk again: {}", described(&request)));
            self.disk.submit(request, None, env);
        }
    }

    /// The guest gets what is done.
    pub(super) fn disk_done(&mut self, env: &mut Env) {
        while let Some(done) = self.disk.done.pop_front() {
            let (id, result) = (done.completion.id, done.completion.result);
            let (of, well) = (self.of, result.is_ok());
            env.note(|| format!("{of}: its disk has done {id:#x}: {well}"));
            let is_held = done.completion.held;
            match &result {
                Ok(data) if is_held && id > self.asked_before => {
                    let lsn = self.append(Entry::DiskShared(id, data.clone()), env);
                    let until = (!env.has(Defect::ReadsNotHeld)).then_some(lsn);
                    self.disk.logged(id, until, env);
                }
                _ => {
                    self.append(Entry::DiskDone(id, result.clone()), env);
                    if is_held {
                        self.disk.logged(id, None, env);
                    }
                }
            }
            let wrong = self.guest.disk_done(id, &result);
            if let Some(wrong) = wrong.filter(|_| !done.is_excused) {
                // A host that was replaced reads what another one wrote, and lets nothing out.
                env.wrong_read = Some((self.of, wrong));
            }
            env.disk_changed = true;
        }
    }

    /// The disk hears how far the log has come.
    pub(crate) fn disk_moves(&mut self, env: &mut Env) {
        let epoch = Some(self.epoch);
        let waits = !self.live.is_alone() && !self.live.is_joining();
        let reached = match self.session.as_ref().filter(|_| waits) {
            Some(session) => {
                let base = self.live.base();
                let of_guest = |lsn: Lsn| Lsn(lsn.0 + base.0);
                Reached::UpTo {
                    session: base,
                    committed: of_guest(session.end.acked()),
                    executed: (!env.cold).then(|| of_guest(session.end.executed())),
                    epoch,
                }
            }
            None => Reached::Alone { epoch },
        };
        self.disk.reached(reached, env);
    }

    /// Something comes from the disk server. Whether that makes this host doubt its right.
    pub(crate) fn hear_disk(&mut self, wire: usize, item: Item, env: &mut Env) -> bool {
        self.disk.hear(wire, item, env)
    }

    pub(crate) fn disk_timer(&mut self, timer: Timer, env: &mut Env) {
        match timer {
            Timer::DiskConnect(plan) => self.disk.connect_due(plan, env),
            _ => self.disk.look(env),
        }
    }
}
