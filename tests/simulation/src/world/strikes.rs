//! What faults do to the hosts, and how it is undone.

use std::time::Duration;

use super::World;
use crate::event::{End, Event};
use crate::faults::{BOOT, Fault, HOSTS, Way, Who};
use crate::message::ProcessId;
use crate::process::{Process, Role};

impl World {
    /// Whom a fault meets.
    fn who(&mut self, who: Who) -> Option<usize> {
        let role = |it: &&Process| match who {
            Who::Live => matches!(it.role, Role::Runs(_)),
            _ => matches!(it.role, Role::Follows(_)),
        };
        if let Who::Host(host) = who {
            return Some(host);
        }
        let them: Vec<usize> = (self.processes.iter().filter(|it| it.alive))
            .filter(role)
            .map(|it| it.host)
            .collect();
        match them.is_empty() {
            true => None,
            false => Some(them[self.env.rng.usize(..them.len())]),
        }
    }

    pub(super) fn on(&self, host: usize) -> Option<ProcessId> {
        self.processes
            .iter()
            .position(|it| it.alive && it.host == host)
    }

    fn over_after(&mut self, time: Duration, end: End) {
        self.env.after(time, Event::Over(end));
    }

    pub(super) fn fault(&mut self, number: usize) {
        let fault = self.faults[number].1;
        self.env.note(|| format!("FAULT {fault}"));
        match fault {
            Fault::KillProcess(who) | Fault::KillHost(who) => {
                let Some(host) = self.who(who) else { return };
                let others = (self.processes.iter()).any(|it| it.is_copy() && it.host != host);
                if others || self.on(host).is_none_or(|id| !self.processes[id].is_copy()) {
                    self.kill(host, matches!(fault, Fault::KillHost(_)));
                }
            }
            Fault::KillOnlyCopy => {
                if let Some(host) = self.who(Who::Live) {
                    self.kill(host, true);
                }
            }
            Fault::Freeze(who, time) => {
                if let Some(id) = self.who(who).and_then(|host| self.on(host)) {
                    self.env.note(|| format!("{id} is frozen"));
                    self.processes[id].frozen += 1;
                    self.over_after(time, End::Frozen(id));
                }
            }
            Fault::Cut(who, way, time) | Fault::CutStreams(who, way, time) => {
                let Some(host) = self.who(who) else { return };
                let other = (host + self.env.rng.usize(1..HOSTS)) % HOSTS;
                for (way_too, from, to) in [(Way::There, host, other), (Way::Back, other, host)] {
                    if way != Way::Both && way != way_too {
                        continue;
                    }
                    self.env
                        .note(|| format!("host {from} does not reach host {to}"));
                    let network = &mut self.env.network;
                    let end = if let Fault::Cut(..) = fault {
                        network.cut[from][to] += 1;
                        End::Cut(from, to)
                    } else {
                        network.stuck[from][to] += 1;
                        End::CutStreams(from, to)
                    };
                    self.over_after(time, end);
                }
            }
            Fault::GiveWay(time) => {
                let Some(host) = self.who(Who::Live) else {
                    return;
                };
                for way in 0..2 {
                    self.disk_server.cut[host][way] += 1;
                    self.over_after(time, End::DiskServerCut(host, way));
                }
                if let Some(id) = self.on(host).filter(|id| self.processes[*id].frozen == 0) {
                    self.processes[id].give_way(&mut self.env);
                }
            }
            Fault::Loss(percent, time) => {
                self.env.network.loss = percent;
                self.over_after(time, End::Loss);
            }
            Fault::Latency(more, time) => {
                self.env.network.latency += more;
                self.over_after(time, End::Latency(more));
            }
            Fault::DiskServerDown(time) => {
                self.disk_server.crash(false, &mut self.env);
                self.over_after(time, End::DiskServerDown);
            }
            Fault::DiskServerPower(time) => {
                self.disk_server.crash(true, &mut self.env);
                self.over_after(time, End::DiskServerPower);
            }
            Fault::DiskError(number, time) => {
                self.disk_server.disk.fail(number, self.env.now + time);
            }
            Fault::DiskFull(time) => {
                self.disk_server.disk.fill(self.env.now + time);
            }
            Fault::Suspend(who, time) => {
                let Some(host) = self.who(who) else { return };
                if let Some(id) = self.on(host) {
                    self.env.note(|| format!("{id} is suspended"));
                    self.processes[id].frozen += 1;
                    let lease = self.env.settings.heartbeat_timeout;
                    let until = self.env.instant(host) + lease;
                    self.env.checks.suspended.insert(id, until);
                    self.over_after(time, End::Frozen(id));
                }
                self.env.clocks[host].stop(self.env.now);
                self.over_after(time, End::Suspended(host));
            }
            Fault::ClockJump(who, ms) => {
                if let Some(host) = self.who(who) {
                    self.env.clocks[host].set(ms);
                }
            }
            Fault::ClockDrift(who, ppm) => {
                if let Some(host) = self.who(who) {
                    self.env.clocks[host].drift(ppm, self.env.now);
                }
            }
            Fault::DiskServerSlow(slow, time) => {
                self.disk_server.slow = slow;
                self.over_after(time, End::DiskServerSlow);
            }
            Fault::DiskServerCut(who, way, time) => {
                let Some(host) = self.who(who) else { return };
                for (way_too, index) in [(Way::There, 0), (Way::Back, 1)] {
                    if way == Way::Both || way == way_too {
                        self.disk_server.cut[host][index] += 1;
                        self.over_after(time, End::DiskServerCut(host, index));
                    }
                }
            }
            Fault::SlowReplay(slow, time) => {
                self.env.slow_replay = slow;
                self.over_after(time, End::SlowReplay);
            }
            Fault::HandOver => {
                let live = self.who(Who::Live).and_then(|host| self.on(host));
                if let Some(id) = live.filter(|id| self.processes[*id].frozen == 0) {
                    self.processes[id].hand_over(&mut self.env);
                }
            }
            Fault::Flip => {
                if let Some(id) = self.who(Who::Follower).and_then(|host| self.on(host))
                    && let Role::Follows(following) = &mut self.processes[id].role
                {
                    following.flip();
                }
            }
        }
    }

    fn kill(&mut self, host: usize, with_host: bool) {
        self.fell(host, with_host);
        if with_host {
            let least = Duration::from_millis(300);
            let after = least + self.env.jitter(BOOT - least);
            self.env.after(after, Event::Boot(host));
        }
    }

    /// Ends what runs on a host, and the host with it: then nobody says so to its peers.
    pub(super) fn fell(&mut self, host: usize, with_host: bool) {
        self.env
            .note(|| format!("host {host}: killed, its power too: {with_host}"));
        let until = self.env.now + self.env.jitter(self.env.network.latency * 2);
        for line in &mut self.env.network.lines {
            if let Some(end) = (0..2).find(|end| with_host && line.hosts[*end] == host)
                && line.open[end]
            {
                // Some of what was on its way gets through.
                line.silent[1 - end].get_or_insert(until);
                line.open[end] = false;
            }
        }
        if with_host {
            let wires = self.env.wires.iter_mut();
            (wires.filter(|wire| wire.host == host)).for_each(|wire| wire.is_dead = true);
        }
        if let Some(id) = self.on(host) {
            self.processes[id].alive = false;
            self.processes[id].killed = true;
            self.env.ended = true;
        }
        if with_host {
            self.hosts[host] = false;
        }
    }

    pub(super) fn over(&mut self, end: End) {
        match end {
            End::Frozen(id) => self.thaw(id),
            End::Cut(from, to) => self.env.network.cut[from][to] -= 1,
            End::CutStreams(from, to) => self.env.network.stuck[from][to] -= 1,
            End::Loss => self.env.network.loss = 0,
            End::Latency(more) => self.env.network.latency -= more,
            End::DiskServerDown => self.disk_server.start(false, &mut self.env),
            End::DiskServerPower => self.disk_server.start(true, &mut self.env),
            End::Suspended(host) => self.env.clocks[host].go(self.env.now),
            End::DiskServerSlow => self.disk_server.slow = Duration::ZERO,
            End::DiskServerCut(host, index) => self.disk_server.cut[host][index] -= 1,
            End::SlowReplay => self.env.slow_replay = Duration::ZERO,
        }
    }

    /// A process runs again. Its threads find what came meanwhile, in any order but that of a stream.
    pub(super) fn thaw(&mut self, id: ProcessId) {
        let process = &mut self.processes[id];
        process.frozen -= 1;
        if process.frozen > 0 {
            return;
        }
        self.env.note(|| format!("{id} runs again"));
        for event in std::mem::take(&mut process.pending).into_iter().rev() {
            let after = self.env.jitter(Duration::from_millis(2));
            match event {
                Event::Packet { line, to, item } => {
                    if self.env.network.lines[line].kept[to].is_empty() {
                        self.env.after(after, Event::Again { line, to });
                    }
                    self.env.network.lines[line].kept[to].push_front(item);
                }
                Event::Disk { wire, item } => {
                    if self.env.wires[wire].to_client.kept.is_empty() {
                        let to_server = false;
                        self.env.after(after, Event::DiskAgain { wire, to_server });
                    }
                    self.env.wires[wire].to_client.kept.push_front(item);
                }
                event => self.env.after(after, event),
            }
        }
    }
}
