//! What figures are made of: entries and exits by kind, processor time by what took it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{figure, head, line};
use crate::configuration::Configuration;
use crate::record::Record;
use crate::sample::Figures;
use crate::statistics::Summary;
use crate::workload::Workload;

/// A value, and where it was measured.
type Value = (Configuration, Workload, f64);

/// Figures in a second by kind, and the size of each kind where that has one.
type Breakdown<'a> = (&'a BTreeMap<String, f64>, Option<&'a BTreeMap<String, f64>>);

impl Record {
    pub(super) fn breakdowns(&self, text: &mut String) {
        self.breakdown(text, "Entries of the log, in a second", |figures| {
            let log = figures.vmm.as_ref()?.log.as_ref()?;
            Some((&log.entries_per_second, Some(&log.bytes_per_entry)))
        });
        self.breakdown(
            text,
            "Exits of the guest in a second, as ftvm counts them",
            |figures| Some((&figures.vmm.as_ref()?.exits_per_second, None)),
        );
        self.breakdown(text, "KVM's counters, in a second", |figures| {
            Some((&figures.primary.as_ref()?.kvm_per_second, None))
        });
        self.breakdown(text, "Frames of the guest, in a second", |figures| {
            let host = figures.primary.as_ref()?;
            Some((&host.frames_per_second, Some(&host.bytes_per_frame)))
        });
        self.breakdown(
            text,
            "Where the primary's processor goes, in seconds in a second",
            |figures| Some((&figures.primary.as_ref()?.profile, None)),
        );
        self.breakdown(
            text,
            "Where the backup's processor goes, in seconds in a second",
            |figures| Some((&figures.backup.as_ref()?.profile, None)),
        );
    }

    /// What the log, the exits or the processor's time is made of: medians.
    fn breakdown<'a>(
        &'a self,
        text: &mut String,
        title: &str,
        of: impl Fn(&'a Figures) -> Option<Breakdown<'a>>,
    ) {
        let mut kinds: BTreeMap<&str, [Vec<Value>; 2]> = BTreeMap::new();
        for sample in &self.samples {
            let Some((rates, sizes)) = sample.figures().and_then(&of) else {
                continue;
            };
            let at = |value| (sample.configuration, sample.workload, value);
            for (kind, rate) in rates {
                let [all, bytes] = kinds.entry(kind).or_default();
                all.push(at(*rate));
                bytes.extend(sizes.and_then(|sizes| sizes.get(kind)).copied().map(at));
            }
        }
        if kinds.is_empty() {
            return;
        }
        let _ = writeln!(text, "## {title}\n");
        let mut titles = vec!["workload", "guest on"];
        titles.extend(kinds.keys());
        head(text, &titles);
        for workload in &self.workloads {
            for configuration in &self.configurations {
                let median = |values: &[Value]| {
                    let own = values
                        .iter()
                        .filter(|(of, doing, _)| of == configuration && doing == workload);
                    Summary::of(own.map(|(.., value)| *value)).map(|summary| summary.median)
                };
                let cells: Vec<String> = kinds
                    .values()
                    .map(|[rates, sizes]| match (median(rates), median(sizes)) {
                        (None, _) => "–".to_owned(),
                        (Some(rate), None) => figure(rate),
                        (Some(rate), Some(size)) => format!("{} × {size:.0} B", figure(rate)),
                    })
                    .collect();
                if cells.iter().any(|cell| cell != "–") {
                    let names = [workload.to_string(), configuration.to_string()];
                    line(text, names.into_iter().chain(cells));
                }
            }
        }
        text.push('\n');
    }
}
