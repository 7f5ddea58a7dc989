//! The daemon: pings for its host, carries out what the service orders, and tells what became of it.
//!
//! | thread | does |
//! | --- | --- |
//! | `pings` | tells the service of this host, once an interval, and takes orders from the answers |
//! | `starts` | starts processes, one after the other: an image is read meanwhile, and pings go on |
//! | `guest` | one for each process: waits for its end |
//! | `asks` | asks new processes who they are |
//! | `bounds` | bounds the files to which processes write |
//! | `local`, `consoles` | answer operators |
//! | `watches`, `monitoring` | look at guests for those who watch the host, and answer those, if there are any |
//!
//! Nothing of a guest is in this process: when it ends, however, the next one finds all of it.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender, unbounded};
use disk_server::arbiter::{Arbiter, Claimant, Settings, VmName};
use disk_server::views::{Capabilities, Cause, MAX_EXPORTS, PING_INTERVAL, Ping, Role, Text};
use parking_lot::Mutex;
use transport::{Endpoint, EndpointError};

use super::config::Config;
use super::folders::{FolderError, Folders, GuestFolders};
use super::images::Images;
use super::memory::left_mib;
use super::metrics::{Link, Metrics};
use super::process::{Exit, Lock, Record, Said, Watch};
use super::sockets::{Addresses, ListenError, Listening};
use super::starter::{Network, StartError, Starter};
use super::tending::{Guest, Task, Tending};
use super::{console, local, machine, upkeep};
use crate::doctor::{self, Purpose, Unfit};
use crate::io::{Bridge, BridgeError};
use crate::protocol::pings::Pings;
use crate::threads;

/// How often it is tried to remove an interface, and how soon again.
const MOST_TRIES: u32 = 20;
const AGAIN: Duration = Duration::from_millis(100);

/// The disk server is asked for its exports with one ping in so many.
const EXPORTS_EVERY: u64 = 10;

/// What this process is, and a process that it forks: guests are of their daemon's version also where a
/// later one was installed meanwhile.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// What a daemon has of its host.
pub struct Surroundings {
    /// What that is, but for memory and exports.
    pub host: Capabilities,
    /// Where its guests are connected.
    pub network: Box<dyn Network>,
    /// The program of its guests.
    pub program: PathBuf,
    /// Its key for connections, and whose keys it trusts.
    pub endpoint: Endpoint,
}

/// The daemon of this host, which works until the process ends.
pub struct Daemon {
    shared: Arc<Shared>,
    _lock: Lock,
}

struct Shared {
    config: Config,
    folders: Folders,
    host: Capabilities,
    machine: Text,
    network: Box<dyn Network>,
    endpoint: Endpoint,
    tending: Arc<Mutex<Tending>>,
    link: Arc<Link>,
}

/// Why a host cannot have a daemon.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// It cannot carry guests.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// It has no key, or does not know whom to trust.
    #[error(transparent)]
    Keys(#[from] EndpointError),
    /// Guests cannot be connected.
    #[error(transparent)]
    Network(#[from] BridgeError),
    /// A directory cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// It has one.
    #[error(
        "another daemon runs in {}: end that first, or give this one a directory of its own (run = \"…\")",
        run.display()
    )]
    Another {
        /// The directory.
        run: PathBuf,
    },
    /// No random number for its name.
    #[error("the system has no random number for this daemon's name")]
    Nonce(#[source] io::Error),
    /// An address is not this host's, or is taken.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The local socket cannot be made.
    #[error("cannot listen on {}", path.display())]
    Local {
        /// Its path.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The host has no thread for it.
    #[error("cannot start the daemon's threads")]
    Thread(#[source] io::Error),
}

impl Surroundings {
    /// Those of this host: tries out whether it can carry guests that are replicated.
    ///
    /// # Errors
    /// [`DaemonError::Unfit`], [`DaemonError::Network`].
    pub fn of_this_host(config: &Config) -> Result<Self, DaemonError> {
        let network = Bridge::find(&config.bridge)?;
        let purpose = Purpose::Replication {
            allow_nested_paging: config.allow_nested_paging,
        };
        let report = doctor::require_fit(purpose)?.for_peer(purpose);
        Ok(Self {
            host: doctor::capabilities(&report, 0, Default::default()),
            network: Box::new(network),
            program: PathBuf::from(THIS_PROGRAM),
            endpoint: config.endpoint().inspect(Endpoint::tell_if_plain)?,
        })
    }
}

impl Daemon {
    /// Starts the daemon, which finds the guests of the one before.
    ///
    /// # Errors
    /// [`DaemonError`].
    pub fn start(config: &Config, surroundings: Surroundings) -> Result<Self, DaemonError> {
        let folders = Folders::make(&config.run, &config.state)?;
        let lock = Lock::take(&folders.lock()).map_err(FolderError::of(&folders.lock()))?;
        let lock = lock.ok_or_else(|| DaemonError::Another {
            run: config.run.clone(),
        })?;
        // By a name that says in a list of processes what it is.
        let program = folders.program();
        let _ = fs::remove_file(&program);
        symlink(surroundings.program, &program).map_err(FolderError::of(&program))?;
        let addresses = Addresses::of(config);
        addresses.logging.listen()?;
        let consoles = addresses.consoles.listen()?;
        let watchers = (addresses.watchers.map(Listening::listen)).transpose()?;
        let shared = Arc::new(Shared {
            config: config.clone(),
            folders,
            host: surroundings.host,
            network: surroundings.network,
            endpoint: surroundings.endpoint,
            machine: machine::number(),
            tending: Arc::new(Mutex::new(Tending::new(now_ms()))),
            link: Arc::default(),
        });
        shared.find_guests()?;
        shared.answer_operators(consoles)?;
        if let Some(watchers) = watchers {
            shared
                .metrics()
                .tell(watchers)
                .map_err(DaemonError::Thread)?;
        }
        let me = Claimant::generate(&config.name).map_err(DaemonError::Nonce)?;
        log::info!("{me} looks after guests for {}", config.disk_server);

        let (tasks, to_do) = unbounded();
        let starter = Starter {
            config: config.clone(),
            folders: shared.folders.clone(),
            arbiter: shared.arbiter(),
            images: Images::default(),
        };
        let start = |name, run: Box<dyn FnOnce() + Send>| {
            threads::start(name, threads::UNCONFINED, run)
                .map(drop)
                .map_err(DaemonError::Thread)
        };
        let starting = shared.clone();
        start(
            "starts",
            Box::new(move || starting.start_all(starter, &to_do)),
        )?;
        let asking = shared.clone();
        start(
            "asks",
            Box::new(move || upkeep::ask_who_they_are(&asking.folders, &asking.tending)),
        )?;
        let bounding = shared.clone();
        start(
            "bounds",
            Box::new(move || upkeep::bound_what_they_say(&bounding.folders, &bounding.tending)),
        )?;
        let pinging = shared.clone();
        start("pings", Box::new(move || pinging.ping(me, &tasks)))?;
        Ok(Self {
            shared,
            _lock: lock,
        })
    }

    /// The guests that have a process here.
    #[must_use]
    pub fn guests(&self) -> Vec<VmName> {
        self.shared
            .tending
            .lock()
            .guests()
            .keys()
            .cloned()
            .collect()
    }
}

impl Shared {
    fn arbiter(&self) -> Arbiter {
        let server = self.config.disk_server.clone();
        Arbiter::new(server, self.endpoint.clone(), Settings::default())
    }

    fn metrics(&self) -> Metrics {
        let guests = (self.folders.clone(), self.tending.clone());
        let (name, memory_mib) = (self.config.name.clone(), self.config.memory_mib);
        Metrics::new(name, memory_mib, guests, self.link.clone(), now_ms())
    }

    fn answer_operators(&self, consoles: TcpListener) -> Result<(), DaemonError> {
        let path = self.folders.socket()?;
        // Whoever had it has ended: the lock is ours.
        let _ = fs::remove_file(&path);
        let socket = UnixListener::bind(&path).map_err(|source| DaemonError::Local {
            path: path.clone(),
            source,
        })?;
        let (name, folders) = (self.config.name.clone(), self.folders.clone());
        local::answer(socket, name, folders, self.tending.clone()).map_err(DaemonError::Thread)?;
        let endpoint = self.endpoint.clone();
        console::give(consoles, endpoint, self.folders.clone()).map_err(DaemonError::Thread)
    }

    /// Tends the guests again that an earlier daemon started, and tells the ends that it did not.
    fn find_guests(self: &Arc<Self>) -> Result<(), DaemonError> {
        for vm in self.folders.guests()? {
            let Ok(folders) = self.folders.guest(&vm) else {
                continue;
            };
            let path = folders.lock();
            let record = Record::read(&folders.record()).ok();
            if Lock::take(&path).map_err(FolderError::of(&path))?.is_none() {
                self.tend_again(&vm, &folders)?;
            } else if let Some(ended) = record.and_then(|record| record.ended) {
                self.tending.lock().ended_before(ended);
            } else {
                self.over(&vm, Exit::unseen(&said(&folders)));
            }
        }
        Ok(())
    }

    /// Tends a guest whose process is here, and not a child of this one.
    fn tend_again(
        self: &Arc<Self>,
        vm: &VmName,
        folders: &GuestFolders,
    ) -> Result<(), FolderError> {
        let record = Record::read(&folders.record()).ok();
        let path = folders.lock();
        let watch = Watch::on(&path).map_err(FolderError::of(&path))?;
        let guest = Guest {
            claimant: None,
            memory_mib: record.as_ref().map_or(0, |record| record.memory_mib),
            pid: record.and_then(|record| record.pid),
        };
        log::info!("{vm}: its process is here, and is tended again");
        self.tending.lock().is_here(vm, guest);
        self.watch(vm.clone(), watch);
        Ok(())
    }

    fn watch(self: &Arc<Self>, vm: VmName, watch: Watch) {
        let shared = self.clone();
        threads::insist("guest", threads::UNCONFINED, move || {
            if let Ok(folders) = shared.folders.guest(&vm) {
                shared.over(&vm, watch.wait(&said(&folders)));
            }
        });
    }

    /// A guest's process has ended, or was not started.
    fn over(&self, vm: &VmName, exit: Exit) {
        let status = exit
            .status
            .map_or("no status".to_owned(), |status| format!("status {status}"));
        log::info!("{vm}: its process has ended, {status}: {}", exit.reason);
        let Ok(folders) = self.folders.guest(vm) else {
            let why = (exit.cause, exit.reason.as_str());
            self.tending.lock().ended(vm, exit.status, why);
            return;
        };
        let record = Record::read(&folders.record()).ok();
        if let Some(record) = &record {
            self.disconnect(&record.tap);
        }
        // Kept before it is told: a daemon that is started meanwhile tells it with the same number.
        let mut tending = self.tending.lock();
        let ended = tending.ended(vm, exit.status, (exit.cause, &exit.reason));
        if let Some(record) = record {
            let record = Record {
                ended: Some(ended),
                ..record
            };
            if let Err(error) = record.write(&folders.record()) {
                log::warn!("{}: {error}", folders.record().display());
            }
        }
    }

    /// A process that was not this daemon's gives its lock back a moment before it lets go of its interface.
    fn disconnect(&self, tap: &str) {
        let mut tries = 0;
        while let Err(error) = self.network.remove(tap) {
            tries += 1;
            if tries == MOST_TRIES {
                log::warn!("{}", describe(&error));
                break;
            }
            thread::sleep(AGAIN);
        }
    }

    fn start_all(self: &Arc<Self>, mut starter: Starter, to_do: &Receiver<Task>) {
        for task in to_do {
            let vm = task.vm();
            let takes = |memory_mib| {
                let guest = Guest {
                    memory_mib,
                    ..Guest::default()
                };
                self.tending.lock().is_here(vm, guest);
            };
            match starter.start(&task, &*self.network, takes) {
                Ok(started) => {
                    let pid = started.guest.pid.unwrap_or_default();
                    log::info!("{vm}: started, as process {pid}");
                    self.tending.lock().is_here(vm, started.guest);
                    self.watch(vm.clone(), started.watch);
                }
                // What is here must never be told as gone.
                Err(StartError::StillThere { folders }) => {
                    if let Err(error) = self.tend_again(vm, &folders) {
                        log::error!("{vm}: {}", describe(&error));
                    }
                }
                Err(error) => self.over(vm, Exit::not_started(&describe(&error))),
            }
        }
    }

    fn ping(&self, me: Claimant, tasks: &Sender<Task>) {
        let arbiter = self.arbiter();
        let mut pings = Pings::new(me);
        let mut host = self.host.clone();
        let mut spoken = None;
        for count in 0.. {
            self.link.pulse.beat();
            if count % EXPORTS_EVERY == 0
                && let Ok(exports) = arbiter.list_exports()
            {
                // What no machine owns is no disk of a guest that is replicated.
                let owned = exports.into_iter().filter(|export| export.owner.is_some());
                let names = owned.map(|export| export.name);
                host.exports = names.take(MAX_EXPORTS).collect();
            }
            host.memory_mib = self.memory_left_mib();
            let told = self
                .tending
                .lock()
                .tended(&self.machine, self.config.console);
            let ping = pings.next(host.clone(), Role::Host(told));
            match arbiter.ping(&ping) {
                Ok((_, order)) => {
                    if !self.link.answers.swap(true, Ordering::Relaxed) {
                        log::info!("the disk server answers again");
                    }
                    if spoken != arbiter.version() {
                        spoken = arbiter.version();
                        let version = spoken.unwrap_or_default();
                        log::info!("protocol {version} is spoken with the disk server");
                    }
                    self.heard(&ping);
                    let task = order.and_then(|order| self.tending.lock().ordered(order));
                    if let Some(task) = task {
                        log::info!("{}: {}", task.vm(), in_words(&task));
                        // The other end lives as long as this process.
                        let _ = tasks.send(task);
                    }
                }
                Err(error) => {
                    if self.link.answers.swap(false, Ordering::Relaxed) {
                        log::warn!(
                            "the disk server does not answer; guests run on: {}",
                            describe(&error)
                        );
                    }
                }
            }
            thread::sleep(PING_INTERVAL);
        }
    }

    /// The service has heard a ping.
    fn heard(&self, ping: &Ping) {
        let Role::Host(told) = &ping.role else {
            return;
        };
        for vm in self.tending.lock().heard(told) {
            let folders = self.folders.guest(&vm);
            let removed = folders.map(|folders| folders.remove_run());
            if let Ok(Err(error)) = removed
                && error.kind() != io::ErrorKind::NotFound
            {
                log::warn!("{vm}: what is about its process cannot be removed: {error}");
            }
        }
    }

    fn memory_left_mib(&self) -> u64 {
        let guests = self.tending.lock().guests().clone();
        left_mib(self.config.memory_mib, guests.values())
    }
}

impl Exit {
    fn not_started(reason: &str) -> Self {
        Self {
            status: Some(1),
            cause: Cause::Other,
            reason: format!("not started: {reason}"),
        }
    }
}

fn said(folders: &GuestFolders) -> Said {
    Said {
        log: folders.log(),
        events: folders.events(),
    }
}

fn in_words(task: &Task) -> String {
    match task {
        Task::Start { epoch, .. } => format!("is to be started, from epoch {epoch}"),
        Task::Join(proposal) => format!(
            "is to have its backup here, for {} in view {}",
            proposal.primary, proposal.view
        ),
    }
}

/// An error with its causes.
fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Ends are counted from this on: later than those of every earlier run.
fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
