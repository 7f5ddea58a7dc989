//! Figures by their names, and those that tables, goals and plots ask for.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::configuration::Configuration;
use crate::workload::Workload;

/// Figures by their names, which end with their units; that of the throughput is the workload's.
pub type Figures = BTreeMap<String, f64>;

/// In the workload's unit.
pub(crate) const THROUGHPUT: &str = "throughput";
/// Of the workload's requests: median.
pub(crate) const LATENCY_P50: &str = "latency p50, ms";
/// 99th percentile.
pub(crate) const LATENCY_P99: &str = "latency p99, ms";
/// The log, on the logging channel or in a file.
pub(crate) const LOG: &str = "log, Mbit/s";
/// Between the two hosts, both ways, with all headers.
pub(crate) const CHANNEL: &str = "channel, Mbit/s";
pub(crate) const CHANNEL_BYTES: &str = "channel bytes an operation";
/// Between the hosts, as heartbeats had it under this load, at its end.
pub(crate) const ROUND_TRIP: &str = "round trip, ms";
/// How long outputs waited for the backup.
pub(crate) const HOLD_P50: &str = "output hold p50, ms";
pub(crate) const HOLD_P99: &str = "output hold p99, ms";
/// How far the backup was behind.
pub(crate) const LAG_P50: &str = "lag p50, ms";
pub(crate) const LAG_P99: &str = "lag p99, ms";
pub(crate) const LAG_MAX: &str = "lag max, ms";
/// Of the guest.
pub(crate) const EXITS: &str = "exits/s";
pub(crate) const EXITS_OF_ONE: &str = "exits an operation";
/// Processor time of a VMM in a second.
pub(crate) const PRIMARY_CPU: &str = "primary: CPU";
pub(crate) const BACKUP_CPU: &str = "backup: CPU";
/// What the guest got from the network.
pub(crate) const RECEIVED: &str = "primary: received, Mbit/s";
/// Part of the machine's processors that others had meanwhile, as far as it is told.
pub(crate) const STEAL: &str = "steal";

/// Of a transfer of the guest's whole state to the other host: for how long the guest stood still.
pub(crate) const PAUSE: &str = "pause, ms";
/// How long all of it took.
pub(crate) const TIME: &str = "time, s";
/// What was sent.
pub(crate) const SENT: &str = "sent, MB";
/// Pages of the guest's memory that were not zero, as the sender saw them.
pub(crate) const NOT_ZERO: &str = "not zero, MB";
/// How often memory was gone through.
pub(crate) const ROUNDS: &str = "rounds";
/// Throughput before.
pub(crate) const BEFORE: &str = "before, operations/s";
/// Throughput meanwhile, in proportion to that before.
pub(crate) const KEPT: &str = "client keeps";
/// The longest time meanwhile from one reply to the next.
pub(crate) const LONGEST_WAIT: &str = "longest wait, ms";

/// How the name begins of what the processors of the guest's host did.
pub(crate) const PROCESSORS: &str = "primary: time, ";

/// Exits as KVM counts them, and how the names of those begin that `ftvm` counts.
const KVM_EXITS: &str = "primary: KVM, exits/s";
const OWN_EXITS: &str = "ftvm exits, ";

/// The name of the part of the log that entries of a kind make.
pub(crate) fn log_of(kind: &str) -> String {
    format!("log of {kind}, Mbit/s")
}

/// The kind of a name of [`log_of`].
pub(crate) fn log_kind(name: &str) -> Option<&str> {
    name.strip_prefix("log of ")?.strip_suffix(", Mbit/s")
}

/// The name of `ftvm`'s own count of exits of a kind.
pub(crate) fn own_exits(kind: &str) -> String {
    format!("{OWN_EXITS}{kind}/s")
}

/// What counters grew in a second.
pub(crate) fn growth(before: &Figures, after: &Figures, seconds: f64) -> Figures {
    let grown = |(name, now): (&String, &f64)| {
        let before = before.get(name).copied().unwrap_or_default();
        (name.clone(), (now - before).max(0.0) / seconds)
    };
    after.iter().map(grown).collect()
}

/// Of times and how often each occurred, in microseconds: how many there are, and quantiles (0 to 1)
/// in milliseconds. None if there are no times.
pub(crate) fn quantiles<const N: usize>(
    times: impl IntoIterator<Item = (u64, u64)>,
    quantiles: [f64; N],
) -> Option<[f64; N]> {
    let mut histogram = Histogram::<u64>::new(3).expect("three digits are allowed");
    for (micros, count) in times {
        histogram.record_n(micros, count).expect("it grows");
    }
    let millis = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
    (!histogram.is_empty()).then(|| quantiles.map(millis))
}

/// Of a boot that took so long.
pub(crate) fn of_boot(boot: Duration) -> Figures {
    let seconds = boot.as_secs_f64();
    let figures = [("seconds", seconds), (THROUGHPUT, 60.0 / seconds)];
    figures.map(|(name, value)| (name.to_owned(), value)).into()
}

/// Adds what follows from the others. Exits are KVM's, whose count is the same for every VMM; where
/// that cannot be read, those that `ftvm` counts.
pub(crate) fn derive(configuration: Configuration, workload: Workload, figures: &mut Figures) {
    let own = figures
        .iter()
        .filter(|(name, _)| name.starts_with(OWN_EXITS));
    let own = own.map(|(_, rate)| *rate).reduce(|sum, rate| sum + rate);
    let exits = figures.get(KVM_EXITS).copied().or(own);
    let logging = figures.get("primary: logging network, Mbit/s").copied();
    let channel = logging.filter(|_| configuration.has_two_hosts());
    let operations = figures.get(THROUGHPUT).copied();
    let operations = operations.filter(|rate| workload.counts_operations() && *rate > 0.0);
    let of_one = |rate: Option<f64>| Some(rate? / operations?);
    let mut add = |name: &str, value: Option<f64>| {
        value.map(|value| figures.insert(name.to_owned(), value));
    };
    add(EXITS, exits);
    add(EXITS_OF_ONE, of_one(exits));
    add(CHANNEL, channel);
    add(CHANNEL_BYTES, of_one(channel.map(|mbit| mbit * 1e6 / 8.0)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derived(configuration: Configuration, workload: Workload, of: &[(&str, f64)]) -> Figures {
        let names = of.iter().map(|(name, value)| (name.to_string(), *value));
        let mut figures: Figures = names.collect();
        derive(configuration, workload, &mut figures);
        figures
    }

    #[test]
    fn exits_and_bytes_are_told_for_each_operation_where_there_are_operations() {
        use Configuration::{Alone, LoggedReads};
        use Workload::{NetworkReceive, RedisSet};
        let figures = [
            (THROUGHPUT, 100.0),
            ("primary: logging network, Mbit/s", 0.8),
            (KVM_EXITS, 510.0),
            ("ftvm exits, halt/s", 7.0),
        ];
        let set = derived(LoggedReads, RedisSet, &figures);
        assert_eq!((set[EXITS_OF_ONE], set[CHANNEL_BYTES]), (5.1, 1000.0));
        let one_host = derived(Alone, RedisSet, &figures);
        assert!(!one_host.contains_key(CHANNEL), "{one_host:?}");
        let stream = derived(LoggedReads, NetworkReceive, &figures);
        assert_eq!((stream[EXITS], stream.get(EXITS_OF_ONE)), (510.0, None));
        let own = derived(Alone, RedisSet, &figures[3..]);
        assert_eq!((own[EXITS], own.get(EXITS_OF_ONE)), (7.0, None));
        assert_eq!(derived(Alone, RedisSet, &[]), Figures::new());
    }
}
