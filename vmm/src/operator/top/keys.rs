//! What keys mean.

use disk_server::arbiter::{HostName, VmName};
use disk_server::fleet::{HostVerb, Verb};

/// A key, as far as it means something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// One line up.
    Up,
    /// One line down.
    Down,
    /// From guests to hosts, and back.
    Tab,
    /// Yes.
    Enter,
    /// No, and back.
    Escape,
    /// A letter.
    Letter(char),
}

/// What is to be done outside of the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// End.
    Quit,
    /// Ask the service for this.
    Guest(VmName, Verb),
    /// Ask the service for this.
    Host(HostName, HostVerb),
    /// Ask the service what happened to a guest, or to all and the hosts.
    History(Option<VmName>),
    /// Give the terminal to a guest's console.
    Console(VmName),
}

impl Action {
    /// What a person is asked before it; `None` of what harms nobody.
    #[must_use]
    pub fn question(&self) -> Option<String> {
        match self {
            Self::Guest(vm, Verb::Failover {}) => Some(format!("Hand {vm} over to its backup?")),
            Self::Guest(vm, Verb::TestFailover {}) => Some(format!(
                "Kill the primary of {vm}, to see its backup go on?"
            )),
            Self::Guest(vm, Verb::SuspendProtection {}) => {
                Some(format!("Let {vm} run without a backup?"))
            }
            Self::Guest(vm, Verb::RestartBackup {}) => Some(format!(
                "Let {vm} run without a backup until another one has joined?"
            )),
            Self::Guest(vm, Verb::MigrateBackup { to }) => Some(format!(
                "Let {vm} run without a backup until it has one on {to}?"
            )),
            Self::Guest(vm, Verb::MigratePrimary { to }) => Some(format!("Have {vm} run on {to}?")),
            Self::Guest(vm, Verb::Stop {}) => Some(format!("End {vm} on both hosts?")),
            Self::Host(host, HostVerb::Drain) => Some(format!("Empty {host}, and keep it empty?")),
            _ => None,
        }
    }

    /// What it is, for the line that says that it was asked for.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Guest(vm, verb) => format!("{vm}: {verb}"),
            Self::Host(host, verb) => format!("{host}: {verb}"),
            Self::History(_) => "history".into(),
            Self::Console(vm) => format!("console {vm}"),
            Self::Quit => "quit".into(),
        }
    }
}
