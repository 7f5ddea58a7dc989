//! `cargo xtask demo`

use std::io::{self, BufRead as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use guest_images::load::Load;
use testbed::GUEST;
use testbed::failover::{Failovers, KillMoment, Options, Report, Run, Verdict};

use super::setup;
use crate::live_line::LiveLine;
use crate::steps::Steps;

/// Arguments of `cargo xtask demo`.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// How many failovers, each with a fresh guest. From the second one on, some
    /// kills are during the guest's boot.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    failovers: u32,
    /// Write the verdict and all figures to a file, as one JSON object.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Leave the hosts up for a look, until Enter or Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Another kernel for the guest (uncompressed, vmlinux).
    #[arg(long, value_name = "PATH")]
    kernel: Option<PathBuf>,
    /// Another initramfs for the guest. It must serve Redis at 10.77.0.10.
    #[arg(long, value_name = "PATH")]
    initrd: Option<PathBuf>,
    /// What computes in the guest beside Redis: openssl, busy, stress, mixed or tsc. Its results
    /// are compared with those of an undisturbed run.
    #[arg(long, value_name = "LOAD")]
    load: Option<Load>,
    /// Repeat the kills of a run that had this seed.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

impl Demo {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        for path in self.kernel.iter().chain(&self.initrd) {
            std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        }
        let mut steps = Steps::new();
        setup::prepare(&mut steps)?;
        let options = Options {
            seed: self.seed.unwrap_or_else(|| fastrand::u64(..1_000_000)),
            kernel: self.kernel.clone(),
            initrd: self.initrd.clone(),
            load: self.load,
            ..Options::default()
        };
        eprintln!("seed {}", options.seed);
        let mut failovers = steps.step("hosts a and b, disk server", || {
            Ok(Failovers::start("demo", options.clone())?)
        })?;

        let (runs, broken) = self.all(&mut failovers);
        let mut report = Report::new(options.seed, options.heartbeat_timeout, runs);
        if broken.is_some() {
            // A run that could not be made has no figures, but it is no success.
            report.verdict = Verdict::Fail;
        }
        table(&report.runs);
        if let Some(path) = &self.json {
            write(path, &report)?;
        }
        println!("{}", report.verdict);
        let passed = report.verdict == Verdict::Pass;
        if self.keep {
            wait_for_a_look(&failovers)?;
        }
        failovers.end(passed)?;
        match broken {
            Some(error) => Err(error),
            None if passed => Ok(ExitCode::SUCCESS),
            None => Ok(ExitCode::FAILURE),
        }
    }

    /// The runs that could be made, and what stopped them, if anything did.
    fn all(&self, failovers: &mut Failovers) -> (Vec<Run>, Option<anyhow::Error>) {
        let mut runs = Vec::new();
        let mut line = LiveLine::new();
        for number in 1..=self.failovers {
            match failovers.run(&mut line) {
                Ok(run) => {
                    line.print(&summary(&run));
                    runs.push(run);
                }
                Err(error) => {
                    let error = anyhow::Error::new(error)
                        .context(format!("failover {number} could not be made"));
                    return (runs, Some(error));
                }
            }
        }
        (runs, None)
    }
}

fn or_none<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn summary(run: &Run) -> String {
    let [killed, survivor] = &run.hosts;
    let when = match run.kill {
        Some(KillMoment::Boot) => "during the boot",
        Some(KillMoment::Load) => "under load",
        None => "not",
    };
    let mut line = format!(
        "{}: {killed} killed {when}, {survivor} went on    outage {} ms    acknowledged {}    \
         lost {}    reconnects {}    counter {}    {}",
        run.number,
        or_none(run.outage_ms),
        run.acked,
        run.lost,
        run.reconnects,
        or_none(run.final_counter),
        run.verdict,
    );
    if run.kill.is_none() {
        line = format!("{}: {}", run.number, run.verdict);
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

fn table(runs: &[Run]) {
    println!(
        "{:>3} {:5} {:>9} {:>9} {:>8} {:>8} {:>5} {:>6} {:>9} {:>10} {:>9} {:>9} {:>9} {:>6} {:>9}  ",
        "run",
        "kill",
        "outage ms",
        "detect ms",
        "acked",
        "counter",
        "lost",
        "reconn",
        "log KiB",
        "log Mbit/s",
        "lag50 ms",
        "lag99 ms",
        "ping max",
        "deltas",
        "delta KiB",
    );
    for run in runs {
        let mbit = run
            .log_bytes
            .zip(run.guest_seconds.filter(|seconds| *seconds > 0.0))
            .map(|(bytes, seconds)| format!("{:.2}", bytes as f64 * 8.0 / 1e6 / seconds));
        println!(
            "{:>3} {:5} {:>9} {:>9} {:>8} {:>8} {:>5} {:>6} {:>9} {:>10} {:>9} {:>9} {:>9} {:>6} {:>9}  {}",
            run.number,
            or_none(run.kill),
            or_none(run.outage_ms),
            or_none(run.detect_ms),
            run.acked,
            or_none(run.final_counter),
            run.lost,
            run.reconnects,
            or_none(run.log_bytes.map(|bytes| bytes / 1024)),
            or_none(mbit),
            or_none(run.lag_ms_p50.map(|lag| format!("{lag:.1}"))),
            or_none(run.lag_ms_p99.map(|lag| format!("{lag:.1}"))),
            or_none(run.ping_ms_max.map(|ping| format!("{ping:.1}"))),
            or_none(run.state_deltas),
            or_none(run.state_delta_bytes.map(|bytes| bytes / 1024)),
            run.verdict,
        );
    }
}

fn write(path: &Path, report: &Report) -> Result<()> {
    let mut json = serde_json::to_string_pretty(report).context("cannot make the report")?;
    json.push('\n');
    std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))
}

/// Lets somebody run commands in the hosts and talk to the guest.
fn wait_for_a_look(failovers: &Failovers) -> Result<()> {
    let testbed = failovers.testbed();
    println!("the hosts stay up until Enter or Ctrl-C:");
    for host in failovers.hosts() {
        println!("  {} COMMAND    runs a command in host {0}", host.name());
    }
    println!(
        "as a client (in another terminal):  ip netns exec {} redis-cli -h {GUEST}",
        testbed.client().namespace().name()
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
