//! Who may ask what: a pure function of who asks, what is asked, and which hosts a guest names.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`act`] | what is asked, as far as it matters for who may |
//! | [`denied`] | why somebody may not |
//! | [`guard`] | the same for the threads of a server: counted, and told in the log |
//!
//! Who asks is known by the key that authenticated the connection (crate `transport`). What somebody *says* to be,
//! in a claim or a ping, must be what the key says. In plain mode nobody is known, and everybody may do everything.

pub mod act;
pub mod denied;
pub mod guard;
#[cfg(test)]
mod tests;

use std::fmt;

use transport::{Peer, Role, Stream};

use crate::arbiter::{Claimant, HostName, VmName};
pub use act::Act;
pub use denied::Denied;
pub use guard::Guard;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Whoever reached a server in plain mode.
    Anybody,
    /// The owner of a key that is trusted.
    Known(Peer),
}

impl Caller {
    /// Who is at the other end of a connection.
    #[must_use]
    pub fn of(stream: &Stream) -> Self {
        stream.peer().cloned().map_or(Self::Anybody, Self::Known)
    }
}

/// What operators have defined of who may run guests.
pub trait Definitions {
    /// Whether a guest names this host; `None` where the guest is not defined.
    fn names(&self, vm: &VmName, host: &HostName) -> Option<bool>;

    /// Another number each time that an answer may have changed.
    fn generation(&self) -> u64;
}

/// Whether this caller may do this.
///
/// # Errors
/// [`Denied`]: it may not, and why.
pub fn permit(caller: &Caller, act: &Act<'_>, guests: &dyn Definitions) -> Result<(), Denied> {
    let Caller::Known(peer) = caller else {
        return Ok(());
    };
    let by_role = || {
        Err(Denied::Role {
            peer: peer.clone(),
            act: act.verb(),
            takes: act.takes(),
        })
    };
    match (peer.role, act) {
        (Role::Host, _) => match peer.name.parse() {
            Ok(host) => permit_host(&host, act, guests).unwrap_or_else(by_role),
            // Host names have further rules than those of the list.
            Err(source) => Err(Denied::NoHostName {
                name: peer.name.clone(),
                source,
            }),
        },
        (_, Act::Look | Act::Definition { .. }) => Ok(()),
        (Role::Operator, Act::Command | Act::OpenDisk { .. }) => Ok(()),
        (Role::Operator | Role::Monitor | Role::DiskServer, _) => by_role(),
    }
}

/// `None` where no host may.
fn permit_host(
    host: &HostName,
    act: &Act<'_>,
    guests: &dyn Definitions,
) -> Option<Result<(), Denied>> {
    let is_own = |name: &HostName, said: &dyn fmt::Display| match name == host {
        true => Ok(()),
        false => Err(Denied::OtherName {
            host: host.clone(),
            said: said.to_string(),
        }),
    };
    let own_name = |claimant: &Claimant| is_own(&claimant.host(), claimant);
    let named = |host: &HostName, vm: &VmName| match guests.names(vm, host) {
        Some(true) => Ok(()),
        Some(false) => Err(Denied::NotNamed {
            host: host.clone(),
            vm: vm.clone(),
        }),
        None => Err(Denied::NotDefined { vm: vm.clone() }),
    };
    Some(match act {
        Act::Look => Ok(()),
        Act::Definition { vm } => named(host, vm),
        Act::Run { vm, by, backup } => own_name(by)
            .and_then(|()| named(host, vm))
            .and_then(|()| backup.map_or(Ok(()), |backup| named(&backup.host(), vm))),
        Act::Tend { by } => own_name(by),
        Act::Tell { vm } => named(host, vm),
        Act::DrainItself { host: said } => is_own(said, said),
        Act::OpenDisk { owner } => owner.map_or(Ok(()), |vm| named(host, vm)),
        Act::WriteDisk { vm, holder } => {
            named(host, vm).and_then(|()| match holder {
                Some(holder) if holder.host() != *host => Err(Denied::NotHolder {
                    host: host.clone(),
                    vm: (*vm).clone(),
                    holder: (*holder).clone(),
                }),
                // Where nobody holds it, the fence refuses it for that.
                _ => Ok(()),
            })
        }
        Act::Command => return None,
    })
}
