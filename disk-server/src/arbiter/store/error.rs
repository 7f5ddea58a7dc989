//! Why a decision cannot be stored.

use super::format::MAX_VMS;
use crate::state::ReplaceError;

/// Why a decision could not be made.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store is full.
    #[error("the arbiter already keeps {MAX_VMS} virtual machines, which is its limit")]
    Full,
    /// The decision could not be made durable, and nobody may rely on it. It may be tried again.
    #[error("cannot store the decision")]
    Storage(#[source] ReplaceError),
}
