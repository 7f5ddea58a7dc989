//! What is shown of a guest where a replay stops.

use std::fmt;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use logging_channel::entry::{Lsn, Registers};
use serde_json::{Map, Value, json};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use crate::cpu::debug::SystemRegisters;
use crate::ram::GuestRam;
use crate::ram::PAGE;

/// What to show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dumps {
    /// The registers, on standard output.
    pub registers: Option<Format>,
    /// Guest memory, in this file.
    pub memory: Option<PathBuf>,
}

/// How registers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

/// Why guest memory could not be written to a file.
#[derive(Debug, thiserror::Error)]
#[error("cannot write guest memory to {}", path.display())]
pub struct DumpError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The registers at a place.
pub(super) struct RegisterDump<'a> {
    pub(super) exits: u64,
    pub(super) next: Lsn,
    pub(super) general: &'a Registers,
    pub(super) system: &'a SystemRegisters,
}

impl RegisterDump<'_> {
    /// One object. General registers are strings in hexadecimal: JSON's numbers hold no 64 bits.
    pub(super) fn json(&self) -> Value {
        let values = Registers::NAMES.into_iter().zip(self.general.fields());
        let general: Map<String, Value> = values
            .map(|(name, value)| (name.to_owned(), format!("{value:#x}").into()))
            .collect();
        let mut system = serde_json::to_value(self.system).expect("plain data");
        hexadecimal(&mut system);
        json!({
            "exit": self.exits,
            "next_entry": self.next.0,
            "general": general,
            "system": system,
        })
    }
}

/// Numbers in the tree become strings in hexadecimal.
fn hexadecimal(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(n) = number.as_u64() {
                *value = format!("{n:#x}").into();
            }
        }
        Value::Object(members) => members.values_mut().for_each(hexadecimal),
        _ => {}
    }
}

impl fmt::Display for RegisterDump<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.general.fields();
        let all: Vec<_> = Registers::NAMES.into_iter().zip(values).collect();
        // CR3 is among the control registers.
        let general = &all[..all.len() - 1];
        for row in general.chunks(2) {
            for (n, (name, value)) in row.iter().enumerate() {
                let gap = if n == 0 { "" } else { "    " };
                write!(f, "{gap}{name:<6} {value:#018x}")?;
            }
            writeln!(f)?;
        }
        self.system.fmt(f)
    }
}

/// Writes guest memory to a file, byte N of the file being guest-physical address N. Pages of
/// zeros are holes.
///
/// # Errors
/// [`DumpError`].
pub fn write_memory(memory: &GuestRam, path: &Path) -> Result<(), DumpError> {
    let write = || {
        let mut file = File::create(path)?;
        let bytes = memory.last_addr().0 + 1;
        file.set_len(bytes)?;
        let mut page = [0; PAGE];
        for address in (0..bytes).step_by(PAGE) {
            memory
                .read_slice(&mut page, GuestAddress(address))
                .map_err(io::Error::other)?;
            if page != [0; PAGE] {
                file.seek(SeekFrom::Start(address))?;
                file.write_all(&page)?;
            }
        }
        file.sync_all()
    };
    write().map_err(|source| DumpError {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_in_a_file_is_memory() {
        let bytes = 16 * PAGE;
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), bytes)]).expect("memory");
        memory.write_slice(b"first", GuestAddress(0)).expect("fits");
        let last = (bytes - 4) as u64;
        memory
            .write_slice(b"last", GuestAddress(last))
            .expect("fits");
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("memory");
        write_memory(&memory, &path).expect("written");
        let mut expected = vec![0; bytes];
        expected[..5].copy_from_slice(b"first");
        expected[bytes - 4..].copy_from_slice(b"last");
        assert!(std::fs::read(&path).expect("readable") == expected);
        let nowhere = dir.path().join("no/such/directory");
        let error = write_memory(&memory, &nowhere).expect_err("no directory");
        assert!(error.to_string().contains("no/such"), "{error}");
    }

    #[test]
    fn registers_are_all_shown() {
        let mut general = Registers::default();
        for (n, gpr) in general.gpr.iter_mut().enumerate() {
            *gpr = 0xa000_0000_0000_0000 + n as u64;
        }
        (general.rip, general.rflags, general.cr3) = (0xb0, 0xb1, 0xb2);
        let system = SystemRegisters {
            cr3: general.cr3,
            ..SystemRegisters::default()
        };
        let dump = RegisterDump {
            exits: 7,
            next: Lsn(9),
            general: &general,
            system: &system,
        };
        let (text, json) = (dump.to_string(), dump.json());
        assert_eq!(json["exit"], 7);
        assert_eq!(json["next_entry"], 9);
        for (name, value) in Registers::NAMES.into_iter().zip(general.fields()) {
            assert_eq!(json["general"][name], format!("{value:#x}"));
            let shown = format!("{name:<6} {value:#018x}");
            assert!(text.contains(&shown), "{shown} in\n{text}");
        }
    }
}
