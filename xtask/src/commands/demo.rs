//! `cargo xtask demo`

use std::io::{self, BufRead as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use guest_images::GuestImages;
use guest_images::load::Load;
use testbed::failover::{
    Failovers, Fault, Fsck, Judgement, KillMoment, Options, Report, Run, Standby, Status, Watcher,
};
use testbed::pair::Boot;
use testbed::workload::Workload;
use testbed::{GUEST, Paging};

use super::setup;
use crate::live_line::LiveLine;
use crate::needs::Needs;
use crate::steps::Steps;

/// Arguments of `cargo xtask demo`.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// What serves in the guest: redis (a client increments a counter), or postgres (on the shared
    /// disk; a client commits numbered rows, and the file system is checked after each failover).
    #[arg(long, value_name = "WORKLOAD", default_value_t)]
    workload: Workload,
    /// How many failovers, each with a fresh guest. From the second one on, some
    /// kills are during the guest's boot.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    failovers: u32,
    /// How many failovers of one guest, with one client connection for all of them: daemons look after it.
    /// After each, the killed host boots again, and has a backup join there. From the third one on, the host of a backup
    /// that joins is killed too, once in the middle of its join.
    #[arg(long, value_name = "N", conflicts_with = "failovers", value_parser = clap::value_parser!(u32).range(1..=100))]
    successive: Option<u32>,
    /// What the backups do with the log: hot ones execute it, cold ones keep it and execute it when the
    /// primary is lost.
    #[arg(long, value_name = "hot|cold", default_value = "hot", value_parser = standby)]
    standby: Standby,
    /// Silence after which a host takes the other for lost, in milliseconds. To be raised if the
    /// machine has other work to do meanwhile.
    #[arg(long, value_name = "MS", default_value_t = 500)]
    heartbeat_timeout: u64,
    /// Write the verdict and all figures to a file, as one JSON object.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Leave the hosts up for a look, until Enter or Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Another kernel for the guest (uncompressed, vmlinux).
    #[arg(long, value_name = "PATH")]
    kernel: Option<PathBuf>,
    /// Another initramfs for the guest. The workload must serve at 10.77.0.10.
    #[arg(long, value_name = "PATH")]
    initrd: Option<PathBuf>,
    /// What computes in the guest beside Redis: openssl, busy, stress, mixed or tsc. Its results
    /// are compared with those of an undisturbed run.
    #[arg(long, value_name = "LOAD")]
    load: Option<Load>,
    /// Freeze the primary's host in place of killing it, for so long at least. It wakes up after
    /// the failover, must find that it lost, and halt.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "10", value_parser = clap::value_parser!(u64).range(1..=600))]
    freeze: Option<u64>,
    /// Kill the disk server, too, in each run, and start it again: before the primary's host is
    /// killed, or after that; with --successive once more while a backup joins.
    #[arg(long)]
    restart_disk_server: bool,
    /// Repeat the kills of a run that had this seed.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

impl Demo {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        for path in self.kernel.iter().chain(&self.initrd) {
            std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        }
        ensure!(
            self.load.is_none() || self.workload == Workload::Redis,
            "--load runs beside Redis: it cannot be used with --workload {}",
            self.workload
        );
        let steps = Steps::new();
        setup::prepare_for(&steps, self.needs())?;
        let options = Options {
            heartbeat_timeout: Duration::from_millis(self.heartbeat_timeout),
            seed: self.seed.unwrap_or_else(|| fastrand::u64(..1_000_000)),
            paging: Paging::default(),
            kernel: self.kernel.clone(),
            initrd: self.initrd.clone(),
            workload: self.workload,
            load: self.load,
            standby: self.standby,
            fault: self.freeze.map_or(Fault::Kill, |seconds| {
                Fault::Freeze(Duration::from_secs(seconds))
            }),
            restart_disk_server: self.restart_disk_server,
            boot: Boot::Stock,
            client_rests: false,
        };
        eprintln!("seed {}", options.seed);
        let mut failovers = steps.step("hosts a and b, disk server", || {
            Ok(Failovers::start("demo", options.clone())?)
        })?;

        let (guests, broken) = self.all(&mut failovers);
        let mut report = Report::new(&options, guests);
        if broken.is_some() {
            // A run that could not be made has no figures, but it is no success.
            report.judgement = Judgement::Fail;
        }
        table(&report);
        if let Some(path) = &self.json {
            write(path, &report)?;
        }
        if report.runs.len() > 1 {
            println!("{}", totals(&report));
        }
        println!("{}", report.judgement);
        let passed = report.judgement == Judgement::Pass;
        if self.keep {
            wait_for_a_look(&failovers, self.workload)?;
        }
        failovers.end(passed)?;
        match broken {
            Some(error) => Err(error),
            None if passed => Ok(ExitCode::SUCCESS),
            None => Ok(ExitCode::FAILURE),
        }
    }

    fn needs(&self) -> Needs {
        match (self.workload, self.load) {
            (Workload::Postgres, _) => Needs::All,
            (Workload::Redis, None) => Needs::Replication(GuestImages::REDIS),
            (Workload::Redis, Some(_)) => Needs::Replication(GuestImages::LOAD),
        }
    }

    /// The runs that could be made, guest by guest, and what stopped them, if anything did.
    fn all(&self, failovers: &mut Failovers) -> (Vec<Vec<Run>>, Option<anyhow::Error>) {
        let mut show = Show {
            line: LiveLine::new(),
            freeze: self.freeze.is_some(),
        };
        let lives = match self.successive {
            Some(_) => 1,
            None => self.failovers,
        };
        let mut guests = Vec::new();
        for number in 1..=lives {
            let runs = match self.successive {
                Some(failovers_of_one) => failovers.successive(failovers_of_one, &mut show),
                None => failovers.run(&mut show).map(|run| vec![run]),
            };
            match runs {
                Ok(runs) => guests.push(runs),
                Err(error) => {
                    let error = anyhow::Error::new(error)
                        .context(format!("guest {number} could not be started"));
                    return (guests, Some(error));
                }
            }
        }
        (guests, None)
    }
}

fn standby(name: &str) -> Result<Standby> {
    let all = [Standby::Hot, Standby::Cold];
    let found = all.into_iter().find(|standby| standby.name() == name);
    found.context("a backup is hot or cold")
}

/// Shows how it goes.
struct Show {
    line: LiveLine,
    /// Whether hosts are frozen in place of killed.
    freeze: bool,
}

impl Watcher for Show {
    fn status(&mut self, status: &Status) {
        self.line.status(status);
    }

    fn run(&mut self, run: &Run) {
        self.line.print(&summary(run, self.freeze));
    }
}

fn or_none<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn summary(run: &Run, freeze: bool) -> String {
    let (victim, survivor) = (&run.killed, &run.live_on);
    let when = match run.kill {
        Some(KillMoment::Boot) => "during the boot",
        Some(KillMoment::Load) | None => "under load",
    };
    let what = if freeze { "frozen" } else { "killed" };
    let mut line = match run.kill {
        None => format!("{}: ", run.number),
        Some(_) => format!(
            "{}: {victim} {what} {when}, {survivor} went on    outage {} ms    acknowledged {}    ",
            run.number,
            or_none(run.outage_ms),
            run.acked,
        ),
    };
    if let Some(lost) = run.lost.filter(|_| run.kill.is_some()) {
        line.push_str(&format!(
            "lost {lost}    reconnects {}    counter {}    ",
            run.reconnects,
            or_none(run.final_counter),
        ));
    }
    line.push_str(&run.judgement.to_string());
    if let Some(predicted) = run.predicted_ms {
        line.push_str(&format!(
            "\n   a cold backup: live after {} ms, predicted {predicted} ms",
            or_none(run.live_ms)
        ));
    }
    if let Some(when) = run.disk_server {
        line.push_str(&format!(
            "\n   disk server killed {when} that, and restarted"
        ));
    }
    if let Some(unprotected) = run.unprotected_ms {
        line.push_str(&format!(
            "\n   {victim} joined: protected again after {unprotected} ms    join {} ms    pause {} ms    \
             sent {} KiB    rounds {}    joins cut {}",
            or_none(run.join_ms),
            or_none(run.pause_ms),
            or_none(run.transfer_bytes.map(|bytes| bytes / 1024)),
            or_none(run.rounds),
            run.joins_cut,
        ));
    }
    if let Some(after) = run.disk_server_in_join_ms {
        line.push_str(&format!(
            "\n   disk server killed again {after} ms after that began, and restarted"
        ));
    }
    if let Some((fsck, duplicates)) = run.fsck.as_ref().zip(run.duplicates) {
        line.push_str(&format!(
            "\n   duplicates {duplicates}    file system {fsck}"
        ));
    }
    if let Some([before, after]) = run.load_results {
        line.push_str(&format!(
            "\n   load results: {before} before, {after} after"
        ));
    }
    if let Some(reason) = &run.reason {
        line.push_str(&format!("\n   {reason}"));
    }
    line
}

/// What became of all that was acknowledged.
fn totals(report: &Report) -> String {
    let mut line = format!(
        "acknowledged {}    lost {}    reconnects {}",
        report.acked, report.lost, report.reconnects
    );
    if let Some(fsck) = &report.fsck {
        let duplicates = report.duplicates;
        line.push_str(&format!(
            "    duplicates {duplicates}    file system {fsck}"
        ));
    }
    line
}

/// A column of the table: its title, which is as wide as it is, and what a run has there.
type Column = (&'static str, fn(&Run) -> String);

const COLUMNS: &[Column] = &[
    ("run", |run| run.number.to_string()),
    (" kill", |run| or_none(run.kill)),
    ("outage ms", |run| or_none(run.outage_ms)),
    ("detect ms", |run| or_none(run.detect_ms)),
    ("   acked", |run| run.acked.to_string()),
];

/// What is known at a guest's end.
const END_COLUMNS: &[Column] = &[
    (" counter", |run| or_none(run.final_counter)),
    (" lost", |run| or_none(run.lost)),
    ("reconn", |run| run.reconnects.to_string()),
];

/// Those of runs with a new backup.
const JOIN_COLUMNS: &[Column] = &[
    ("killed", |run| run.killed.clone()),
    ("unprotected ms", |run| or_none(run.unprotected_ms)),
    ("join ms", |run| or_none(run.join_ms)),
    ("pause ms", |run| or_none(run.pause_ms)),
    (" sent KiB", |run| {
        or_none(run.transfer_bytes.map(|bytes| bytes / 1024))
    }),
    ("rounds", |run| or_none(run.rounds)),
    ("cut", |run| run.joins_cut.to_string()),
];

/// What replication took, and how the guest answered meanwhile.
const REPLICATION_COLUMNS: &[Column] = &[
    ("  log KiB", |run| {
        or_none(run.log_bytes.map(|bytes| bytes / 1024))
    }),
    ("log Mbit/s", |run| {
        let seconds = run.guest_seconds.filter(|seconds| *seconds > 0.0);
        let mbit = |(bytes, seconds)| bytes as f64 * 8.0 / 1e6 / seconds;
        in_digits::<2>(run.log_bytes.zip(seconds).map(mbit))
    }),
    ("lag50 ms", |run| in_digits::<1>(run.lag_ms_p50)),
    ("lag99 ms", |run| in_digits::<1>(run.lag_ms_p99)),
    ("ping max", |run| in_digits::<1>(run.ping_ms_max)),
    ("deltas", |run| or_none(run.state_deltas)),
    ("delta KiB", |run| {
        or_none(run.state_delta_bytes.map(|bytes| bytes / 1024))
    }),
];

/// Those of a guest with a disk.
const DISK_COLUMNS: &[Column] = &[
    ("dup", |run| or_none(run.duplicates)),
    (" fsck", |run| match &run.fsck {
        Some(Fsck::Clean) => "clean".to_owned(),
        Some(Fsck::Dirty(_)) => "dirty".to_owned(),
        None => "-".to_owned(),
    }),
];

const SERVER_COLUMN: Column = ("server", |run| or_none(run.disk_server));

fn in_digits<const DIGITS: usize>(value: Option<f64>) -> String {
    or_none(value.map(|value| format!("{value:.DIGITS$}")))
}

fn table(report: &Report) {
    let runs = &report.runs;
    // Of joins, what they took; what replication took is in the JSON then.
    let joins = runs.iter().any(|run| run.unprotected_ms.is_some());
    let mut columns = match joins {
        true => [COLUMNS, JOIN_COLUMNS].concat(),
        false => [COLUMNS, END_COLUMNS, REPLICATION_COLUMNS].concat(),
    };
    if !joins && runs.iter().any(|run| run.fsck.is_some()) {
        columns.extend(DISK_COLUMNS);
    }
    if runs.iter().any(|run| run.disk_server.is_some()) {
        columns.push(SERVER_COLUMN);
    }
    let line = |cells: Vec<String>| {
        let cells = columns.iter().zip(cells);
        let cells: Vec<String> = cells
            .map(|((title, _), cell)| format!("{cell:>width$}", width = title.len()))
            .collect();
        cells.join(" ")
    };
    println!(
        "{}",
        line(
            columns
                .iter()
                .map(|(title, _)| (*title).to_owned())
                .collect()
        )
    );
    for run in runs {
        let cells = line(columns.iter().map(|(_, cell)| cell(run)).collect());
        println!("{cells}  {}", run.judgement);
    }
}

fn write(path: &Path, report: &Report) -> Result<()> {
    let mut json = serde_json::to_string_pretty(report).context("cannot make the report")?;
    json.push('\n');
    std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))
}

/// Lets somebody run commands in the hosts and talk to the guest.
fn wait_for_a_look(failovers: &Failovers, workload: Workload) -> Result<()> {
    let testbed = failovers.testbed();
    println!("the hosts stay up until Enter or Ctrl-C:");
    for host in failovers.hosts() {
        println!("  {} COMMAND    runs a command in host {0}", host.name());
    }
    println!(
        "as a client (in another terminal):  ip netns exec {} {} -h {GUEST}{}",
        testbed.client().namespace().name(),
        if workload == Workload::Redis {
            "redis-cli"
        } else {
            "psql"
        },
        if workload == Workload::Redis {
            ""
        } else {
            " -U postgres ftvm"
        },
    );
    println!("logs:  {}", testbed.logs().display());
    for line in io::stdin().lock().lines() {
        let line = line.context("cannot read standard input")?;
        if line.trim().is_empty() {
            return Ok(());
        }
        let (name, command) = line.trim().split_once(' ').unwrap_or((line.trim(), "true"));
        let mut hosts = failovers.hosts();
        match hosts.find(|host| host.name() == name) {
            Some(host) => match host.run(&["sh", "-c", command]) {
                Ok(output) => print!("{}{}", output.stdout, output.stderr),
                Err(error) => println!("{error}"),
            },
            None => println!("there is no host {name}"),
        }
    }
    // No terminal: Ctrl-C (or SIGTERM) ends the process and its hosts.
    loop {
        std::thread::park();
    }
}
