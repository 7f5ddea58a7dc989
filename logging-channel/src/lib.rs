//! ftvm's log: entries, wire format, file format, and the channel that carries them to the backup.

pub mod entry;
