//! The bytes of a state file.
//!
//! ```text
//!     ftvm-arbiter 2 d1a54c7e21f6b093
//!     {"server":"5f21c07d9be3a846","floor":0,"records":{"db":{"epoch":3,"holder":"hostA/1f0c","backup":"hostB/77aa","acknowledged":true}}}
//! ```
//!
//! The first line is as of [every state file](crate::state).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::arbiter::decision::{MAX_EPOCH, Record};
use crate::arbiter::names::{ServerNumber, VmName};
use crate::state::{Damage, Format, Unusable};

pub(super) const FORMAT: Format = Format {
    magic: "ftvm-arbiter",
    version: 2,
    // Records had no backups in version 1.
    oldest: 1,
};

/// So that a peer that makes up names cannot fill the disk.
pub(super) const MAX_VMS: usize = 10_000;

/// What must survive the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    /// A random number, drawn when the first server has the state.
    pub(super) server: ServerNumber,
    /// The highest epoch of the machines that were forgotten. All that have no record begin there, so
    /// that no epoch of a forgotten one is given again when its name comes back.
    pub(super) floor: u64,
    /// A machine that nobody claimed has none.
    pub(super) records: BTreeMap<VmName, Record>,
}

impl State {
    pub(super) fn record(&self, vm: &VmName) -> Record {
        self.records.get(vm).cloned().unwrap_or_else(|| Record {
            epoch: self.floor,
            ..Record::default()
        })
    }
}

pub(super) fn encode(state: &State) -> Vec<u8> {
    FORMAT.seal(state)
}

pub(super) fn decode(bytes: &[u8]) -> Result<State, Unusable> {
    let state: State = FORMAT.open(bytes)?;
    let epochs = state.records.values().map(|held| held.epoch);
    if state
        .records
        .values()
        .any(|it| it.epoch == 0 || it.holder.is_none())
    {
        return Err(Damage::Content("a record has no holder".to_owned()).into());
    }
    if let Some(epoch) = epochs.chain([state.floor]).find(|epoch| *epoch > MAX_EPOCH) {
        return Err(Damage::Content(format!("epoch {epoch} is beyond the last")).into());
    }
    Ok(state)
}
