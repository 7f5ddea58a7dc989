//! Everything together: hosts and their processes, the disk server, clients, an operator, and faults.

pub(crate) mod chosen;
mod disk;
mod strikes;

use std::time::Duration;

use disk_server::arbiter::Record;
use disk_server::views::PING_INTERVAL;

use crate::defect::Defect;
use crate::disk_server::DiskServer;
use crate::env::Env;
use crate::event::Event;
use crate::faults::{Fault, HOSTS, Schedule};
use crate::guest::{CLIENTS, Guest, Reply, Request};
use crate::message::{Item, ProcessId, claimant};
use crate::process::{Process, Role};
use crate::rule::Rule;

/// How soon a client asks again.
const CLIENT_PATIENCE: Duration = Duration::from_millis(60);
/// How long a guest that has a copy may take to answer when all faults are over.
const LAST_PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) env: Env,
    faults: Vec<(Duration, Fault)>,
    /// Has power.
    hosts: [bool; HOSTS],
    processes: Vec<Process>,
    disk_server: DiskServer,
    operator: Operator,
}

/// Who says whose backup a host becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    /// The operator, who starts a backup with its primary's address.
    Connects,
    /// The view service: the operator starts it, and it waits.
    Waits,
    /// The one or the other.
    Either,
}

impl World {
    pub(crate) fn new(schedule: &Schedule, defect: Option<Defect>, trace: bool) -> Self {
        let env = Env::new(schedule, defect, trace);
        let mut world = Self::around(env, schedule.faults.clone());
        for (number, (at, _)) in schedule.faults.iter().enumerate() {
            world.env.at(*at, Event::Fault(number));
        }
        (0..CLIENTS).for_each(|client| world.start_client(client));
        world.start_operator(match schedule.seed / 10 % 5 {
            3 => Operator::Waits,
            4 => Operator::Either,
            _ => Operator::Connects,
        });
        world
    }

    /// A guest that runs alone, and nothing else yet.
    fn around(mut env: Env, faults: Vec<(Duration, Fault)>) -> Self {
        let disk_server = DiskServer::new(Record::held(1, claimant(0, 0)));
        let processes = vec![Process::primary(0, 0, 1, &mut env)];
        Self {
            env,
            faults,
            hosts: [true; HOSTS],
            processes,
            disk_server,
            operator: Operator::Connects,
        }
    }

    fn start_client(&mut self, client: usize) {
        let after = Duration::from_millis(5);
        self.env.after(after, Event::Client(client));
    }

    fn start_operator(&mut self, operator: Operator) {
        self.operator = operator;
        let after = Duration::from_millis(2);
        self.env.after(after, Event::Operator);
        self.env.after(PING_INTERVAL, Event::Interval);
    }

    /// Runs it to its end. Whether the guest is left then.
    pub(crate) fn run(&mut self) -> bool {
        let over = self.faults.iter().map(|(at, fault)| *at + fault.duration());
        let calm = over.max().unwrap_or_default() + Duration::from_millis(200);
        if !self.run_until(calm) {
            return false;
        }
        let wanted = self.acknowledged().map(|number| number + 3);
        let asked = self.guest().map_or(0, |guest| guest.rest.disk.asked().0);
        let until = self.env.now + LAST_PATIENCE;
        while self.env.now < until {
            let some = self.env.now + Duration::from_millis(200);
            if !self.run_until(some) {
                return false;
            }
            let mut acknowledged = self.acknowledged().into_iter().zip(wanted);
            let answers = acknowledged.all(|(now, then)| now >= then);
            let done = |guest: &Guest| guest.rest.disk.asked().1 > asked;
            let disk_answers = self.guest().is_none_or(done);
            if answers && disk_answers && (self.is_protected() || !self.env.may_protect) {
                return true;
            }
        }
        let what = match self.is_protected() {
            true => {
                "there is a copy of the guest, nothing is in its way, and it does not answer, or its \
                 disk does not"
            }
            false => "nothing is in the way of backups, and none protects the guest",
        };
        self.env.fail(what.into());
        true
    }

    /// When something happens, until a backup has come to protect the guest so often, and shortly after;
    /// nothing where none comes to that soon, because the network is too slow for the timeout.
    pub(crate) fn moments(&mut self, joins: u64) -> Vec<Duration> {
        const AFTER: usize = 40;
        let limit = self.env.now + Duration::from_secs(10);
        let mut moments = Vec::new();
        let mut left = AFTER;
        while left > 0
            && let Some(event) = self.env.next(limit)
        {
            self.step(event);
            self.close_lines();
            moments.push(self.env.now);
            left -= usize::from(self.env.checks.joins >= joins);
        }
        moments.dedup();
        if left > 0 {
            moments.clear();
        }
        moments
    }

    /// The last request that each client has the reply to.
    pub(crate) fn acknowledged(&self) -> [u64; CLIENTS] {
        let acknowledged = self.env.checks.acknowledged;
        acknowledged.map(|reply| reply.map_or(0, |reply| reply.request.number))
    }

    /// Whether the guest is still there and no promise is broken.
    pub(crate) fn run_until(&mut self, until: Duration) -> bool {
        while let Some(event) = self.env.next(until) {
            self.step(event);
            let ended = self.env.ended;
            self.close_lines();
            if std::mem::take(&mut self.env.disk_changed) {
                self.check_disk();
            }
            if self.env.checks.broken.is_some() {
                return false;
            }
            if ended && !self.processes.iter().any(Process::is_copy) && !self.may_come() {
                self.judge_the_end();
                return false;
            }
        }
        self.env.now = until;
        true
    }

    /// A backup has won the guest and not heard of it, or may still win it.
    fn may_come(&self) -> bool {
        self.processes.iter().any(|process| {
            process.alive && matches!(&process.role, Role::Follows(it) if it.protected)
        })
    }

    /// Nobody has the guest any more.
    fn judge_the_end(&mut self) {
        let holder = self.disk_server.record.holder.clone();
        let killed = self
            .processes
            .iter()
            .any(|it| Some(&it.me) == holder.as_ref() && it.killed);
        self.env.note(|| "the guest is gone".into());
        if !killed {
            let what = "the guest is gone, and nobody killed the host that runs it";
            self.env.fail(format!("{}: {what}", Rule::Progress));
        }
    }

    /// The kernel closes what processes that have ended leave behind.
    fn close_lines(&mut self) {
        if !std::mem::take(&mut self.env.ended) {
            return;
        }
        for line in 0..self.env.network.lines.len() {
            for end in 0..2 {
                let it = &self.env.network.lines[line];
                let (process, host) = (&self.processes[it.ends[end]], it.hosts[end]);
                if it.open[end] && !process.alive && self.hosts[host] {
                    self.env.close(line, end);
                }
            }
        }
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Packet { line, to, item } => self.packet(line, to, item),
            Event::Again { line, to } => self.again(line, to),
            Event::Datagram { to, from, beat } => {
                let host = self.processes[to].host;
                if self.env.network.cut[from][host] == 0 {
                    let again = Event::Datagram { to, from, beat };
                    if let Some((process, env)) = self.running(to, again) {
                        process.hear_beat(&beat, env);
                    }
                }
            }
            Event::Timer { of, timer } => {
                if let Some((process, env)) = self.running(of, Event::Timer { of, timer }) {
                    process.timer(timer, env);
                }
            }
            Event::Told { to, number, told } => {
                let again = Event::Told {
                    to,
                    number,
                    told: told.clone(),
                };
                if let Some((process, env)) = self.running(to, again) {
                    process.told(number, told, env);
                }
            }
            Event::Frame { host, request } => {
                let on_host = |it: &Process| it.alive && it.host == host;
                if self.env.network.clients_cut[host][0] == 0
                    && let Some(id) = self.processes.iter().position(on_host)
                    && let Some((process, _)) = self.running(id, Event::Frame { host, request })
                {
                    process.frame(request);
                }
            }
            Event::Reply { host, reply } => {
                if self.env.network.clients_cut[host][1] == 0 {
                    self.reply(reply);
                }
            }
            Event::Client(client) => self.client(client),
            Event::Asked { asked, stage, run } => {
                self.disk_server.step(asked, stage, run, &mut self.env);
            }
            Event::Disk { wire, item } => self.disk_packet(wire, item),
            Event::DiskAgain { wire, to_server } => self.disk_again(wire, to_server),
            Event::DiskWork(work) => self.disk_server.work(work, &mut self.env),
            Event::Fault(number) => self.fault(number),
            Event::Over(end) => self.over(end),
            Event::Boot(host) => self.hosts[host] = true,
            Event::Operator => self.operator(),
            Event::Interval => self.disk_server.interval(&mut self.env),
        }
    }

    /// The process, if it runs; otherwise it finds that when it does.
    fn running(&mut self, id: ProcessId, event: Event) -> Option<(&mut Process, &mut Env)> {
        let process = &mut self.processes[id];
        if !process.alive {
            return None;
        }
        if process.frozen > 0 {
            process.pending.push_back(event);
            return None;
        }
        Some((process, &mut self.env))
    }

    fn packet(&mut self, line: usize, to: usize, item: Item) {
        let it = &self.env.network.lines[line];
        let (host, id, open) = (it.hosts[to], it.ends[to], it.open[to]);
        if it.silent[to].is_some_and(|since| self.env.now > since) {
            return;
        }
        let stuck = self.env.network.is_cut(line, to) || !self.hosts[host];
        let kept = &mut self.env.network.lines[line].kept[to];
        if stuck || !kept.is_empty() {
            if kept.is_empty() {
                let after = self.env.jitter(Duration::from_millis(200));
                let after = Duration::from_millis(200) + after;
                self.env.after(after, Event::Again { line, to });
            }
            self.env.network.lines[line].kept[to].push_back(item);
            return;
        }
        let process = &self.processes[id];
        let takes = process.alive && (open || process.drains(line));
        if !takes {
            if !matches!(item, Item::Fin | Item::Reset) && self.env.network.lines[line].open[1 - to]
            {
                self.env.send(line, 1 - to, Item::Reset);
            }
            return;
        }
        let again = Event::Packet {
            line,
            to,
            item: item.clone(),
        };
        if let Some((process, env)) = self.running(id, again) {
            process.packet(line, item, env);
        }
    }

    /// What did not get through is sent again.
    fn again(&mut self, line: usize, to: usize) {
        let host = self.env.network.lines[line].hosts[to];
        if self.env.network.is_cut(line, to) || !self.hosts[host] {
            let after = Duration::from_millis(200) + self.env.jitter(Duration::from_millis(600));
            return self.env.after(after, Event::Again { line, to });
        }
        for item in std::mem::take(&mut self.env.network.lines[line].kept[to]) {
            self.packet(line, to, item);
        }
    }

    fn client(&mut self, client: usize) {
        let counted = self.env.checks.acknowledged[client];
        let number = counted.map_or(0, |reply| reply.request.number) + 1;
        let request = Request { client, number };
        for host in 0..HOSTS {
            if self.hosts[host] {
                let after = self.env.jitter(Duration::from_millis(1));
                self.env.after(after, Event::Frame { host, request });
            }
        }
        let after = CLIENT_PATIENCE + self.env.jitter(CLIENT_PATIENCE);
        self.env.after(after, Event::Client(client));
    }

    fn reply(&mut self, reply: Reply) {
        let Request { client, number } = reply.request;
        let acknowledged = &mut self.env.checks.acknowledged[client];
        let counted = acknowledged.map_or(0, |reply| reply.request.number);
        if number == counted + 1 {
            *acknowledged = Some(reply);
            // It has the next one at once, beside the one that is planned.
            let request = Request {
                client,
                number: number + 1,
            };
            for host in 0..HOSTS {
                let after = self.env.jitter(Duration::from_millis(30));
                self.env.after(after, Event::Frame { host, request });
            }
        } else if number > counted {
            let what = format!(
                "client {client} has a reply to {number}, and asked for {}",
                counted + 1
            );
            self.env.fail(what);
        }
    }

    /// Starts backups, and hosts that wait to be one, where there is room.
    fn operator(&mut self) {
        let after = Duration::from_millis(50) + self.env.jitter(Duration::from_millis(400));
        self.env.after(after, Event::Operator);
        for host in 0..HOSTS {
            let busy = self.processes.iter().any(|it| it.alive && it.host == host);
            let goes = self.hosts[host] && !self.env.clocks[host].is_stopped();
            if busy || !goes || self.env.rng.u32(..3) == 0 {
                continue;
            }
            let waits = match self.operator {
                Operator::Connects => false,
                Operator::Waits => true,
                Operator::Either => self.env.rng.bool(),
            };
            if waits {
                let id = self.processes.len();
                self.processes.push(Process::idle(id, host, &mut self.env));
                continue;
            }
            let others = self
                .processes
                .iter()
                .filter(|it| it.alive && it.host != host);
            let runs = |it: &&Process| matches!(it.role, Role::Runs(_));
            let runs: Vec<ProcessId> = others.filter(runs).map(|it| it.id).collect();
            if runs.is_empty() {
                continue;
            }
            let primary = runs[self.env.rng.usize(..runs.len())];
            self.start_backup(host, primary);
        }
    }

    /// A process begins on a host that wants to join a primary's guest.
    fn start_backup(&mut self, host: usize, primary: ProcessId) {
        let id = self.processes.len();
        let hosts = [host, self.processes[primary].host];
        let line = self.env.connect([id, primary], hosts);
        self.processes
            .push(Process::backup(id, host, line, &mut self.env));
    }
}
