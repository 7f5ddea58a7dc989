//! Why somebody may not do what was asked.

use transport::Peer;

use crate::arbiter::{Claimant, HostName, VmName};

/// Why a caller may not do what it asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Its key is not one for this.
    #[error("the {peer} may not {act}: {takes} may")]
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
        said: Claimant,
    },
    /// The guest does not name the host.
    #[error(
        "{host} is not among the hosts that may run {vm}: `hosts` in the guest's file has them"
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
