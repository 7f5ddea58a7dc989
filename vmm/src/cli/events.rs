//! Where a guest's progress goes.

use std::path::{Path, PathBuf};

use clap::Args;

use super::guest::GuestArgs;
use super::outcome;
use crate::events::Events;

/// Where progress goes.
#[derive(Args)]
pub(super) struct EventsArgs {
    /// Append progress as one JSON object a line to a file, or write it to standard output for "-".
    /// SIGHUP opens the file anew, and that of --console-log, for a log rotation.
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
}

impl EventsArgs {
    pub(super) fn takes_standard_output(&self) -> bool {
        self.events.as_deref() == Some(Path::new("-"))
    }

    /// The file, if it is one.
    pub(super) fn file(&self) -> Option<&Path> {
        let file = self.events.as_deref();
        file.filter(|_| !self.takes_standard_output())
    }

    /// Opens the events of a guest, and has its files opened anew whenever this process is told.
    pub(super) fn open(&self, guest: &GuestArgs) -> anyhow::Result<Events> {
        let events = Events::open(self.events.as_deref())?;
        if !guest.is_interactive() {
            outcome::reopen_files_on_hangup()?;
        }
        Ok(events)
    }
}
