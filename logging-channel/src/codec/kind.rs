//! The kinds of entry: their numbers on the wire and their names for people.

use std::fmt;

use crate::entry::Payload;

/// What kind of entry it is, without its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// [`Payload::Tsc`]
    Tsc = 1,
    /// [`Payload::Clock`]
    Clock = 2,
    /// [`Payload::WallClock`]
    WallClock = 3,
    /// [`Payload::Tick`]
    Tick = 4,
    /// [`Payload::NetRx`]
    NetRx = 5,
    /// [`Payload::ConsoleInput`]
    ConsoleInput = 6,
    /// [`Payload::Interrupt`]
    Interrupt = 7,
    /// [`Payload::Output`]
    Output = 8,
    /// [`Payload::Progress`]
    Progress = 9,
    /// [`Payload::Registers`]
    Registers = 10,
    /// [`Payload::MemoryHashes`]
    MemoryHashes = 11,
    /// [`Payload::Shutdown`]
    Shutdown = 12,
    /// [`Payload::State`]
    State = 13,
    /// [`Payload::Digest`]
    Digest = 14,
    /// [`Payload::Counted`]
    Counted = 15,
    /// [`Payload::DiskData`]
    DiskData = 16,
    /// [`Payload::DiskDone`]
    DiskDone = 17,
    /// [`Payload::Protected`]
    Protected = 18,
    /// [`Payload::Renewal`]
    Renewal = 19,
}

impl Kind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Kind; 19] = [
        Kind::Tsc,
        Kind::Clock,
        Kind::WallClock,
        Kind::Tick,
        Kind::NetRx,
        Kind::ConsoleInput,
        Kind::Interrupt,
        Kind::Output,
        Kind::Progress,
        Kind::Registers,
        Kind::MemoryHashes,
        Kind::Shutdown,
        Kind::State,
        Kind::Digest,
        Kind::Counted,
        Kind::DiskData,
        Kind::DiskDone,
        Kind::Protected,
        Kind::Renewal,
    ];

    /// The kind of an entry that says `payload`.
    #[must_use]
    pub fn of(payload: &Payload) -> Self {
        match payload {
            Payload::Tsc(_) => Kind::Tsc,
            Payload::Clock(_) => Kind::Clock,
            Payload::WallClock(_) => Kind::WallClock,
            Payload::Tick(_) => Kind::Tick,
            Payload::NetRx(_) => Kind::NetRx,
            Payload::ConsoleInput(_) => Kind::ConsoleInput,
            Payload::Interrupt(_) => Kind::Interrupt,
            Payload::Output(_) => Kind::Output,
            Payload::Progress => Kind::Progress,
            Payload::Registers(_) => Kind::Registers,
            Payload::MemoryHashes { .. } => Kind::MemoryHashes,
            Payload::Shutdown(_) => Kind::Shutdown,
            Payload::State(_) => Kind::State,
            Payload::Digest(_) => Kind::Digest,
            Payload::Counted(_) => Kind::Counted,
            Payload::DiskData(_) => Kind::DiskData,
            Payload::DiskDone { .. } => Kind::DiskDone,
            Payload::Protected { .. } => Kind::Protected,
            Payload::Renewal(_) => Kind::Renewal,
        }
    }

    /// Its number on the wire.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The kind with this number on the wire.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// A short name, as statistics show it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Tsc => "tsc",
            Kind::Clock => "clock",
            Kind::WallClock => "wall-clock",
            Kind::Tick => "tick",
            Kind::NetRx => "net-rx",
            Kind::ConsoleInput => "console-input",
            Kind::Interrupt => "interrupt",
            Kind::Output => "output",
            Kind::Progress => "progress",
            Kind::Registers => "registers",
            Kind::MemoryHashes => "memory-hashes",
            Kind::Shutdown => "shutdown",
            Kind::State => "state",
            Kind::Digest => "digest",
            Kind::Counted => "counted",
            Kind::DiskData => "disk-data",
            Kind::DiskDone => "disk-done",
            Kind::Protected => "protected",
            Kind::Renewal => "renewal",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How much of a log each kind of entry makes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KindCounts([KindCount; Kind::ALL.len()]);

/// Entries of one kind and the bytes that they take in batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KindCount {
    /// Number of entries.
    pub entries: u64,
    /// Their encoded size.
    pub bytes: u64,
}

impl KindCounts {
    /// Adds one entry of `kind` that took `bytes`.
    pub fn add(&mut self, kind: Kind, bytes: u64) {
        let count = &mut self.0[usize::from(kind.number()) - 1];
        count.entries += 1;
        count.bytes += bytes;
    }

    /// The count of one kind.
    #[must_use]
    pub fn get(&self, kind: Kind) -> KindCount {
        self.0[usize::from(kind.number()) - 1]
    }

    /// All kinds with their counts, in the order of [`Kind::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (Kind, KindCount)> + '_ {
        Kind::ALL.into_iter().zip(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_kinds_are_one_to_one() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_number(kind.number()), Some(kind));
        }
        assert_eq!(Kind::from_number(0), None);
        assert_eq!(Kind::from_number(20), None);
    }
}
