//! What is true at every step, seen by somebody who sees everything.

use std::collections::{BTreeMap, BTreeSet};

use crate::guest::{CLIENTS, Guest, Reply};
use crate::message::ProcessId;

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    /// The promise that was broken first.
    pub(crate) broken: Option<String>,
    /// In which epoch the last output left, and from whom.
    pub(crate) last_out: Option<(u64, ProcessId)>,
    /// What the guest's life was when it had counted so far, as replies tell.
    lives: BTreeMap<u64, u64>,
    /// Processes whose clocks have stood: no look at a clock tells them that a lease is over.
    pub(crate) suspended: BTreeSet<ProcessId>,
    /// The last reply that each client has.
    pub(crate) acknowledged: [Option<Reply>; CLIENTS],
    pub(crate) outputs: u64,
    /// How often a backup went live.
    pub(crate) failovers: u64,
    /// How often a backup came to protect the guest.
    pub(crate) joins: u64,
    /// How often one was lost before.
    pub(crate) joins_cut: u64,
    /// How often a cold backup got the state anew.
    pub(crate) renewals: u64,
    /// How often one went on with the state before, while another one came.
    pub(crate) renewals_cut: u64,
}

impl Checks {
    /// A reply leaves the host of a process that takes itself for the one of this epoch.
    pub(crate) fn leaves(
        &mut self,
        from: ProcessId,
        epoch: u64,
        reply: &Reply,
    ) -> Result<(), String> {
        self.outputs += 1;
        if let Some((last, by)) = self.last_out {
            if epoch < last && self.suspended.contains(&from) {
                // It was acknowledged: the same has left the host that went live.
                return match self.lives.get(&reply.count) {
                    Some(life) if *life == reply.life => Ok(()),
                    _ => Err(format!(
                        "a host that was suspended lets out what did not leave before: {reply:?}"
                    )),
                };
            }
            if epoch < last {
                return Err(format!(
                    "two run: an output left process {from} in epoch {epoch}, after one of process {by} \
                     in epoch {last}"
                ));
            }
            if epoch == last && by != from {
                return Err(format!(
                    "two run in epoch {epoch}: processes {by} and {from}"
                ));
            }
        }
        self.last_out = Some((epoch, from));
        let life = *self.lives.entry(reply.count).or_insert(reply.life);
        if life != reply.life {
            return Err(format!(
                "what the outside saw is undone: at {} the guest lived through something else before",
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
                    "acknowledged and lost: request {} of client {client}; the guest that goes live has \
                     {}",
                    reply.request.number,
                    guest.counted(client)
                ));
            }
        }
        Ok(())
    }
}
