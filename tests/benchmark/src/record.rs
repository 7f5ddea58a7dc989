//! All that was measured: what `report.json` has, and what tables and plots ask of it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::Error as _;
use serde::{Deserialize, Serialize};

use crate::configuration::Configuration;
use crate::figures::Figures;
use crate::outage::Outage;
use crate::sample::{Axis, GROWTH, Sample, Subject};
use crate::settings::{Settings, differences};
use crate::statistics::{Summary, ratios};
use crate::workload::Workload;

/// The form of the file.
const VERSION: u32 = 2;

/// Why nothing was measured, or there is no record of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The hosts cannot be used, or a file.
    #[error(transparent)]
    Testbed(#[from] testbed::Error),
    /// A file is something else than a record.
    #[error(
        "{path} is no record of this version of the benchmark, {}: give a `report.json` that it \
         wrote, or measure again",
        VERSION
    )]
    Contents {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The earlier record cannot be gone on with.
    #[error("it was measured elsewhere or otherwise, so nothing can be added to it: {0}")]
    Otherwise(String),
}

impl Error {
    /// That a file cannot be read or written.
    pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        |source| Self::Testbed(testbed::Error::File { path, source })
    }
}

/// All that was measured in one go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// Where, and with what.
    pub(crate) settings: Settings,
    /// Every measurement, in the order in which they were made.
    pub samples: Vec<Sample>,
    /// What kills of the primary's host led to.
    pub(crate) outages: Vec<Outage>,
}

impl Record {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            version: VERSION,
            settings,
            samples: Vec::new(),
            outages: Vec::new(),
        }
    }

    /// A record that goes on from an earlier one, which was cut short. What failed in that is
    /// forgotten, to be measured again.
    pub(crate) fn resumed(mut self, earlier: Self) -> Result<Self, Error> {
        let differences = differences(&earlier.settings, &self.settings);
        if !differences.is_empty() {
            return Err(Error::Otherwise(differences.join("; ")));
        }
        self.samples = earlier.samples;
        self.samples.retain(|sample| sample.outcome.is_ok());
        self.outages = earlier.outages;
        Ok(self)
    }

    /// Whether this was measured well.
    pub(crate) fn has(&self, subject: &Subject) -> bool {
        let mut samples = self.samples.iter();
        samples.any(|sample| sample.subject == *subject && sample.outcome.is_ok())
    }

    /// Reads a record.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is something else.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bytes = fs::read(path).map_err(Error::file(path))?;
        let record: serde_json::Result<Self> = serde_json::from_slice(&bytes);
        match record {
            Ok(record) if record.version == VERSION => Ok(record),
            Ok(Self { version, .. }) => {
                Err(serde_json::Error::custom(format!("version {version}")))
            }
            Err(source) => Err(source),
        }
        .map_err(|source| Error::Contents {
            path: path.to_owned(),
            source,
        })
    }

    /// Writes it.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a record is plain data");
        bytes.push(b'\n');
        fs::write(path, bytes).map_err(Error::file(path))
    }

    /// What was measured at this place of an axis, as if it were everywhere else.
    pub(crate) fn at(&self, growth: Option<(Axis, f64)>) -> Self {
        let mut there = self.clone();
        there.samples.retain(|one| one.subject.growth == growth);
        there
            .samples
            .iter_mut()
            .for_each(|one| one.subject.growth = None);
        there
    }

    /// How many rounds there were.
    pub(crate) fn rounds(&self) -> u32 {
        let rounds = self.samples.iter().map(|sample| sample.subject.round);
        rounds.max().unwrap_or_default()
    }

    /// Under what was measured, in the order of the tables.
    pub(crate) fn configurations(&self) -> Vec<Configuration> {
        self.each(|subject| subject.configuration)
    }

    /// What was measured, in the order of the tables.
    pub(crate) fn workloads(&self) -> Vec<Workload> {
        self.each(|subject| subject.workload)
    }

    fn each<T: Ord>(&self, of: impl Fn(&Subject) -> T) -> Vec<T> {
        let all = self.samples.iter().map(|sample| of(&sample.subject));
        // Sorted, and each once.
        all.collect::<BTreeSet<T>>().into_iter().collect()
    }

    /// What was measured, and the figures.
    pub(crate) fn measured(&self) -> impl Iterator<Item = (&Subject, &Figures)> {
        let samples = self.samples.iter();
        samples.filter_map(|one| Some((&one.subject, one.outcome.as_ref().ok()?)))
    }

    /// The figures of a workload under a configuration, with the rounds.
    fn of(
        &self,
        configuration: Configuration,
        workload: Workload,
        growth: Option<(Axis, f64)>,
    ) -> impl Iterator<Item = (u32, &Figures)> {
        let all = self.measured().filter(move |(subject, _)| {
            (subject.configuration, subject.workload) == (configuration, workload)
                && subject.growth == growth
        });
        all.map(|(subject, figures)| (subject.round, figures))
    }

    /// What the figures of each round give, with the rounds.
    pub(crate) fn by_round<'a, T>(
        &'a self,
        configuration: Configuration,
        workload: Workload,
        of: impl Fn(&'a Figures) -> Option<T>,
    ) -> Vec<(u32, T)> {
        let rounds = self.of(configuration, workload, None);
        rounds
            .filter_map(|(round, figures)| Some((round, of(figures)?)))
            .collect()
    }

    /// Median and spread of a figure.
    pub(crate) fn summary(
        &self,
        configuration: Configuration,
        workload: Workload,
        name: &str,
    ) -> Option<Summary> {
        let values = self.by_round(configuration, workload, |one| one.get(name).copied());
        Summary::of(values.into_iter().map(|(_, value)| value))
    }

    /// A figure's ratio to that under another configuration, round by round.
    pub(crate) fn ratio(
        &self,
        configuration: Configuration,
        to: Configuration,
        workload: Workload,
        name: &str,
    ) -> Option<Summary> {
        let values = |one| self.by_round(one, workload, |figures| figures.get(name).copied());
        ratios(&values(configuration), &values(to))
    }

    /// The medians of a figure at the values of an axis, where it was measured.
    pub(crate) fn growth(
        &self,
        axis: Axis,
        configuration: Configuration,
        name: &str,
    ) -> Vec<Option<f64>> {
        let median = |(number, at): (usize, &f64)| {
            let growth = (number > 0).then_some((axis, *at));
            let values = self.of(configuration, GROWTH, growth);
            let values = values.filter_map(|(_, figures)| figures.get(name).copied());
            Summary::of(values).map(|one| one.median)
        };
        axis.values().iter().enumerate().map(median).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::figures::THROUGHPUT;

    /// A record of throughputs: round, configuration, workload, value; a negative one has failed.
    pub(crate) fn record(values: &[(u32, Configuration, Workload, f64)]) -> Record {
        let sample = |&(round, configuration, workload, throughput): &_| Sample {
            subject: Subject {
                round,
                configuration,
                workload,
                growth: None,
            },
            outcome: match throughput {
                ..0.0 => Err("it fell over".to_owned()),
                throughput => Ok([(THROUGHPUT.to_owned(), throughput)].into()),
            },
        };
        let mut record = Record::new(Settings::new());
        record.samples = values.iter().map(sample).collect();
        record
    }

    /// Adds a figure to one of its samples.
    pub(crate) fn add(record: &mut Record, at: usize, name: &str, value: f64) {
        let figures = record.samples[at].outcome.as_mut().expect("measured");
        figures.insert(name.to_owned(), value);
    }

    #[test]
    fn a_run_goes_on_where_it_was_cut_short_and_nowhere_else() {
        use Configuration::{Alone, Qemu};
        let mut earlier = record(&[
            (1, Qemu, Workload::RedisSet, 100.0),
            (1, Alone, Workload::RedisSet, -1.0),
        ]);
        let resumed = record(&[]).resumed(earlier.clone()).expect("the same");
        assert_eq!(
            resumed.samples,
            earlier.samples[..1],
            "what failed is measured again"
        );
        assert!(resumed.has(&earlier.samples[0].subject));
        assert!(!earlier.has(&earlier.samples[1].subject));

        earlier
            .settings
            .insert("commit".to_owned(), "another".to_owned());
        earlier.settings.insert("a seed".to_owned(), "7".to_owned());
        let mut here = record(&[]);
        here.settings.insert("a seed".to_owned(), "8".to_owned());
        let error = here.resumed(earlier).expect_err("not the same").to_string();
        for expected in ["commit: another, here unknown", "a seed: 7, here 8"] {
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
        record.samples[0].subject.growth = Some((Axis::Clients, 8.0));
        record.write(&path).expect("a file");
        assert_eq!(Record::read(&path).expect("the same"), record);
        let text = fs::read_to_string(&path).expect("text");
        for text in [
            &text.replacen("\"version\": 2", "\"version\": 3", 1),
            "{}",
            "",
        ] {
            fs::write(&path, text).expect("a file");
            let error = Record::read(&path).expect_err("no record");
            assert!(error.to_string().contains("no record"), "{text}: {error}");
        }
    }

    #[test]
    fn the_report_that_documents_show_can_be_read() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/benchmark/report.json");
        let record = Record::read(&path).expect("a record");
        assert!(!record.samples.is_empty() && !record.outages.is_empty());
    }
}
