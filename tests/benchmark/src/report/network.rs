//! What the Output Rule leaves of the throughput of a client that waits for its replies.

use super::{figure, head, line};
use crate::configuration::Configuration::{Alone, LoggedReads};
use crate::record::Record;
use crate::sample::Metric;
use crate::workload::Workload;

/// A workload of one client, and what would be left of it were replication free but for the
/// logging network's round trip, for which each reply waits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Limit {
    /// What an operation takes without a backup, in milliseconds.
    latency: f64,
    /// How often the client waits for a reply in an operation.
    exchanges: f64,
    /// A round trip of the logging network, in milliseconds.
    round_trip: f64,
}

impl Limit {
    /// Of a workload whose client waits, if it was measured.
    pub(super) fn of(record: &Record, workload: Workload) -> Option<Self> {
        let exchanges = f64::from(workload.exchanges()?);
        let latency = record.summary(Alone, workload, Metric::LatencyP50)?;
        let round_trip = record.summary(LoggedReads, workload, Metric::RoundTrip)?;
        Some(Self {
            latency: latency.median,
            exchanges,
            round_trip: round_trip.median,
        })
    }

    /// The most that replicated throughput can be of that alone.
    pub(super) fn ratio(self) -> f64 {
        self.latency / (self.latency + self.exchanges * self.round_trip)
    }
}

impl Record {
    pub(super) fn network_limits(&self, text: &mut String) {
        let limits = self.workloads.iter().filter_map(|&workload| {
            let ratio = self.ratio(LoggedReads, Alone, workload, Metric::Throughput)?;
            Some((workload, Limit::of(self, workload)?, ratio.median))
        });
        let mut limits = limits.peekable();
        if limits.peek().is_none() {
            return;
        }
        text.push_str(
            "## What the logging network leaves\n\n\
             A client that waits for a reply waits for a round trip of the logging network as well, \
             because no output leaves before the backup has the log up to it. Were replication free \
             otherwise, its throughput in proportion to that alone would be what an operation takes \
             alone, divided by that and the round trips.\n\n",
        );
        head(
            text,
            &[
                "workload",
                "alone, latency p50, ms",
                "replies waited for",
                "round trip, ms",
                "leaves",
                "measured",
                "of what it leaves",
            ],
        );
        for (workload, limit, measured) in limits {
            line(
                text,
                [
                    workload.to_string(),
                    figure(limit.latency),
                    format!("{:.0}", limit.exchanges),
                    figure(limit.round_trip),
                    figure(limit.ratio()),
                    figure(measured),
                    figure(measured / limit.ratio()),
                ],
            );
        }
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reply_waits_for_a_round_trip() {
        let limit = Limit {
            latency: 2.0,
            exchanges: 1.0,
            round_trip: 2.0,
        };
        assert_eq!(limit.ratio(), 0.5);
        let seven = Limit {
            exchanges: 7.0,
            ..limit
        };
        assert_eq!(seven.ratio(), 0.125);
        let near = Limit {
            round_trip: 0.0,
            ..limit
        };
        assert_eq!(near.ratio(), 1.0);
    }
}
