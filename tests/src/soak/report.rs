//! The figures of a long run, and the judgement of them.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::memory::{Memory, Trend};
use crate::failover::Judgement;
use crate::pair::ReportedStats;

/// How far the backup may lag, but for one sample in a hundred. Much more than what the guest is slowed
/// at: a busy machine leaves a host without a processor for longer than that.
const MAX_LAG: Duration = Duration::from_secs(2);

/// What was seen, before it is judged.
#[derive(Debug, Default)]
pub(super) struct Observations {
    pub(super) samples: Vec<Sample>,
    pub(super) troubles: Vec<String>,
    /// Digests and the like, at the end: of the primary and of the backup.
    pub(super) stats: [Option<ReportedStats>; 2],
    pub(super) differences: usize,
    pub(super) acked: u64,
    pub(super) load_results: usize,
    pub(super) pings: Vec<Duration>,
    pub(super) pings_lost: usize,
}

/// How things were at one moment.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Sample {
    /// Seconds since the run began, after the guest's boot.
    pub seconds: f64,
    /// The counter in the client's newest reply.
    pub counter: u64,
    /// Results of the load so far.
    pub load_results: usize,
    /// The primary's figures.
    pub primary: Option<ReportedStats>,
    /// The backup's figures.
    pub backup: Option<ReportedStats>,
    /// Memory of the primary's and of the backup's `ftvm`.
    pub memory: [Memory; 2],
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0} s    counter {}    results {}",
            self.seconds, self.counter, self.load_results
        )?;
        if let Some(stats) = self.primary {
            write!(
                f,
                "    lag {:.0} ms    log {} KiB    deltas {}    digests {}",
                stats.lag_ms,
                stats.log_bytes / 1024,
                stats.state_deltas,
                stats.digests
            )?;
        }
        let [primary, backup] = self.memory.map(|memory| memory.own_kib);
        write!(f, "    memory {primary} and {backup} KiB")
    }
}

/// Median, 99th percentile and maximum, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Distribution {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Maximum.
    pub max: f64,
}

impl Distribution {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let max = *values.last()?;
        // The smallest value that so many are not above.
        let rank = |part: f64| values[(part * (values.len() - 1) as f64).ceil() as usize];
        Some(Self {
            p50: rank(0.5),
            p99: rank(0.99),
            max,
        })
    }
}

/// A long run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// PASS if there is no reason against it.
    #[serde(rename = "verdict")]
    pub judgement: Judgement,
    /// What was not as it should be.
    pub reasons: Vec<String>,
    /// How long it ran after the guest's boot, in minutes.
    pub minutes: f64,
    /// How often the backup found itself different.
    pub differences: usize,
    /// Digests of the whole state that the backup compared.
    pub digests_verified: u64,
    /// How far the backup was behind, as the samples saw it, in milliseconds.
    pub lag_ms: Option<Distribution>,
    /// The 99th percentile of all that the primary measured between the samples
    /// as well, in milliseconds.
    pub lag_ms_p99: Option<f64>,
    /// How long frames waited on the primary before the guest got them, in milliseconds: what the
    /// latency bound is about. A ping takes that, the guest's own time, and the output rule's.
    pub input_wait_ms: Option<Distribution>,
    /// For how long the guest was held up because the backup lagged, in seconds.
    pub throttled_seconds: Option<f64>,
    /// Own memory of the primary's and of the backup's `ftvm`.
    pub memory: [Option<Trend>; 2],
    /// Answers to pings, in milliseconds.
    pub ping_ms: Option<Distribution>,
    /// Pings without an answer.
    pub pings_lost: usize,
    /// Increments that were acknowledged to the client.
    pub acked: u64,
    /// Results of the load, each as it must be in a run that ends well.
    pub load_results: usize,
    /// States transferred because the guest computed for too long without an exit.
    pub state_deltas: Option<u64>,
    /// Bytes of these on the logging channel.
    pub state_delta_bytes: Option<u64>,
    /// Bytes on the logging channel.
    pub log_bytes: Option<u64>,
    /// One every few seconds.
    pub samples: Vec<Sample>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} min, {} differences, {} digests, {} increments, {} load results, {} pings lost",
            self.minutes,
            self.differences,
            self.digests_verified,
            self.acked,
            self.load_results,
            self.pings_lost
        )?;
        for (what, distribution) in [
            ("lag", self.lag_ms),
            ("wait of an input", self.input_wait_ms),
            ("ping", self.ping_ms),
        ] {
            if let Some(ms) = distribution {
                write!(f, "; {what} {:.1}, {:.1}, {:.1} ms", ms.p50, ms.p99, ms.max)?;
            }
        }
        if let Some(seconds) = self.throttled_seconds {
            write!(f, "; held up {seconds:.1} s")?;
        }
        for (role, trend) in ["primary", "backup"].into_iter().zip(self.memory) {
            if let Some(trend) = trend {
                let (mean, growth) = (trend.mean_kib, trend.kib_per_hour);
                write!(f, "; {role} {mean:.0} KiB, {growth:+.0} an hour")?;
            }
        }
        Ok(())
    }
}

impl Report {
    /// Judges what was seen:
    ///
    /// - nothing broke, and the client's counter and every result of the load
    ///   are right;
    /// - the backup compared digests, and never differed;
    /// - the lag was bounded: its 99th percentile is below [`MAX_LAG`];
    /// - the memory of both VMMs was flat ([`Trend::flat`]).
    pub(super) fn judge(seen: &Observations, duration: Duration) -> Self {
        let mut reasons = seen.troubles.clone();
        let differences = seen.differences;
        if differences > 0 {
            reasons.push(format!("the backup differed {differences} times"));
        }
        let [primary, backup] = seen.stats;
        let digests_verified = backup.map_or(0, |stats| stats.digests);
        if digests_verified == 0 {
            reasons.push("the backup compared no digest".to_owned());
        }
        let lag = |sample: &Sample| sample.primary.map(|stats| stats.lag_ms);
        let lag_ms = Distribution::of(seen.samples.iter().filter_map(lag).collect());
        let bound = MAX_LAG.as_secs_f64() * 1e3;
        match lag_ms {
            Some(lag) if lag.p99 < bound => {}
            Some(lag) => reasons.push(format!(
                "the backup was {:.0} ms behind (99th percentile), {bound:.0} are allowed",
                lag.p99
            )),
            None => reasons.push("nothing is known of the backup's lag".to_owned()),
        }
        let memory = [0, 1].map(|side: usize| {
            let own = |sample: &Sample| (sample.seconds, sample.memory[side].own_kib);
            Trend::of(&seen.samples.iter().map(own).collect::<Vec<_>>())
        });
        for (role, trend) in ["primary", "backup"].into_iter().zip(memory) {
            match trend {
                Some(trend) if trend.flat => {}
                Some(trend) => reasons.push(format!(
                    "the {role}'s memory grew by {:.0} KiB an hour from {:.0} KiB",
                    trend.kib_per_hour, trend.mean_kib
                )),
                None => reasons.push(format!("too few samples of the {role}'s memory")),
            }
        }
        let millis = |duration: &Duration| duration.as_secs_f64() * 1e3;
        Self {
            judgement: match reasons.is_empty() {
                true => Judgement::Pass,
                false => Judgement::Fail,
            },
            reasons,
            minutes: duration.as_secs_f64() / 60.0,
            differences,
            digests_verified,
            lag_ms,
            lag_ms_p99: primary.map(|stats| stats.lag_ms_p99),
            input_wait_ms: primary.map(|stats| Distribution {
                p50: stats.input_wait_ms_p50,
                p99: stats.input_wait_ms_p99,
                max: stats.input_wait_ms_max,
            }),
            throttled_seconds: primary.map(|stats| stats.throttled_ms / 1e3),
            memory,
            ping_ms: Distribution::of(seen.pings.iter().map(millis).collect()),
            pings_lost: seen.pings_lost,
            acked: seen.acked,
            load_results: seen.load_results,
            state_deltas: primary.map(|stats| stats.state_deltas),
            state_delta_bytes: primary.map(|stats| stats.state_delta_bytes),
            log_bytes: primary.map(|stats| stats.log_bytes),
            samples: seen.samples.clone(),
        }
    }

    /// Whether it went well.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.judgement == Judgement::Pass
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two minutes of samples with this lag and this growth of the backup.
    fn seen(lag_ms: f64, kib_per_sample: u64) -> Observations {
        let stats = ReportedStats {
            lag_ms,
            digests: 100,
            ..ReportedStats::default()
        };
        let samples = (0..24)
            .map(|number| Sample {
                seconds: number as f64 * 5.0,
                counter: number,
                load_results: 1,
                primary: Some(stats),
                backup: Some(stats),
                memory: [10_000, 10_000 + number * kib_per_sample].map(|own_kib| Memory {
                    resident_kib: own_kib + 200_000,
                    own_kib,
                }),
            })
            .collect();
        Observations {
            samples,
            stats: [Some(stats); 2],
            ..Observations::default()
        }
    }

    fn reasons(seen: &Observations) -> String {
        let report = Report::judge(seen, Duration::from_secs(120));
        assert_eq!(report.passed(), report.reasons.is_empty());
        report.reasons.join("; ")
    }

    #[test]
    fn a_good_run_passes_and_each_fault_is_named() {
        assert_eq!(reasons(&seen(20.0, 0)), "");
        assert!(reasons(&seen(2500.0, 0)).contains("behind"));
        assert!(reasons(&seen(20.0, 100)).contains("backup's memory grew"));
        let mut different = seen(20.0, 0);
        different.differences = 1;
        assert!(reasons(&different).contains("differed 1"));
        let mut blind = seen(20.0, 0);
        blind.stats[1] = None;
        assert!(reasons(&blind).contains("no digest"));
        assert!(reasons(&Observations::default()).contains("too few samples"));
        let mut broken = seen(20.0, 0);
        broken.troubles.push("the backup ended".to_owned());
        assert_eq!(reasons(&broken), "the backup ended");
    }

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let distribution = Distribution::of((1..=200).rev().map(f64::from).collect());
        let expected = Distribution {
            p50: 101.0,
            p99: 199.0,
            max: 200.0,
        };
        assert_eq!(distribution, Some(expected));
        assert_eq!(Distribution::of(Vec::new()), None);
    }
}
