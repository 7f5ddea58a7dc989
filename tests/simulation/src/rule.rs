//! The rules of primary and backup, as what breaks one names it.

use std::fmt;

/// What must be true, whatever happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// Rule 1.
    PrimaryWasMember,
    /// Rule 2.
    OutputAfterAcceptance,
    /// Rule 3.
    LogOfOwnView,
    /// Rule 4.
    OnlyPrimaryActs,
    /// Rule 5.
    InputBesideTransfer,
    /// Who goes on with the guest has what a client has seen of it.
    NothingUndone,
    /// A host that is up to date and reaches the disk server gets on.
    Progress,
    /// The view service only advises, and never one who has a part in the view.
    Advice,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::PrimaryWasMember,
        Self::OutputAfterAcceptance,
        Self::LogOfOwnView,
        Self::OnlyPrimaryActs,
        Self::InputBesideTransfer,
        Self::NothingUndone,
        Self::Progress,
        Self::Advice,
    ];

    fn words(self) -> &'static str {
        match self {
            Self::PrimaryWasMember => {
                "rule 1 (the primary of a view was primary or backup in the one before)"
            }
            Self::OutputAfterAcceptance => {
                "rule 2 (no output before the backup has accepted what led to it)"
            }
            Self::LogOfOwnView => "rule 3 (a backup accepts log traffic of its own view only)",
            Self::OnlyPrimaryActs => {
                "rule 4 (who is not primary answers no client and writes no disk)"
            }
            Self::InputBesideTransfer => "rule 5 (every input is before or after a state transfer)",
            Self::NothingUndone => "nothing undone (what a client has seen is never undone)",
            Self::Progress => {
                "progress (a host that is up to date and reaches the disk server gets on)"
            }
            Self::Advice => "advice (the view service proposes no member, and decides nothing)",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.words())
    }
}
