//! Tells the view service of this host, on a thread and a connection of its own: neither the guest nor the
//! owner of its epoch waits for that, and a service that does not answer costs new backups alone.

use std::io;
use std::sync::{Arc, Weak};
use std::thread;

use disk_server::arbiter::{Arbiter, Settings};
use disk_server::views::{Capabilities, PING_INTERVAL, Paging, Proposal, Role, Text, Wanted};
use parking_lot::{Condvar, Mutex};

use super::claim::{ArbiterConfig, Rights};
use super::sessions::Sessions;
use crate::assembly::Guest;
use crate::config::VmConfig;
use crate::doctor::{PROCESSOR, has_shadow_paging};
use crate::protocol::pings::Pings;
use crate::ram::Room;
use crate::threads;

/// What this host is, when it pings.
type CurrentRole = Box<dyn Fn(&Pings) -> Role + Send>;

/// This host's pings, which go on until this is dropped.
pub(super) struct Pinging(Arc<Shared>);

struct Shared {
    /// What the guest needs, and this host has, but for the memory that is left.
    needs: Capabilities,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    pings: Pings,
    role: CurrentRole,
    /// Bytes that this host has set aside for the guest already.
    reserved: u64,
    /// To be tried.
    proposal: Option<Proposal>,
}

/// What a host needs that is to carry this guest.
pub(super) fn needs(guest: &Guest, vm: &VmConfig) -> Capabilities {
    let checks = guest.host_report.checks();
    let processor = checks.iter().find(|check| check.name == PROCESSOR);
    Capabilities {
        memory_mib: guest.identity.memory_bytes.div_ceil(1 << 20),
        processor: Text::cut(processor.map_or("unknown", |check| &check.measured)),
        instructions: guest.host_report.instructions().digest(),
        paging: match has_shadow_paging(&guest.host_report) {
            true => Paging::Shadow,
            false => Paging::Nested,
        },
        exports: vm.disk.iter().map(|disk| disk.export().clone()).collect(),
    }
}

impl Pinging {
    /// Of an idle host, for a guest that needs this.
    ///
    /// # Errors
    /// The host has no thread for it.
    pub(super) fn idle(
        config: &ArbiterConfig,
        rights: &Rights,
        needs: Capabilities,
    ) -> io::Result<Self> {
        let vm = rights.vm().clone();
        let idle = move |pings: &Pings| pings.idle(vm.clone());
        Self::start(config, rights, needs, Box::new(idle))
    }

    /// Of a host that runs a guest, or is its backup: these are its `sessions`. Where it wants a backup, that
    /// is told with what is `wanted`. A host that has no thread for it goes on without.
    pub(super) fn of_member(
        config: &ArbiterConfig,
        rights: &Rights,
        sessions: &Sessions,
        wanted: Wanted,
    ) -> Option<Self> {
        let needs = wanted.needs.clone();
        let started = Self::start(config, rights, needs, member(rights, sessions, wanted));
        let tell = |error: &io::Error| {
            log::warn!("the disk server proposes no backup for this host's guest: {error}");
        };
        started.inspect_err(tell).ok()
    }

    /// The same, of a host that was idle until now.
    pub(super) fn into_member(self, rights: &Rights, sessions: &Sessions, wanted: Wanted) -> Self {
        {
            let mut state = self.0.state.lock();
            state.role = member(rights, sessions, wanted);
            state.reserved = 0;
        }
        self
    }

    fn start(
        config: &ArbiterConfig,
        rights: &Rights,
        needs: Capabilities,
        role: CurrentRole,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            needs,
            state: Mutex::new(State {
                pings: Pings::new(rights.claimant().clone()),
                role,
                reserved: 0,
                proposal: None,
            }),
            changed: Condvar::new(),
        });
        let arbiter = Arbiter::new(config.server.clone(), Settings::default());
        let weak = Arc::downgrade(&shared);
        threads::start("pings", move || ping_until_dropped(&weak, &arbiter))?;
        Ok(Self(shared))
    }

    /// An idle host has set so many bytes aside, which count as its own.
    pub(super) fn reserve(&self, bytes: u64) {
        self.0.state.lock().reserved = bytes;
    }

    /// Waits until this idle host is proposed as a backup.
    pub(super) fn proposal(&self) -> Proposal {
        let mut state = self.0.state.lock();
        loop {
            if let Some(proposal) = state.proposal.take() {
                return proposal;
            }
            self.0.changed.wait(&mut state);
        }
    }

    /// The last proposal came to nothing, for this reason.
    pub(super) fn decline(&self, reason: &str) {
        self.0.state.lock().pings.decline(reason);
    }
}

fn member(rights: &Rights, sessions: &Sessions, wanted: Wanted) -> CurrentRole {
    let (vm, sessions) = (rights.vm().clone(), sessions.clone());
    Box::new(move |_| {
        let (vm, epoch) = (vm.clone(), sessions.epoch());
        match sessions.wants_backup() {
            None => Role::Backup { vm, epoch },
            Some(wants) => Role::Primary {
                vm,
                epoch,
                wants: wants.then(|| wanted.clone()),
            },
        }
    })
}

fn ping_until_dropped(shared: &Weak<Shared>, arbiter: &Arbiter) {
    let mut answers = true;
    while let Some(shared) = shared.upgrade() {
        let ping = {
            let mut state = shared.state.lock();
            let role = (state.role)(&state.pings);
            let left = Room::left_to_lock().bytes.saturating_add(state.reserved);
            let carries = Capabilities {
                memory_mib: left >> 20,
                ..shared.needs.clone()
            };
            state.pings.next(carries, role)
        };
        match arbiter.ping(&ping) {
            Ok((record, proposal)) => {
                if !std::mem::replace(&mut answers, true) {
                    log::info!("the view service answers again");
                }
                let mut state = shared.state.lock();
                if let Some(new) = state.pings.answered(&ping, &record, proposal) {
                    state.proposal = Some(new);
                    shared.changed.notify_all();
                }
            }
            Err(error) => {
                if std::mem::replace(&mut answers, false) {
                    let error = anyhow::Error::new(error);
                    log::warn!(
                        "the view service does not answer, and proposes no backup: {error:#}"
                    );
                }
            }
        }
        drop(shared);
        thread::sleep(PING_INTERVAL);
    }
}
