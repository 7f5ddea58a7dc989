//! Records a guest to a file.

use std::path::Path;
use std::sync::atomic::Ordering;

use logging_channel::Seed;
use logging_channel::entry::{Entry, Lsn};
use logging_channel::record::RecordWriter;

use super::alone::disk_port;
use super::stats::{FileFigures, Meters, report_alone};
use crate::assembly::{Guest, watchdog};
use crate::doctor::has_counter;
use crate::engine::{Ended, Interruption, Role, Step};
use crate::events::Events;
use crate::gates::Direct;
use crate::sources::{GuestClock, LiveInputs, LogSink, Pace, Recorder, StateKeeper, Verification};

/// Runs the guest to its end and writes its log to `path`, with its state taken as `pace` says.
///
/// # Errors
/// When the file cannot be written or the guest fails.
pub fn run_recording(
    mut guest: Guest,
    path: &Path,
    verification: Verification,
    pace: Pace,
    events: &Events,
) -> anyhow::Result<Ended> {
    if has_counter(&guest.host_report) {
        guest.count_stops(events);
    }
    let seed = Seed::random();
    guest.seed(seed)?;
    let meters = Meters::of(&guest);
    let disk = disk_port(&guest, &meters, events)?;
    let keeper = StateKeeper::new(guest.baseline()?, pace, meters.state.clone());
    let writer = RecordWriter::create(path, &guest.identity, seed, &guest.host_report)?;
    guest.host.live.store(true, Ordering::Release);
    let live = LiveInputs::new(GuestClock::starting_now(), guest.host.lanes.clone());
    let log = FileLog {
        writer: Some(writer),
        figures: FileFigures::default(),
    };
    let _reporting = report_alone(events, &meters, log.figures.clone());
    let recorder = Recorder::new(live, log, verification, guest.memory.clone())
        .with_keeper(keeper)
        .with_watchdog(watchdog(pace.latency)?);
    let role = Role {
        source: Box::new(recorder),
        gate: Box::new(Direct::new(guest.host.outlet.clone(), disk)),
    };
    let ended = guest.into_engine(role).run()?;
    let figures = meters.state.figures();
    log::info!(
        "{} digests, {} state deltas of {} bytes together",
        figures.digests,
        figures.deltas,
        figures.delta_bytes
    );
    Ok(ended)
}

/// A file as the recorder's log.
struct FileLog {
    /// Taken away when the log is complete.
    writer: Option<RecordWriter>,
    figures: FileFigures,
}

/// After so many entries the figures are told anew.
const TELL: u64 = 32;

fn failed(error: impl Into<anyhow::Error>) -> Interruption {
    Interruption::Failed(format!("{:#}", error.into()))
}

impl LogSink for FileLog {
    fn append(&mut self, entry: Entry) -> Step<Lsn> {
        let Some(writer) = &mut self.writer else {
            return Err(Interruption::Failed("the log is complete already".into()));
        };
        let lsn = writer.append(&entry).map_err(failed)?;
        if lsn.0 % TELL == 0 {
            self.figures.set(writer.kinds());
        }
        Ok(lsn)
    }

    fn finish(&mut self) -> Step<()> {
        match self.writer.take() {
            Some(writer) => writer.finish().map(|_| ()).map_err(failed),
            None => Ok(()),
        }
    }
}
