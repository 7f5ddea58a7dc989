//! One of the figures of a measurement, as tables and comparisons have it.

use crate::sample::Figures;
use crate::workload::Workload;

/// A figure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Metric {
    /// Its name, with its unit where the workload does not give that.
    pub(crate) title: &'static str,
    /// Its value, if it has one.
    pub(crate) of: fn(Workload, &Figures) -> Option<f64>,
}

const fn metric(title: &'static str, of: fn(Workload, &Figures) -> Option<f64>) -> Metric {
    Metric { title, of }
}

/// What is in a second, for each operation of the workload.
fn of_an_operation(workload: Workload, figures: &Figures, rate: Option<f64>) -> Option<f64> {
    let operations = figures.throughput.filter(|rate| *rate > 0.0)?;
    rate.filter(|_| workload.counts_operations())
        .map(|rate| rate / operations)
}

/// Exits of the guest in a second: as KVM counts them, which is the same for every VMM; where that
/// cannot be read, as `ftvm` does.
fn exits(figures: &Figures) -> Option<f64> {
    let kvm = figures.primary.as_ref();
    let kvm = kvm.and_then(|host| host.kvm_per_second.get("exits").copied());
    kvm.or_else(|| Some(figures.vmm.as_ref()?.exits_per_second.values().sum()))
}

/// Megabits in a second between two hosts.
fn channel(figures: &Figures) -> Option<f64> {
    figures.backup.as_ref()?;
    Some(figures.primary.as_ref()?.channel_mbit)
}

pub(crate) const THROUGHPUT: Metric = metric("throughput", |_, f| f.throughput);
pub(crate) const LATENCY_P50: Metric = metric("latency p50, ms", |_, f| Some(f.latency?.p50));
pub(crate) const LATENCY_P99: Metric = metric("p99, ms", |_, f| Some(f.latency?.p99));
pub(crate) const LATENCY_P999: Metric = metric("p99.9, ms", |_, f| f.latency?.p999);
pub(crate) const CHANNEL: Metric = metric("channel, Mbit/s", |_, f| channel(f));
pub(crate) const CHANNEL_BYTES: Metric = metric("channel bytes an operation", |workload, f| {
    of_an_operation(workload, f, channel(f).map(|mbit| mbit * 1e6 / 8.0))
});
pub(crate) const LOG: Metric = metric("log, Mbit/s", |_, f| Some(f.log()?.mbit));
pub(crate) const LOG_PEAK: Metric = metric("log peak, Mbit/s", |_, f| Some(f.log()?.mbit_peak));
pub(crate) const ROUND_TRIP: Metric = metric("round trip, ms", |_, f| f.log()?.round_trip_ms);
pub(crate) const HOLD_P50: Metric = metric("output hold p50, ms", |_, f| {
    Some(f.vmm.as_ref()?.output_hold?.p50)
});
pub(crate) const HOLD_P99: Metric = metric("output hold p99, ms", |_, f| {
    Some(f.vmm.as_ref()?.output_hold?.p99)
});
pub(crate) const LAG_P50: Metric = metric("lag p50, ms", |_, f| Some(f.vmm.as_ref()?.lag?.p50));
pub(crate) const LAG_P99: Metric = metric("lag p99, ms", |_, f| Some(f.vmm.as_ref()?.lag?.p99));
pub(crate) const LAG_MAX: Metric = metric("lag max, ms", |_, f| Some(f.vmm.as_ref()?.lag?.max));
pub(crate) const EXITS: Metric = metric("exits/s", |_, f| exits(f));
pub(crate) const EXITS_OF_ONE: Metric = metric("exits an operation", |workload, f| {
    of_an_operation(workload, f, exits(f))
});
pub(crate) const PRIMARY_CPU: Metric = metric("VMM's CPU", |_, f| Some(f.primary.as_ref()?.cpu));
pub(crate) const BACKUP_CPU: Metric = metric("backup's CPU", |_, f| Some(f.backup.as_ref()?.cpu));
pub(crate) const SPEED: Metric = metric("machine's speed", |_, f| Some(f.machine?.speed));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{HostFigures, VmmFigures};

    #[test]
    fn values_for_each_operation_are_of_operations_only() {
        let mut figures = Figures {
            throughput: Some(100.0),
            primary: Some(HostFigures {
                channel_mbit: 0.8,
                kvm_per_second: [("exits".to_owned(), 510.0)].into(),
                ..HostFigures::default()
            }),
            vmm: Some(VmmFigures {
                exits_per_second: [("halt".to_owned(), 7.0)].into(),
                ..VmmFigures::default()
            }),
            ..Figures::default()
        };
        let set = Workload::RedisSet;
        assert_eq!((EXITS_OF_ONE.of)(set, &figures), Some(5.1));
        assert_eq!((EXITS_OF_ONE.of)(Workload::NetworkReceive, &figures), None);
        assert_eq!((CHANNEL_BYTES.of)(set, &figures), None, "one host");
        figures.backup = Some(HostFigures::default());
        assert_eq!((CHANNEL_BYTES.of)(set, &figures), Some(1000.0));
        // Without KVM's counters, ftvm's own.
        figures.primary = None;
        assert_eq!((EXITS.of)(set, &figures), Some(7.0));
        figures.throughput = Some(0.0);
        assert_eq!((EXITS_OF_ONE.of)(set, &figures), None);
    }
}
