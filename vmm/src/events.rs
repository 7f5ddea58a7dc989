//! Progress for programs: one JSON object a line (`--events FILE`, `-` for standard output).
//!
//! Every object has `event`, and `unix_ms`, this host's wall clock in milliseconds. People read
//! the log on standard error instead.
//!
//! Nobody waits for a reader: events that are not taken are lost, figures before all others, and
//! [`Event::Dropped`] says how many.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use disk_server::lossy_writer::{AppendedFile, LossyWriter, Lost, Weight, of_descriptor};
use disk_server::views::Cause;
use serde::{Deserialize, Serialize};

/// Something that happened.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The guest begins to run, or goes on, in this role.
    Role {
        /// "primary" or "backup".
        role: &'static str,
        /// Epoch of the virtual machine.
        epoch: u64,
    },
    /// This idle host is proposed as a guest's backup, and connects to its primary.
    Proposed {
        /// The guest.
        vm: String,
        /// The view that it is to follow.
        view: u64,
        /// The primary.
        primary: String,
        /// Where that takes backups.
        address: SocketAddr,
    },
    /// What the other host's doctor found, compared with this one's, before the guest runs.
    PeerReport {
        /// Names of the checks that the other host passed.
        passed: Vec<String>,
        /// Where the two hosts differ, in words.
        differences: Vec<String>,
        /// How a stop between two exits will be named: "counter" or "state-delta".
        stops: &'static str,
    },
    /// Stops are named by state deltas from now on, because a performance counter is not used any
    /// more: this host's, or the other's.
    CounterLost {
        /// Why.
        reason: String,
    },
    /// A replay of a file ended because the performance counter stopped the guest behind a place that
    /// the log names. That is no difference.
    CounterOverrun {
        /// The log entry that names it.
        lsn: u64,
        /// By how much, in words.
        reason: String,
        /// Whether the replay is begun anew.
        begun_anew: bool,
    },
    /// The other host was lost.
    PeerLost {
        /// Why it is believed so.
        reason: String,
    },
    /// The right to run alone is being asked for, and has to wait.
    Waiting {
        /// For what.
        reason: String,
    },
    /// This host won the right to run alone; a backup goes live with this.
    Live {
        /// The new epoch.
        epoch: u64,
        /// Time from the loss to this moment, in milliseconds.
        after_loss_ms: u64,
        /// For how long the guest stood still, in milliseconds: from the last sign of the lost primary to its
        /// next instruction here. 0 of a primary: its guest ran on.
        outage_ms: u64,
        /// Frames sent again because the lost primary may not have sent them.
        resent_frames: usize,
    },
    /// This backup's guest differs from the primary's, and will not go live before it is repaired; or a
    /// replay differs from its recording.
    Diverged {
        /// Log entry at which it showed.
        lsn: u64,
        /// What differs.
        difference: String,
        /// How often this backup has differed in the last ten minutes.
        divergences: usize,
        /// Why, most likely, if that is often.
        #[serde(skip_serializing_if = "Option::is_none")]
        likely_cause: Option<String>,
    },
    /// This backup took the primary's whole state over.
    Repaired,
    /// A replay of a file came to its end, or to where it was to stop, without a difference.
    Replayed(Compared),
    /// The backup said that its guest differs.
    BackupDiverged {
        /// Log entry at which it showed.
        lsn: u64,
    },
    /// The backup differs and cannot take over before it has got the whole state.
    Unprotected {
        /// How often it has differed in the last ten minutes.
        divergences: usize,
        /// When the transfer begins, in milliseconds: not at once if it differs again and again.
        repair_in_ms: u64,
    },
    /// The whole state was sent to the backup.
    StateSent,
    /// A backup joins: it takes the guest's state over, and the guest is not protected yet.
    Joining {
        /// How much of memory was gone through since the last round began.
        percent: f64,
        /// Bytes of state sent so far.
        bytes: u64,
        /// So many in a second, lately.
        bytes_per_second: f64,
        /// Seconds until all is sent, as it looks now; not before something was.
        #[serde(skip_serializing_if = "Option::is_none")]
        seconds_left: Option<f64>,
    },
    /// A transfer of the whole state does not come to an end: the guest writes more than the network takes.
    /// It goes on, and is told again.
    DoesNotConverge {
        /// What the guest writes, as far as it would have to be sent.
        guest_bytes_per_second: u64,
        /// What the network takes, or as much as it is allowed.
        bytes_per_second: u64,
    },
    /// The backup that joined is lost before the guest was protected.
    JoinCut {
        /// Why it is believed so.
        reason: String,
    },
    /// The backup has the guest's state, and knows that it protects the guest from here on.
    Protected {
        /// The epoch.
        epoch: u64,
        /// Time since the backup came, in milliseconds.
        join_ms: u64,
        /// For how long the guest stood still at the end of the transfer, in milliseconds.
        pause_ms: u64,
        /// Bytes of state that were sent.
        bytes: u64,
        /// How often memory was gone through.
        rounds: u64,
        /// What the backup does with the log: "hot" or "cold".
        standby: &'static str,
    },
    /// This backup has all of the guest's state, and goes on with the guest if the primary is lost.
    Joined,
    /// This cold backup has got the whole state anew, and has less to replay.
    Renewed {
        /// Bytes of the state.
        state_bytes: u64,
        /// Bytes of log that are not needed any more.
        log_bytes: u64,
    },
    /// This cold backup replays what it has kept, because the primary is lost or it is to be hot.
    Replaying {
        /// Bytes of the state.
        state_bytes: u64,
        /// Bytes of log since then.
        log_bytes: u64,
        /// How long that takes, about, in milliseconds.
        replay_ms: u64,
    },
    /// This backup was cold, has replayed what it has kept, and executes the log from here on.
    Hot,
    /// This backup does not go live, because its guest differs from the primary's.
    Refused {
        /// What differs.
        reason: String,
    },
    /// The guest was handed over by plan: the other host has won the epoch, and this one ends.
    HandedOver {
        /// The epoch.
        epoch: u64,
        /// The other host.
        to: String,
    },
    /// This host lost the right to run.
    Lost {
        /// To whom.
        reason: String,
    },
    /// The guest's disk waits: the disk server does not answer, or has no room.
    DiskWaiting {
        /// Why.
        reason: String,
    },
    /// The disk server answers again, or has room.
    DiskBack {
        /// Time without it, in milliseconds.
        after_ms: u64,
    },
    /// Events that are missing here, because nobody took them in time.
    Dropped {
        /// How many.
        events: u64,
    },
    /// Figures, several times a second.
    Stats(Box<Stats>),
    /// The run ended.
    Ended {
        /// In order: "PowerOff", "Reset", "TripleFault", "Stopped"; otherwise "Failed".
        reason: String,
        /// What kept it from what it was to do, if something did.
        #[serde(skip_serializing_if = "Option::is_none")]
        cause: Option<Cause>,
        /// Deterministic exits of the guest.
        exits: u64,
    },
}

/// What a replay without a difference has compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// Deterministic exits of the guest.
    pub exits: u64,
    /// Log entries used.
    pub entries: u64,
    /// Register digests compared.
    pub digests: u64,
    /// Full register sets compared.
    pub registers: u64,
    /// Digests of the whole state compared.
    pub states: u64,
    /// States taken over from the log.
    pub deltas: u64,
    /// Pages of memory compared at the end.
    pub pages: u64,
}

impl Compared {
    /// Adds what another replay has compared.
    pub fn add(&mut self, other: &Self) {
        self.exits += other.exits;
        self.entries += other.entries;
        self.digests += other.digests;
        self.registers += other.registers;
        self.states += other.states;
        self.deltas += other.deltas;
        self.pages += other.pages;
    }
}

/// How much of the log a kind of entry makes up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct KindFigures {
    /// Number of entries.
    pub entries: u64,
    /// Their size in the log.
    pub bytes: u64,
}

/// Times in microseconds, ascending, and how often each came since the last figures.
pub type Counts = Vec<(u64, u64)>;

/// Figures of a run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Stats {
    /// Seconds since the guest began to run on this host.
    pub guest_seconds: f64,
    /// Log entries sent or received.
    pub log_entries: u64,
    /// Bytes on the logging channel.
    pub log_bytes: u64,
    /// What is in the log by kind of entry; kinds that there are none of are left out.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub log_kinds: BTreeMap<&'static str, KindFigures>,
    /// The guest's exits by what they were for; the same.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub exits: BTreeMap<&'static str, u64>,
    /// How far the backup's execution is behind, in milliseconds: now, median, 99th percentile.
    pub lag_ms: f64,
    /// Median.
    pub lag_ms_p50: f64,
    /// 99th percentile.
    pub lag_ms_p99: f64,
    /// Longest.
    pub lag_ms_max: f64,
    /// The lag at each report of the backup.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lags_us: Counts,
    /// Round trip to the backup on the logging network, as heartbeats measure it, in milliseconds;
    /// 0 if there is none.
    pub round_trip_ms: f64,
    /// How long outputs waited for the backup, from the guest's send to their release, in
    /// milliseconds: median.
    pub output_hold_ms_p50: f64,
    /// 99th percentile.
    pub output_hold_ms_p99: f64,
    /// Longest.
    pub output_hold_ms_max: f64,
    /// The same, each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub output_holds_us: Counts,
    /// Time the guest was held up because the log's buffer was full, in milliseconds.
    pub stalled_ms: f64,
    /// Time the guest was held up because the backup lagged too far, in milliseconds.
    pub throttled_ms: f64,
    /// State deltas in the log, each in place of an exit that the guest did not make.
    pub state_deltas: u64,
    /// Their size in the log.
    pub state_delta_bytes: u64,
    /// How long the guest stood still for the last one, in milliseconds.
    pub state_delta_ms: f64,
    /// How long an input may wait for a guest that makes no exits, as the cost of the last state
    /// delta bounds it; in milliseconds.
    pub latency_bound_ms: f64,
    /// How long frames and console input waited on this host for the guest, in milliseconds: median.
    pub input_wait_ms_p50: f64,
    /// 99th percentile.
    pub input_wait_ms_p99: f64,
    /// Longest wait.
    pub input_wait_ms_max: f64,
    /// The same, each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub input_waits_us: Counts,
    /// Digests of the whole state, logged or compared.
    pub digests: u64,
    /// How long the guest stood still for the last one, in milliseconds.
    pub digest_ms: f64,
    /// Reads of the guest's disk that were answered.
    pub disk_reads: u64,
    /// Their bytes.
    pub disk_read_bytes: u64,
    /// Reads that the log leaves to the backup.
    pub disk_shared_reads: u64,
    /// Writes of the guest's disk that were answered.
    pub disk_writes: u64,
    /// Their bytes.
    pub disk_written_bytes: u64,
    /// Transfers of the whole state.
    pub transfers: u64,
    /// Their size in the log.
    pub transfer_bytes: u64,
    /// What a cold backup keeps; left out of others.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub kept: Option<KeptFigures>,
}

/// What a cold backup keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct KeptFigures {
    /// Bytes of the guest's state.
    pub kept_state_bytes: u64,
    /// Bytes of log since then.
    pub kept_log_bytes: u64,
    /// How long it takes to replay that, about, in milliseconds.
    pub replay_ms: f64,
}

#[derive(Serialize)]
struct Line<'a> {
    unix_ms: u64,
    #[serde(flatten)]
    event: &'a Event,
}

/// One line of JSON.
fn line(event: &Event) -> String {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let line = Line {
        unix_ms: since_epoch.as_millis() as u64,
        event,
    };
    let mut text = serde_json::to_string(&line).expect("events are plain data");
    text.push('\n');
    text
}

fn gap(lost: Lost) -> String {
    line(&Event::Dropped {
        events: lost.messages,
    })
}

/// Where events go. A handle.
#[derive(Clone, Default)]
pub struct Events(Option<LossyWriter>);

/// The events file cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot write events to {}", path.display())]
pub struct EventsError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Events {
    /// Events to a file (appended), to standard output for `-`, or to nobody.
    ///
    /// # Errors
    /// [`EventsError`].
    pub fn open(path: Option<&Path>) -> Result<Self, EventsError> {
        let Some(path) = path else {
            return Ok(Self(None));
        };
        let writer = if path == Path::new("-") {
            LossyWriter::start("standard output", gap, of_descriptor(io::stdout()))
        } else {
            let file = AppendedFile::open(path).map_err(|source| EventsError {
                path: path.to_owned(),
                source,
            })?;
            LossyWriter::start(format!("the events file {}", path.display()), gap, file)
        };
        Ok(Self(Some(writer)))
    }

    /// Whether anybody listens.
    #[must_use]
    pub fn wanted(&self) -> bool {
        self.0.is_some()
    }

    /// Reports an event.
    pub fn emit(&self, event: &Event) {
        let Some(writer) = &self.0 else { return };
        let weight = match event {
            Event::Stats(_) => Weight::Replaceable,
            _ => Weight::Matters,
        };
        writer.put(weight, line(event).as_bytes());
    }

    /// Waits until all of them are written.
    #[cfg(test)]
    pub(crate) fn drain(&self) {
        if let Some(writer) = &self.0 {
            writer.drain(std::time::Duration::from_secs(60));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::{BufRead, BufReader};
    use std::process::Command;

    use super::*;

    fn parsed(line: &str) -> serde_json::Value {
        serde_json::from_str(line).expect("JSON")
    }

    #[test]
    fn a_file_is_appended_to() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        for _ in 0..2 {
            let events = Events::open(Some(file.path())).expect("a file");
            events.emit(&Event::Repaired);
            events.drain();
        }
        let text = std::fs::read_to_string(file.path()).expect("a file");
        assert_eq!(text.lines().count(), 2, "{text}");
    }

    #[test]
    fn a_reader_that_stalls_gets_what_matters_and_the_number_of_the_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("events");
        let made = Command::new("mkfifo").arg(&path).status();
        assert!(made.expect("mkfifo runs").success());
        // Open for both, so that neither side's opening waits for the other.
        let mut both = OpenOptions::new();
        let fifo = both.read(true).write(true).open(&path).expect("a FIFO");
        let events = Events::open(Some(&path)).expect("a FIFO");
        let stats = Event::Stats(Box::new(Stats {
            lags_us: vec![(1, 1); 1000],
            ..Stats::default()
        }));
        const MANY: u64 = 2000; // of ten kilobytes
        for _ in 0..MANY {
            events.emit(&stats);
        }
        let reason = "silence".to_owned();
        events.emit(&Event::PeerLost { reason });
        events.emit(&Event::Live {
            epoch: 2,
            after_loss_ms: 1,
            outage_ms: 1,
            resent_frames: 0,
        });
        let mut seen = (0, 0, Vec::new());
        for line in BufReader::new(fifo).lines() {
            let event = parsed(&line.expect("a line"));
            match event["event"].as_str().expect("a name") {
                "stats" => seen.0 += 1,
                "dropped" => seen.1 += event["events"].as_u64().expect("a number"),
                other => seen.2.push(other.to_owned()),
            }
            if event["event"] == "live" {
                break;
            }
        }
        assert_eq!(seen.2, ["peer-lost", "live"]);
        assert!(seen.1 > 0);
        assert_eq!(seen.0 + seen.1, MANY);
    }
}
