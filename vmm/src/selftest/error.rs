//! Why nothing can be said of a host.

use std::path::PathBuf;

use super::child::ChildError;
use super::recordings::RecordingsError;
use super::swap::SwapError;

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum SelftestError {
    /// The guests are not there.
    #[error(
        "there are no test guests: {} is missing; make them with `cargo xtask images`, copy the \
         directory `.ftvm/images` to this host, and name it: `--images DIR`",
        .0.display()
    )]
    NoImages(PathBuf),
    /// The guest has no disk to swap to.
    #[error(transparent)]
    Swap(#[from] SwapError),
    /// There is no place for recordings.
    #[error("cannot make a temporary directory in {}", std::env::temp_dir().display())]
    Scratch(#[source] std::io::Error),
    /// Recordings cannot be kept, or are not there.
    #[error(transparent)]
    Recordings(#[from] RecordingsError),
    /// A recording or a replay could not be run.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// `ftvm record` or `ftvm replay` refuses this host.
    #[error("{0}")]
    Refused(String),
    /// A signal ended it.
    #[error("ended by a signal before it was done")]
    Interrupted,
}
