//! In which state a guest is, as far as pings tell.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::definition::LagBounds;
use super::intents::Run;
use super::journal::{Subject, What};
use super::machine::{Fleet, Records};
use super::pending::{HEARD_OF, Running};
use super::starting::Life;
use super::status::{LagColour, MAX_UNFIT, Member, Placement, Reason, State, VmStatus};
use crate::arbiter::{Claimant, HostName, Record, VmName};
use crate::views::{Phase, Role, Text, Unfit, reached_at};

impl Fleet {
    /// Whether there is such a guest: it is defined, or somebody has just said something of it, who runs it by hand.
    /// Of one that was there before there may be a record, which keeps its epochs apart from those to come, and no
    /// more.
    #[must_use]
    pub fn is_there(&self, vm: &VmName) -> bool {
        self.intents.guests.contains_key(vm)
            || self.views.runs_of(vm).next().is_some()
            || self.hosts_with_process(vm).next().is_some()
    }

    /// The state of a guest.
    pub(super) fn state_of(&self, vm: &VmName, records: Records<'_>) -> State {
        let record = records(vm);
        let kept = self.intents.guests.get(vm);
        let run = kept.map(|kept| &kept.run);
        let is_ending = matches!(run, Some(Run::Stopped { .. }))
            && self.hosts_with_process(vm).next().is_some();
        if is_ending {
            return State::NotRunning(Reason::Stopping {});
        }
        if let Some((_, condition)) = self.views.primary(vm, &record) {
            let running = self.running(vm, &record);
            return match running {
                Some(running) => self.state_of_running(vm, &running, records),
                None if condition.phase == Phase::Starting => {
                    State::NotRunning(Reason::Starting {})
                }
                None => State::NotProtected(Reason::Starting {}),
            };
        }
        if self.goes_on(vm, &record) {
            return State::NotProtected(match record.backup {
                None => self.why_alone(vm, records),
                Some(_) => Reason::Starting {},
            });
        }
        let may_run = self.who_may_run(vm);
        if let Some((_, Life::Unknown)) = &may_run {
            let seen = self.guests.get(vm);
            let members = seen.map_or_else(Vec::new, |seen| self.may_run(vm, seen));
            let mut hosts: Vec<HostName> = members.iter().map(|(it, _)| it.host()).collect();
            hosts.dedup();
            return match self.views.is_settled() {
                true => State::NotRunning(Reason::Unknown { hosts }),
                false => State::NotRunning(Reason::Starting {}),
            };
        }
        match run {
            None if may_run.is_none() => State::Stopped { reason: None },
            Some(Run::Stopped { reason }) if may_run.is_none() => State::Stopped {
                reason: reason.clone(),
            },
            // Its primary is about to say more, or its backup to go live.
            None | Some(Run::Stopped { .. }) => State::NotRunning(Reason::Starting {}),
            Some(Run::Wanted { .. }) => self.state_of_start(vm),
        }
    }

    /// Whether the primary has another view of which it has not said anything yet, and its guest ran in the one
    /// before.
    fn goes_on(&self, vm: &VmName, record: &Record) -> bool {
        let last = record.holder.as_ref().and_then(|it| self.views.last(it));
        let Some((ping, true, _)) = last else {
            return false;
        };
        match &ping.role {
            Role::Primary {
                vm: of, condition, ..
            } => of == vm && condition.phase != Phase::Starting,
            Role::Backup { vm: of, .. } => of == vm,
            Role::Host(_) | Role::Idle { .. } => false,
        }
    }

    fn state_of_start(&self, vm: &VmName) -> State {
        let starting = State::NotRunning(Reason::Starting {});
        let (Some(kept), Some(seen)) = (self.intents.guests.get(vm), self.guests.get(vm)) else {
            return starting;
        };
        if seen.starting.is_some() || self.who_may_run(vm).is_some() || !self.views.is_settled() {
            return starting;
        }
        match self.judge_for_start(vm, kept) {
            (true, _) => starting,
            (false, mut unfit) => {
                unfit.truncate(MAX_UNFIT);
                State::NotRunning(Reason::NoIdleHost { unfit })
            }
        }
    }

    fn state_of_running(&self, vm: &VmName, running: &Running<'_>, records: Records<'_>) -> State {
        let condition = running.condition;
        let bounds = self.lag_bounds(vm);
        let reason = match condition.phase {
            Phase::Protected if running.backup.is_some() => {
                if bounds.colour(condition.lag_ms) != LagColour::Red {
                    return State::Protected;
                }
                let lag_ms = condition.lag_ms;
                Reason::Lagging { lag_ms }
            }
            // The disk server has not heard yet that the backup has taken over.
            Phase::Protected => Reason::Joining { percent: 100 },
            Phase::Joining { percent } => Reason::Joining { percent },
            Phase::Diverged => Reason::Diverged {},
            Phase::Starting | Phase::Waiting => Reason::Starting {},
            Phase::Alone => self.why_alone(vm, records),
        };
        State::NotProtected(reason)
    }

    fn why_alone(&self, vm: &VmName, records: Records<'_>) -> Reason {
        if let Some(by) = self.intents.suspended(vm) {
            return Reason::Suspended { by: by.clone() };
        }
        let record = records(vm);
        let primary = record.holder.as_ref().map(Claimant::host);
        let mut with_process = self.hosts_with_process(vm);
        let joins = with_process.any(|host| Some(host) != primary.as_ref());
        let needs = self.needs(vm, &record);
        let (Some(needs), false, true) = (
            needs,
            joins || self.views.is_proposed(vm),
            self.views.is_settled(),
        ) else {
            return Reason::Starting {};
        };
        let (fit, unfit) = self.views.candidates(vm, &needs, &self.wishes(records));
        if !fit.is_empty() {
            return Reason::Starting {};
        }
        // A host may have been there under several names: its present daemon says how it is.
        let mut hosts: BTreeMap<HostName, Unfit> = BTreeMap::new();
        for (claimant, why) in unfit {
            let host = claimant.host();
            let is_present = |daemon: &Claimant| *daemon == claimant;
            let present = self.daemons.get(&host).map(|daemon| &daemon.claimant);
            if why != Unfit::Dead || present.is_none_or(is_present) {
                hosts.insert(host, why);
            }
        }
        let cannot_connect = hosts.iter().find_map(|(host, why)| match why {
            Unfit::Unreached(error) => Some((host.clone(), error.clone())),
            _ => None,
        });
        match cannot_connect {
            Some((host, error)) => Reason::LoggingNetworkDown { host, error },
            None => Reason::NoIdleHost {
                unfit: hosts.into_iter().take(MAX_UNFIT).collect(),
            },
        }
    }

    fn lag_bounds(&self, vm: &VmName) -> LagBounds {
        let kept = self.intents.guests.get(vm);
        kept.map_or_else(LagBounds::default, |kept| kept.definition.lag)
    }

    /// How a guest is; without what happened to it last, which the journal has.
    #[must_use]
    pub fn status(&self, vm: &VmName, records: Records<'_>) -> VmStatus {
        let record = records(vm);
        let holder = record.holder.as_ref().filter(|it| !it.is_stopped());
        let running = self.running(vm, &record);
        let flow = running.filter(|it| it.condition.phase != Phase::Alone);
        let flow = flow.map(|it| it.condition);
        let pending = self.intents.pending(vm);
        VmStatus {
            vm: vm.clone(),
            defined: self.intents.guests.contains_key(vm),
            state: self.state_of(vm, records),
            view: record.holder.as_ref().map_or(0, |_| record.epoch),
            placement: Placement {
                primary: holder.map(|it| self.member(it)),
                backup: record.backup.as_ref().map(|it| self.member(it)),
            },
            lag_ms: flow.map(|it| it.lag_ms),
            lag: self.lag_bounds(vm),
            log_bytes_per_second: flow.map(|it| it.log_bytes_per_second),
            last_failover: None,
            last_failure: None,
            pending: pending.map(|it| (it.order, Text::cut(&it.verb.to_string()))),
        }
    }

    fn member(&self, claimant: &Claimant) -> Member {
        let host = claimant.host();
        Member {
            console: self.console_of(&host),
            live: self.views.is_live(claimant),
            claimant: claimant.clone(),
            host,
        }
    }

    fn console_of(&self, host: &HostName) -> Option<SocketAddr> {
        let daemon = self.daemon(host)?;
        let (ping, _, from) = self.views.last(&daemon.claimant)?;
        match &ping.role {
            Role::Host(tended) => {
                let console = reached_at(tended.console, from);
                (!console.ip().is_unspecified()).then_some(console)
            }
            _ => None,
        }
    }

    /// Tells the journal where a guest is in a state of another kind: how much of its memory has come, or which
    /// host has how much memory, is no transition.
    pub(super) fn tell_state(&mut self, vm: &VmName, records: Records<'_>) {
        if !self.views.is_settled() || !self.is_there(vm) {
            return;
        }
        let state = self.state_of(vm, records);
        let record = records(vm);
        let is_starting = state == State::NotRunning(Reason::Starting {});
        let runs = (self.who_may_run(vm)).is_some_and(|(_, life)| life == Life::Runs);
        let is_silent = self.views.primary(vm, &record).is_none()
            && (is_starting && runs || self.goes_on(vm, &record));
        let Some(seen) = self.guests.get_mut(vm) else {
            return;
        };
        // It has another view, of which its primary has not said anything yet.
        if is_silent && seen.intervals < HEARD_OF {
            return;
        }
        if !seen
            .told_state
            .as_ref()
            .is_some_and(|told| told.is_like(&state))
        {
            seen.told_state = Some(state.clone());
            self.news
                .push((Subject::Vm(vm.clone()), What::State(state)));
        }
    }
}
