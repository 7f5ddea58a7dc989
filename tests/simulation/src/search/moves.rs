//! All that may happen next.

use ftvm_vmm::protocol::epoch::{Input, Task};

use super::host::Process;
use super::world::World;

/// What happens, and to which host.
pub(super) type Step = (&'static str, usize);

/// Takes what may happen, to which host, and what it changes.
type Push<'a> = dyn FnMut(&'static str, usize, &dyn Fn(&mut World)) + 'a;

impl World {
    /// All that may be next.
    pub(super) fn successors(&self) -> Vec<(Step, Self)> {
        let mut next = Vec::new();
        let mut push = |what, host, change: &dyn Fn(&mut Self)| {
            let mut world = self.clone();
            change(&mut world);
            if world != *self {
                next.push(((what, host), world));
            }
        };
        for host in 0..self.hosts.len() {
            match &self.hosts[host].process {
                Process::Off => {
                    if self.backups < self.bounds.backups
                        && let Some(of) = self.free_primary()
                    {
                        push("starts as a backup", host, &|w| w.start(host, of));
                    }
                }
                Process::Waits(of, run) => {
                    if self.hosts[*of].run != *run || self.runner(*of).is_none() {
                        push("gives up", host, &|w| w.hosts[host].process = Process::Off);
                    }
                }
                Process::Follows(it) => {
                    if !it.over && !it.log.is_empty() {
                        push("gets an entry", host, &|w| w.receive(host));
                    }
                    if !it.cut && self.is_current(host) {
                        push("acknowledges", host, &|w| w.acknowledged(host));
                    }
                    if !it.over && (it.cut || !self.is_current(host)) {
                        for got in 0..=it.log.len() {
                            push("takes its primary for lost", host, &|w| {
                                w.lose_primary(host, got);
                            });
                        }
                    }
                    if !it.cut && self.is_current(host) && self.cuts < self.bounds.cuts {
                        push("is cut off", host, &|w| {
                            w.cuts += 1;
                            w.follows(host).cut = true;
                        });
                    }
                }
                Process::Runs(it) => {
                    if it.guest.len() == self.replied.len() && it.guest.len() < self.bounds.requests
                    {
                        push("counts a request", host, &|w| w.count(host));
                    }
                    push("comes to an exit", host, &|w| w.exit(host));
                    push("decides what may leave", host, &|w| w.decide(host));
                    push("lets replies out", host, &|w| w.release(host));
                    if let Some(session) = &it.session
                        && !session.lost
                        && !self.reaches(session.with)
                    {
                        push("takes its backup for lost", host, &|w| w.lose_backup(host));
                    }
                }
            }
            if !matches!(self.hosts[host].process, Process::Off) && self.kills < self.bounds.kills {
                push("is killed", host, &|w| w.kill(host));
            }
            self.questions(host, &mut push);
        }
        for (host, run, task) in &self.asked {
            push("has asked, which comes late", *host, &|w| {
                w.answer(*host, *run, task);
            });
        }
        next
    }

    /// What a host asks the disk server, and hears.
    fn questions(&self, host: usize, push: &mut Push<'_>) {
        let mut asking = self.hosts[host].clone();
        let run = asking.run;
        let Some(owner) = asking.owner() else { return };
        if let Some(task) = owner.asked.clone() {
            push("hears the disk server", host, &|w| {
                let heard = w.answer(host, run, &task);
                if let Some(owner) = w.hosts[host].owner() {
                    owner.asked = None;
                }
                w.tell(host, heard);
            });
            return;
        }
        match owner.core.task() {
            Task::Watch { .. } => push("looks at the record", host, &|w| {
                w.tell(host, Input::Looked(w.record.clone()));
            }),
            Task::Nothing => push("ends", host, &|w| w.hosts[host].process = Process::Off),
            task => push("asks the disk server", host, &|w| {
                w.asked.insert((host, run, task.clone()));
                if let Some(owner) = w.hosts[host].owner() {
                    owner.asked = Some(owner.core.task());
                }
            }),
        }
    }
}
