//! The pages say what the code has: options with their defaults and ranges, events, messages, names, files.
//!
//! `CHANGELOG.md` tells of what was, so only its links count.

mod commands;
mod events;
mod links;
mod options;
mod page;
mod sources;
mod words;

/// Fails with all of the faults.
#[track_caller]
fn none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
