//! Replays a guest from a file.

use std::cell::Cell;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::bail;
use logging_channel::entry::{Entry, Lsn};
use logging_channel::record::RecordReader;
use logging_channel::{DiskIdentity, HostReport, Identity};

use super::peer_report::{have_nested_paging, likely_cause, tell_differences};
use crate::assembly::{Guest, watchdog};
use crate::devices::Output;
use crate::doctor::{PAGING, has_counter};
use crate::engine::{Difference, Divergence, EngineError, Interruption, OutputGate, Role, Step};
use crate::events::{Compared, Event, Events};
use crate::inspect::{Arrival, Debugger, Dumps, Inspector, Point};
use crate::sources::{
    Head, LogSource, REPLAY_WATCH, ReplayCounters, Replayer, StateCounters, StateFollower,
};

/// A replay without a difference.
#[derive(Debug, Clone, Copy)]
pub struct Replayed {
    /// All that was compared.
    pub compared: Compared,
    /// Where it was stopped, if a point was given.
    pub arrival: Option<Arrival>,
}

/// So often a replay is begun where the performance counter's interrupt comes too late.
const ATTEMPTS: u32 = 3;

/// A place of the log was not found, through no fault of the guest's: that may be the same or not.
#[derive(Debug, thiserror::Error)]
#[error("the replay cannot go on: {0}; {cause}", cause = .0.likely_cause())]
struct NotFound(Box<Divergence>);

/// What else is to be done with a replay.
#[derive(Debug, Clone, Default)]
pub struct Inspection {
    /// Where to stop; at the guest's end if there is something to dump.
    pub until: Option<Point>,
    /// What to show there.
    pub dumps: Dumps,
    /// Where to wait for a debugger, at the point or else at the start.
    pub debugger: Option<SocketAddr>,
    /// Somebody looks on, and begins it anew if that is to be.
    pub is_watched: bool,
}

impl Inspection {
    fn stop(&self) -> Option<Point> {
        let dumps = (self.dumps != Dumps::default()).then_some(Point::End);
        self.until.or(dumps)
    }
}

/// Replays the log in the file `log` with the guest that `assemble` puts together, which has the disk
/// that it is given, and compares everything that the log has, up to where `inspection` stops it. Tells
/// `events` what came of it.
///
/// Where the performance counter stops the guest too late, the replay is begun anew, with a new guest,
/// a few times at most.
///
/// # Errors
/// When the log is damaged or of another guest, at the first difference, when the log ends before the
/// point that is asked for, or when the performance counter is lost or too late again and again.
pub fn run_replay(
    log: &Path,
    assemble: impl Fn(Option<DiskIdentity>) -> anyhow::Result<Guest>,
    inspection: &Inspection,
    events: &Events,
) -> anyhow::Result<Replayed> {
    let attempts = if inspection.is_watched { 1 } else { ATTEMPTS };
    begun_anew(attempts, events, || {
        let (logged, reader) = RecordReader::open(log)?;
        let guest = assemble(logged.disk.clone())?;
        replay_once(guest, &logged, reader, inspection, events)
    })
}

/// Makes `attempt`s, `attempts` at most, until one does not end in an overrun of the counter.
fn begun_anew<T>(
    attempts: u32,
    events: &Events,
    mut attempt: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut left = attempts;
    loop {
        left = left.saturating_sub(1);
        let error = match attempt() {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let overrun = error
            .downcast_ref()
            .filter(|NotFound(at)| matches!(at.difference, Difference::Overrun(_)));
        let Some(NotFound(at)) = overrun else {
            return Err(error);
        };
        events.emit(&Event::CounterOverrun {
            lsn: at.lsn.0,
            reason: at.to_string(),
            begun_anew: left > 0,
        });
        if left == 0 {
            return Err(error);
        }
        log::warn!("{error}; the replay is begun anew, {left} times more at most");
    }
}

fn replay_once(
    mut guest: Guest,
    logged: &Identity,
    reader: RecordReader,
    inspection: &Inspection,
    events: &Events,
) -> anyhow::Result<Replayed> {
    check(logged, &guest.identity)?;
    check_host(reader.host(), &guest.host_report)?;
    let nested_paging = have_nested_paging(&guest.host_report, reader.host());
    guest.seed(reader.seed())?;
    if has_counter(&guest.host_report) {
        guest.count_stops(events);
    }
    let counters = Arc::new(ReplayCounters::default());
    report_progress(&counters);
    let states = Arc::new(StateCounters::default());
    let follower = StateFollower::new(guest.baseline()?, states.clone());
    let next = Rc::new(Cell::new(Lsn(1)));
    let log = FileLog {
        reader,
        head: None,
        next: next.clone(),
    };
    let replayer = Replayer::new(log, guest.memory.clone(), counters.clone())
        .with_state(follower)
        .with_watchdog(watchdog(REPLAY_WATCH)?);
    let mut source = Inspector::new(replayer, guest.memory.clone(), next.clone());
    if let Some(point) = inspection.stop() {
        source = source.with_stop(point, inspection.dumps.clone());
    }
    if let Some(address) = inspection.debugger {
        source = source.with_debugger(Debugger::new(address));
    }
    let arrival = source.arrival();
    let source = Box::new(source);
    let gate = Box::new(ConsoleOnly(guest.host.outlet.clone().patient()));
    let ended = match guest.into_engine(Role { source, gate }).run() {
        Err(EngineError::Diverged(at)) if at.difference.is_of_counter() => bail!(NotFound(at)),
        Err(EngineError::Diverged(divergence)) => {
            let cause = likely_cause(&divergence, nested_paging);
            log::error!("the likely cause of the difference: {cause}");
            events.emit(&Event::Diverged {
                lsn: divergence.lsn.0,
                difference: divergence.to_string(),
                divergences: 1,
                likely_cause: Some(cause),
            });
            bail!(EngineError::Diverged(divergence));
        }
        ended => ended?,
    };
    let arrival = arrival.get();
    if let Some(point) = inspection.stop()
        && arrival.is_none()
    {
        bail!(
            "the log ends before {point}: its last exit is {}, its last entry {}; there was no \
             difference up to its end",
            ended.exits,
            next.get().0 - 1
        );
    }
    let compared = Compared {
        exits: ended.exits,
        entries: counters.entries.load(Ordering::Relaxed),
        digests: counters.digests.load(Ordering::Relaxed),
        registers: counters.registers.load(Ordering::Relaxed),
        states: counters.states.load(Ordering::Relaxed),
        deltas: states.figures().deltas,
        pages: counters.pages.load(Ordering::Relaxed),
    };
    events.emit(&Event::Replayed(compared));
    Ok(Replayed { compared, arrival })
}

/// Says how far the replay is, every ten seconds.
fn report_progress(counters: &Arc<ReplayCounters>) {
    let counters = Arc::downgrade(counters);
    thread::Builder::new()
        .name("progress".into())
        .spawn(move || {
            loop {
                thread::sleep(Duration::from_secs(10));
                let Some(counters) = counters.upgrade() else {
                    return;
                };
                log::info!(
                    "replayed {} exits, {} entries",
                    counters.exits.load(Ordering::Relaxed),
                    counters.entries.load(Ordering::Relaxed)
                );
            }
        })
        .expect("a thread can be started");
}

fn check(logged: &Identity, here: &Identity) -> anyhow::Result<()> {
    let hex = |digest: &[u8; 32]| {
        digest[..4]
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect::<String>()
    };
    if logged.memory_bytes != here.memory_bytes {
        bail!(
            "the log is of a guest with {} MiB of memory, this one has {}",
            logged.memory_bytes >> 20,
            here.memory_bytes >> 20
        );
    }
    if logged.image != here.image {
        bail!(
            "the log is of another guest (image digest {}…, here {}…): use the kernel, initramfs, \
             command line and configuration that it was recorded with",
            hex(&logged.image),
            hex(&here.image)
        );
    }
    if logged.cpu != here.cpu {
        bail!(
            "the log was recorded with another CPU model ({}…, here {}…): replay it on a host of \
             the same vendor, with the same version of ftvm",
            hex(&logged.cpu),
            hex(&here.cpu)
        );
    }
    Ok(())
}

/// Sees that this host does as the one that recorded the log, and says where it is another one.
fn check_host(recording: &HostReport, here: &HostReport) -> anyhow::Result<()> {
    if let Some((check, seen)) = here.unmet_by(recording) {
        let without = if check == PAGING {
            "; --allow-nested-paging replays it all the same, up to the first difference"
        } else {
            ""
        };
        bail!(
            "the log was recorded on a host that fails a check which a replay needs, {check:?} \
             ({seen}){without}"
        );
    }
    if let Some(difference) = here.instructions().difference(recording.instructions()) {
        bail!(
            "this host's processor (here) does not do as that of the host that recorded the log: \
             {difference}; a guest that uses them would not be the same: replay it on a host whose \
             processor has the same model, stepping and microcode (where it is a virtual machine, \
             the same CPU type)"
        );
    }
    tell_differences(here, recording, "the host that recorded the log");
    Ok(())
}

/// Shows the console; the network gets nothing.
struct ConsoleOnly(crate::io::Outlet);

impl OutputGate for ConsoleOnly {
    fn submit(&mut self, output: Output, _: Option<Lsn>) {
        if matches!(output, Output::Console(_)) {
            self.0.perform(&output);
        }
    }
}

/// A file as the replayer's log.
struct FileLog {
    reader: RecordReader,
    head: Option<(Lsn, Entry)>,
    /// The entry that was not used yet.
    next: Rc<Cell<Lsn>>,
}

impl LogSource for FileLog {
    fn head(&mut self) -> Step<Head<'_>> {
        if self.head.is_none() {
            self.head = self
                .reader
                .next()
                .transpose()
                .map_err(|e| Interruption::Failed(format!("{:#}", anyhow::Error::from(e))))?;
        }
        Ok(match &self.head {
            Some((lsn, entry)) => Head::Entry(*lsn, entry),
            None => Head::Ended,
        })
    }

    fn advance(&mut self) {
        if let Some((lsn, _)) = self.head.take() {
            self.next.set(Lsn(lsn.0 + 1));
        }
    }

    fn after_end(&mut self) -> Interruption {
        Interruption::Failed("the log ends before the guest does".into())
    }
}

#[cfg(test)]
mod tests {
    use logging_channel::InstructionResult::Digest;
    use logging_channel::entry::ExecutionPoint;
    use logging_channel::{CheckOutcome, HostCheck, InstructionResults};

    use super::*;

    fn not_found(difference: Difference) -> anyhow::Error {
        NotFound(Box::new(Divergence {
            point: ExecutionPoint::at_exit(70),
            lsn: Lsn(9),
            difference,
        }))
        .into()
    }

    /// The guest need not differ; the next time, the interrupt comes in time.
    #[test]
    fn a_replay_is_begun_anew_where_the_counter_overran() {
        let overrun = || not_found(Difference::Overrun("7 events late".into()));
        for (overruns, attempts, expected) in [(0, 3, 1), (2, 3, 3), (3, 3, 3), (1, 1, 1)] {
            let file = tempfile::NamedTempFile::new().expect("a file");
            let events = Events::open(Some(file.path())).expect("a file");
            let mut made = 0;
            let result = begun_anew(attempts, &events, || {
                made += 1;
                if made > overruns {
                    Ok(())
                } else {
                    Err(overrun())
                }
            });
            assert_eq!(made, expected, "{overruns} overruns");
            assert_eq!(result.is_ok(), overruns < attempts, "{result:?}");
            if let Err(error) = result {
                let words = error.to_string();
                assert!(words.contains("7 events late"), "{words}");
                assert!(words.contains("the guest does not differ"), "{words}");
                assert!(error.chain().all(|cause| !cause.is::<EngineError>()));
            }
            events.drain();
            let told = std::fs::read_to_string(file.path()).expect("lines");
            let told: Vec<serde_json::Value> = told
                .lines()
                .map(|line| serde_json::from_str(line).expect("JSON"))
                .collect();
            assert_eq!(told.len() as u32, overruns.min(attempts));
            for (n, event) in told.iter().enumerate() {
                assert_eq!(event["event"], "counter-overrun");
                assert_eq!(event["lsn"], 9);
                assert_eq!(event["begun_anew"], n as u32 + 1 < attempts);
            }
        }
    }

    #[test]
    fn nothing_else_is_tried_again() {
        let lost = || not_found(Difference::CounterLost("perf has it".into()));
        let diverged = || anyhow::Error::msg("another error");
        for error in [lost, diverged] {
            let mut made = 0;
            let result = begun_anew(ATTEMPTS, &Events::default(), || -> anyhow::Result<()> {
                made += 1;
                Err(error())
            });
            assert!(result.is_err());
            assert_eq!(made, 1, "{result:?}");
        }
    }

    fn host(processor: &str, rcpps: u32) -> HostReport {
        let processor = HostCheck {
            name: "processor".into(),
            outcome: CheckOutcome::Passed,
            required: false,
            measured: processor.into(),
        };
        HostReport::new([processor])
            .with_instructions(InstructionResults::new([("RCPPS", Digest(rcpps))]))
    }

    #[test]
    fn a_log_of_a_host_with_nested_paging_is_replayed_if_that_is_allowed() {
        let host = |outcome, required| {
            let check = HostCheck {
                name: PAGING.into(),
                outcome,
                required,
                measured: "nested".into(),
            };
            HostReport::new([check])
        };
        let nested = host(CheckOutcome::Failed, false);
        let refused = check_host(&nested, &host(CheckOutcome::Passed, true)).expect_err("nested");
        for word in ["\"paging\" (nested)", "--allow-nested-paging"] {
            assert!(refused.to_string().contains(word), "{word} in {refused}");
        }
        for here in [host(CheckOutcome::Passed, false), nested.clone()] {
            assert!(check_host(&nested, &here).is_ok(), "{here:?}");
            assert!(have_nested_paging(&here, &nested));
        }
        // Of another host, which needs it itself.
        let shadow = host(CheckOutcome::Passed, true);
        assert!(check_host(&shadow, &nested).is_ok());
        assert!(!have_nested_paging(&shadow, &shadow));
    }

    #[test]
    fn a_host_with_other_results_does_not_replay_and_one_of_another_name_does() {
        let here = host("stepping 1", 1);
        assert!(check_host(&host("stepping 2", 1), &here).is_ok());
        for other in [host("stepping 1", 2), HostReport::default()] {
            let refused = check_host(&other, &here).expect_err("another processor");
            let words = refused.to_string();
            assert!(words.contains("this host's processor"), "{words}");
        }
        let refused = check_host(&host("stepping 1", 2), &here).expect_err("other results");
        assert!(refused.to_string().contains("RCPPS"), "{refused}");
    }
}
