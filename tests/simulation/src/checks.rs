//! What is true at every step, seen by somebody who sees everything.

use std::collections::BTreeMap;
use std::time::Instant;

use disk_server::arbiter::Record;
use logging_channel::entry::Lsn;

use crate::guest::{CLIENTS, Guest, Reply};
use crate::message::{ProcessId, process};
use crate::rule::Rule;

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    /// The promise that was broken first.
    pub(crate) broken: Option<String>,
    /// In which epoch the last output left, and from whom.
    pub(crate) last_out: Option<(u64, ProcessId)>,
    /// What the guest's life was when it had counted so far, as replies tell.
    lives: BTreeMap<u64, u64>,
    /// Processes that were suspended, and until when by their own clocks, which stood, they may take a lease
    /// of before for one that holds.
    pub(crate) suspended: BTreeMap<ProcessId, Instant>,
    /// Of each session, by its connection: in which epoch, and from which entry on, nothing leaves that
    /// its backup has not accepted.
    protected: BTreeMap<usize, (u64, Lsn)>,
    /// What its backup has accepted.
    accepted: BTreeMap<usize, Lsn>,
    /// The processes of each view that the disk server has moved to: its primary and its backup.
    views: BTreeMap<u64, [Option<ProcessId>; 2]>,
    /// The last reply that each client has.
    pub(crate) acknowledged: [Option<Reply>; CLIENTS],
    pub(crate) outputs: u64,
    /// How often a backup went live.
    pub(crate) failovers: u64,
    /// How often a backup came to protect the guest.
    pub(crate) joins: u64,
    /// How often one was lost before.
    pub(crate) joins_cut: u64,
    /// How often a guest was handed over by plan.
    pub(crate) hand_overs: u64,
    /// How often a cold backup got the state anew.
    pub(crate) renewals: u64,
    /// How often one went on with the state before, while another one came.
    pub(crate) renewals_cut: u64,
}

impl Checks {
    /// The backup of a session may claim the epoch after this one once it has this entry.
    pub(crate) fn protects(&mut self, session: usize, epoch: u64, from: Lsn) {
        self.protected.insert(session, (epoch, from));
    }

    /// The backup of a session has everything up to this entry. The last of that was sent when the primary
    /// had the session in this view: one of these two, until the backup is itself the primary of the next.
    pub(crate) fn accepts(
        &mut self,
        (session, view, [primary, backup]): (usize, u64, [ProcessId; 2]),
        up_to: Lsn,
    ) -> Result<(), String> {
        let accepted = self.accepted.entry(session).or_default();
        *accepted = up_to.max(*accepted);
        let of = |view| self.views.get(&view).copied().unwrap_or_default();
        if of(view) != [Some(primary), Some(backup)] {
            return Err(format!(
                "{}: process {backup} accepts that of process {primary} in view {view}, of which \
                 primary and backup are {:?}",
                Rule::LogOfOwnView,
                of(view)
            ));
        }
        match of(view + 1) {
            [Some(next), _] if next == backup => Err(format!(
                "{}: process {backup} accepts that of view {view}, and has won the next",
                Rule::LogOfOwnView
            )),
            _ => Ok(()),
        }
    }

    /// Whether this entry of a session is from before its backup protects the guest: then every guest that
    /// goes live has it, and what it led to may leave at any later time, as a network might let it.
    pub(crate) fn is_from_before(&self, session: usize, lsn: Lsn) -> bool {
        (self.protected.get(&session)).is_some_and(|(_, protected)| lsn <= *protected)
    }

    /// What this entry of a session led to leaves its primary, which is in this epoch.
    pub(crate) fn may_leave(&self, session: usize, epoch: u64, lsn: Lsn) -> Result<(), String> {
        let accepted = self.accepted.get(&session).copied().unwrap_or_default();
        match self.protected.get(&session) {
            Some((protected, from)) if *protected == epoch && *from < lsn && accepted < lsn => {
                Err(format!(
                    "{}: entry {lsn} leads to one, and the backup has {accepted}",
                    Rule::OutputAfterAcceptance
                ))
            }
            _ => Ok(()),
        }
    }

    /// The disk server moves a view on.
    pub(crate) fn moves_on(&mut self, old: &Record, new: &Record) -> Result<(), String> {
        let members = [&new.holder, &new.backup].map(|it| it.as_ref().map(process));
        self.views.insert(new.epoch, members);
        let was_backup = old.acknowledged && old.backup == new.holder;
        match old.holder == new.holder || was_backup {
            true => Ok(()),
            false => Err(format!("{}: {old:?}, then {new:?}", Rule::PrimaryWasMember)),
        }
    }

    /// A reply leaves the host of a process that takes itself for the one of this epoch, when that host's clock
    /// shows this.
    pub(crate) fn leaves(
        &mut self,
        (from, now): (ProcessId, Instant),
        epoch: u64,
        reply: &Reply,
        from_before: bool,
    ) -> Result<(), String> {
        self.outputs += 1;
        if let Some((last, by)) = self.last_out {
            let leased = |until: &Instant| now <= *until;
            if epoch < last && self.suspended.get(&from).is_some_and(leased) {
                // It was acknowledged: the same has left the host that went live.
                return match self.lives.get(&reply.count) {
                    Some(life) if *life == reply.life => Ok(()),
                    _ => Err(format!(
                        "a host that was suspended lets out what did not leave before: {reply:?}"
                    )),
                };
            }
            if epoch < last && !from_before {
                return Err(format!(
                    "{}: an output left process {from} in epoch {epoch}, after one of process {by} \
                     in epoch {last}",
                    Rule::OnlyPrimaryActs
                ));
            }
            if epoch == last && by != from {
                return Err(format!(
                    "{}: in epoch {epoch} processes {by} and {from} do",
                    Rule::OnlyPrimaryActs
                ));
            }
        }
        self.last_out = self.last_out.max(Some((epoch, from)));
        let life = *self.lives.entry(reply.count).or_insert(reply.life);
        if life != reply.life {
            return Err(format!(
                "{}: at {} the guest lived through something else before",
                Rule::NothingUndone,
                reply.count
            ));
        }
        Ok(())
    }

    /// A process goes live with this guest.
    pub(crate) fn goes_live(&self, guest: &Guest) -> Result<(), String> {
        for reply in self.acknowledged.iter().flatten() {
            let client = reply.request.client;
            if guest.counted(client) < reply.request.number {
                return Err(format!(
                    "{}: request {} of client {client} has its reply; the guest that goes live has {}",
                    Rule::NothingUndone,
                    reply.request.number,
                    guest.counted(client)
                ));
            }
        }
        Ok(())
    }
}
