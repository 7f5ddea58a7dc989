//! `cargo xtask endure`

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use guest_images::files::write_atomically;
use guest_images::load::Load;
use serde::{Deserialize, Serialize};
use testbed::Layout;
use testbed::failover::{Failovers, Fault, Options};
use testbed::joins::{self, Joins, Kind, Moment};
use testbed::rounds::{self, Rounds};
use testbed::soak::soak;
use testbed::workload::Workload;

use super::{setup, simulate};
use crate::live_line::LiveLine;
use crate::steps::Steps;

/// Failovers on one pair of hosts: enough for one during the guest's boot, or for a join that is cut.
const FAILOVERS: u32 = 3;
/// One in so many turns of joins is of a large guest.
const LARGE_TURN: usize = 4;
/// Joins under load that are complete.
const JOINS: usize = 10;
/// As much as a guest may have.
const LARGE_MIB: u32 = 3072;
/// A soak is worth less the shorter it is; what it finds about memory takes this long.
const SOAK: Duration = Duration::from_secs(15 * 60);
/// One life of a fleet: the longer its guests live, the more it is worth.
const FLEET: Duration = Duration::from_secs(60 * 60);
/// One fuzz target.
const FUZZ: Duration = Duration::from_secs(2 * 60);
/// Cases of each property: the fixed share has 256.
const CASES: u32 = 2000;
/// The fuzz targets of `tests/fuzz`: what a stranger reaches, and what a guest reaches.
const STRANGERS: [&str; 14] = [
    "opening",
    "certificates",
    "impostor",
    "handshake",
    "door",
    "heartbeat",
    "batch",
    "memory",
    "nbd-server",
    "nbd-client",
    "http",
    "arbiter",
    "console",
    "network-test",
];
const GUESTS: [&str; 7] = ["apic", "blk", "net", "pci", "pit", "traps", "uart"];
/// Simulated schedules: some minutes.
const SCHEDULES: u64 = 50_000;
/// What a turn counts for at least, in its part's share: one that fails at once would be made again and
/// again, and nothing else.
const LEAST_SECONDS: f64 = 60.0;
/// Lines of what a command printed last that are kept as a finding.
const LAST_WORDS: usize = 20;

/// Arguments of `cargo xtask endure`.
#[derive(Debug, Args)]
pub(crate) struct Endure {
    /// How long, in all. A run that was stopped goes on where it was.
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    minutes: u64,
    /// Only these.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Silence after which a host takes the other for lost, in milliseconds. To be raised if the
    /// machine has other work to do meanwhile.
    #[arg(long, value_name = "MS", default_value_t = 500)]
    heartbeat_timeout: u64,
}

/// What is done at random for a long time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Part {
    /// Hosts are killed and frozen, in the guest's boot too, under loads and with a disk.
    Failovers,
    /// Backups join a guest under mixed load, or a large one, and are compared with it.
    Joins,
    /// Joins are cut off, with or without the guest that is joined.
    CutJoins,
    /// A guest is replicated under mixed load, and nothing is done to it.
    Soak,
    /// Ten small guests on three hosts that look after them: each host is killed and drained in turn.
    Fleet,
    /// What a guest can reach, and what a stranger can, is given made-up input.
    Fuzz,
    /// Unit, property and protocol tests, with more and other cases.
    Properties,
    /// The protocol of the hosts is tried in simulated schedules of faults.
    Simulation,
}

impl Part {
    const ALL: [Self; 8] = [
        Self::Failovers,
        Self::Joins,
        Self::CutJoins,
        Self::Soak,
        Self::Fleet,
        Self::Fuzz,
        Self::Properties,
        Self::Simulation,
    ];

    /// Its share of the time.
    fn weight(self) -> f64 {
        match self {
            Self::Failovers => 3.0,
            Self::Soak => 3.0,
            Self::Fleet | Self::Fuzz => 2.0,
            Self::Joins | Self::CutJoins | Self::Properties | Self::Simulation => 1.0,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Failovers => "failovers",
            Self::Joins => "joins",
            Self::CutJoins => "cut-joins",
            Self::Soak => "soak",
            Self::Fleet => "fleet",
            Self::Fuzz => "fuzz",
            Self::Properties => "properties",
            Self::Simulation => "simulation",
        })
    }
}

/// A run, as it is kept in a file after each turn.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    /// How long it shall go on, in minutes.
    minutes: u64,
    turns: Vec<Turn>,
}

/// Something that was done once.
#[derive(Debug, Serialize, Deserialize)]
struct Turn {
    part: Part,
    /// What it was, with the seed that repeats it.
    what: String,
    seconds: f64,
    /// What was not as it should be.
    findings: Vec<String>,
}

impl Record {
    fn seconds(&self) -> f64 {
        self.turns.iter().map(|turn| turn.seconds).sum()
    }

    fn left(&self) -> Duration {
        let left = 60.0 * self.minutes as f64 - self.seconds();
        Duration::from_secs_f64(left.max(0.0))
    }

    fn of(&self, part: Part) -> impl Iterator<Item = &Turn> {
        self.turns.iter().filter(move |turn| turn.part == part)
    }

    /// The part that has had the least of its share.
    fn next(&self, among: &[Part]) -> Part {
        let had = |part: &Part| {
            let turns = self.of(*part).map(|turn| turn.seconds.max(LEAST_SECONDS));
            turns.sum::<f64>() / part.weight()
        };
        *among
            .iter()
            .min_by(|a, b| had(a).total_cmp(&had(b)))
            .expect("there are parts")
    }

    /// The run of the file, if it is not over, and a new one otherwise.
    fn go_on(text: Option<&str>, minutes: u64) -> Self {
        text.and_then(|text| serde_json::from_str::<Self>(text).ok())
            .filter(|record| !record.left().is_zero())
            .map_or_else(
                || Self {
                    minutes,
                    ..Self::default()
                },
                |record| Self { minutes, ..record },
            )
    }
}

impl Endure {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let layout = Layout::find();
        let path = layout.root().join(".ftvm/endure.json");
        let mut record = Record::go_on(fs::read_to_string(&path).ok().as_deref(), self.minutes);
        setup::prepare(&Steps::new())?;
        if !record.turns.is_empty() {
            let had = record.seconds() / 60.0;
            eprintln!("going on after {had:.0} of {} min", self.minutes);
        }
        let parts = match self.only.is_empty() {
            true => Part::ALL.to_vec(),
            false => self.only.clone(),
        };
        while !record.left().is_zero() {
            let part = record.next(&parts);
            let turn = self.turn(&layout, part, &record);
            for finding in &turn.findings {
                eprintln!("{part}: {}: {finding}", turn.what);
            }
            record.turns.push(turn);
            let json = serde_json::to_vec_pretty(&record).context("cannot make the record")?;
            write_atomically(&path, &json)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        print(&record);
        println!("all turns: {}", path.display());
        let passed = record.turns.iter().all(|turn| turn.findings.is_empty());
        println!("{}", if passed { "PASS" } else { "FAIL" });
        Ok(match passed {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }

    /// Does one thing. What cannot be done is a finding: the others go on.
    fn turn(&self, layout: &Layout, part: Part, record: &Record) -> Turn {
        let before = record.of(part).count();
        let seed = fastrand::u64(..1_000_000);
        let start = Instant::now();
        let (what, found) = match part {
            Part::Failovers => self.failovers(before, seed),
            Part::Joins => self.joins(before, seed),
            Part::CutJoins => self.cut_joins(seed),
            Part::Soak => self.soak(record.left().min(SOAK)),
            Part::Fleet => self.fleet(record.left().min(FLEET)),
            Part::Fuzz => {
                let strangers = STRANGERS.map(|target| (target, 4096));
                let guests = GUESTS.map(|target| (target, 600));
                let mut targets = strangers.iter().chain(&guests).cycle();
                let target = targets.nth(before).expect("it begins anew");
                fuzz(layout, *target, seed, record.left().min(FUZZ))
            }
            Part::Properties => properties(layout),
            Part::Simulation => (
                format!("--schedules {SCHEDULES} --seed {seed}"),
                findings(simulate::command(layout, SCHEDULES, seed)),
            ),
        };
        Turn {
            part,
            what,
            seconds: start.elapsed().as_secs_f64(),
            findings: found.unwrap_or_else(|error| vec![format!("{error:#}")]),
        }
    }

    fn failovers(&self, before: usize, seed: u64) -> (String, Result<Vec<String>>) {
        let mut options = Options {
            seed,
            heartbeat_timeout: Duration::from_millis(self.heartbeat_timeout),
            ..Options::default()
        };
        // As options of the demo, which repeats a turn.
        let what = match before % 6 {
            0 => "",
            1 => {
                options.workload = Workload::Postgres;
                "--workload postgres "
            }
            2 => {
                options.fault = Fault::Freeze(Duration::from_secs(10));
                "--freeze "
            }
            3 => {
                options.load = Some(Load::Mixed);
                "--load mixed "
            }
            4 => {
                options.restart_disk_server = true;
                "--restart-disk-server "
            }
            _ => {
                options.workload = Workload::Postgres;
                options.restart_disk_server = true;
                "--workload postgres --restart-disk-server "
            }
        };
        // All of them with a fresh guest each, then all with one guest for all. Redis beside a disk server that
        // is killed always with one: there it is killed while backups join as well.
        let successive = before / 6 % 2 == 1 || before % 6 == 4;
        let how = if successive {
            "successive"
        } else {
            "failovers"
        };
        let what = format!("{what}--{how} {FAILOVERS} --seed {seed}");
        let run = || {
            let mut failovers = Failovers::start("endure", options)?;
            let mut line = LiveLine::new();
            let runs = match successive {
                true => failovers.successive(FAILOVERS, &mut line)?,
                false => (0..FAILOVERS)
                    .map(|_| failovers.run(&mut line))
                    .collect::<testbed::Result<_>>()?,
            };
            let findings: Vec<String> = runs
                .into_iter()
                .filter_map(|run| Some(format!("failover {}: {}", run.number, run.reason?)))
                .collect();
            failovers.end(findings.is_empty())?;
            Ok(findings)
        };
        (what, run())
    }

    /// Under load, and now and then one of a large guest.
    fn joins(&self, before: usize, seed: u64) -> (String, Result<Vec<String>>) {
        let mut options = self.join_options(seed);
        let (first, joins) = match before % LARGE_TURN {
            1 => {
                options.memory_mib = Some(LARGE_MIB);
                (format!("of a guest with {LARGE_MIB} MiB"), 1)
            }
            _ => {
                options.load = Some(Load::Mixed);
                (format!("under {} load", Load::Mixed), JOINS)
            }
        };
        told(first, |tell| {
            let mut joined = Joins::start("endure-joins", options)?;
            for _ in 0..joins {
                tell(joined.join_and_fail_over()?.to_string());
            }
            joined.end()
        })
    }

    fn cut_joins(&self, seed: u64) -> (String, Result<Vec<String>>) {
        let options = self.join_options(seed);
        told(format!("seed {seed}"), |tell| {
            let mut joins = Joins::start("endure-joins", options)?;
            let mut random = fastrand::Rng::with_seed(seed);
            tell(joins.join_and_fail_over()?.to_string());
            for same in Kind::all(seed).chunk_by(|a, b| a.is_of_source() == b.is_of_source()) {
                for kind in same {
                    tell(joins.cut(*kind, Moment::any(&mut random))?.to_string());
                }
                if !same[0].is_of_source() {
                    tell(joins.join_and_fail_over()?.to_string());
                }
            }
            joins.end()
        })
    }

    /// As many steps as there is time for, and what is under way is done to its end.
    fn fleet(&self, duration: Duration) -> (String, Result<Vec<String>>) {
        let mut options = rounds::Options::default();
        let asked = Duration::from_millis(self.heartbeat_timeout);
        options.heartbeat_timeout = options.heartbeat_timeout.max(asked);
        let guests = options.guests;
        told(format!("{guests} guests"), |tell| {
            let begin = Instant::now();
            let mut rounds = Rounds::start("endure-fleet", options, tell)?;
            while begin.elapsed() < duration {
                tell(rounds.step()?.to_string());
            }
            tell(rounds.end()?);
            Ok(())
        })
    }

    fn join_options(&self, seed: u64) -> joins::Options {
        joins::Options {
            seed,
            heartbeat_timeout: Duration::from_millis(self.heartbeat_timeout),
            ..joins::Options::default()
        }
    }

    fn soak(&self, duration: Duration) -> (String, Result<Vec<String>>) {
        let heartbeat = Duration::from_millis(self.heartbeat_timeout);
        let minutes = duration.as_secs_f64() / 60.0;
        let mut line = LiveLine::new();
        let report = soak(duration, heartbeat, |sample| {
            line.show(&format!("soak of {minutes:.0} min: {sample}"));
        });
        drop(line);
        match report {
            Ok(report) => (report.to_string(), Ok(report.reasons)),
            Err(error) => (format!("{minutes:.0} min"), Err(error.into())),
        }
    }
}

/// Does one thing after the other, and tells each of them as it is done.
fn told(
    first: String,
    turn: impl FnOnce(&mut dyn FnMut(String)) -> testbed::Result<()>,
) -> (String, Result<Vec<String>>) {
    let mut told = vec![first];
    let line = LiveLine::new();
    let mut tell = |what: String| {
        line.print(&what);
        told.push(what);
    };
    let found = turn(&mut tell).map(|()| Vec::new());
    let found = found.map_err(anyhow::Error::from);
    (told.join("; "), found)
}

/// A fuzz target, with the longest input, goes on with those that it found worth keeping the last time.
fn fuzz(
    layout: &Layout,
    (target, longest): (&str, usize),
    seed: u64,
    time: Duration,
) -> (String, Result<Vec<String>>) {
    let corpus: PathBuf = layout.root().join(".ftvm/fuzz").join(target);
    let run = || {
        fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
        let mut command = Command::new(env!("CARGO"));
        command
            .current_dir(layout.root().join("tests/fuzz"))
            .env("FTVM_FUZZ", target)
            .args(["run", "--quiet", "--release", "--"])
            .arg(&corpus)
            .args(["-timeout=60", "-rss_limit_mb=1024", "-print_final_stats=1"])
            .arg(format!("-max_len={longest}"))
            .arg(format!("-seed={seed}"))
            .arg(format!("-max_total_time={}", time.as_secs().max(1)))
            .arg(format!("-artifact_prefix={}-", corpus.display()));
        findings(command)
    };
    (format!("{target} -seed={seed}"), run())
}

fn properties(layout: &Layout) -> (String, Result<Vec<String>>) {
    let mut command = Command::new(env!("CARGO"));
    command
        .current_dir(layout.root())
        .args(["nextest", "run", "--profile", "endure"])
        .args(["-p", "logging-channel", "-p", "disk-server"])
        .args(["-p", "ftvm-vmm", "-p", "guest-images"])
        .env("PROPTEST_CASES", CASES.to_string());
    (format!("{CASES} cases"), findings(command))
}

/// The last words of a command that failed.
fn findings(mut command: Command) -> Result<Vec<String>> {
    let output = command.output().context("cannot start cargo")?;
    if output.status.success() {
        return Ok(Vec::new());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.lines().collect();
    let last = lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n");
    Ok(vec![format!("{}\n{last}", output.status)])
}

fn print(record: &Record) {
    println!("part         turns  minutes  with findings");
    for part in Part::ALL {
        let turns: Vec<&Turn> = record.of(part).collect();
        // The sum of nothing is -0.
        let minutes = turns.iter().fold(0.0, |sum, turn| sum + turn.seconds) / 60.0;
        let found = turns.iter().filter(|turn| !turn.findings.is_empty());
        println!(
            "{part:<11}  {:>5}  {minutes:>7.1}  {:>13}",
            turns.len(),
            found.count()
        );
    }
    for turn in &record.turns {
        for finding in &turn.findings {
            println!("{}: {}: {finding}", turn.part, turn.what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(part: Part, seconds: f64) -> Turn {
        Turn {
            part,
            what: String::new(),
            seconds,
            findings: Vec::new(),
        }
    }

    #[test]
    fn a_run_that_was_stopped_goes_on_and_one_that_is_over_does_not() {
        let mut record = Record::go_on(None, 10);
        assert_eq!(record.left(), Duration::from_secs(600));
        record.turns.push(turn(Part::Soak, 400.0));
        let text = serde_json::to_string(&record).expect("JSON");
        let again = Record::go_on(Some(&text), 20);
        assert_eq!(again.left(), Duration::from_secs(800));
        record.turns.push(turn(Part::Fuzz, 300.0));
        let text = serde_json::to_string(&record).expect("JSON");
        assert!(Record::go_on(Some(&text), 20).turns.is_empty());
        assert!(Record::go_on(Some("{"), 20).turns.is_empty());
    }

    #[test]
    fn every_part_has_its_share() {
        let mut record = Record::go_on(None, 700);
        while !record.left().is_zero() {
            let part = record.next(&Part::ALL);
            record.turns.push(turn(part, LEAST_SECONDS));
        }
        let turns = Part::ALL.map(|part| record.of(part).count());
        assert_eq!(turns, [150, 50, 50, 150, 100, 100, 50, 50]);
        assert_eq!(record.next(&[Part::Fuzz]), Part::Fuzz);
    }

    #[test]
    fn a_part_that_fails_at_once_keeps_no_other_from_its_turns() {
        let mut record = Record::go_on(None, 1000);
        let parts = [Part::Soak, Part::Fuzz];
        while record.of(Part::Soak).count() < 3 {
            let part = record.next(&parts);
            record
                .turns
                .push(turn(part, if part == Part::Fuzz { 0.1 } else { 600.0 }));
            assert!(record.turns.len() < 100, "nothing but fuzz");
        }
    }
}
