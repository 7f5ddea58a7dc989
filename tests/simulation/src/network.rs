//! Connections and datagrams between hosts.

use std::collections::VecDeque;
use std::time::Duration;

use crate::faults::HOSTS;
use crate::message::{Item, ProcessId};

/// A connection of two processes: that which connected, and that which listens.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) ends: [ProcessId; 2],
    pub(crate) hosts: [usize; 2],
    /// Not closed by that end.
    pub(crate) open: [bool; 2],
    /// When the last of what goes to an end arrives.
    pub(crate) last: [Duration; 2],
    /// From when on nothing comes to an end, because the host of the other one is gone.
    pub(crate) silent: [Option<Duration>; 2],
    /// What did not get through to an end, and is sent again.
    pub(crate) kept: [VecDeque<Item>; 2],
}

impl Line {
    pub(crate) fn new(ends: [ProcessId; 2], hosts: [usize; 2]) -> Self {
        Self {
            ends,
            hosts,
            open: [true; 2],
            last: [Duration::ZERO; 2],
            silent: [None; 2],
            kept: Default::default(),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) lines: Vec<Line>,
    pub(crate) latency: Duration,
    /// Percent of datagrams that are lost.
    pub(crate) loss: u32,
    /// Ways from host to host that take nothing.
    pub(crate) cut: [[u32; HOSTS]; HOSTS],
    /// Those that take datagrams only.
    pub(crate) stuck: [[u32; HOSTS]; HOSTS],
    /// Ways of clients that take nothing: to a host, and from it.
    pub(crate) clients_cut: [[u32; 2]; HOSTS],
}

impl Network {
    pub(crate) fn new(latency: Duration) -> Self {
        Self {
            lines: Vec::new(),
            latency,
            loss: 0,
            cut: [[0; HOSTS]; HOSTS],
            stuck: [[0; HOSTS]; HOSTS],
            clients_cut: [[0; 2]; HOSTS],
        }
    }

    /// Whether a line takes nothing to an end.
    pub(crate) fn is_cut(&self, line: usize, to: usize) -> bool {
        let hosts = self.lines[line].hosts;
        let (from, to) = (hosts[1 - to], hosts[to]);
        self.cut[from][to] + self.stuck[from][to] > 0
    }
}
