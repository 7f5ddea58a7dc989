//! What a host does with a guest: run it alone, record it, replay it, be its primary or its
//! backup.
//!
//! A role is a pair of event source and output gate, put together here; the engine below does not
//! know which one it runs. The only change of role, a backup that goes live, is a handover that
//! the backup's source asks for when its log has ended and this host has won the test-and-set.

mod alone;
mod backup;
mod claim;
mod member;
mod peer_report;
mod pinging;
mod primary;
mod record;
mod replay;
mod sessions;
mod stats;
mod storage;
mod tenure;

pub use alone::run_alone;
pub use backup::{BackupOptions, run_backup};
pub use claim::{ArbiterConfig, ClaimFailure, Force};
pub use primary::{PrimaryOptions, run_primary};
pub use record::run_recording;
pub use replay::{Inspection, Replayed, run_replay};

use disk_server::views::Cause;
use logging_channel::session::{AcceptError, BindError, ConnectError};

use self::claim::Rights;
use crate::assembly::{AssemblyError, Guest};
use crate::control::ControlError;
use crate::engine::{Divergence, EngineError};
use crate::io::Departure;

/// Why a replicated run failed.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    /// The control socket could not be opened.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The guest could not be put together.
    #[error(transparent)]
    Assembly(#[from] AssemblyError),
    /// The logging channel's port could not be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// No backup came.
    #[error(transparent)]
    Accept(#[from] AcceptError),
    /// The primary could not be reached, or refused.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The disk server did not give what was asked.
    #[error(transparent)]
    Claim(#[from] ClaimFailure),
    /// The host has no thread for it.
    #[error(transparent)]
    Thread(std::io::Error),
    /// The guest failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A backup differs from the primary.
    #[error(transparent)]
    NotLive(#[from] NotLive),
}

impl RoleError {
    /// What follows from it for the view service.
    #[must_use]
    pub fn cause(&self) -> Cause {
        match self {
            Self::Connect(ConnectError::NoAnswer { .. }) => Cause::Unreached,
            _ => Cause::Other,
        }
    }
}

/// Why a backup does not go on with the guest of a primary that it lost.
#[derive(Debug, thiserror::Error)]
pub enum NotLive {
    /// It differs, and the primary was lost before it had sent its whole state.
    #[error(
        "this host does not go live, because its guest is not the primary's: {0}; start the guest \
         again, with --force if the disk server still has it as running"
    )]
    Diverged(Box<Divergence>),
    /// It had not joined.
    #[error(
        "this host does not go live: it was joining, and had not all of the guest's state yet, when it \
         lost the primary ({0}). If the primary still runs, the guest goes on there: start this backup \
         again. If its host is gone, so is the guest: start it again as a primary, with --force if the \
         disk server still has it as running"
    )]
    NotJoined(String),
    /// It could not keep what it had to, or cannot read it.
    #[error(
        "this host does not go live: {0}. If the primary still runs, the guest goes on there: start this \
         backup again. If its host is gone, so is the guest: start it again as a primary, with --force if \
         the disk server still has it as running"
    )]
    NotKept(String),
    /// The guest ended before it had joined.
    #[error("the guest ended in order while this backup was joining")]
    Ended,
}

/// Ties the guest of a pair to the disk server that decides who runs it: the other host must ask the
/// same one, and the guest's disk must be one that it fences.
fn tie_to_server(guest: &mut Guest, rights: &Rights) -> Result<(), RoleError> {
    let server = rights.server()?;
    if let Some(disk) = &guest.disk {
        disk.require_fenced_by(server)
            .map_err(AssemblyError::from)?;
    }
    guest.identity.arbiter = Some(server.0);
    Ok(())
}

/// Ends this process at once, without another output: called when this host has lost the right
/// to run the guest.
pub type Halt = Box<dyn FnOnce(&str) + Send>;

/// The same for a guest with a network: what comes for it while it leaves by plan follows it first.
fn after_departure(departure: Option<Departure>, halt: Halt) -> Halt {
    match departure {
        Some(departure) => Box::new(move |reason| {
            departure.wait_over();
            halt(reason);
        }),
        None => halt,
    }
}
