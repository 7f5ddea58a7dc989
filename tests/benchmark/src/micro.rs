//! The micro-benchmarks: what parts of `ftvm` cost on this machine's own processor, each beside its
//! *reference*, which is what the machine itself or another program takes for the same.
//!
//! Criterion runs them, from `benches/micro` of the crates that they are about. In each *round* it runs all
//! of them, a part and its references one right behind the other, and keeps what it estimates under
//! [`round`]. What they come to is told here, from its files: ratios of figures of the same round, as in the
//! [report](crate::report), because the machine may be at half its speed in the next one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::bound::Bound::{self, AtLeast, AtMost};
use crate::statistics::{Summary, by_round, figure};
use crate::table::Table;

/// How a part's time is held against its reference's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Measure {
    /// The speed, in proportion to the reference's.
    Speed,
    /// The time, in proportion to the reference's.
    Time,
    /// The time beyond the reference's, in nanoseconds.
    Beyond,
}
use Measure::{Beyond, Speed, Time};

/// A part and its reference, which are benchmarks of the same group.
struct Pair {
    group: &'static str,
    part: &'static str,
    reference: &'static str,
    measure: Measure,
    /// `None` where nothing is aimed at: it is told, and not judged.
    aim: Option<Bound>,
}

const fn pair(
    group: &'static str,
    part: &'static str,
    reference: &'static str,
    measure: Measure,
    aim: Option<Bound>,
) -> Pair {
    Pair {
        group,
        part,
        reference,
        measure,
        aim,
    }
}

const CHANNEL: Option<Bound> = Some(AtLeast(0.8));
const ACKNOWLEDGEMENT: Option<Bound> = Some(AtMost(1.1));
/// Hardware takes 1,000 to 2,000 for an exit.
const EXIT: Option<Bound> = Some(AtMost(500.0));
const DISK: Option<Bound> = Some(AtLeast(1.0));

#[rustfmt::skip]
static PAIRS: [Pair; 42] = [
    pair("channel, frames of 1448 bytes", "ftvm", "bare", Speed, CHANNEL),
    pair("channel, frames of 64 KiB", "ftvm", "bare", Speed, CHANNEL),
    pair("channel, small entries", "ftvm", "bare", Speed, None),
    pair("channel, acknowledgement", "ftvm", "bare", Time, ACKNOWLEDGEMENT),
    pair("codec, frames of 1448 bytes", "encode", "memcpy", Time, None),
    pair("codec, frames of 1448 bytes", "decode", "memcpy", Time, None),
    pair("codec, frames of 64 KiB", "encode", "memcpy", Time, None),
    pair("codec, frames of 64 KiB", "decode", "memcpy", Time, None),
    pair("codec, small entries", "encode", "memcpy", Time, None),
    pair("codec, small entries", "decode", "memcpy", Time, None),
    pair("exits that log nothing", "recorded", "without a log", Time, None),
    pair("exits that log nothing", "replayed", "without a log", Time, None),
    pair("exits that log nothing", "recorded", "processor", Beyond, EXIT),
    pair("exits that log nothing", "replayed", "processor", Beyond, EXIT),
    pair("exits that read the clock", "recorded", "without a log", Time, None),
    pair("exits that read the clock", "replayed", "without a log", Time, None),
    pair("exits that read the clock", "recorded", "processor", Beyond, EXIT),
    pair("exits that read the clock", "replayed", "processor", Beyond, EXIT),
    pair("exits with an output", "recorded", "without a log", Time, None),
    pair("exits with an output", "replayed", "without a log", Time, None),
    pair("exits with an output", "recorded", "processor", Beyond, EXIT),
    pair("exits with an output", "replayed", "processor", Beyond, EXIT),
    pair("state, 0 % changed", "digest", "memcmp", Time, None),
    pair("state, 0 % changed", "delta", "memcmp", Time, None),
    pair("state, 1 % changed", "digest", "memcmp", Time, None),
    pair("state, 1 % changed", "delta", "memcmp", Time, None),
    pair("state, 10 % changed", "digest", "memcmp", Time, None),
    pair("state, 10 % changed", "delta", "memcmp", Time, None),
    pair("gate", "ftvm", "UDP", Time, None),
    pair("disk, read 4 KiB", "ftvm", "qemu-nbd", Speed, DISK),
    pair("disk, read 4 KiB", "ftvm", "nbdkit", Speed, None),
    pair("disk, read 4 KiB, 16 at a time", "ftvm", "qemu-nbd", Speed, DISK),
    pair("disk, read 4 KiB, 16 at a time", "ftvm", "nbdkit", Speed, None),
    pair("disk, write 4 KiB, 16 at a time", "ftvm", "qemu-nbd", Speed, DISK),
    pair("disk, write 4 KiB, 16 at a time", "ftvm", "nbdkit", Speed, None),
    pair("disk, read 1 MiB, 4 at a time", "ftvm", "qemu-nbd", Speed, DISK),
    pair("disk, read 1 MiB, 4 at a time", "ftvm", "nbdkit", Speed, None),
    pair("disk, write 1 MiB, 4 at a time", "ftvm", "qemu-nbd", Speed, DISK),
    pair("disk, write 1 MiB, 4 at a time", "ftvm", "nbdkit", Speed, None),
    pair("disk, write 4 KiB and flush", "ftvm", "qemu-nbd", Speed, DISK),
    pair("disk, write 4 KiB and flush", "ftvm", "nbdkit", Speed, None),
    pair("claim", "ftvm", "fdatasync", Time, None),
];

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of criterion's cannot be read.
    #[error("cannot read {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not as this version of criterion writes it.
    #[error("{path} is not what criterion writes")]
    Contents {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// The name of a round, counted from 1, by which criterion keeps it (`--save-baseline`).
#[must_use]
pub fn round(number: u32) -> String {
    format!("round-{number}")
}

/// What the rounds up to number `rounds` came to, in Markdown, from the directory that criterion keeps them
/// in: what is not met first, and what is not met by most.
///
/// # Errors
/// [`Error`]; also where a benchmark was not measured in each of the rounds.
pub fn markdown(directory: &Path, rounds: u32) -> Result<String, Error> {
    let rows = PAIRS.iter().map(|pair| pair.row(directory, rounds));
    Ok(table(rows.collect::<Result<_, _>>()?))
}

/// A pair, as it was measured.
struct Row {
    pair: &'static Pair,
    /// Nanoseconds, in the middle of the rounds.
    part: f64,
    reference: f64,
    /// One to the other, as the pair is measured.
    held: Summary,
}

impl Pair {
    fn row(&'static self, directory: &Path, rounds: u32) -> Result<Row, Error> {
        let nanos = |name| -> Result<Vec<(u32, f64)>, Error> {
            let of = directory.join(self.group).join(name);
            let each = (1..=rounds).map(|number| Ok((number, estimate(&of.join(round(number)))?)));
            each.collect()
        };
        let [part, reference] = [nanos(self.part)?, nanos(self.reference)?];
        Ok(Row {
            pair: self,
            part: middle(&part),
            reference: middle(&reference),
            held: by_round(&part, &reference, |part, reference| match self.measure {
                Speed => reference / part,
                Time => part / reference,
                Beyond => part - reference,
            })
            .expect("times are numbers, and there is a round"),
        })
    }
}

fn middle(values: &[(u32, f64)]) -> f64 {
    let values = values.iter().map(|(_, value)| *value);
    let summary = Summary::of(values).expect("times are numbers, and there is a round");
    summary.median
}

impl Row {
    /// By how many times what is aimed at is missed.
    fn excess(&self) -> Option<f64> {
        Some(self.pair.aim?.excess(self.held.median))
    }

    /// How many times the reference's time it takes.
    fn times(&self) -> f64 {
        self.part / self.reference
    }

    fn is_missed(&self) -> bool {
        self.excess().is_some_and(|excess| excess > 1.0)
    }

    fn cells(&self) -> [String; 5] {
        let Pair {
            group,
            part,
            reference,
            measure,
            aim,
        } = self.pair;
        let held = match measure {
            Speed => format!("{} of its speed", self.held),
            Time => format!("{} of its time", self.held),
            Beyond => format!("{} ns more", self.held),
        };
        [
            format!("{group}: {part}"),
            figure(self.part),
            format!("{reference} {}", figure(self.reference)),
            if self.is_missed() {
                format!("**{held}**")
            } else {
                held
            },
            aim.map_or_else(|| "–".to_owned(), |aim| aim.to_string()),
        ]
    }
}

/// What is aimed at comes first, and the worst of it; of the rest as well.
fn table(mut rows: Vec<Row>) -> String {
    let order = |row: &Row| (row.excess().unwrap_or(0.0), row.times());
    rows.sort_by(|a, b| {
        let ((a, least), (b, most)) = (order(a), order(b));
        b.total_cmp(&a).then(most.total_cmp(&least))
    });
    let missed = rows.iter().filter(|row| row.is_missed()).count();
    let all = rows.iter().filter(|row| row.pair.aim.is_some()).count();
    let mut table = Table::new(["part", "its time, ns", "beside, ns", "ratio", "aim"]);
    rows.iter().for_each(|row| table.row(row.cells()));
    format!("**{missed} of {all} aims are missed.**\n\n{table}")
}

/// How long one takes, in nanoseconds: of a benchmark that does several in an iteration, one of these.
fn estimate(directory: &Path) -> Result<f64, Error> {
    let estimates: Estimates = read(&directory.join("estimates.json"))?;
    let Benchmark { throughput } = read(&directory.join("benchmark.json"))?;
    let elements = throughput.and_then(|one| one.elements).unwrap_or(1);
    Ok(estimates.median.point_estimate / elements as f64)
}

/// What criterion estimates, as far as it is needed here, in nanoseconds for an iteration.
#[derive(Debug, Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Debug, Deserialize)]
struct Estimate {
    point_estimate: f64,
}

/// What criterion knows of a benchmark.
#[derive(Debug, Deserialize)]
struct Benchmark {
    throughput: Option<Throughput>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Throughput {
    elements: Option<u64>,
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let contents = fs::read(path).map_err(|source| Error::File {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_slice(&contents).map_err(|source| Error::Contents {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUNDS: u32 = 3;

    /// What criterion leaves of a benchmark; `elements` are done in an iteration.
    fn write(directory: &Path, [group, name]: [&str; 2], nanos: f64, elements: Option<u64>) {
        for number in 1..=ROUNDS {
            let at = directory.join(group).join(name).join(round(number));
            fs::create_dir_all(&at).expect("room");
            // In each round the machine is slower.
            let nanos = nanos * f64::from(number) * elements.unwrap_or(1) as f64;
            let estimates = format!(
                r#"{{"mean":null,"median":{{"confidence_interval":null,"point_estimate":{nanos}}}}}"#
            );
            fs::write(at.join("estimates.json"), estimates).expect("room");
            let throughput =
                elements.map_or("null".to_owned(), |all| format!(r#"{{"Elements":{all}}}"#));
            let benchmark = format!(r#"{{"group_id":"{group}","throughput":{throughput}}}"#);
            fs::write(at.join("benchmark.json"), benchmark).expect("room");
        }
    }

    /// All parts take a microsecond, as their references do.
    fn measured() -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("room");
        for pair in &PAIRS {
            for name in [pair.part, pair.reference] {
                write(directory.path(), [pair.group, name], 1000.0, None);
            }
        }
        directory
    }

    #[test]
    fn what_is_missed_by_most_comes_first() {
        let directory = measured();
        let at = directory.path();
        write(at, ["channel, frames of 64 KiB", "bare"], 500.0, Some(128));
        write(at, ["channel, acknowledgement", "bare"], 500.0, None);
        write(at, ["exits that read the clock", "processor"], 700.0, None);
        write(at, ["claim", "fdatasync"], 250.0, None);
        let text = markdown(at, ROUNDS).expect("all is there");
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("**4 of 15 aims are missed.**"));
        let rows: Vec<&str> = lines.filter(|line| line.contains(':')).skip(1).collect();
        assert_eq!(rows.len(), PAIRS.len());
        let expected = "| channel, acknowledgement: ftvm | 2000 | bare 1000 | \
                        **2.00 ± 0 of its time** | at most 1.10 |";
        assert_eq!(rows[0], expected);
        let expected = "| channel, frames of 64 KiB: ftvm | 2000 | bare 1000 | \
                        **0.500 ± 0 of its speed** | at least 0.800 |";
        assert_eq!(rows[1], expected);
        // 300, 600 and 900: the aim is one of nanoseconds.
        for (row, part) in rows[2..4].iter().zip(["recorded", "replayed"]) {
            let beyond = format!("clock: {part} | 2000 | processor 1400 | **600 ± 300 ns more**");
            assert!(row.contains(&beyond), "{row}");
        }
        // Of what nothing is aimed at.
        let first = rows.iter().position(|row| row.ends_with("| – |"));
        let first = rows[first.expect("there are some")];
        assert!(first.starts_with("| claim: ftvm |"), "{first}");
        assert!(first.contains("| 4.00 ± 0 of its time |"), "{first}");
    }

    #[test]
    fn what_was_not_measured_is_named() {
        let directory = measured();
        let missing = directory.path().join("gate/UDP").join(round(ROUNDS));
        fs::remove_dir_all(&missing).expect("it is there");
        let error = markdown(directory.path(), ROUNDS).expect_err("it is incomplete");
        let told = format!("cannot read {}/estimates.json", missing.display());
        assert_eq!(error.to_string(), told);
        fs::create_dir_all(&missing).expect("room");
        fs::write(missing.join("estimates.json"), "{}").expect("room");
        let error = markdown(directory.path(), ROUNDS).expect_err("it is damaged");
        assert!(
            error.to_string().ends_with("is not what criterion writes"),
            "{error}"
        );
    }
}
