//! Metrics in Prometheus' text format, as they are when they are asked for.

use std::fmt::{self, Debug};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeMetric, prometheus_text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// The upper bounds of a histogram of times, in seconds: from what memory takes to what a person notices.
pub const SECONDS: [f64; 16] = [
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

/// A text that families of metrics are written to.
#[derive(Debug)]
pub struct Exposition<'a>(DescriptorEncoder<'a>);

impl Exposition<'_> {
    /// What is so much now: a value for each set of labels.
    ///
    /// # Errors
    /// None in memory.
    pub fn gauge<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, f64)>,
    ) -> fmt::Result {
        let values = (values.into_iter()).map(|(labels, value)| (labels, ConstGauge::new(value)));
        self.family(name, help, MetricType::Gauge, values)
    }

    /// What only grows while the program runs. Its name ends with `_total`.
    ///
    /// # Errors
    /// None in memory.
    pub fn counter<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, f64)>,
    ) -> fmt::Result {
        let values = (values.into_iter()).map(|(labels, value)| (labels, ConstCounter::new(value)));
        // The library appends it.
        let stem = name.strip_suffix("_total").unwrap_or(name);
        self.family(stem, help, MetricType::Counter, values)
    }

    /// How often something took how long.
    ///
    /// # Errors
    /// None in memory.
    pub fn histogram<'h, L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, &'h Histogram)>,
    ) -> fmt::Result {
        let values = (values.into_iter()).map(|(labels, histogram)| (labels, histogram.clone()));
        self.family(name, help, MetricType::Histogram, values)
    }

    fn family<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        metrics: impl Iterator<Item = (L, impl EncodeMetric)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, metric) in metrics {
            metric.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// The text of all families that `write` writes.
pub fn expose(
    write: impl Fn(&mut Exposition<'_>) -> fmt::Result + Send + Sync + 'static,
) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Writer(write)));
    let mut text = String::new();
    // Nothing fails that is written to memory.
    let _ = prometheus_text::encode(&mut text, &registry);
    text
}

struct Writer<W>(W);

impl<W> Debug for Writer<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Writer")
    }
}

impl<W> Collector for Writer<W>
where
    W: Fn(&mut Exposition<'_>) -> fmt::Result + Send + Sync + 'static,
{
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0(&mut Exposition(encoder))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_told_as_prometheus_reads_them() {
        let holds = Histogram::new(SECONDS);
        holds.observe(0.002);
        let text = expose(move |to| {
            to.gauge("a_up", "Whether.", [([("vm", "d\"b")], 1.0)])?;
            to.counter(
                "a_bytes_total",
                "How many.",
                [([("vm", "db")], 3.0), ([("vm", "web")], 0.5)],
            )?;
            to.histogram("a_seconds", "How long.", [([("vm", "db")], &holds)])
        });
        for line in [
            "# HELP a_up Whether.",
            "# TYPE a_up gauge",
            "a_up{vm=\"d\\\"b\"} 1.0",
            "# TYPE a_bytes_total counter",
            "a_bytes_total{vm=\"db\"} 3.0",
            "a_bytes_total{vm=\"web\"} 0.5",
            "a_seconds_bucket{vm=\"db\",le=\"0.001\"} 0",
            "a_seconds_bucket{vm=\"db\",le=\"0.0025\"} 1",
            "a_seconds_bucket{vm=\"db\",le=\"+Inf\"} 1",
            "a_seconds_count{vm=\"db\"} 1",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} in\n{text}");
        }
    }
}
