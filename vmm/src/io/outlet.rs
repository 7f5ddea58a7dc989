//! The way out: to the client network and the console.

use logging_channel::entry::OutputChannel;

use super::{ConsoleSink, Tap};
use crate::devices::Output;

/// Performs outputs. A handle: clones lead to the same interfaces.
#[derive(Debug, Clone)]
pub struct Outlet {
    tap: Option<Tap>,
    console: ConsoleSink,
}

impl Outlet {
    /// Frames go to `tap`, if there is one, console bytes to `console`.
    #[must_use]
    pub fn new(tap: Option<Tap>, console: ConsoleSink) -> Self {
        Self { tap, console }
    }

    /// Performs one output.
    pub fn perform(&self, output: &Output) {
        match output.channel {
            OutputChannel::Net => {
                if let Some(tap) = &self.tap {
                    tap.send(&output.bytes);
                }
            }
            OutputChannel::Console => self.console.write(&output.bytes),
        }
    }
}
