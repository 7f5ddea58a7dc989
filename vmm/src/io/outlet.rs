//! The way out: to the client network and the console.

use super::{ConsoleSink, Departure, Tap};
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

    /// The guest's console.
    #[must_use]
    pub fn console(&self) -> &ConsoleSink {
        &self.console
    }

    /// How a guest with a network leaves this host by plan.
    #[must_use]
    pub fn departure(&self) -> Option<Departure> {
        self.tap.as_ref().map(|tap| tap.departure().clone())
    }

    /// The same; the console [waits](ConsoleSink::patient) until it is taken.
    #[must_use]
    pub fn patient(self) -> Self {
        Self {
            console: self.console.patient(),
            ..self
        }
    }

    /// Tells the client network that the guest with this address is here from now on, whenever it is to be
    /// told and this host `may`.
    pub fn announce(&self, mac: [u8; 6], may: impl Fn() -> bool + Send + 'static) {
        if let Some(tap) = &self.tap {
            tap.announce(mac, may);
        }
    }

    /// Performs one output.
    pub fn perform(&self, output: &Output) {
        match output {
            Output::Frame(frame) => {
                if let Some(tap) = &self.tap {
                    tap.send(frame);
                }
            }
            Output::Offloads(offloads) => {
                if let Some(tap) = &self.tap {
                    tap.receive_with(*offloads);
                }
            }
            Output::Console(bytes) => self.console.write(bytes),
            Output::Disk(_) => unreachable!("gates hand these to their disk port"),
        }
    }
}
