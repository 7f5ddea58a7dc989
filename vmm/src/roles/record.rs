//! Records a guest to a file.

use std::path::Path;
use std::sync::atomic::Ordering;

use logging_channel::entry::{Entry, Lsn};
use logging_channel::record::RecordWriter;

use crate::assembly::Guest;
use crate::engine::{Ended, Interruption, Role, Step};
use crate::gates::Direct;
use crate::sources::{GuestClock, LiveInputs, LogSink, Recorder, Verification};

/// Runs the guest to its end and writes its log to `path`.
///
/// # Errors
/// When the file cannot be written or the guest fails.
pub fn run_recording(
    guest: Guest,
    path: &Path,
    verification: Verification,
) -> anyhow::Result<Ended> {
    let writer = RecordWriter::create(path, &guest.identity)?;
    guest.host.live.store(true, Ordering::Release);
    let live = LiveInputs::new(GuestClock::starting_now(), guest.host.lanes.clone());
    let role = Role {
        source: Box::new(Recorder::new(
            live,
            FileLog(Some(writer)),
            verification,
            guest.memory.clone(),
        )),
        gate: Box::new(Direct(guest.host.outlet.clone())),
    };
    Ok(guest.into_engine(role).run()?)
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
