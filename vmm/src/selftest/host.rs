//! What a report says of a host: nothing that tells whose it is.

use std::thread;

use serde::{Deserialize, Serialize};

use crate::doctor::{self, NeededBy, PAGING, PROCESSOR};

/// A host, in the doctor's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HostFacts {
    /// Version of ftvm.
    pub(super) ftvm: String,
    /// How many processors ftvm may use there; 0 if nobody knows.
    pub(super) processors: usize,
    /// Which: vendor, family, model, stepping and microcode.
    pub(super) processor: String,
    /// Who translates a guest's addresses, as it was tried out: "shadow", or "nested".
    pub(super) paging: String,
    /// All that the doctor found; `device` has the release of the kernel.
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
        let checks = report.checks().iter();
        let measured = |id| {
            let check = checks.clone().find(|check| check.id == id);
            check.map_or("?", |check| check.outcome.measured())
        };
        Self {
            ftvm: env!("CARGO_PKG_VERSION").into(),
            processors: thread::available_parallelism().map_or(0, usize::from),
            processor: measured(PROCESSOR).to_owned(),
            paging: measured(PAGING).to_owned(),
            checks: checks
                .clone()
                .map(|check| CheckFacts {
                    id: check.id.to_owned(),
                    required: check.needed_by != NeededBy::Nothing,
                    passed: matches!(check.outcome, doctor::Outcome::Pass(_)),
                    measured: check.outcome.measured().to_owned(),
                })
                .collect(),
        }
    }
}
