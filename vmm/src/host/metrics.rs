//! What this host's daemon tells those who watch it. docs/monitoring.md has the same list for people.
//!
//! Everything comes from what guests' processes tell anyway: their state from the control sockets, their figures
//! from the files of events. Both are looked at once an interval, on a thread of its own, so that no process that
//! hangs keeps anybody waiting.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use disk_server::arbiter::{HostName, VmName};
use disk_server::monitoring::{Exporter, Exposition, Health, Pulse, Watched, expose};
use disk_server::views::{Condition, MAX_PROCESSES, PING_INTERVAL, Phase, Role};
use parking_lot::Mutex;

use super::event_file::EventFile;
use super::figures::Figures;
use super::folders::Folders;
use super::local;
use super::memory::left_mib;
use super::tending::Tending;
use crate::threads;

/// Guests of which figures are kept: those that have no process here any more go first.
const MOST_GUESTS: usize = 4 * MAX_PROCESSES;

/// The roles of processes by the names that metrics and paths have for them.
const ROLES: [&str; 3] = ["primary", "backup", "idle"];

const VERSION: &str = env!("CARGO_PKG_VERSION");

const NO_LABELS: [(&str, &str); 0] = [];

/// The daemon's connection to the disk server.
#[derive(Debug)]
pub(super) struct Link {
    /// Of the thread that pings.
    pub(super) pulse: Pulse,
    /// Whether the last ping was answered; true before the first one.
    pub(super) answers: AtomicBool,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            pulse: Pulse::new(),
            answers: AtomicBool::new(true),
        }
    }
}

/// The host as those see it who watch it.
#[derive(Debug)]
pub(super) struct Metrics {
    host: HostName,
    memory_mib: Option<u64>,
    folders: Folders,
    tending: Arc<Mutex<Tending>>,
    link: Arc<Link>,
    since_unix_ms: u64,
    guests: Mutex<BTreeMap<VmName, Guest>>,
}

/// A guest that has, or had, a process here.
#[derive(Debug)]
struct Guest {
    events: EventFile,
    seen: Seen,
}

/// What is known of it.
#[derive(Debug, Clone)]
struct Seen {
    is_here: bool,
    /// What its process says it is.
    role: Option<Role>,
    figures: Figures,
}

impl Metrics {
    /// Those of this host since this moment, by the wall clock in milliseconds.
    pub(super) fn new(
        host: HostName,
        memory_mib: Option<u64>,
        (folders, tending): (Folders, Arc<Mutex<Tending>>),
        link: Arc<Link>,
        since_unix_ms: u64,
    ) -> Self {
        Self {
            host,
            memory_mib,
            folders,
            tending,
            link,
            since_unix_ms,
            guests: Mutex::default(),
        }
    }

    /// Tells them at this socket for as long as this process lives.
    ///
    /// # Errors
    /// The host has no thread for it.
    pub(super) fn tell(self, socket: TcpListener) -> io::Result<()> {
        let metrics = Arc::new(self);
        Exporter::new(socket, metrics.clone())?.serve()?;
        let look = move || {
            let mut last = Instant::now();
            loop {
                let now = Instant::now();
                metrics.look(now - last);
                last = now;
                thread::sleep(PING_INTERVAL);
            }
        };
        threads::start("watches", threads::UNCONFINED, look).map(drop)
    }

    /// Looks at all guests, so long after the last time.
    fn look(&self, passed: Duration) {
        let here: Vec<VmName> = self.tending.lock().guests().keys().cloned().collect();
        // Asked before the lock is taken: whoever wants metrics waits for no process.
        let told: Vec<_> = (here.into_iter())
            .map(|vm| {
                let status = local::status(&self.folders, &vm);
                (vm, status.map(|status| status.role))
            })
            .collect();
        let mut guests = self.guests.lock();
        for guest in guests.values_mut() {
            guest.seen.is_here = false;
            guest.seen.role = None;
        }
        for (vm, role) in told {
            let Ok(folders) = self.folders.guest(&vm) else {
                continue;
            };
            let guest = guests.entry(vm).or_insert_with(|| Guest {
                events: EventFile::at(folders.events()),
                seen: Seen {
                    is_here: true,
                    role: None,
                    figures: Figures::since(self.since_unix_ms),
                },
            });
            guest.seen.is_here = true;
            guest.seen.role = role;
        }
        if guests.len() > MOST_GUESTS {
            guests.retain(|_, guest| guest.seen.is_here);
        }
        for (vm, guest) in guests.iter_mut() {
            guest.look(vm, passed);
        }
    }

    /// How the named guest's process is now, in a role.
    fn health_of(&self, vm: &VmName, role: &str) -> Health {
        if !self.tending.lock().guests().contains_key(vm) || !ROLES.contains(&role) {
            return Health::Unknown;
        }
        match local::status(&self.folders, vm) {
            None => Health::Unwell(format!("the process of {vm} does not say what it is")),
            Some(status) if name(&status.role) == Some(role) => match &status.role {
                // It has no claim yet, or lost its peer and may not go on: another host may run the guest.
                Role::Primary { condition, .. }
                    if matches!(condition.phase, Phase::Starting | Phase::Waiting) =>
                {
                    Health::Unwell(format!("{vm} does not run here yet, or any more"))
                }
                _ => Health::Well,
            },
            Some(status) => {
                let is = name(&status.role).unwrap_or("something else");
                Health::Unwell(format!("{vm} is not {role} here, but {is}"))
            }
        }
    }
}

impl Guest {
    fn look(&mut self, vm: &VmName, passed: Duration) {
        // Also of those that are gone: their last words.
        match self.events.take_lines() {
            Ok(lines) => lines.iter().for_each(|line| self.seen.figures.add(line)),
            Err(error) => log::debug!("the events of {vm}: {error}"),
        }
        if let Some(role) = &self.seen.role {
            self.seen.figures.hear(role, passed);
        }
    }
}

impl Seen {
    /// The epoch of a copy.
    fn epoch(&self) -> Option<u64> {
        match self.role.as_ref()? {
            Role::Primary { epoch, .. } | Role::Backup { epoch, .. } => Some(*epoch),
            Role::Host(_) | Role::Idle { .. } => None,
        }
    }

    /// How the copy is, where that is the one that runs.
    fn running(&self) -> Option<&Condition> {
        match self.role.as_ref()? {
            Role::Primary { condition, .. } => Some(condition),
            Role::Host(_) | Role::Idle { .. } | Role::Backup { .. } => None,
        }
    }
}

impl Watched for Metrics {
    fn metrics(&self) -> String {
        let host = self.host.clone();
        let answers = self.link.answers.load(Ordering::Relaxed);
        let tended = self.tending.lock().guests().clone();
        let free = left_mib(self.memory_mib, tended.values()) << 20;
        let guests = self.guests.lock();
        let guests = guests
            .iter()
            .map(|(vm, guest)| (vm.clone(), guest.seen.clone()));
        let guests: Vec<(VmName, Seen)> = guests.collect();
        expose(move |to| {
            to.gauge(
                "ftvm_host_info",
                "The host's name, and the version of its daemon; always 1.",
                [([("host", host.as_str()), ("version", VERSION)], 1.0)],
            )?;
            to.gauge(
                "ftvm_host_disk_server_up",
                "Whether the disk server answers the daemon's pings.",
                [(NO_LABELS, truth(answers))],
            )?;
            to.gauge(
                "ftvm_host_memory_free_bytes",
                "Memory that is left for another guest.",
                [(NO_LABELS, free as f64)],
            )?;
            states(to, &guests)?;
            figures(to, &guests)
        })
    }

    fn health(&self, path: &str) -> Health {
        if path.is_empty() {
            return self.link.pulse.health(
                "the disk server was not pinged",
                "start the daemon anew, which guests do not notice",
            );
        }
        let named = (path.strip_prefix("/vm/")).and_then(|path| path.rsplit_once('/'));
        let guest = named.and_then(|(vm, role)| Some((vm.parse().ok()?, role)));
        guest.map_or(Health::Unknown, |(vm, role)| self.health_of(&vm, role))
    }
}

/// What guests are now, as far as they have a process here.
fn states(to: &mut Exposition<'_>, guests: &[(VmName, Seen)]) -> fmt::Result {
    let here = || guests.iter().filter(|(_, seen)| seen.is_here);
    let running = |value: fn(&Condition) -> f64| {
        here().filter_map(move |(vm, seen)| Some(([("vm", vm.as_str())], value(seen.running()?))))
    };
    to.gauge(
        "ftvm_vm_up",
        "Whether the guest's process on this host says what it is.",
        here().map(|(vm, seen)| ([("vm", vm.as_str())], truth(seen.role.is_some()))),
    )?;
    to.gauge(
        "ftvm_vm_role",
        "1 for the role that the guest's process has on this host, 0 for the others.",
        here().flat_map(|(vm, seen)| {
            let is = seen.role.as_ref().and_then(name);
            ROLES.map(|role| {
                let labels = [("vm", vm.as_str()), ("role", role)];
                (labels, truth(is == Some(role)))
            })
        }),
    )?;
    to.gauge(
        "ftvm_vm_epoch",
        "The epoch of the copy on this host, which is the number of its view.",
        here().filter_map(|(vm, seen)| Some(([("vm", vm.as_str())], seen.epoch()? as f64))),
    )?;
    to.gauge(
        "ftvm_vm_protected",
        "Whether the guest, which runs on this host, has a backup that can go on.",
        running(|condition| truth(condition.phase == Phase::Protected)),
    )?;
    to.gauge(
        "ftvm_vm_lag_seconds",
        "How far the backup's execution is behind the guest, which runs on this host.",
        running(|condition| Duration::from_millis(condition.lag_ms).as_secs_f64()),
    )
}

/// What has added up.
fn figures(to: &mut Exposition<'_>, guests: &[(VmName, Seen)]) -> fmt::Result {
    let each = |value: fn(&Figures) -> f64| {
        (guests.iter()).map(move |(vm, seen)| ([("vm", vm.as_str())], value(&seen.figures)))
    };
    to.counter(
        "ftvm_log_bytes_total",
        "Bytes of log that the guest's copy on this host sent as the primary, or received as the backup.",
        guests.iter().flat_map(|(vm, Seen { figures, .. })| {
            let ways = [
                ("sent", figures.log_bytes_sent),
                ("received", figures.log_bytes_received),
            ];
            ways.map(|(way, bytes)| {
                ([("vm", vm.as_str()), ("direction", way)], bytes as f64)
            })
        }),
    )?;
    to.histogram(
        "ftvm_output_hold_seconds",
        "How long the guest's outputs waited for the backup to have what came before them.",
        (guests.iter()).map(|(vm, seen)| ([("vm", vm.as_str())], &seen.figures.output_holds)),
    )?;
    to.counter(
        "ftvm_vm_failovers_total",
        "How often the backup on this host went live.",
        each(|figures| figures.failovers as f64),
    )?;
    to.counter(
        "ftvm_vm_divergences_total",
        "How often the backup on this host differed from the guest.",
        each(|figures| figures.divergences as f64),
    )?;
    to.counter(
        "ftvm_vm_joins_total",
        "How often the guest, which ran on this host, got a backup that can go on.",
        each(|figures| figures.joins as f64),
    )?;
    to.counter(
        "ftvm_vm_unprotected_seconds_total",
        "For how long the guest ran on this host without a backup that can go on.",
        each(|figures| figures.unprotected.as_secs_f64()),
    )
}

/// Which of [`ROLES`] it is.
fn name(role: &Role) -> Option<&'static str> {
    match role {
        Role::Primary { .. } => Some("primary"),
        Role::Backup { .. } => Some("backup"),
        Role::Idle { .. } => Some("idle"),
        Role::Host(_) => None,
    }
}

fn truth(it: bool) -> f64 {
    f64::from(u8::from(it))
}

#[cfg(test)]
mod tests;
