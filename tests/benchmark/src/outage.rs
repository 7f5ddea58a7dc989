//! How long the guest is away when the primary's host is killed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use testbed::failover::Run;

/// From the kill to the backup's finding it out.
pub(crate) const DETECTION: &str = "detection";
/// From there to going live.
pub(crate) const GO_LIVE: &str = "claim, rest of the log, going live";
/// From there to the first reply that the client gets.
pub(crate) const FIRST_REPLY: &str = "from there to the first reply";
/// From the last reply of the killed host to that; it is not known where the guest was booting.
pub(crate) const ALL: &str = "all of it, as the client sees it";

/// One kill of a primary's host under load.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outage {
    /// Its parts, in milliseconds, by their names; without those that did not happen.
    pub(crate) millis: BTreeMap<String, u64>,
    /// Requests that were acknowledged and are gone.
    pub(crate) lost: u64,
    /// Why it did not go well, if so.
    pub(crate) reason: Option<String>,
}

impl From<&Run> for Outage {
    fn from(run: &Run) -> Self {
        let difference = |to: Option<u64>, from: Option<u64>| Some(to?.saturating_sub(from?));
        let parts = [
            (DETECTION, run.detect_ms),
            (GO_LIVE, difference(run.live_ms, run.detect_ms)),
            // The outage begins at the last reply, which is at most a reply before the kill.
            (FIRST_REPLY, difference(run.outage_ms, run.live_ms)),
            (ALL, run.outage_ms),
        ];
        let known = parts
            .into_iter()
            .filter_map(|(name, millis)| Some((name.to_owned(), millis?)));
        Self {
            millis: known.collect(),
            lost: run.lost.unwrap_or(0),
            reason: run.reason.clone(),
        }
    }
}
