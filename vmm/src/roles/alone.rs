//! A guest that nobody replays.

use std::sync::atomic::Ordering;
use std::time::Duration;

use logging_channel::Seed;

use super::RoleError;
use super::stats::{FileFigures, Meters, report_alone};
use crate::assembly::{AssemblyError, Guest, watchdog};
use crate::disk::DiskPort;
use crate::disk::serving::Serving;
use crate::engine::{Ended, Role};
use crate::events::Events;
use crate::gates::Direct;
use crate::sources::{GuestClock, LiveInputs, NoLog, Recorder, Verification};

/// Runs the guest to its end. An input waits for a guest that makes no exits for `latency`.
///
/// # Errors
/// [`RoleError`].
pub fn run_alone(guest: Guest, latency: Duration, events: &Events) -> Result<Ended, RoleError> {
    guest.seed(Seed::random())?;
    let meters = Meters::of(&guest);
    let disk = disk_port(&guest, &meters, events)?;
    let _reporting = report_alone(events, &meters, FileFigures::default());
    guest.host.live.store(true, Ordering::Release);
    let live = LiveInputs::new(GuestClock::starting_now(), guest.host.lanes.clone());
    let recorder = Recorder::new(live, NoLog, Verification::default(), guest.memory.clone());
    let role = Role {
        source: Box::new(recorder.with_watchdog(watchdog(latency)?)),
        gate: Box::new(Direct::new(guest.host.outlet.clone(), disk)),
    };
    Ok(guest.into_engine(role).run()?)
}

/// The disk of a guest that has no backup.
pub(super) fn disk_port(
    guest: &Guest,
    meters: &Meters,
    events: &Events,
) -> Result<Option<Box<dyn DiskPort>>, AssemblyError> {
    let Some(disk) = &guest.disk else {
        return Ok(None);
    };
    disk.require_writable()?;
    let serving = Serving {
        counters: meters.disk.clone(),
        ..Serving::default()
    };
    let service = disk.serve(serving, events, guest.host.lanes.disk.pusher());
    Ok(Some(Box::new(service)))
}
