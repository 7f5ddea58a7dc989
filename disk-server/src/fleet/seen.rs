//! What the fleet has seen of guests and hosts, and does not keep.

use std::collections::{BTreeMap, BTreeSet};

use super::journal::Cause;
use super::status::State;
use crate::arbiter::{Claimant, HostName, Record, VmName};
use crate::views::{Backoff, Tended, Text};

/// So many pings without a process of a guest say that none is there. The second one was certainly made after
/// the first one came.
const PINGS_OF_ABSENCE: u8 = 2;

/// A guest.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// Its record, when it was looked at last.
    pub(super) record: Record,
    /// Who held it last, and was not nobody.
    pub(super) last_holder: Option<Claimant>,
    /// Who held it before that one.
    pub(super) before: Option<Claimant>,
    /// How many pings of the daemons of these hosts had no process of it, since the record is what it is.
    absent: BTreeMap<HostName, u8>,
    /// Where it is being started anew.
    pub(super) starting: Option<Starting>,
    /// Where a process was started for it from this epoch, and has not claimed it in time.
    pub(super) hangs: BTreeSet<HostName>,
    /// How the process of its last holder ended: the status, and what was said.
    pub(super) end: Option<(Option<i32>, Text)>,
    /// How it leaves drained hosts.
    pub(super) leaving: Leaving,
    /// The view whose primary was told to let its backup go on, and why.
    pub(super) moves: Option<(u64, Cause)>,
    /// Intervals since its record is what it is, and since an order for it was accepted.
    pub(super) intervals: u32,
    /// What the journal has: the view, the view that the last failover won, and the state.
    pub(super) told_view: u64,
    pub(super) told_failover: u64,
    pub(super) told_state: Option<State>,
}

/// How a guest leaves drained hosts.
#[derive(Debug, Clone, Default)]
pub(super) struct Leaving {
    /// The view in which its primary was asked to hand it over.
    pub(super) asked_in: Option<u64>,
    /// For how many intervals it has been asked.
    pub(super) asked: u32,
    /// After it has failed.
    backoff: Backoff,
}

/// A start that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Starting {
    /// By which daemon.
    pub(super) daemon: Claimant,
    /// The epoch from which the guest is claimed.
    pub(super) epoch: u64,
    /// Intervals, since it was given or taken.
    pub(super) age: u32,
    /// The daemon has a process of the guest.
    pub(super) taken: bool,
}

/// A host's daemon.
#[derive(Debug, Clone)]
pub(super) struct Daemon {
    /// Its present run.
    pub(super) claimant: Claimant,
    /// On which machine it is, whatever the name of that. Where that is not known, each run is on one of its own.
    pub(super) machine: Text,
    /// Those before, as long as they are remembered.
    pub(super) older: Vec<Claimant>,
    /// One of those pings all the same: two hosts have the same name.
    pub(super) is_ambiguous: bool,
    /// The last ping that was heard.
    pub(super) number: u64,
    /// The last end of a process that was heard.
    pub(super) ended: u64,
    /// What its last ping had.
    pub(super) processes: BTreeMap<VmName, Option<Claimant>>,
    /// What the journal has.
    pub(super) told_live: bool,
}

impl Leaving {
    pub(super) fn tick(&mut self) {
        self.backoff.tick();
    }

    pub(super) fn may_try(&self) -> bool {
        self.backoff.is_over()
    }

    /// It could not leave, and is left alone for so many intervals, which are given, or for longer if that was so
    /// before.
    pub(super) fn has_failed(&mut self, first: u32, most: u32) -> u32 {
        self.asked_in = None;
        self.asked = 0;
        self.backoff.fail(first, most)
    }

    /// It has left, or need not any more.
    pub(super) fn is_over(&mut self) {
        *self = Self::default();
    }
}

impl Seen {
    /// Its record is another one.
    pub(super) fn moved(&mut self, record: Record) {
        if !record.is_stopped() && record.holder.is_some() && record.holder != self.last_holder {
            self.before = std::mem::replace(&mut self.last_holder, record.holder.clone());
            self.end = None;
        }
        if record.holder != self.record.holder {
            self.leaving.is_over();
        }
        if record.epoch != self.record.epoch {
            self.starting = None;
            self.hangs.clear();
        }
        self.absent.clear();
        self.intervals = 0;
        self.record = record;
    }

    /// A host's daemon says whether it has a process of the guest.
    pub(super) fn hear(&mut self, host: &HostName, has_process: bool) {
        if has_process {
            self.absent.remove(host);
        } else {
            let pings = self.absent.entry(host.clone()).or_default();
            *pings = (*pings + 1).min(PINGS_OF_ABSENCE);
        }
    }

    /// Nothing that this host said before counts.
    pub(super) fn doubt(&mut self, host: &HostName) {
        self.absent.remove(host);
    }

    /// Whether a host has said that no process of the guest is there.
    pub(super) fn is_absent_from(&self, host: &HostName) -> bool {
        self.absent.get(host) == Some(&PINGS_OF_ABSENCE)
    }

    /// Its members, each of which may run it.
    pub(super) fn members(&self) -> impl Iterator<Item = &Claimant> {
        let Record {
            holder,
            backup,
            acknowledged,
            ..
        } = &self.record;
        let holder = holder.iter().filter(|holder| !holder.is_stopped());
        holder.chain(backup.iter().filter(|_| *acknowledged))
    }
}

impl Daemon {
    pub(super) fn new(claimant: Claimant) -> Self {
        Self {
            machine: Text::cut(""),
            claimant,
            older: Vec::new(),
            is_ambiguous: false,
            number: 0,
            ended: 0,
            processes: BTreeMap::new(),
            told_live: false,
        }
    }

    /// Another run of it pings.
    pub(super) fn restarted(&mut self, claimant: Claimant) {
        let before = std::mem::replace(&mut self.claimant, claimant);
        self.older.push(before);
        self.number = 0;
        self.ended = 0;
    }

    /// Takes what a ping has: the processes that there were before.
    pub(super) fn hear(
        &mut self,
        number: u64,
        tended: &Tended,
    ) -> BTreeMap<VmName, Option<Claimant>> {
        self.number = number;
        self.machine = match tended.machine.as_str() {
            "" => Text::cut(self.claimant.as_str()),
            _ => tended.machine.clone(),
        };
        let ended = tended.ended.iter().map(|ended| ended.number);
        self.ended = ended.chain([self.ended]).max().unwrap_or_default();
        std::mem::replace(&mut self.processes, tended.processes.clone())
    }
}
