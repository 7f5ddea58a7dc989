//! How far what an operator asked for is.

use super::intents::{Kept, Pending, Run};
use super::journal::{Subject, What};
use super::machine::{Fleet, Records};
use super::operation::Verb;
use super::seen::Seen;
use super::status::State;
use crate::arbiter::{Claimant, HostName, Record, VmName};
use crate::views::{Condition, Phase, Text, Unfit};

/// For so many intervals a primary is asked to hand over, or to die, or a backup to leave. One that has not done so by then cannot.
pub(super) const CARRIED_OUT: u32 = 30;

/// After so many intervals each host has said how it is since.
pub(super) const HEARD_OF: u32 = 2;

/// For so many intervals the host that a guest left is kept free to be its next backup.
const KEPT_FREE: u32 = 15;

/// For so many intervals protection is waited for, where no host fits.
const PATIENCE: u32 = 60;

/// What has become of what was asked for.
pub(super) enum Progress {
    Goes,
    Done(String),
    Failed(String),
}

impl Pending {
    /// On which host alone the guest's next backup is to be, now.
    pub(super) fn chosen_host(&self, seen: &Seen) -> Option<HostName> {
        match &self.verb {
            Verb::MigrateBackup { to } => Some(to.clone()),
            Verb::MigratePrimary { to } => {
                let runs_there = seen.record.holder.as_ref()?.host() == *to;
                (!runs_there).then(|| to.clone())
            }
            Verb::Failover {} | Verb::TestFailover {} => {
                let has_moved = seen.record.holder.is_some() && seen.record.holder != self.primary;
                let is_kept = has_moved && seen.intervals < KEPT_FREE;
                self.primary
                    .as_ref()
                    .filter(|_| is_kept)
                    .map(Claimant::host)
            }
            _ => None,
        }
    }
}

/// How a guest is that runs.
pub(super) struct Running<'a> {
    /// Where.
    pub(super) host: HostName,
    pub(super) condition: &'a Condition,
    /// Its backup, if it is protected.
    pub(super) backup: Option<&'a Claimant>,
}

impl Fleet {
    /// A guest's primary, if it pings and has begun to run.
    pub(super) fn running<'a>(&'a self, vm: &VmName, record: &'a Record) -> Option<Running<'a>> {
        let (ping, condition) = self.views.primary(vm, record)?;
        let has_begun = condition.phase != Phase::Starting;
        let is_protected = condition.phase == Phase::Protected && record.acknowledged;
        has_begun.then(|| Running {
            host: ping.host.host(),
            condition,
            backup: record.backup.as_ref().filter(|_| is_protected),
        })
    }

    /// Notes what has become of what an operator asked for.
    pub(super) fn mind_pending(&mut self, vm: &VmName, records: Records<'_>) {
        let (Some(kept), Some(seen)) = (self.intents.guests.get(vm), self.guests.get(vm)) else {
            return;
        };
        let Some(pending) = &kept.pending else {
            return;
        };
        // What is known may be of a moment before, when something else was asked for.
        let is_of_before = pending.view == seen.record.epoch && seen.intervals < HEARD_OF;
        if is_of_before || !self.views.is_settled() {
            return;
        }
        let order = pending.order;
        let what = match self.progress(vm, kept, (seen, pending), records) {
            Progress::Goes => return,
            Progress::Done(how) => What::Done {
                order,
                how: Text::cut(&how),
            },
            Progress::Failed(why) => What::Failed {
                order,
                why: Text::cut(&why),
            },
        };
        if let Some(kept) = self.intents.guests.get_mut(vm) {
            kept.pending = None;
        }
        self.is_changed = true;
        self.news.push((Subject::Vm(vm.clone()), what));
    }

    fn progress(
        &self,
        vm: &VmName,
        kept: &Kept,
        (seen, pending): (&Seen, &Pending),
        records: Records<'_>,
    ) -> Progress {
        let running = self.running(vm, &seen.record);
        if let Verb::Stop {} = pending.verb {
            return self.progress_of_stop(vm);
        }
        match &kept.run {
            Run::Wanted { .. } => {}
            Run::Stopped { .. } if is_about_protection(&pending.verb) => {
                return Progress::Done(format!("{vm} is stopped"));
            }
            Run::Stopped { reason } => {
                let reason = reason
                    .as_ref()
                    .map_or(String::new(), |reason| format!(": {reason}"));
                return Progress::Failed(format!("{vm} is stopped{reason}"));
            }
        }
        match &pending.verb {
            Verb::Start { .. } => match running {
                Some(Running { host, .. }) => Progress::Done(format!("it runs on {host}")),
                None => Progress::Goes,
            },
            Verb::Stop {} => self.progress_of_stop(vm),
            Verb::Failover {} | Verb::TestFailover {} => {
                self.progress_of_failover(vm, (seen, pending), running.as_ref(), records)
            }
            Verb::RestartBackup {} => match &running {
                _ if seen.record.holder != pending.primary => {
                    Progress::Failed("its primary was lost meanwhile".to_owned())
                }
                Some(Running {
                    backup: Some(backup),
                    ..
                }) if Some(*backup) != pending.backup.as_ref() => {
                    Progress::Done(format!("its backup is on {} now", backup.host()))
                }
                Some(running) if seen.record.backup != pending.backup => {
                    self.unless_patient(vm, seen, running, records)
                }
                _ => unless_unheard(seen),
            },
            Verb::MigrateBackup { to } => match &running {
                Some(running) if running.host == *to => {
                    Progress::Failed(format!("it runs on {to} by now"))
                }
                Some(Running {
                    backup: Some(backup),
                    ..
                }) if backup.host() == *to => Progress::Done(format!("its backup is on {to} now")),
                Some(_) => self.unless_unfit(vm, to, (seen, pending), records),
                None => Progress::Goes,
            },
            Verb::MigratePrimary { to } => match &running {
                Some(running) if running.host == *to => {
                    self.once_protected(vm, seen, running, records)
                }
                Some(Running {
                    backup: Some(backup),
                    ..
                }) if backup.host() == *to => match seen.intervals < CARRIED_OUT {
                    true => Progress::Goes,
                    false => Progress::Failed("its primary did not hand it over".to_owned()),
                },
                Some(_) => self.unless_unfit(vm, to, (seen, pending), records),
                None => Progress::Goes,
            },
            Verb::SuspendProtection {} => match &running {
                Some(running) if running.condition.phase != Phase::Alone => unless_unheard(seen),
                _ => Progress::Done("it runs without a backup".to_owned()),
            },
            Verb::ResumeProtection {} => match &running {
                Some(running) => self.once_protected(vm, seen, running, records),
                None => Progress::Goes,
            },
        }
    }

    fn progress_of_stop(&self, vm: &VmName) -> Progress {
        let runs = self.who_may_run(vm).is_some() || self.hosts_with_process(vm).next().is_some();
        match runs {
            true => Progress::Goes,
            false => Progress::Done("it is stopped".to_owned()),
        }
    }

    fn progress_of_failover(
        &self,
        vm: &VmName,
        (seen, pending): (&Seen, &Pending),
        running: Option<&Running<'_>>,
        records: Records<'_>,
    ) -> Progress {
        let holder = &seen.record.holder;
        if *holder == pending.backup {
            return match running {
                Some(running) => self.once_protected(vm, seen, running, records),
                None => Progress::Goes,
            };
        }
        let primary = pending.primary.as_ref().map(Claimant::host);
        let primary = primary.map_or_else(|| "its primary".to_owned(), |host| host.to_string());
        if *holder != pending.primary {
            Progress::Failed("it was started anew meanwhile".to_owned())
        } else if seen.record.epoch != pending.view {
            Progress::Failed(format!("{primary} went on with it: its backup was lost"))
        } else if seen.intervals >= CARRIED_OUT {
            Progress::Failed(format!("{primary} did not let its backup go on"))
        } else {
            Progress::Goes
        }
    }

    /// Done when it is protected. Fails when nobody has protected it in time.
    fn once_protected(
        &self,
        vm: &VmName,
        seen: &Seen,
        running: &Running<'_>,
        records: Records<'_>,
    ) -> Progress {
        match running.backup {
            Some(backup) => {
                let (host, went_live) = (&running.host, running.condition.went_live);
                let after = went_live.filter(|it| it.epoch == seen.told_failover);
                let after = after.map_or_else(String::new, |it| {
                    format!(" after an outage of {} ms", it.outage_ms)
                });
                let backup = backup.host();
                Progress::Done(format!("it runs on {host}{after}, protected by {backup}"))
            }
            None => self.unless_patient(vm, seen, running, records),
        }
    }

    fn unless_patient(
        &self,
        vm: &VmName,
        seen: &Seen,
        running: &Running<'_>,
        records: Records<'_>,
    ) -> Progress {
        let state = self.state_of(vm, records);
        let joins = running.condition.phase != Phase::Alone;
        match seen.intervals < PATIENCE || joins || matches!(state, State::Protected) {
            true => Progress::Goes,
            false => Progress::Failed(format!("it runs on {}: {state}", running.host)),
        }
    }

    /// Fails when the host that a backup is to be on does not fit any more.
    fn unless_unfit(
        &self,
        vm: &VmName,
        to: &HostName,
        (seen, pending): (&Seen, &Pending),
        records: Records<'_>,
    ) -> Progress {
        let is_there = seen.record.backup.is_some() && seen.record.backup == pending.backup;
        match self.unfit_as_backup(vm, to, records) {
            Some(unfit) => Progress::Failed(format!("{to} {unfit}")),
            None if is_there => unless_unheard(seen),
            None => Progress::Goes,
        }
    }

    /// Why a host is, or is on its way to be, no backup of a guest that runs.
    pub(super) fn unfit_as_backup(
        &self,
        vm: &VmName,
        host: &HostName,
        records: Records<'_>,
    ) -> Option<Unfit> {
        // Its process there is the primary's. A backup that left for that one would do so for ever.
        if records(vm).holder.is_some_and(|it| it.host() == *host) {
            return Some(Unfit::HasRole);
        }
        let daemon = self.daemon(host);
        if daemon.is_some_and(|daemon| daemon.processes.contains_key(vm)) {
            return None;
        }
        if self.intents.is_drained(host) {
            return Some(Unfit::Draining);
        }
        let needs = self.needs(vm, &records(vm))?;
        let (_, unfit) = self.views.candidates(vm, &needs, &self.wishes(records));
        let of_host = unfit.into_iter().find(|(it, unfit)| {
            let is_daemon = daemon.is_none_or(|daemon| daemon.claimant == *it);
            it.host() == *host && is_daemon && !matches!(unfit, Unfit::NotChosen(_))
        });
        let dead = daemon.is_none().then_some(Unfit::Dead);
        of_host.map(|(_, unfit)| unfit).or(dead)
    }
}

/// Fails when the backup that is to leave has not done so in time.
fn unless_unheard(seen: &Seen) -> Progress {
    match &seen.record.backup {
        Some(backup) if seen.intervals >= CARRIED_OUT => {
            let host = backup.host();
            Progress::Failed(format!(
                "{host} does not leave: it does not hear the service"
            ))
        }
        _ => Progress::Goes,
    }
}

/// Whether that says something of a guest that is stopped, too.
fn is_about_protection(verb: &Verb) -> bool {
    matches!(verb, Verb::SuspendProtection {} | Verb::ResumeProtection {})
}
