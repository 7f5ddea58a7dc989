//! What operators ask, and what they are answered.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::definition::Definition;
use super::journal::Entry;
use super::order::OrderNumber;
use super::status::VmStatus;
use crate::arbiter::{HostName, VmName};
use crate::views::Text;

/// What an operator asks of the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case", deny_unknown_fields)]
pub enum Operation {
    /// Keep this guest. One that is kept already is replaced, if it does not run.
    Define {
        /// The guest.
        definition: Box<Definition>,
        /// Who asks. Where connections are authenticated, the server puts the key's name here.
        by: Text,
    },
    /// Keep it no longer. It must not run.
    Undefine {
        /// The guest.
        vm: VmName,
        /// Who asks.
        by: Text,
    },
    /// Tell how a guest was defined.
    Definition {
        /// The guest.
        vm: VmName,
    },
    /// Do this with a guest.
    Guest {
        /// The guest.
        vm: VmName,
        /// What.
        verb: Verb,
        /// Who asks.
        by: Text,
    },
    /// Do this with a host.
    Host {
        /// The host.
        host: HostName,
        /// What.
        verb: HostVerb,
        /// Who asks.
        by: Text,
    },
    /// Do this with the host that asks. It takes back only what it asked for itself.
    OwnHost {
        /// The host, which must be the one that asks.
        host: HostName,
        /// What.
        verb: HostVerb,
    },
    /// Tell how a guest is.
    Status {
        /// The guest.
        vm: VmName,
    },
    /// Tell as many guests as fit into a line, in the order of names.
    List {
        /// Begin behind this name.
        #[serde(default)]
        after: Option<VmName>,
    },
    /// Tell as many entries of the journal as fit into a line, the latest first.
    History {
        /// Of this guest alone.
        vm: Option<VmName>,
        /// Begin before the entry with this number.
        #[serde(default)]
        before: Option<u64>,
    },
}

impl Operation {
    /// The same, asked by whoever that is known to be, whatever it says itself.
    #[must_use]
    pub fn asked_by(mut self, name: &str) -> Self {
        match &mut self {
            Self::Define { by, .. }
            | Self::Undefine { by, .. }
            | Self::Guest { by, .. }
            | Self::Host { by, .. } => *by = Text::cut(name),
            // Who asks is the host.
            Self::OwnHost { .. }
            | Self::Definition { .. }
            | Self::Status { .. }
            | Self::List { .. }
            | Self::History { .. } => {}
        }
        self
    }
}

/// What is to be done with a guest. Of two that contradict each other the later one counts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Verb {
    /// Run it, protected.
    Start {
        /// Also where a host that may run it cannot be asked.
        force: bool,
    },
    /// End it in order, as a computer is switched off.
    Stop {},
    /// Hand it over to its backup, by plan.
    Failover {},
    /// Kill its primary.
    TestFailover {},
    /// End its backup, and let another one, or the same host, join.
    RestartBackup {},
    /// Have its backup on this host.
    MigrateBackup {
        /// The host.
        to: HostName,
    },
    /// Have its primary on this host.
    MigratePrimary {
        /// The host.
        to: HostName,
    },
    /// Run it without a backup until that is taken back.
    SuspendProtection {},
    /// Have it protected again.
    ResumeProtection {},
}

/// What is to be done with a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostVerb {
    /// Empty it, and keep it empty.
    Drain,
    /// It may have guests again.
    Undrain,
}

/// What an operator is answered. What cannot be granted is an error, and says why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is noted durably, and is being carried out, with this number.
    Accepted {
        /// The number.
        order: OrderNumber,
    },
    /// How a guest was defined.
    Definition(Box<Definition>),
    /// How a guest is.
    Status(Box<VmStatus>),
    /// Some guests.
    Guests {
        /// How they are.
        vms: Vec<VmStatus>,
        /// Whether there are more behind the last one.
        more: bool,
    },
    /// Some of the journal.
    History {
        /// The latest first.
        entries: Vec<Entry>,
        /// Whether there are earlier ones.
        more: bool,
    },
}

/// In an operator's words.
impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start { force: false } => f.write_str("start"),
            Self::Start { force: true } => f.write_str("start --force"),
            Self::Stop {} => f.write_str("stop"),
            Self::Failover {} => f.write_str("failover"),
            Self::TestFailover {} => f.write_str("test-failover"),
            Self::RestartBackup {} => f.write_str("restart-backup"),
            Self::MigrateBackup { to } => write!(f, "migrate to {to}"),
            Self::MigratePrimary { to } => write!(f, "migrate --primary to {to}"),
            Self::SuspendProtection {} => f.write_str("suspend-protection"),
            Self::ResumeProtection {} => f.write_str("resume-protection"),
        }
    }
}

impl fmt::Display for HostVerb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Drain => "drain",
            Self::Undrain => "undrain",
        })
    }
}
