//! What is in the queue.

use std::time::Duration;

use logging_channel::heartbeat::Heartbeat;

use crate::disk::wire::Item as DiskItem;
use crate::guest::{Reply, Request};
use crate::message::{Asked, Item, ProcessId, Stage, Told};

/// Something that happens at its time.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// Something comes over a connection.
    Packet {
        line: usize,
        to: usize,
        item: Item,
    },
    /// What a cut connection has kept is sent again.
    Again {
        line: usize,
        to: usize,
    },
    Datagram {
        to: ProcessId,
        from: usize,
        beat: Heartbeat,
    },
    Timer {
        of: ProcessId,
        timer: Timer,
    },
    /// A frame comes to all hosts.
    Frame {
        host: usize,
        request: Request,
    },
    /// A reply of a host's guest comes to the client.
    Reply {
        host: usize,
        reply: Reply,
    },
    Client(usize),
    Asked {
        asked: Asked,
        stage: Stage,
        run: u64,
    },
    Told {
        to: ProcessId,
        number: u64,
        told: Told,
    },
    /// Something comes over a connection to the disk.
    Disk {
        wire: usize,
        item: DiskItem,
    },
    /// What a cut one has kept is sent again.
    DiskAgain {
        wire: usize,
        to_server: bool,
    },
    /// A worker of the disk server gets on.
    DiskWork(u64),
    Fault(usize),
    Over(End),
    Boot(usize),
    Operator,
    /// The view service counts another interval.
    Interval,
}

/// A fault is over.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    Frozen(ProcessId),
    /// A host is not suspended any more.
    Suspended(usize),
    /// Between two hosts.
    Cut(usize, usize),
    CutStreams(usize, usize),
    Loss,
    Latency(Duration),
    DiskServerDown,
    DiskServerPower,
    DiskServerSlow,
    DiskServerCut(usize, usize),
    SlowReplay,
}

/// What a process does at a time of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timer {
    /// An exit of the guest.
    Exit,
    /// A heartbeat of this session is due.
    Beat(u64),
    /// A look how this session gets on.
    Look(u64),
    /// An open batch of this session has waited.
    Linger(u64),
    /// A report is due, by this plan.
    Report(u64),
    /// A thread that was about to let outputs out runs again.
    Late,
    /// The replay's next step.
    Step,
    /// All that the socket of a lost session held was read.
    Drained,
    /// No answer came to this question.
    Unanswered(u64),
    /// The disk server is to be asked again.
    AskAgain,
    /// The connection to the disk is due, or was, by this plan.
    DiskConnect(u64),
    /// A look which requests to the disk take too long.
    DiskLook,
    /// The record is to be looked at.
    Record,
    /// A look whether the backup has won that is to go on; it has time until then.
    Left(Duration),
    /// The handshake over this line takes too long.
    Handshake(usize),
    /// A ping is due.
    Ping,
}
