//! What is told of a failover: its figures, and the judgement of them.

use std::time::Duration;

use serde::Serialize;

use super::Options;
use super::disk::Fsck;

/// How it went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Judgement {
    /// Nothing was lost, and the connection is still the first one.
    Pass,
    /// Something was lost or broke, or did not happen.
    #[default]
    Fail,
}

impl std::fmt::Display for Judgement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
        })
    }
}

/// When the primary's host is killed, or frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KillMoment {
    /// While the guest boots: the client has no reply yet.
    Boot,
    /// While the client has its requests answered.
    Load,
}

impl std::fmt::Display for KillMoment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Boot => "boot",
            Self::Load => "load",
        })
    }
}

/// When the disk server was killed and started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerRestart {
    /// Before the primary's host was killed.
    Before,
    /// After that.
    After,
}

impl std::fmt::Display for ServerRestart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Before => "before",
            Self::After => "after",
        })
    }
}

/// All failovers of a demo. The figures of what was acknowledged are over all its guests.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// PASS if every run has it, and there is one.
    #[serde(rename = "verdict")]
    pub judgement: Judgement,
    /// What serves in the guest.
    pub workload: &'static str,
    /// What the backups do with the log.
    pub standby: &'static str,
    /// What happens to the primary's host.
    pub fault: &'static str,
    /// What the random moments came from.
    pub seed: u64,
    /// Silence after which a host takes the other for lost.
    pub heartbeat_timeout_ms: u64,
    /// Increments or commits that were acknowledged.
    pub acked: u64,
    /// As far as that was looked at: [`Run::lost`].
    pub lost: u64,
    /// [`Run::duplicates`], in the same way.
    pub duplicates: u64,
    /// [`Run::fsck`]: the first one that is not clean, if there is one.
    pub fsck: Option<Fsck>,
    /// [`Run::reconnects`].
    pub reconnects: u32,
    /// The failovers.
    pub runs: Vec<Run>,
}

impl Report {
    /// The report on these guests, with the failovers of each.
    #[must_use]
    pub fn new(options: &Options, guests: Vec<Vec<Run>>) -> Self {
        let ends = || guests.iter().filter_map(|runs| runs.last());
        let checks = || ends().filter_map(|end| end.fsck.as_ref());
        let dirty = checks().find(|fsck| **fsck != Fsck::Clean);
        let mut report = Self {
            judgement: Judgement::Fail,
            workload: options.workload.name(),
            standby: options.standby.name(),
            fault: options.fault.name(),
            seed: options.seed,
            heartbeat_timeout_ms: millis(options.heartbeat_timeout),
            acked: ends().map(|end| end.acked).sum(),
            lost: ends().filter_map(|end| end.lost).sum(),
            duplicates: ends().filter_map(|end| end.duplicates).sum(),
            fsck: dirty.or(checks().next()).cloned(),
            reconnects: ends().map(|end| end.reconnects).sum(),
            runs: guests.into_iter().flatten().collect(),
        };
        if !report.runs.is_empty() && report.runs.iter().all(Run::passed) {
            report.judgement = Judgement::Pass;
        }
        report
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// One failover. What was not measured is none.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Run {
    /// From 1.
    pub number: u32,
    /// The host that was killed, or frozen.
    pub killed: String,
    /// The host that went on.
    pub live_on: String,
    /// When the host was killed or frozen; none if it came to nothing before.
    pub kill: Option<KillMoment>,
    /// When the disk server was killed and started again, if it was.
    pub disk_server: Option<ServerRestart>,
    /// How long after a backup began to join it was killed once more, and started again.
    pub disk_server_in_join_ms: Option<u64>,
    /// The highest number that was acknowledged to the client of this guest up to the end of the run:
    /// so many increments or commits.
    pub acked: u64,
    /// The highest number that the server has at the guest's end. Like all that is known only then,
    /// none in a guest's runs before the last one.
    pub final_counter: Option<u64>,
    /// Acknowledged increments or commits that the server does not have at the guest's end; those of
    /// earlier guests on the same disk too.
    pub lost: Option<u64>,
    /// Rows that the server has at the guest's end though it has them already; those of earlier guests
    /// on the same disk too.
    pub duplicates: Option<u64>,
    /// What e2fsck found on the guest's disk at its end, if it has one: "clean", or its words.
    pub fsck: Option<Fsck>,
    /// Connections of the client after its first one, up to the end of the run.
    pub reconnects: u32,
    /// From the last reply of the killed host to the first one of the other.
    pub outage_ms: Option<u64>,
    /// How long the outage by a cold backup was to be, as that said when it found the loss, by what the
    /// guest had used of its processor.
    pub predicted_ms: Option<u64>,
    /// From the kill to the other host's finding it out.
    pub detect_ms: Option<u64>,
    /// From the kill to the other host's going live.
    pub live_ms: Option<u64>,
    /// From the kill to the protection by a new backup.
    pub unprotected_ms: Option<u64>,
    /// How long the join of that backup took, as the host says that runs the guest.
    pub join_ms: Option<u64>,
    /// For how long the guest stood still at the end of the transfer.
    pub pause_ms: Option<u64>,
    /// Bytes that were sent for the join.
    pub transfer_bytes: Option<u64>,
    /// How often memory was gone through for it.
    pub rounds: Option<u64>,
    /// Joins before that one whose backup's host was killed in the middle.
    pub joins_cut: u32,
    /// Bytes on the logging channel, up to the kill.
    pub log_bytes: Option<u64>,
    /// Log entries, up to the kill.
    pub log_entries: Option<u64>,
    /// How long the guest ran on two hosts.
    pub guest_seconds: Option<f64>,
    /// How far the backup was behind: median.
    pub lag_ms_p50: Option<f64>,
    /// 99th percentile.
    pub lag_ms_p99: Option<f64>,
    /// The longest that a ping waited for its answer in this run, outside the outage: of the pings sent
    /// after the guest had first answered one, and answered before the kill; and of those sent after
    /// the other host's first reply to the client. A ping that the kill left without an answer belongs
    /// to the outage.
    pub ping_ms_max: Option<f64>,
    /// Pings of the same times without an answer, though a later one had one.
    pub pings_lost: usize,
    /// States transferred up to the kill because the guest computed for too
    /// long without an exit.
    pub state_deltas: Option<u64>,
    /// Bytes of these on the logging channel.
    pub state_delta_bytes: Option<u64>,
    /// What computed beside Redis: how many results were seen in this run, before and
    /// after the kill, each as it must be in a run that ends well.
    pub load_results: Option<[usize; 2]>,
    /// How it went.
    #[serde(rename = "verdict")]
    pub judgement: Judgement,
    /// Why not well.
    pub reason: Option<String>,
}

impl Run {
    /// Whether it went well.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.judgement == Judgement::Pass
    }
}
