//! What was measured, and the ratios.

use serde::Serialize;

use super::{Configuration, JOBS};

/// One job under one configuration, in one round.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measurement {
    /// From 1.
    pub round: u32,
    /// What the guest ran on.
    pub configuration: Configuration,
    /// The job: fio's name of the access pattern.
    pub job: String,
    /// KiB read or written in a second.
    pub kib_per_second: u64,
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
            .filter_map(|(job, configuration)| {
                let of = |configuration| {
                    let fits = move |seen: &&Measurement| {
                        seen.job == job.name && seen.configuration == configuration
                    };
                    measurements.iter().filter(fits)
                };
                let ratios = |to| {
                    let ratio = |seen: &Measurement| {
                        let other = of(to).find(|other| other.round == seen.round)?;
                        (other.kib_per_second > 0)
                            .then(|| seen.kib_per_second as f64 / other.kib_per_second as f64)
                    };
                    median(of(configuration).filter_map(ratio))
                };
                Some(Row {
                    job: job.name,
                    block: job.block,
                    configuration,
                    kib_per_second: median(of(configuration).map(|one| one.kib_per_second as f64))?,
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

    fn measured(round: u32, configuration: Configuration, kib_per_second: u64) -> Measurement {
        Measurement {
            round,
            configuration,
            job: "randread".to_owned(),
            kib_per_second,
            log_mbit: (configuration == Configuration::LoggedReads).then_some(f64::from(round)),
        }
    }

    #[test]
    fn ratios_are_those_of_each_round() {
        let report = Report::new(vec![
            measured(1, Configuration::Qemu, 100),
            measured(1, Configuration::LoggedReads, 50),
            measured(2, Configuration::Qemu, 1000),
            measured(2, Configuration::LoggedReads, 700),
        ]);
        let [qemu, logged] = &report.rows[..] else {
            panic!("two configurations of one job: {:?}", report.rows);
        };
        assert_eq!((qemu.kib_per_second, qemu.to_qemu), (550.0, Some(1.0)));
        assert_eq!((logged.kib_per_second, logged.to_alone), (375.0, None));
        assert_eq!((logged.to_qemu, logged.log_mbit), (Some(0.6), Some(1.5)));
    }

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median([].into_iter()), None);
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0].into_iter()), Some(2.5));
    }
}
