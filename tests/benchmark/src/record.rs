//! All that was measured: what `report.json` has, and what tables and plots ask of it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Options;
use crate::condition::{Axis, Condition};
use crate::configuration::Configuration;
use crate::machine::{MachineDescription, MachineState};
use crate::metric::Metric;
use crate::outage::Outage;
use crate::sample::{Figures, Outcome, Sample};
use crate::schedule::{self, Visit};
use crate::statistics::{Summary, ratios};
use crate::workload::Workload;

/// The form of the file.
const VERSION: u32 = 1;

/// All that was measured in one go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// Where.
    pub(crate) machine: MachineDescription,
    /// Timeouts, seeds and parameters with which it was measured, by what they are.
    #[serde(default)]
    pub(crate) settings: BTreeMap<String, String>,
    /// How often each.
    pub(crate) rounds: u32,
    /// How long each took, in seconds.
    pub(crate) window_seconds: f64,
    /// How long those took, in seconds, that compare QEMU COLO to `ftvm`; 0 if as long as others.
    #[serde(default)]
    pub(crate) colo_window_seconds: f64,
    /// Under what, in the order of the tables.
    pub(crate) configurations: Vec<Configuration>,
    /// What, in the order of the tables.
    pub(crate) workloads: Vec<Workload>,
    /// Every measurement, in the order in which they were made.
    pub samples: Vec<Sample>,
    /// What kills of the primary's host led to.
    #[serde(default)]
    pub(crate) outages: Vec<Outage>,
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
    #[error("{path} is no record of the benchmark: give a `report.json` that `bench` wrote")]
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
    /// It cannot be gone on with.
    #[error("it was measured elsewhere or otherwise, so nothing can be added to it: {0}")]
    Other(String),
}

/// As much of a record as every version has.
#[derive(Deserialize)]
struct Head {
    version: u32,
}

/// What is in either list, in its own order.
fn of_both<T: Copy + Ord>(these: &[T], those: &[T]) -> Vec<T> {
    let mut all = [these, those].concat();
    all.sort_unstable();
    all.dedup();
    all
}

impl Record {
    pub(crate) fn new(
        options: &Options,
        machine: MachineDescription,
        settings: BTreeMap<String, String>,
    ) -> Self {
        Self {
            version: VERSION,
            machine,
            settings,
            rounds: options.rounds,
            window_seconds: options.window.as_secs_f64(),
            colo_window_seconds: options.colo_window.as_secs_f64(),
            configurations: options.configurations.clone(),
            workloads: options.workloads.clone(),
            samples: Vec::new(),
            outages: Vec::new(),
        }
    }

    /// What it was measured with, by name: all that has to be the same for two to be one.
    pub(crate) fn circumstances(&self) -> BTreeMap<String, String> {
        let machine = self.machine.lines();
        let mut all: BTreeMap<_, _> = machine
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        all.extend(self.settings.clone());
        for (name, seconds) in [
            ("a measurement, s", self.window_seconds),
            ("one that compares QEMU COLO, s", self.colo_window_seconds),
        ] {
            all.insert(name.to_owned(), seconds.to_string());
        }
        all
    }

    /// In what this one was measured otherwise than another: name, there, here.
    pub(crate) fn differences(&self, there: &Self) -> Vec<(String, String, String)> {
        let (here, there) = (self.circumstances(), there.circumstances());
        let unknown = || "unknown".to_owned();
        of_both(
            &here.keys().collect::<Vec<_>>(),
            &there.keys().collect::<Vec<_>>(),
        )
        .into_iter()
        .map(|name| {
            let [there, here] = [&there, &here].map(|one| one.get(name).cloned());
            let [there, here] = [there, here].map(|one| one.unwrap_or_else(unknown));
            (name.clone(), there, here)
        })
        .filter(|(_, there, here)| there != here)
        .collect()
    }

    /// A record that goes on from an earlier one, which was cut short. What failed in that is
    /// forgotten, to be measured again.
    pub(crate) fn resumed(mut self, earlier: Self) -> Result<Self, RecordError> {
        let differences = self.differences(&earlier).into_iter();
        let differences: Vec<String> = differences
            .map(|(name, there, here)| format!("{name}: {there}, here {here}"))
            .collect();
        if !differences.is_empty() {
            return Err(RecordError::Other(differences.join("; ")));
        }
        self.samples = earlier.samples;
        self.samples.retain(|sample| sample.failure().is_none());
        self.outages = earlier.outages;
        // The tables have what was measured then, too.
        self.rounds = self.rounds.max(earlier.rounds);
        self.configurations = of_both(&self.configurations, &earlier.configurations);
        self.workloads = of_both(&self.workloads, &earlier.workloads);
        Ok(self)
    }

    /// Whether this was measured well, or cannot be.
    pub(crate) fn has(&self, visit: &Visit, (workload, condition): &(Workload, Condition)) -> bool {
        let subject = (visit.round, visit.configuration, *workload, *condition);
        let mut samples = self.samples.iter();
        samples.any(|sample| sample.subject() == subject && sample.failure().is_none())
    }

    /// Reads a record.
    ///
    /// # Errors
    ///
    /// [`RecordError`].
    pub fn read(path: &Path) -> Result<Self, RecordError> {
        let path = path.to_owned();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(source) => return Err(RecordError::File { path, source }),
        };
        match serde_json::from_slice(&bytes) {
            Ok(Head { version: VERSION }) => {}
            Ok(Head { version: found }) => return Err(RecordError::Version { path, found }),
            Err(source) => return Err(RecordError::Contents { path, source }),
        }
        serde_json::from_slice(&bytes).map_err(|source| RecordError::Contents { path, source })
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
    pub(crate) fn of(
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

    /// What the figures of each round give, with the rounds.
    pub(crate) fn by_round<'a, T>(
        &'a self,
        configuration: Configuration,
        workload: Workload,
        of: impl Fn(&'a Figures) -> Option<T>,
    ) -> Vec<(u32, T)> {
        let samples = self.of(configuration, workload);
        samples
            .filter_map(|sample| Some((sample.round, of(sample.figures()?)?)))
            .collect()
    }

    /// Median and spread of a metric.
    pub(crate) fn summary(
        &self,
        configuration: Configuration,
        workload: Workload,
        metric: Metric,
    ) -> Option<Summary> {
        let values = self.by_round(configuration, workload, |one| (metric.of)(workload, one));
        Summary::of(values.into_iter().map(|(_, value)| value))
    }

    /// A metric's ratio to that under another configuration, round by round.
    pub(crate) fn ratio(
        &self,
        configuration: Configuration,
        to: Configuration,
        workload: Workload,
        metric: Metric,
    ) -> Option<Summary> {
        let values = |one| self.by_round(one, workload, |figures| (metric.of)(workload, figures));
        ratios(&values(configuration), &values(to))
    }

    /// How a metric goes along an axis: the values that were measured, ascending.
    pub(crate) fn growth(
        &self,
        axis: Axis,
        configuration: Configuration,
        metric: Metric,
    ) -> Vec<(f64, Summary)> {
        let point = |(at, condition): (f64, Condition)| {
            let there = self.samples.iter().filter(|sample| {
                sample.configuration == configuration
                    && sample.workload == schedule::GROWTH
                    && sample.condition == condition
            });
            let figures = there.filter_map(Sample::figures);
            let values = figures.filter_map(|one| (metric.of)(schedule::GROWTH, one));
            Some((at, Summary::of(values)?))
        };
        axis.conditions().filter_map(point).collect()
    }

    /// How the machine was at each measurement.
    pub(crate) fn machine_states(&self) -> impl Iterator<Item = MachineState> {
        let samples = self.samples.iter();
        samples.filter_map(|sample| sample.figures()?.machine)
    }

    /// Why there are no figures of a workload under a configuration, if there are none.
    pub(crate) fn gap(&self, configuration: Configuration, workload: Workload) -> Option<String> {
        let mut reason = configuration
            .gap(workload)
            .unwrap_or("not in this run")
            .to_owned();
        for sample in self.of(configuration, workload) {
            match &sample.outcome {
                Outcome::Measured { .. } => return None,
                Outcome::Failed { reason: why } => reason = format!("failed: {why}"),
                Outcome::Gap { reason: why } => reason.clone_from(why),
            }
        }
        Some(reason)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::schedule::plan;

    /// A record of throughputs: round, configuration, workload, value; a negative one has failed.
    pub(crate) fn record(values: &[(u32, Configuration, Workload, f64)]) -> Record {
        let options = Options {
            window: Duration::from_secs(5),
            ..Options::full(2)
        };
        let mut record = Record::new(&options, MachineDescription::default(), BTreeMap::new());
        record.samples = Vec::from_iter(values.iter().map(
            |&(round, configuration, workload, throughput)| Sample {
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
            },
        ));
        record
    }

    /// Changes the figures of one of its samples.
    pub(crate) fn change(record: &mut Record, at: usize, change: impl FnOnce(&mut Figures)) {
        match &mut record.samples[at].outcome {
            Outcome::Measured { figures } => change(figures),
            other => panic!("measured: {other:?}"),
        }
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
        assert!(gap(LoggedReads, Idle).contains("not in this run"));
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
        let mut fewer = record(&[]);
        (fewer.rounds, fewer.configurations) = (1, vec![Alone]);
        let resumed = fewer.resumed(earlier.clone()).expect("the same");
        assert_eq!(resumed.samples.len(), 2, "what failed is measured again");
        assert_eq!(resumed.rounds, 2);
        assert_eq!(resumed.configurations, earlier.configurations);
        let has = |round, configuration, workload| {
            let mut visits = plan(round, &[configuration], &[workload]);
            let visit = visits.pop().expect("the last round");
            resumed.has(&visit, &visit.measurements[0])
        };
        assert!(has(1, Qemu, RedisSet) && has(2, Qemu, RedisSet));
        assert!(!has(1, Alone, RedisSet) && !has(3, Qemu, RedisSet) && !has(1, Qemu, RedisGet));

        let mut elsewhere = earlier;
        elsewhere.machine.commit = "another".to_owned();
        elsewhere
            .settings
            .insert("a seed".to_owned(), "7".to_owned());
        elsewhere.colo_window_seconds += 1.0;
        let error = record(&[]).resumed(elsewhere).expect_err("not the same");
        let error = error.to_string();
        for expected in ["commit: another, here unknown", "a seed: 7", "QEMU COLO"] {
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn a_record_is_read_back_and_nothing_else_is() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("report.json");
        let mut record = record(&[
            (1, Configuration::Qemu, Workload::RedisSet, 100.0),
            (1, Configuration::Colo, Workload::Idle, -1.0),
        ]);
        record.samples[0].condition.clients = 8;
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

    #[test]
    fn the_report_that_documents_show_can_be_read() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/benchmark/report.json");
        let record = Record::read(&path).expect("a record");
        assert!(!record.samples.is_empty() && !record.outages.is_empty());
    }
}
