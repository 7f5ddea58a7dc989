//! Records a guest to a file.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use logging_channel::entry::{Entry, Lsn};
use logging_channel::record::RecordWriter;

use super::alone::disk_port;
use crate::assembly::{Guest, watchdog};
use crate::doctor::has_counter;
use crate::engine::{Ended, Interruption, Role, Step};
use crate::gates::Direct;
use crate::sources::{
    GuestClock, LiveInputs, LogSink, Pace, Recorder, StateCounters, StateKeeper, Verification,
};

/// Runs the guest to its end and writes its log to `path`, with its state taken as `pace` says.
///
/// # Errors
/// When the file cannot be written or the guest fails.
pub fn run_recording(
    mut guest: Guest,
    path: &Path,
    verification: Verification,
    pace: Pace,
) -> anyhow::Result<Ended> {
    if has_counter(&guest.host_report) {
        guest.count_stops()?;
    }
    let disk = disk_port(&guest)?;
    let counters = Arc::new(StateCounters::default());
    let keeper = StateKeeper::new(guest.baseline()?, pace, counters.clone());
    let writer = RecordWriter::create(path, &guest.identity)?;
    guest.host.live.store(true, Ordering::Release);
    let live = LiveInputs::new(GuestClock::starting_now(), guest.host.lanes.clone());
    let log = FileLog(Some(writer));
    let recorder = Recorder::new(live, log, verification, guest.memory.clone())
        .with_keeper(keeper)
        .with_watchdog(watchdog(pace.latency)?);
    let role = Role {
        source: Box::new(recorder),
        gate: Box::new(Direct::new(guest.host.outlet.clone(), disk)),
    };
    let ended = guest.into_engine(role).run()?;
    let figures = counters.figures();
    log::info!(
        "{} digests, {} state deltas of {} bytes together",
        figures.digests,
        figures.deltas,
        figures.delta_bytes
    );
    Ok(ended)
}

/// A file as the recorder's log. Taken away when it is complete.
struct FileLog(Option<RecordWriter>);

fn failed(error: impl Into<anyhow::Error>) -> Interruption {
    Interruption::Failed(format!("{:#}", error.into()))
}

impl LogSink for FileLog {
    fn append(&mut self, entry: Entry) -> Step<Lsn> {
        match &mut self.0 {
            Some(writer) => writer.append(&entry).map_err(failed),
            None => Err(Interruption::Failed("the log is complete already".into())),
        }
    }

    fn finish(&mut self) -> Step<()> {
        match self.0.take() {
            Some(writer) => writer.finish().map(|_| ()).map_err(failed),
            None => Ok(()),
        }
    }
}
