//! Where a log entry stands, seen from where the guest is.

use std::fmt;

use logging_channel::entry::{Entry, ExecutionPoint, Lsn, Payload};

use crate::devices::Input;
use crate::devices::virtio::net::frame::Frame;
use crate::engine::source::describe;
use crate::engine::{Difference, Interruption};

/// What the replayer found at the head of the log, compared with where the guest is.
pub(super) enum EntryPlace {
    /// The entry belongs to this very point.
    Here,
    /// The entry belongs to a later point.
    Later,
}

/// Where `entry` stands, seen from `at`; `None` if the guest is past it.
pub(super) fn place(at: ExecutionPoint, entry: ExecutionPoint) -> Option<EntryPlace> {
    if at == entry {
        return Some(EntryPlace::Here);
    }
    // At the same exit, a landmark comes after the exit itself. Two landmarks after the same exit
    // that differ cannot be ordered: the caller finds out by asking for one of them.
    let later = entry.exits > at.exits || (entry.exits == at.exits && entry.landmark.is_some());
    later.then_some(EntryPlace::Later)
}

/// That the head of the log is not what the guest came to, which is put into words only here: most of it is
/// as the log has it.
pub(super) fn diverged(
    point: ExecutionPoint,
    lsn: Lsn,
    entry: &Entry,
    doing: &dyn fmt::Display,
) -> Interruption {
    let same_exit = point.exits == entry.point.exits;
    let difference = match (point.landmark, entry.point.landmark) {
        (Some(here), Some(logged)) if same_exit && here != logged => Difference::Window {
            logged: logged.rip,
            replayed: here.rip,
        },
        _ => Difference::Event {
            logged: format!("{} at {}", describe(&entry.payload), entry.point),
            replayed: doing.to_string(),
        },
    };
    Interruption::diverged(point, lsn, difference)
}

pub(super) fn input_of(payload: &Payload) -> Option<Input> {
    match payload {
        Payload::Tick(now) => Some(Input::Tick(*now)),
        Payload::NetRx(frame) => Frame::from_log(frame).map(Input::Frame),
        Payload::ConsoleInput(bytes) => Some(Input::Typed(bytes.clone())),
        _ => None,
    }
}
