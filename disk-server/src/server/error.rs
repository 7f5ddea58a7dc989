//! Why a server does not start.

use std::io;
use std::net::SocketAddr;

use crate::export::ExportsError;
use crate::nbd::ExportName;
use crate::state::OpenStateError;

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Somebody else listens there.
    #[error("cannot listen on {address}: the address is in use, perhaps by another disk-server; `ss -ltnp 'sport = :{}'` shows by whom. Stop that program, or choose another port with {option}", address.port())]
    AddressInUse {
        /// The address asked for.
        address: SocketAddr,
        /// The option that chose it.
        option: &'static str,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: is it an address of this host?")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The state cannot be used.
    #[error("cannot use the state")]
    State(#[from] OpenStateError),
    /// Two exports have the same name.
    #[error("two exports are called {0}; every --export needs a name of its own")]
    SameName(ExportName),
    /// The system refuses what every server needs.
    #[error("cannot set up the server")]
    Setup(#[source] io::Error),
}

impl From<ExportsError> for StartError {
    fn from(error: ExportsError) -> Self {
        match error {
            ExportsError::Twice(name) => StartError::SameName(name),
            ExportsError::Boot(error) => StartError::Setup(error),
        }
    }
}
