//! Why somebody may not do what was asked.

use transport::{OWN_KEY_HINT, Peer, Role};

use crate::arbiter::{Claimant, HostName, NameError, VmName};

/// Why a caller may not do what it asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Its key is not one for this.
    #[error("the {peer} may not {act}: {takes} may{}", hint(peer, takes))]
    Role {
        /// Who asks.
        peer: Peer,
        /// What was asked.
        act: &'static str,
        /// Whose key may.
        takes: &'static str,
    },
    /// A host speaks for another one.
    #[error(
        "the host {host} cannot speak for {said}: a host is to be listed under the name that it gives itself \
         (`name` in host.toml)"
    )]
    OtherName {
        /// Whose key it is.
        host: HostName,
        /// Whom it spoke for.
        said: String,
    },
    /// No host can be called that.
    #[error("the host {name:?} is listed in trust.toml under a name that no host can have")]
    NoHostName {
        /// Under which it is listed.
        name: String,
        /// What is wrong with it.
        source: NameError,
    },
    /// Nobody has said who may run the guest.
    #[error(
        "{vm} is not defined, so that no host may run it: let an operator say which may, with `hosts` in the \
         guest's file and `ftvm vm define FILE`"
    )]
    NotDefined {
        /// The guest.
        vm: VmName,
    },
    /// The guest does not name the host.
    #[error(
        "{host} is not among the hosts that may run {vm}: `hosts` in its definition has them (`ftvm vm define FILE`)"
    )]
    NotNamed {
        /// The host.
        host: HostName,
        /// The guest.
        vm: VmName,
    },
    /// Another host runs the guest.
    #[error("{holder} runs {vm}, and not {host}: nobody else writes to its disk")]
    NotHolder {
        /// The host.
        host: HostName,
        /// The guest.
        vm: VmName,
        /// Who runs it.
        holder: Claimant,
    },
}

/// For people who ask with the key of the machine that they are on, as root does where he has no other.
fn hint(peer: &Peer, takes: &str) -> String {
    match peer.role {
        Role::Host | Role::DiskServer if takes == OPERATORS => {
            format!(". That is the key of a machine; {OWN_KEY_HINT}")
        }
        _ => String::new(),
    }
}

/// Who takes commands, in words.
pub(super) const OPERATORS: &str = "an operator";
