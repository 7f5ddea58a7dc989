//! How long the guest is away when the primary's host is killed.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::failover::{Failovers, Options, Progress, Run, Status};

/// One kill of a primary's host under load, in milliseconds; what did not happen is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    /// From the kill to the backup's finding it out.
    pub detect_ms: Option<u64>,
    /// From there to going live: the claim at the disk server, and the rest of the log.
    pub go_live_ms: Option<u64>,
    /// From there to the first reply that the client gets.
    pub first_reply_ms: Option<u64>,
    /// From the last reply of the killed host to that; none where the guest was booting.
    pub outage_ms: Option<u64>,
    /// Requests that were acknowledged and are gone.
    pub lost: u64,
    /// Why it did not go well, if so.
    pub reason: Option<String>,
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

/// Kills the primary's host so many times, at random moments, with the default heartbeat timeout.
///
/// # Errors
///
/// When hosts do not boot or do not answer. A failover that does not go well is an outage with a
/// reason.
pub(super) fn measure(kills: u32, mut progress: impl FnMut(u32)) -> Result<Vec<Outage>> {
    if kills == 0 {
        return Ok(Vec::new());
    }
    let mut failovers = Failovers::start("bench-outage", Options::default())?;
    let mut outages = Vec::new();
    for kill in 1..=kills {
        progress(kill);
        outages.push(Outage::from(&failovers.run(&mut Quiet)?));
    }
    let well = outages.iter().all(|outage| outage.reason.is_none());
    failovers.end(well)?;
    Ok(outages)
}

/// Nobody looks at what happens within a failover.
struct Quiet;

impl Progress for Quiet {
    fn update(&mut self, _: &Status) {}
}
