//! The file that keeps all that was measured.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Options;
use super::condition::{Axis, Condition};
use super::configuration::Configuration;
use super::machine_description::MachineDescription;
use super::machine_state::MachineState;
use super::outage::Outage;
use super::sample::{Metric, Outcome, Sample};
use super::schedule::{self, Visit};
use super::statistics::{Summary, ratios};
use super::workload::Workload;

/// The form of the file.
const VERSION: u32 = 1;

/// All that was measured in one go: what the JSON file has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// Where.
    pub machine: MachineDescription,
    /// How often each.
    pub rounds: u32,
    /// How long each took, in seconds.
    pub window_seconds: f64,
    /// How long those took, in seconds, that compare QEMU COLO to `ftvm`; 0 if as long as others.
    #[serde(default)]
    pub colo_window_seconds: f64,
    /// Under what, in the order of the tables.
    pub configurations: Vec<Configuration>,
    /// What, in the order of the tables.
    pub workloads: Vec<Workload>,
    /// Every measurement, in the order in which they were made.
    pub samples: Vec<Sample>,
    /// What kills of the primary's host led to.
    #[serde(default)]
    pub outages: Vec<Outage>,
}

/// Why a record cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file cannot be read or written.
    #[error("cannot access {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is something else.
    #[error("{path} is no record of the benchmark: give a file that `bench --json` wrote")]
    Contents {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Another version of this program wrote it.
    #[error(
        "{path} has version {found} of the benchmark's records, and this program knows {VERSION}: \
         measure again"
    )]
    Version {
        /// Which.
        path: PathBuf,
        /// What it has.
        found: u32,
    },
}

/// As much of a record as every version has.
#[derive(Deserialize)]
struct Head {
    version: u32,
}

/// What is in either list, in the order of `all`.
fn of_both<T: Copy + PartialEq, const N: usize>(all: [T; N], these: &[T], those: &[T]) -> Vec<T> {
    let all = all.into_iter();
    all.filter(|one| these.contains(one) || those.contains(one))
        .collect()
}

impl Record {
    pub(super) fn new(
        options: &Options,
        machine: MachineDescription,
        samples: Vec<Sample>,
    ) -> Self {
        Self {
            version: VERSION,
            machine,
            rounds: options.rounds,
            window_seconds: options.window.as_secs_f64(),
            colo_window_seconds: options.colo_window.as_secs_f64(),
            configurations: options.configurations.clone(),
            workloads: options.workloads.clone(),
            samples,
            outages: Vec::new(),
        }
    }

    /// A record that goes on from an earlier one, which was cut short. What failed in that is
    /// forgotten, to be measured again; what was spoiled stays until it was.
    ///
    /// # Errors
    ///
    /// What is another machine, another commit or another window in it.
    pub(super) fn resumed(mut self, earlier: Self) -> Result<Self, String> {
        let known = |machine: &MachineDescription| machine.lines().collect::<BTreeMap<_, _>>();
        let (here, there) = (known(&self.machine), known(&earlier.machine));
        let names: BTreeSet<_> = here.keys().chain(there.keys()).collect();
        let words = |value: Option<&String>| value.map_or("unknown".to_owned(), String::clone);
        let mut differences: Vec<String> = names
            .into_iter()
            .map(|name| (name, words(there.get(name)), words(here.get(name))))
            .filter(|(_, there, here)| there != here)
            .map(|(name, there, here)| format!("{name}: {there}, here {here}"))
            .collect();
        for (what, there, here) in [
            ("measurements", earlier.window_seconds, self.window_seconds),
            (
                "measurements under QEMU COLO",
                earlier.colo_window_seconds,
                self.colo_window_seconds,
            ),
        ] {
            if there != here {
                differences.push(format!("{what} of {there} s, here {here} s"));
            }
        }
        if !differences.is_empty() {
            return Err(differences.join("; "));
        }
        self.samples = earlier.samples;
        self.samples
            .retain(|sample| !matches!(sample.outcome, Outcome::Failed { .. }));
        self.outages = earlier.outages;
        // The tables have what was measured then, too.
        self.rounds = self.rounds.max(earlier.rounds);
        self.configurations = of_both(
            Configuration::ALL,
            &self.configurations,
            &earlier.configurations,
        );
        self.workloads = of_both(Workload::ALL, &self.workloads, &earlier.workloads);
        Ok(self)
    }

    /// Whether this was measured well, or cannot be.
    pub(super) fn has(&self, visit: &Visit, (workload, condition): &(Workload, Condition)) -> bool {
        let subject = (visit.round, visit.configuration, *workload, *condition);
        self.samples.iter().any(|sample| {
            sample.subject() == subject
                && match &sample.outcome {
                    Outcome::Measured { figures } => !figures.is_spoiled(),
                    Outcome::Gap { .. } => true,
                    Outcome::Failed { .. } => false,
                }
        })
    }

    /// Adds a measurement. Of two of the same, the one stays during which others had less of the
    /// machine.
    pub(super) fn add(&mut self, sample: Sample) {
        if let Some(figures) = sample.figures() {
            let earlier = self.samples.iter().enumerate().find_map(|(at, there)| {
                let stolen = there.figures()?.stolen();
                (there.subject() == sample.subject()).then_some((at, stolen))
            });
            match earlier {
                Some((_, stolen)) if stolen <= figures.stolen() => return,
                Some((at, _)) => drop(self.samples.remove(at)),
                None => {}
            }
        }
        self.samples.push(sample);
    }

    /// Reads a record.
    ///
    /// # Errors
    ///
    /// [`RecordError`].
    pub fn read(path: &Path) -> Result<Self, RecordError> {
        let bytes = fs::read(path).map_err(|source| RecordError::File {
            path: path.to_owned(),
            source,
        })?;
        let contents = |source| RecordError::Contents {
            path: path.to_owned(),
            source,
        };
        let head: Head = serde_json::from_slice(&bytes).map_err(contents)?;
        if head.version != VERSION {
            return Err(RecordError::Version {
                path: path.to_owned(),
                found: head.version,
            });
        }
        serde_json::from_slice(&bytes).map_err(contents)
    }

    /// Writes it.
    ///
    /// # Errors
    ///
    /// [`RecordError::File`].
    pub fn write(&self, path: &Path) -> Result<(), RecordError> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a record is plain data");
        bytes.push(b'\n');
        fs::write(path, bytes).map_err(|source| RecordError::File {
            path: path.to_owned(),
            source,
        })
    }

    /// All measurements of a workload under a configuration and the usual conditions, well or not.
    pub fn of(
        &self,
        configuration: Configuration,
        workload: Workload,
    ) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| {
            sample.configuration == configuration
                && sample.workload == workload
                && sample.condition.is_usual()
        })
    }

    /// How a metric goes along an axis: the values that were measured, ascending.
    #[must_use]
    pub fn growth(
        &self,
        axis: Axis,
        configuration: Configuration,
        metric: Metric,
    ) -> Vec<(f64, Summary)> {
        let grown = self.samples.iter().filter(|sample| {
            sample.configuration == configuration && sample.workload == schedule::GROWTH
        });
        let values = |at: f64| {
            let there = grown
                .clone()
                .filter(move |sample| axis.value(&sample.condition) == Some(at));
            Summary::of(there.filter_map(|sample| sample.value(metric)))
        };
        let points = axis.values().iter();
        points.filter_map(|at| Some((*at, values(*at)?))).collect()
    }

    /// The values of a metric, with their rounds.
    #[must_use]
    pub fn values(
        &self,
        configuration: Configuration,
        workload: Workload,
        metric: Metric,
    ) -> Vec<(u32, f64)> {
        let samples = self.of(configuration, workload);
        samples
            .filter_map(|sample| Some((sample.round, sample.value(metric)?)))
            .collect()
    }

    /// Median and spread of a metric.
    #[must_use]
    pub fn summary(
        &self,
        configuration: Configuration,
        workload: Workload,
        metric: Metric,
    ) -> Option<Summary> {
        let values = self.values(configuration, workload, metric);
        Summary::of(values.into_iter().map(|(_, value)| value))
    }

    /// A metric's ratio to that under another configuration, round by round.
    #[must_use]
    pub fn ratio(
        &self,
        configuration: Configuration,
        to: Configuration,
        workload: Workload,
        metric: Metric,
    ) -> Option<Summary> {
        ratios(
            &self.values(configuration, workload, metric),
            &self.values(to, workload, metric),
        )
    }

    /// The machine's speed over all measurements: see [`MachineState::speed`].
    #[must_use]
    pub fn speed(&self) -> Option<Summary> {
        Summary::of(self.machine_states().map(|state| state.speed))
    }

    /// How the machine was at each measurement.
    pub(super) fn machine_states(&self) -> impl Iterator<Item = MachineState> {
        let samples = self.samples.iter();
        samples.filter_map(|sample| sample.figures()?.machine)
    }

    /// Why there are no figures of a workload under a configuration, if there are none.
    #[must_use]
    pub fn gap(&self, configuration: Configuration, workload: Workload) -> Option<String> {
        let mut samples = self.of(configuration, workload).peekable();
        if samples.peek().is_none() {
            let gap = configuration.gap(workload);
            return Some(gap.unwrap_or("not measured in this run").to_owned());
        }
        let mut reason = None;
        for sample in samples {
            match &sample.outcome {
                super::Outcome::Measured { .. } => return None,
                super::Outcome::Failed { reason: why } => reason = Some(format!("failed: {why}")),
                super::Outcome::Gap { reason: why } => reason = Some(why.clone()),
            }
        }
        reason
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sample::Figures;

    /// A record of throughputs: round, configuration, workload, value; a negative one has failed.
    pub(crate) fn record(values: &[(u32, Configuration, Workload, f64)]) -> Record {
        let sample = |&(round, configuration, workload, throughput): &(_, _, _, f64)| Sample {
            round,
            configuration,
            workload,
            condition: Condition::default(),
            outcome: match throughput {
                ..0.0 => Outcome::Failed {
                    reason: "it fell over".to_owned(),
                },
                throughput => Outcome::Measured {
                    figures: Box::new(Figures {
                        seconds: 5.0,
                        throughput: Some(throughput),
                        ..Figures::default()
                    }),
                },
            },
        };
        let options = Options {
            window: Duration::from_secs(5),
            ..Options::full(2)
        };
        let samples = values.iter().map(sample).collect();
        Record::new(&options, MachineDescription::default(), samples)
    }

    #[test]
    fn gaps_have_their_reasons() {
        use Configuration::{Alone, Colo, LoggedReads, Qemu};
        use Workload::{FioRead, Idle, RedisGet, RedisSet};
        let record = record(&[
            (1, Qemu, RedisSet, 100.0),
            (1, Alone, RedisSet, 90.0),
            (2, Alone, RedisSet, -1.0),
            (1, Alone, RedisGet, -1.0),
        ]);
        assert_eq!(record.gap(Alone, RedisSet), None);
        let gap = |configuration, workload| record.gap(configuration, workload).expect("a gap");
        assert!(gap(Alone, RedisGet).contains("it fell over"));
        assert!(gap(Colo, FioRead).contains("without a disk"));
        assert!(gap(LoggedReads, Idle).contains("not measured"));
        let metric = Metric::Throughput;
        let ratio = record.ratio(Alone, Qemu, RedisSet, metric).expect("a pair");
        assert_eq!((ratio.median, ratio.count), (0.9, 1));
    }

    #[test]
    fn a_run_goes_on_where_it_was_cut_short_and_nowhere_else() {
        use Configuration::{Alone, Qemu};
        use Workload::{RedisGet, RedisSet};
        let earlier = record(&[
            (1, Qemu, RedisSet, 100.0),
            (1, Alone, RedisSet, -1.0),
            (2, Qemu, RedisSet, 101.0),
        ]);
        let resumed = record(&[]).resumed(earlier.clone()).expect("the same");
        assert_eq!(resumed.samples.len(), 2, "what failed is measured again");
        let has = |round, configuration, workload: Workload| {
            let measurement = (workload, Condition::default());
            let visit = Visit {
                round,
                configuration,
                guest: workload.guest(),
                memory_mib: None,
                measurements: vec![measurement],
            };
            resumed.has(&visit, &measurement)
        };
        assert!(has(1, Qemu, RedisSet) && has(2, Qemu, RedisSet));
        assert!(!has(1, Alone, RedisSet) && !has(3, Qemu, RedisSet) && !has(1, Qemu, RedisGet));

        let mut other = record(&[]);
        other.rounds = 1;
        other.configurations = vec![Alone];
        other.workloads = vec![RedisGet];
        let resumed = other.resumed(earlier.clone()).expect("the same");
        assert_eq!(resumed.rounds, 2);
        assert_eq!(resumed.configurations, earlier.configurations);
        assert_eq!(
            resumed.workloads, earlier.workloads,
            "the tables show all that there is"
        );

        let mut elsewhere = earlier;
        elsewhere.machine.commit = "another".to_owned();
        elsewhere.window_seconds += 1.0;
        elsewhere.colo_window_seconds += 1.0;
        let differences = record(&[]).resumed(elsewhere).expect_err("not the same");
        assert!(
            differences.contains("another") && differences.contains(" s"),
            "{differences}"
        );
        assert!(differences.contains("COLO"), "{differences}");
    }

    #[test]
    fn what_others_spoiled_is_measured_again_and_the_better_one_stays() {
        let measurement = (Workload::RedisSet, Condition::default());
        let visit = Visit {
            round: 1,
            configuration: Configuration::Qemu,
            guest: Workload::RedisSet.guest(),
            memory_mib: None,
            measurements: vec![measurement],
        };
        let measured = |throughput, stolen| {
            let one = record(&[(1, visit.configuration, measurement.0, throughput)]);
            let mut sample = one.samples.into_iter().next().expect("one");
            if let Outcome::Measured { figures } = &mut sample.outcome {
                let speed = 100.0;
                figures.machine = Some(MachineState { speed, stolen });
            }
            sample
        };
        let mut it = record(&[]);
        let throughputs = |it: &Record| {
            let values = it.values(visit.configuration, measurement.0, Metric::Throughput);
            values
                .into_iter()
                .map(|(_, value)| value)
                .collect::<Vec<_>>()
        };
        it.add(measured(10.0, 0.4));
        assert!(!it.has(&visit, &measurement));
        it = record(&[]).resumed(it).expect("the same");
        assert_eq!(throughputs(&it), [10.0], "better than nothing");

        it.add(measured(-1.0, 0.0));
        assert_eq!(throughputs(&it), [10.0], "what failed is no better");
        it.add(measured(9.0, 0.5));
        assert_eq!(throughputs(&it), [10.0]);
        it.add(measured(30.0, 0.1));
        assert_eq!(throughputs(&it), [30.0]);
        assert!(it.has(&visit, &measurement));
    }

    #[test]
    fn a_record_is_read_back_and_nothing_else_is() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("bench.json");
        let record = record(&[(1, Configuration::Qemu, Workload::RedisSet, 100.0)]);
        record.write(&path).expect("a file");
        assert_eq!(Record::read(&path).expect("the same"), record);

        let text = fs::read_to_string(&path).expect("text");
        let next = text.replacen("\"version\": 1", "\"version\": 2", 1);
        for (text, expected) in [
            (next.as_str(), "version 2"),
            ("{}", "no record"),
            ("{\"version\": 1}", "no record"),
            ("", "no record"),
        ] {
            fs::write(&path, text).expect("a file");
            let error = Record::read(&path).expect_err("no record");
            assert!(error.to_string().contains(expected), "{text}: {error}");
        }
    }
}
