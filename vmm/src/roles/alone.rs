//! A guest that nobody replays.

use std::sync::atomic::Ordering;

use crate::assembly::Guest;
use crate::engine::{Ended, EngineError, Role};
use crate::gates::Direct;
use crate::sources::{GuestClock, LiveInputs, NoLog, Recorder, Verification};

/// Runs the guest to its end.
///
/// # Errors
/// [`EngineError`].
pub fn run_alone(guest: Guest) -> Result<Ended, EngineError> {
    guest.host.live.store(true, Ordering::Release);
    let live = LiveInputs::new(GuestClock::starting_now(), guest.host.lanes.clone());
    let role = Role {
        source: Box::new(Recorder::new(
            live,
            NoLog,
            Verification::default(),
            guest.memory.clone(),
        )),
        gate: Box::new(Direct(guest.host.outlet.clone())),
    };
    guest.into_engine(role).run()
}
