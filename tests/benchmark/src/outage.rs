//! How long the guest is away when the primary's host is killed.

use serde::{Deserialize, Serialize};
use testbed::failover::{Failovers, Options, Run};

use crate::record::Record;

/// One kill of a primary's host under load, in milliseconds; what did not happen is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outage {
    /// From the kill to the backup's finding it out.
    pub(crate) detect_ms: Option<u64>,
    /// From there to going live: the claim at the disk server, and the rest of the log.
    pub(crate) go_live_ms: Option<u64>,
    /// From there to the first reply that the client gets.
    pub(crate) first_reply_ms: Option<u64>,
    /// From the last reply of the killed host to that; none where the guest was booting.
    pub(crate) outage_ms: Option<u64>,
    /// Requests that were acknowledged and are gone.
    pub(crate) lost: u64,
    /// Why it did not go well, if so.
    pub(crate) reason: Option<String>,
}

impl From<&Run> for Outage {
    fn from(run: &Run) -> Self {
        let difference = |to: Option<u64>, from: Option<u64>| Some(to?.saturating_sub(from?));
        Self {
            detect_ms: run.detect_ms,
            go_live_ms: difference(run.live_ms, run.detect_ms),
            // The outage begins at the last reply, which is at most a reply before the kill.
            first_reply_ms: difference(run.outage_ms, run.live_ms),
            outage_ms: run.outage_ms,
            lost: run.lost,
            reason: run.reason.clone(),
        }
    }
}

/// Kills the primary's host until the record has so many outages, at random moments, with the default
/// heartbeat timeout. Before each kill, `progress` gets the record and the kill's number. A failover
/// that does not go well is an outage with a reason.
pub(crate) fn measure(
    kills: u32,
    record: &mut Record,
    mut progress: impl FnMut(&Record, u32),
) -> testbed::Result<()> {
    let done = record.outages.len() as u32;
    if done >= kills {
        return Ok(());
    }
    let mut failovers = Failovers::start("bench-outage", Options::default())?;
    for kill in done + 1..=kills {
        progress(record, kill);
        let run = failovers.run(&mut |_| {})?;
        record.outages.push(Outage::from(&run));
    }
    let well = record.outages.iter().all(|outage| outage.reason.is_none());
    failovers.end(well)
}
