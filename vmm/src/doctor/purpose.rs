//! What a host is examined for: not all guests need all of it.

/// The check of how a guest's addresses are translated, which [`Purpose::Replication`] may do without.
pub use logging_channel::PAGING;
use serde::Serialize;

/// What needs a capability of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NeededBy {
    /// Nothing: ftvm does without, or works less well.
    Nothing,
    /// Guests that are replicated, recorded or replayed. Those that run alone do without.
    Replication,
    /// All guests.
    EveryGuest,
}

impl NeededBy {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Nothing => "optional",
            Self::Replication => "needed to replicate and to record",
            Self::EveryGuest => "needed",
        }
    }
}

/// What a guest is for, which decides what its host must pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Purpose {
    /// It runs on one host, and nothing is recorded.
    #[default]
    Alone,
    /// It is replicated, recorded or replayed.
    Replication {
        /// Also where the processor translates the guest's addresses by itself.
        allow_nested_paging: bool,
    },
}

impl Purpose {
    /// What ftvm is there for.
    pub(super) const REPLICATION: Self = Self::Replication {
        allow_nested_paging: false,
    };

    /// Whether guests for this need to pass the check `id`.
    pub(super) fn needs(self, id: &str, needed_by: NeededBy) -> bool {
        match (needed_by, self) {
            (NeededBy::EveryGuest, _) => true,
            (NeededBy::Nothing, _) | (NeededBy::Replication, Self::Alone) => false,
            (
                NeededBy::Replication,
                Self::Replication {
                    allow_nested_paging,
                },
            ) => !(allow_nested_paging && id == PAGING),
        }
    }
}
