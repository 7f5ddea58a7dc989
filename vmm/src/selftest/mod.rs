//! Proves a host, or a pair of them: records test guests by this program's own `ftvm record`, replays them
//! by its `ftvm replay`, and compares every place (`ftvm selftest`).
//!
//! Each recording and each replay is a process of its own, so that one that hangs or dies is found like
//! any other difference, and what differed can be looked at by the very same command.

mod child;
mod error;
mod host;
mod load;
mod recordings;
mod report;
mod round;
mod swap;
mod trial;
mod workshop;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

pub use self::error::SelftestError;
use self::host::HostFacts;
use self::recordings::{Recording, Recordings};
pub use self::report::{Report, Verdict};
use self::round::Round;
use self::swap::Swap;
use self::trial::{Trial, trials};
use self::workshop::Workshop;
use crate::doctor::{self, Effort, Purpose};

/// What is to be done.
#[derive(Debug, Clone)]
pub enum Task {
    /// Records and replays until the time is over.
    Here {
        /// For how long; a turn of guests is gone through once at least, and to its end.
        time: Duration,
        /// Where recordings stay, for another host.
        keep: Option<PathBuf>,
    },
    /// Replays what another host has recorded, in this directory.
    Replay(PathBuf),
}

/// Does it, with the guests in `images`, until `cancel` is set, on a host that is fit for `purpose`.
///
/// # Errors
/// [`SelftestError`] if it could not be done. What differs is in the report.
pub fn run(
    task: &Task,
    images: &Path,
    purpose: Purpose,
    cancel: &AtomicBool,
) -> Result<Report, SelftestError> {
    let began = Instant::now();
    let workshop = Workshop::open(images, purpose)?;
    let checks = doctor::examine(Effort::All);
    let mut report = Report::new(HostFacts::of_this_host(&checks));
    let done = match (checks.verdict(purpose), task) {
        (Err(unfit), _) => Err(SelftestError::Refused(unfit.to_string())),
        (Ok(()), Task::Here { time, keep }) => {
            let keep = keep.as_deref();
            here(*time, keep, &workshop, cancel, began, &mut report)
        }
        (Ok(()), Task::Replay(directory)) => replay(directory, &workshop, cancel, &mut report),
    };
    report.seconds = began.elapsed().as_secs_f64();
    workshop.close();
    match done {
        Err(SelftestError::Refused(why)) => report.refuse(why),
        done => done?,
    }
    Ok(report)
}

fn here(
    time: Duration,
    keep: Option<&Path>,
    workshop: &Workshop,
    cancel: &AtomicBool,
    began: Instant,
    report: &mut Report,
) -> Result<(), SelftestError> {
    let mut recordings = match keep {
        Some(directory) => Some(Recordings::create(directory, report.host.clone())?),
        None => None,
    };
    let swap = Swap::serve(workshop.scratch())?;
    for (number, trial) in (1..).zip(trials(time)) {
        let Trial {
            guest,
            last_of_turn,
        } = trial;
        let name = format!("round-{number}");
        let log = match &recordings {
            Some(recordings) => recordings.log(&name),
            None => workshop.file(number, "log"),
        };
        let mut round = Round::new(number, guest, workshop, cancel);
        if round.record(&log, swap.uri())? {
            if let Some(recordings) = &mut recordings {
                let (guest, load) = round.of();
                recordings.add(Recording { name, guest, load })?;
            }
            round.replay(&log)?;
        }
        report.add(round.finish(&log, recordings.is_some()));
        if last_of_turn {
            let elapsed = began.elapsed();
            if elapsed >= time {
                break;
            }
            let minutes = |time: Duration| time.as_secs_f64() / 60.0;
            log::info!("{:.1} of {:.1} minutes", minutes(elapsed), minutes(time));
        }
    }
    Ok(())
}

fn replay(
    directory: &Path,
    workshop: &Workshop,
    cancel: &AtomicBool,
    report: &mut Report,
) -> Result<(), SelftestError> {
    let recordings = Recordings::open(directory)?;
    report.recorded_on = Some(recordings.host().clone());
    for (number, recording) in (1..).zip(recordings.all()) {
        let log = recordings.log(&recording.name);
        let round = Round::new(number, recording.guest.clone(), workshop, cancel);
        let mut round = round.recorded(recording.load.clone());
        round.replay(&log)?;
        report.add(round.finish(&log, true));
    }
    Ok(())
}
