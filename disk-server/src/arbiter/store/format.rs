//! The bytes of a state file.
//!
//! ```text
//!     ftvm-arbiter 2 d1a54c7e21f6b093
//!     {"server":"5f21c07d9be3a846","floor":0,"records":{"db":{"epoch":3,"holder":"hostA/1f0c","backup":"hostB/77aa","acknowledged":true}}}
//! ```
//!
//! The first line has the version of the format, and the XXH64 of all that follows it with the version
//! as its seed, in 16 lower-case hexadecimal digits.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh64::xxh64;

use crate::arbiter::decision::{MAX_EPOCH, Record};
use crate::arbiter::names::{ServerNumber, VmName};

const MAGIC: &str = "ftvm-arbiter";
const VERSION: u64 = 2;
/// Records had no backups then.
const WITHOUT_BACKUPS: u64 = 1;

/// So that a peer that makes up names cannot fill the disk.
pub(super) const MAX_VMS: usize = 10_000;

/// Far more than the most virtual machines take, in bytes.
pub(super) const MAX_STATE: u64 = 16 << 20;

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

/// What is wrong with a state file.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// The file is empty.
    #[error("the file is empty")]
    Empty,
    /// The file is larger than a state can be, and was not read.
    #[error("the file has more than {MAX_STATE} bytes")]
    Oversize,
    /// It is no state file, or what is at its beginning has changed.
    #[error("it does not begin like a state file")]
    Foreign,
    /// Some of its bytes are missing or have changed.
    #[error("its checksum is not that of its content: bytes are missing or have changed")]
    Checksum,
    /// Its checksum is right, and its content makes no sense.
    #[error("its content is not that of a state: {0}")]
    Content(String),
}

/// Why bytes are no state that can be used.
#[derive(Debug)]
pub(super) enum Unusable {
    /// They are sound, and a later version of the server wrote them: the version of their format.
    Later(u64),
    Damaged(Damage),
}

impl From<Damage> for Unusable {
    fn from(damage: Damage) -> Unusable {
        Unusable::Damaged(damage)
    }
}

pub(super) fn encode(state: &State) -> Vec<u8> {
    let mut body = serde_json::to_string(state).expect("a state has plain names and numbers");
    body.push('\n');
    let mut text = first_line(VERSION, body.as_bytes());
    text.push_str(&body);
    text.into_bytes()
}

pub(super) fn decode(bytes: &[u8]) -> Result<State, Unusable> {
    if bytes.is_empty() {
        return Err(Damage::Empty.into());
    }
    if bytes.len() as u64 > MAX_STATE {
        return Err(Damage::Oversize.into());
    }
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (line, body) = bytes.split_at(end.map_or(bytes.len(), |end| end + 1));
    let ours = [VERSION, WITHOUT_BACKUPS];
    if !ours
        .iter()
        .any(|version| line == first_line(*version, body).as_bytes())
    {
        return Err(complaint(line, body));
    }
    let state: State =
        serde_json::from_slice(body).map_err(|error| Damage::Content(error.to_string()))?;
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

/// The version seeds the hash, so that the checksum covers it too.
fn first_line(version: u64, body: &[u8]) -> String {
    format!("{MAGIC} {version} {:016x}\n", xxh64(body, version))
}

/// What is wrong with a first line that is not this version's of what follows.
fn complaint(line: &[u8], body: &[u8]) -> Unusable {
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_whitespace();
    if words.next() != Some(MAGIC) {
        return Damage::Foreign.into();
    }
    match words.next().map(str::parse) {
        Some(Ok(found)) if line == first_line(found, body) => Unusable::Later(found),
        _ => Damage::Checksum.into(),
    }
}
