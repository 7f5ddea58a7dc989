//! What a report says of a host: nothing that tells whose it is.

use std::fs;

use serde::{Deserialize, Serialize};

use crate::doctor::{self, NeededBy};
use crate::kvm::Paging;

/// A host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HostFacts {
    /// Version of ftvm.
    pub(super) ftvm: String,
    /// Release of its kernel.
    pub(super) kernel: String,
    /// Its processor: vendor, family, model, stepping, microcode, and the name of the model.
    pub(super) processor: String,
    /// How many of them.
    pub(super) processors: usize,
    /// `shadow` or `nested`.
    pub(super) paging: String,
    /// What the doctor found.
    pub(super) checks: Vec<CheckFacts>,
}

/// One check of the doctor's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CheckFacts {
    pub(super) id: String,
    /// By guests that are recorded and replicated.
    pub(super) required: bool,
    pub(super) passed: bool,
    pub(super) measured: String,
}

impl HostFacts {
    pub(super) fn of_this_host(report: &doctor::Report) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let paging = match Paging::of_host() {
            Paging::Shadow => "shadow",
            Paging::Nested => "nested",
        };
        let checks = report.checks().iter().map(|check| CheckFacts {
            id: check.id.to_owned(),
            required: check.needed_by != NeededBy::Nothing,
            passed: matches!(check.outcome, doctor::Outcome::Pass(_)),
            measured: check.outcome.measured().to_owned(),
        });
        Self {
            ftvm: env!("CARGO_PKG_VERSION").into(),
            kernel: kernel.trim().to_owned(),
            processor: processor(&cpuinfo),
            processors: cpuinfo
                .lines()
                .filter(|line| is_field(line, "processor"))
                .count(),
            paging: paging.into(),
            checks: checks.collect(),
        }
    }
}

fn is_field(line: &str, name: &str) -> bool {
    line.split_once(':')
        .is_some_and(|(field, _)| field.trim() == name)
}

/// The first processor of `/proc/cpuinfo`, in words.
fn processor(cpuinfo: &str) -> String {
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| is_field(line, name));
        let value = line.and_then(|line| line.split_once(':'));
        value.map_or("?", |(_, value)| value.trim()).to_owned()
    };
    format!(
        "{} family {} model {} stepping {} microcode {} ({})",
        field("vendor_id"),
        field("cpu family"),
        field("model"),
        field("stepping"),
        field("microcode"),
        field("model name"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_is_told_by_its_numbers() {
        let cpuinfo = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 23\nmodel\t\t: 1\n\
                       model name\t: AMD EPYC Processor\nstepping\t: 2\n";
        let told = "AuthenticAMD family 23 model 1 stepping 2 microcode ? (AMD EPYC Processor)";
        assert_eq!(processor(cpuinfo), told);
    }
}
