//! Who may run a guest, and where it is started anew.
//!
//! To start a guest anew is to forget what it was: a guest that runs somewhere, or whose backup may still go
//! live with it, must not be. A host is believed that says it has no process of it, and nobody else.

use std::cmp::Reverse;

use super::intents::{Kept, Run};
use super::machine::{Fleet, is_starting};
use super::operation::Verb;
use super::seen::{Daemon, Seen, Starting};
use crate::arbiter::{Claimant, HostName, VmName};
use crate::views::{Capabilities, MAX_PROCESSES, MISSED_PINGS, Role, Text, Unfit};

/// Within so many intervals a process that was started for a guest has claimed it, or is given up.
const CLAIMED: u32 = 60;

/// Whether a member of a guest's view runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Life {
    /// Its host says that it is gone, and it says nothing.
    Gone,
    /// Nobody says anything: it may run.
    Unknown,
    /// It says so itself, or its host does.
    Runs,
}

impl Fleet {
    /// The daemon of a host, if it is known which one that is, and it is live.
    pub(super) fn daemon(&self, host: &HostName) -> Option<&Daemon> {
        let daemon = self.daemons.get(host)?;
        let is_live = self.views.is_live(&daemon.claimant);
        (is_live && !daemon.is_ambiguous).then_some(daemon)
    }

    /// The hosts whose live daemons have a process of a guest.
    pub(super) fn hosts_with_process(&self, vm: &VmName) -> impl Iterator<Item = &HostName> {
        let hosts = self.daemons.iter();
        let with = hosts.filter(|(_, daemon)| {
            daemon.processes.contains_key(vm) && self.views.is_live(&daemon.claimant)
        });
        with.map(|(host, _)| host)
    }

    pub(super) fn life(&self, vm: &VmName, seen: &Seen, member: &Claimant) -> Life {
        let host = member.host();
        let daemon = self.daemon(&host);
        if self.views.is_live(member)
            || daemon.is_some_and(|daemon| daemon.processes.contains_key(vm))
        {
            return Life::Runs;
        }
        // Another machine of that name knows nothing of it.
        let kept = self.intents.guests.get(vm);
        let machine = kept.and_then(|kept| kept.machines.get(member));
        let knows = daemon.is_some_and(|daemon| machine == Some(&daemon.machine));
        // What a host has of a guest that does not name it is not heard.
        let is_named = kept.is_some_and(|kept| kept.definition.hosts.names(&host));
        // One that has just started has heard nobody.
        match knows && is_named && seen.is_absent_from(&host) && self.views.is_settled() {
            true => Life::Gone,
            false => Life::Unknown,
        }
    }

    /// Who may run a guest, with what is known of that; `None` if nobody may.
    pub(super) fn who_may_run(&self, vm: &VmName) -> Option<(Claimant, Life)> {
        let members = self.may_run(vm, self.guests.get(vm)?).into_iter();
        members.max_by_key(|(_, life)| *life)
    }

    /// All who may run a guest of which that was seen.
    pub(super) fn may_run(&self, vm: &VmName, seen: &Seen) -> Vec<(Claimant, Life)> {
        let members = seen
            .members()
            .map(|it| (it.clone(), self.life(vm, seen, it)));
        members.filter(|(_, life)| *life != Life::Gone).collect()
    }

    fn runs(&self, vm: &VmName) -> bool {
        (self.who_may_run(vm)).is_some_and(|(_, life)| life == Life::Runs)
    }

    /// Whether a guest may be started anew, from its present epoch.
    fn may_start(&self, vm: &VmName, kept: &Kept, seen: &Seen) -> bool {
        // Who starts it is not a member yet. One that hangs will not win this epoch once another host has it.
        let mut starting = self.hosts_with_process(vm);
        if starting.any(|host| !seen.hangs.contains(host)) {
            return false;
        }
        let is_forced = kept.pending.as_ref().is_some_and(|pending| {
            pending.verb == Verb::Start { force: true } && pending.view == seen.record.epoch
        });
        match self.who_may_run(vm) {
            None => true,
            Some((_, Life::Unknown)) => is_forced,
            Some(_) => false,
        }
    }

    /// Starts a guest anew that is to run and does not, as soon as nobody may run it, and goes on with a start.
    pub(super) fn mind_start(&mut self, vm: &VmName) {
        let (Some(kept), Some(seen)) = (self.intents.guests.get(vm), self.guests.get(vm)) else {
            return;
        };
        if !kept.is_to_run() || !self.views.is_settled() {
            let starting = self.guests.get_mut(vm).map(|seen| &mut seen.starting);
            return starting.into_iter().for_each(|it| *it = None);
        }
        let starting = match &seen.starting {
            Some(starting) if starting.taken && starting.age < CLAIMED => return,
            Some(starting) if starting.taken => {
                let reason = Text::cut("its process did not run it in time");
                (self.views).pass_over(&starting.daemon, vm, &reason, CLAIMED);
                let daemon = starting.daemon.clone();
                if let Some(seen) = self.guests.get_mut(vm) {
                    seen.starting = None;
                    seen.hangs.insert(daemon.host());
                }
                return;
            }
            // It was to be started beside one of which nothing was known, and which is there all the same.
            Some(_) if self.runs(vm) => None,
            Some(starting) if self.stands(vm, starting) => return,
            Some(starting) => {
                let reason = Text::cut("it was asked to start it, and did not");
                (self.views).pass_over(&starting.daemon, vm, &reason, MISSED_PINGS);
                None
            }
            // It has stopped: whether by itself is about to be known.
            None if self.has_just_stopped(kept, seen) => None,
            None if self.may_start(vm, kept, seen) => {
                self.best_host(vm, kept).map(|daemon| Starting {
                    daemon,
                    epoch: seen.record.epoch,
                    age: 0,
                    taken: false,
                })
            }
            None => None,
        };
        if let Some(seen) = self.guests.get_mut(vm) {
            seen.starting = starting;
        }
    }

    /// Whether a guest that is to run has stopped, and not yet long enough ago that its host has said how.
    fn has_just_stopped(&self, kept: &Kept, seen: &Seen) -> bool {
        let Run::Wanted { since } = kept.run else {
            return false;
        };
        let has_stopped = seen.record.is_stopped() && seen.record.epoch > since;
        has_stopped && seen.intervals < 2 * MISSED_PINGS
    }

    fn stands(&self, vm: &VmName, starting: &Starting) -> bool {
        let host = starting.daemon.host();
        let is_it = |daemon: &Daemon| daemon.claimant == starting.daemon;
        let is_there = self.daemon(&host).is_some_and(is_it);
        let is_wanted = !self.intents.is_drained(&host) && self.intents.takes(&host, vm);
        is_there && starting.age < MISSED_PINGS && is_wanted
    }

    /// Why hosts cannot start a guest, and those that can, with the memory that they have.
    fn hosts_for(&self, vm: &VmName, kept: &Kept) -> Vec<(HostName, Result<u64, Unfit>)> {
        let daemons = self.daemons.iter().filter(|(_, it)| !it.is_ambiguous);
        let judged = daemons.filter_map(|(host, daemon)| {
            let (ping, is_live, _) = self.views.last(&daemon.claimant)?;
            let Role::Host(tended) = &ping.role else {
                return None;
            };
            let definition = &kept.definition;
            let needs = Capabilities {
                memory_mib: definition.memory_mib,
                exports: definition.export.iter().cloned().collect(),
                ..ping.carries.clone()
            };
            let unfit = if !is_live {
                Some(Unfit::Dead)
            } else if !definition.hosts.names(host) {
                Some(Unfit::NotNamed)
            } else if self.intents.is_drained(host) {
                Some(Unfit::Draining)
            } else if tended.processes.len() >= MAX_PROCESSES || tended.processes.contains_key(vm) {
                Some(Unfit::HasRole)
            } else {
                let passed_over = || self.views.passed_over(&daemon.claimant, vm);
                ping.carries.shortfall(&needs).or_else(passed_over)
            };
            Some((host.clone(), unfit.map_or(Ok(ping.carries.memory_mib), Err)))
        });
        judged.collect()
    }

    /// The daemon that is to start a guest: of those hosts that fit, the one with most memory left.
    fn best_host(&self, vm: &VmName, kept: &Kept) -> Option<Claimant> {
        let fit = self.hosts_for(vm, kept).into_iter();
        let fit = fit.filter_map(|(host, memory)| Some((memory.ok()?, Reverse(host))));
        let free = fit.filter_map(|best| {
            let daemon = &self.daemons.get(&best.1.0)?.claimant;
            let is_busy = self.views.is_asked(daemon) || is_starting(&self.guests, daemon);
            (!is_busy).then(|| (best, daemon.clone()))
        });
        free.max().map(|(_, daemon)| daemon)
    }

    /// Whether some host can start a guest, and why the others cannot.
    pub(super) fn judge_for_start(
        &self,
        vm: &VmName,
        kept: &Kept,
    ) -> (bool, Vec<(HostName, Unfit)>) {
        let mut fits = false;
        let mut unfit = Vec::new();
        for (host, judged) in self.hosts_for(vm, kept) {
            match judged {
                Ok(_) => fits = true,
                Err(why) => unfit.push((host, why)),
            }
        }
        (fits, unfit)
    }
}
