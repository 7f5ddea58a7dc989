//! Why somebody may not write.

use super::waiting::NotYet;
use crate::arbiter::VmName;

/// Why a connection may not write, or not be opened for writing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Somebody has moved on to a later epoch.
    #[error("epoch {held} of {vm} is over, it is in epoch {current} now")]
    Over {
        /// Whose epoch.
        vm: VmName,
        /// The client's.
        held: u64,
        /// The current one.
        current: u64,
    },
    /// The epoch has not been.
    #[error(
        "{vm} is in epoch {current}, epoch {held} was never claimed here: is this the right disk server, and has it its state?"
    )]
    Future {
        /// Whose epoch.
        vm: VmName,
        /// The client's.
        held: u64,
        /// The current one.
        current: u64,
    },
    /// Nobody runs the machine in the current epoch.
    #[error("{vm} does not run: nobody holds its epoch {epoch}")]
    NotRunning {
        /// Whose epoch.
        vm: VmName,
        /// The current one.
        epoch: u64,
    },
    /// The host of the machine has connected anew.
    #[error("a newer connection of {vm} has taken over")]
    Superseded {
        /// The machine.
        vm: VmName,
    },
    /// The client has connected anew.
    #[error("a newer connection of this client has taken over")]
    NewerConnection,
    /// Writes of earlier connections are under way. They can be told from others already, so that
    /// asking again does no harm.
    #[error("writes of an earlier connection are under way: {0}")]
    NotYet(#[from] NotYet),
    /// A machine runs on the export.
    #[error("{vm} runs on it: only the host that runs it may write")]
    Running {
        /// The machine.
        vm: VmName,
    },
    /// A machine has run on the export since the client came, and what the client knows of the
    /// export's content is from before.
    #[error(
        "{vm} has been started since this client came, in epoch {since}, and is in epoch {current} \
         now: what the client remembers of the disk may be old. Start the client afresh"
    )]
    HasRun {
        /// The machine.
        vm: VmName,
        /// Its epoch when the client came.
        since: u64,
        /// The current one.
        current: u64,
    },
}
