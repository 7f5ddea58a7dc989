//! What is done to chosen parts of a calm world, and how its guest stands.

use std::time::Duration;

use logging_channel::Settings;

use super::{Operator, World};
use crate::defect::Defect;
use crate::env::Env;
use crate::event::Event;
use crate::faults::Schedule;
use crate::place::Place;
use crate::process::{Process, Role};

/// One way between two hosts of one rack, or to the disk server.
const LATENCY: Duration = Duration::from_micros(150);
/// A seed of a guest that starts alone, with backups and timeouts as they are by default, and how far it is to
/// the next one.
const SEED: u64 = 4;
const SEEDS: u64 = 40;

/// Where a guest runs, and where it is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Standing {
    pub(crate) on: Place,
    pub(crate) backup: Option<Place>,
}

/// Something that is wrong until it is healed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Nothing gets from the first to the second.
    Cut(Place, Place),
    /// A host has no power, or the disk server does not run.
    Crash(Place),
    /// A host stands still.
    Freeze(Place),
}

impl World {
    /// One without faults, and with the product's own timeouts, in which a backup joins at once. Delays are
    /// drawn from the seed.
    pub(crate) fn calm(seed: u64, defect: Option<Defect>) -> Self {
        let schedule = Schedule {
            latency: LATENCY,
            to_disk_server: LATENCY,
            heartbeat_timeout: Settings::default().heartbeat_timeout,
            ..Schedule::new(SEED + seed * SEEDS).with(Vec::new())
        };
        let mut world = Self::around(Env::new(&schedule, defect, false), Vec::new());
        world.start_client(0);
        world.start_backup(1, 0);
        world.start_operator(Operator::Waits);
        world
    }

    pub(crate) fn strike(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::Cut(from, to) => *self.way(from, to) += 1,
            Trouble::Crash(place) => match place.host() {
                Some(host) => self.fell(host, true),
                None => self.disk_server.crash(false, &mut self.env),
            },
            Trouble::Freeze(place) => {
                let process = place.host().and_then(|host| self.on(host));
                let process = process.expect("something runs there");
                self.processes[process].frozen += 1;
            }
        }
    }

    pub(crate) fn heal(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::Cut(from, to) => *self.way(from, to) -= 1,
            Trouble::Crash(place) => match place.host() {
                Some(host) => self.env.after(Duration::ZERO, Event::Boot(host)),
                None => self.disk_server.start(false, &mut self.env),
            },
            Trouble::Freeze(place) => {
                let process = place.host().and_then(|host| self.on(host));
                self.thaw(process.expect("it stands still there"));
            }
        }
    }

    /// How much keeps this way from taking anything.
    fn way(&mut self, from: Place, to: Place) -> &mut u32 {
        let network = &mut self.env.network;
        match (from.host(), to.host()) {
            (Some(from), Some(to)) => &mut network.cut[from][to],
            (Some(host), None) if to == Place::Service => &mut self.disk_server.cut[host][0],
            (None, Some(host)) if from == Place::Service => &mut self.disk_server.cut[host][1],
            (None, Some(host)) if from == Place::Client => &mut network.clients_cut[host][0],
            (Some(host), None) if to == Place::Client => &mut network.clients_cut[host][1],
            _ => panic!("no way leads from {from} to {to}"),
        }
    }

    /// How the guest stands, unless its outputs are held everywhere because it may run elsewhere.
    pub(crate) fn standing(&self) -> Option<Standing> {
        let runs = self.processes.iter().filter_map(|process| {
            let Role::Runs(runner) = &process.role else {
                return None;
            };
            let live = &runner.live;
            let settled = live.is_alone() || live.is_joining() || live.is_protected();
            (process.alive && settled).then_some((process, runner))
        });
        // One that was replaced, and does not know, is of an earlier epoch.
        let (process, runner) = runs.max_by_key(|(_, runner)| runner.epoch)?;
        let backup = runner.protected_by().map(|id| &self.processes[id]);
        Some(Standing {
            on: Place::HOSTS[process.host],
            backup: backup.filter(|it| it.alive).map(|it| Place::HOSTS[it.host]),
        })
    }

    /// Whether the guest runs and has a backup.
    pub(crate) fn is_protected(&self) -> bool {
        let standing = self.standing();
        standing.is_some_and(|standing| standing.backup.is_some())
    }

    /// What the first client's count is, in the guest that runs on this host.
    pub(crate) fn counted_on(&self, place: Place) -> Option<u64> {
        let runs = |it: &&Process| it.alive && Some(it.host) == place.host();
        match &self.processes.iter().find(runs)?.role {
            Role::Runs(runner) => Some(runner.guest.counted(0)),
            _ => None,
        }
    }

    /// How many outputs left, and where the last one did.
    pub(crate) fn outputs(&self) -> (u64, Option<Place>) {
        let checks = &self.env.checks;
        let last = checks.last_out.map(|(_, id)| self.processes[id].host);
        (checks.outputs, last.map(|host| Place::HOSTS[host]))
    }
}
