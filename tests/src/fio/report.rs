//! What was measured, and the ratios.

use serde::Serialize;

use super::{Configuration, JOBS};

/// What fio says of a job.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// The job: fio's name of the access pattern.
    pub job: String,
    /// Bytes read or written in a second.
    pub bytes_per_second: f64,
    /// Requests in a second.
    pub iops: f64,
    /// How long a request took on average, in microseconds.
    pub latency_us: f64,
}

impl Figures {
    /// Reads the line in which the guest tells of a job.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        // What fio said of its progress is before it, and overwritten on a terminal.
        let visible = line.trim_end().rsplit('\r').next()?;
        let words: Vec<&str> = visible.strip_prefix("fio: ")?.split(' ').collect();
        let [job, bytes, iops, latency] = words[..] else {
            return None;
        };
        Some(Self {
            job: job.to_owned(),
            bytes_per_second: bytes.parse().ok()?,
            iops: iops.parse().ok()?,
            latency_us: latency.parse().ok()?,
        })
    }
}

/// One job under one configuration, in one round.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measurement {
    /// From 1.
    pub round: u32,
    /// What the guest ran on.
    pub configuration: Configuration,
    /// What fio says.
    #[serde(flatten)]
    pub figures: Figures,
    /// Megabits in a second on the logging channel meanwhile, where there is one.
    pub log_mbit: Option<f64>,
}

/// A job under a configuration: medians of all rounds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The job.
    pub job: &'static str,
    /// The size of its requests.
    pub block: &'static str,
    /// What the guest ran on.
    pub configuration: Configuration,
    /// KiB read or written in a second.
    pub kib_per_second: f64,
    /// How long a request took on average, in milliseconds.
    pub latency_ms: f64,
    /// In comparison with QEMU, round by round.
    pub to_qemu: Option<f64>,
    /// In comparison with ftvm alone, round by round.
    pub to_alone: Option<f64>,
    /// Megabits in a second on the logging channel.
    pub log_mbit: Option<f64>,
}

/// All that was measured in one go.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Job by job and configuration by configuration.
    pub rows: Vec<Row>,
    /// Everything.
    pub measurements: Vec<Measurement>,
}

impl Report {
    /// The report on these measurements.
    #[must_use]
    pub fn new(measurements: Vec<Measurement>) -> Self {
        let rows = JOBS
            .iter()
            .flat_map(|job| Configuration::ALL.map(|configuration| (job, configuration)))
            .filter_map(|(&(job, block), configuration)| {
                let of = |configuration| {
                    let fits = move |seen: &&Measurement| {
                        seen.figures.job == job && seen.configuration == configuration
                    };
                    measurements.iter().filter(fits)
                };
                let ratios = |to| {
                    let ratio = |seen: &Measurement| {
                        let other = of(to).find(|other| other.round == seen.round)?;
                        let other = other.figures.bytes_per_second;
                        (other > 0.0).then(|| seen.figures.bytes_per_second / other)
                    };
                    median(of(configuration).filter_map(ratio))
                };
                let rates = of(configuration).map(|one| one.figures.bytes_per_second / 1024.0);
                let latencies = of(configuration).map(|one| one.figures.latency_us / 1e3);
                Some(Row {
                    job,
                    block,
                    configuration,
                    kib_per_second: median(rates)?,
                    latency_ms: median(latencies)?,
                    to_qemu: ratios(Configuration::Qemu),
                    to_alone: ratios(Configuration::Alone),
                    log_mbit: median(of(configuration).filter_map(|one| one.log_mbit)),
                })
            })
            .collect();
        Self { rows, measurements }
    }
}

/// The middle one, or the mean of the two in the middle.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(round: u32, configuration: Configuration, kib_per_second: f64) -> Measurement {
        Measurement {
            round,
            configuration,
            figures: Figures {
                job: "randread".to_owned(),
                bytes_per_second: 1024.0 * kib_per_second,
                iops: 1.0,
                latency_us: 1500.0,
            },
            log_mbit: (configuration == Configuration::LoggedReads).then_some(f64::from(round)),
        }
    }

    #[test]
    fn ratios_are_those_of_each_round() {
        let report = Report::new(vec![
            measured(1, Configuration::Qemu, 100.0),
            measured(1, Configuration::LoggedReads, 50.0),
            measured(2, Configuration::Qemu, 1000.0),
            measured(2, Configuration::LoggedReads, 700.0),
        ]);
        let [qemu, logged] = &report.rows[..] else {
            panic!("two configurations of one job: {:?}", report.rows);
        };
        assert_eq!((qemu.kib_per_second, qemu.to_qemu), (550.0, Some(1.0)));
        assert_eq!((logged.kib_per_second, logged.to_alone), (375.0, None));
        assert_eq!(logged.latency_ms, 1.5);
        assert_eq!((logged.to_qemu, logged.log_mbit), (Some(0.6), Some(1.5)));
    }

    #[test]
    fn lines_of_the_guest_are_read_whole() {
        let line = "Jobs: 1 (f=1): [r(1)][eta 00m:00s]\rfio: randread 409600 100.0 79950.3\r";
        let figures = Figures::parse(line).expect("a line");
        assert_eq!(figures.job, "randread");
        assert_eq!((figures.iops, figures.latency_us), (100.0, 79950.3));
        for other in [
            "fio: randread 409600 100.0",
            "fio: read a b c",
            "fio-begin read",
        ] {
            assert_eq!(Figures::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median([].into_iter()), None);
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0].into_iter()), Some(2.5));
    }
}
