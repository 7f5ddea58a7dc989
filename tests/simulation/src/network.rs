//! Connections and datagrams between hosts.

use std::collections::VecDeque;
use std::time::Duration;

use logging_channel::control::Control;
use logging_channel::entry::Lsn;
use logging_channel::handshake::Title;
use logging_channel::heartbeat::Heartbeat;

use crate::env::{Env, Event, ProcessId};
use crate::faults::HOSTS;
use crate::guest::Logged;

/// What a stream carries.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    Hello,
    Welcome {
        session: u64,
        title: Title,
    },
    Ready,
    Begin,
    Batch(Lsn, Vec<Logged>),
    Control(Control),
    /// The other end was closed.
    Fin,
    /// There is no other end.
    Reset,
}

/// A connection of two processes: that which connected, and that which listens.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) ends: [ProcessId; 2],
    pub(crate) hosts: [usize; 2],
    /// Not closed by that end.
    pub(crate) open: [bool; 2],
    /// When the last of what goes to an end arrives.
    last: [Duration; 2],
    /// From when on nothing comes to an end, because the host of the other one is gone.
    pub(crate) silent: [Option<Duration>; 2],
    /// What did not get through to an end, and is sent again.
    pub(crate) kept: [VecDeque<Item>; 2],
}

#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) lines: Vec<Line>,
    pub(crate) latency: Duration,
    /// Percent of datagrams that are lost.
    pub(crate) loss: u32,
    /// Ways from host to host that take nothing.
    pub(crate) cut: [[u32; HOSTS]; HOSTS],
}

impl Network {
    pub(crate) fn new(latency: Duration) -> Self {
        Self {
            lines: Vec::new(),
            latency,
            loss: 0,
            cut: [[0; HOSTS]; HOSTS],
        }
    }

    /// Whether a line takes nothing to an end.
    pub(crate) fn is_cut(&self, line: usize, to: usize) -> bool {
        let hosts = self.lines[line].hosts;
        self.cut[hosts[1 - to]][hosts[to]] > 0
    }
}

impl Env {
    pub(crate) fn connect(&mut self, ends: [ProcessId; 2], hosts: [usize; 2]) -> usize {
        self.network.lines.push(Line {
            ends,
            hosts,
            open: [true; 2],
            last: [Duration::ZERO; 2],
            silent: [None; 2],
            kept: Default::default(),
        });
        self.network.lines.len() - 1
    }

    /// Sends to an end of a line, behind what was sent before.
    pub(crate) fn send(&mut self, line: usize, to: usize, item: Item) {
        let latency = self.network.latency;
        let at = self.now + latency + self.jitter(latency / 2);
        let last = &mut self.network.lines[line].last[to];
        let at = at.max(*last);
        *last = at;
        self.at(at, Event::Packet { line, to, item });
    }

    /// An end is closed by its process, or by the kernel of one that is gone.
    pub(crate) fn close(&mut self, line: usize, end: usize) {
        if std::mem::replace(&mut self.network.lines[line].open[end], false) {
            self.send(line, 1 - end, Item::Fin);
        }
    }

    pub(crate) fn send_beat(&mut self, from: usize, to: ProcessId, beat: Heartbeat) {
        let lost = self.rng.u32(..100) < self.network.loss;
        if !lost {
            let latency = self.network.latency;
            let after = latency + self.jitter(latency);
            self.after(after, Event::Datagram { to, from, beat });
        }
    }
}
