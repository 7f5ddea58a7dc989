//! A guest, from its boot to its end, and its joins that are complete.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::pair::{Guest, Joined, Side};
use crate::workload::{Client, LoadWatcher};

/// A guest that runs on one of the hosts.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) guest: Guest,
    /// What runs it.
    pub(super) side: Side,
    pub(super) client: Client,
    /// What computes beside it.
    pub(super) load: Option<LoadWatcher>,
}

impl Life {
    /// The client has further replies, and lost nothing.
    pub(super) fn goes_on(&self, when: &str) -> Result<()> {
        self.client.goes_on(when)?;
        let loss = self.client.record().loss();
        let load = self.load.as_ref().and_then(LoadWatcher::trouble);
        match loss.or(load) {
            None => Ok(()),
            Some(seen) => Err(Error::Wrong {
                what: format!("the client lost something {when}"),
                seen,
            }),
        }
    }

    /// The client must find all that was acknowledged, and the guest ends in order.
    pub(super) fn end(self) -> Result<()> {
        if let Some(load) = self.load {
            let load = load.finish();
            if let Some(seen) = load.wrong.or(load.trouble) {
                let what = "the load has another result".to_owned();
                return Err(Error::Wrong { what, seen });
            }
        }
        let record = self.client.finish();
        let lost = record.final_counter != Some(record.acked());
        if lost || record.loss().is_some() {
            return Err(Error::Wrong {
                what: format!("the client, of {} acknowledged increments", record.acked()),
                seen: format!("{:?}, {:?}", record.loss(), record.final_counter),
            });
        }
        self.side.stop()
    }
}

/// A join that was complete.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Complete {
    /// From the start of the process that joined.
    pub took: Duration,
    /// What the source told of it.
    pub joined: Joined,
    /// For how long the guest was held up until its backup had caught up.
    pub held: Duration,
    /// The longest time without a reply from the start of the process that joined on.
    pub longest_gap: Duration,
    /// What the two processes had in memory then, in KiB: of the source and of the target.
    pub resident_kib: [u64; 2],
}

impl fmt::Display for Complete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [source, target] = self.resident_kib.map(|kib| kib / 1024);
        write!(
            f,
            "joined in {:.1} s: {} KiB, {} rounds, {} ms of pause, held up for {} ms, {} ms without a reply \
             at most; in memory: {source} and {target} MiB",
            self.took.as_secs_f64(),
            self.joined.bytes.unwrap_or(0) / 1024,
            self.joined.rounds.unwrap_or(0),
            self.joined.pause_ms.unwrap_or(0),
            self.held.as_millis(),
            self.longest_gap.as_millis(),
        )
    }
}
