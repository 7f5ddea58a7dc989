//! What is proposed, and what becomes of it.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::host::{Ended, Role, Tended, Unfit};
use super::known::MISSED_PINGS;
use super::text::Text;
use crate::arbiter::{Claimant, VmName};

/// For so many intervals a guest's next backup is given time once a host's daemon prepares it: more than a
/// daemon gives a guest's images to be read, and its process to reach the primary.
pub const JOIN_INTERVALS: u32 = 60;

/// To an idle host: be this guest's next backup.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Proposal {
    /// The guest.
    pub vm: VmName,
    /// The view that it is to follow. Once there is another one the proposal is over.
    pub view: u64,
    /// Its primary.
    pub primary: Claimant,
    /// Where that takes backups.
    pub address: SocketAddr,
}

/// A proposal that stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Standing {
    pub(super) host: Claimant,
    pub(super) proposal: Proposal,
    /// Intervals, since it was made or taken.
    pub(super) age: u32,
    /// The host's daemon has a process of the guest: it is on its way there.
    pub(super) taken: bool,
}

/// What has become of a proposal.
pub(super) enum Became {
    Stands,
    /// It is over. The host is to be passed over, where there is a reason.
    Nothing(Option<Unfit>),
}

impl Standing {
    /// For how long it stands.
    pub(super) fn intervals(&self) -> u32 {
        match self.taken {
            true => JOIN_INTERVALS,
            false => MISSED_PINGS,
        }
    }

    /// What its host's next ping says of it.
    pub(super) fn became_of(&mut self, vm: &VmName, role: &Role) -> Became {
        match role {
            Role::Idle { vm: now, declined } if now == vm => {
                let of_this = declined.as_ref().filter(|it| it.view == self.proposal.view);
                match of_this {
                    Some(it) => Became::Nothing(Some(it.cause.unfit(it.reason.clone()))),
                    None => Became::Stands,
                }
            }
            Role::Host(tended) if tended.processes.contains_key(vm) => {
                if !std::mem::replace(&mut self.taken, true) {
                    self.age = 0;
                }
                Became::Stands
            }
            Role::Host(tended) => match tended.end_of(vm) {
                Some(it) => Became::Nothing(Some(it.cause.unfit(it.reason.clone()))),
                None if self.taken => {
                    let reason = "its process ended, and the host does not know how";
                    Became::Nothing(Some(Unfit::Declined(Text::cut(reason))))
                }
                None => Became::Stands,
            },
            _ => Became::Nothing(None),
        }
    }
}

impl Tended {
    /// What is told of the end of this guest's process.
    fn end_of(&self, vm: &VmName) -> Option<&Ended> {
        let mut of_it = self.ended.iter().filter(|ended| ended.vm == *vm);
        of_it.next_back()
    }
}
