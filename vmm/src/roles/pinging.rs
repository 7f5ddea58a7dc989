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
        memory_mib: guest.footprint().of_backup().div_ceil(1 << 20),
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
                    log::warn!("the view service proposes nothing: {error:#}");
                }
            }
        }
        drop(shared);
        thread::sleep(PING_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use disk_server::views::HostRecord;

    use super::*;
    use crate::events::Events;
    use crate::roles::sessions::tests::session;
    use crate::roles::tenure::tests::{primary, wait_until};
    use crate::sources::Lanes;

    /// With a real disk server: an idle host is proposed while the guest is alone, and not once a backup is
    /// there.
    #[test]
    fn an_idle_host_is_proposed_to_a_guest_that_is_alone() {
        let scene = primary();
        let (look, events) = (Lanes::default().look, Events::default());
        let sessions = Sessions::alone(scene.tenure.standing(), look, &events);
        let config = ArbiterConfig {
            server: scene.server.address.clone(),
            force: false,
        };
        let needs = Capabilities {
            memory_mib: 1,
            processor: Text::cut("a processor"),
            instructions: 1,
            paging: Paging::Shadow,
            exports: BTreeSet::new(),
        };
        let wanted = Wanted {
            address: "0.0.0.0:7421".parse().unwrap(),
            needs: needs.clone(),
        };
        let rights = Rights::new(&config, "db").unwrap();
        let idle = Pinging::idle(&config, &rights, needs).unwrap();
        let _member = Pinging::of_member(&config, &scene.rights, &sessions, wanted).unwrap();
        let proposal = idle.proposal();
        assert_eq!(proposal.view, scene.epoch);
        assert_eq!(&proposal.primary, scene.rights.claimant());
        assert_eq!(proposal.address, "127.0.0.1:7421".parse().unwrap());

        let arbiter = Arbiter::new(config.server, Settings::default());
        let host = |name: &Rights| -> HostRecord {
            let hosts = arbiter.list_hosts().unwrap();
            let found = hosts.into_iter().find(|it| it.host == *name.claimant());
            found.expect("it pings")
        };
        assert!(host(&rights).proposed);
        idle.decline("the network is down");
        wait_until("the service hears of that", || {
            let unfit = host(&rights).unfit;
            unfit.is_some_and(|unfit| unfit.to_string().contains("the network is down"))
        });

        let (sender, _receiver) = session(&scene);
        sessions.offer(sender, false);
        wait_until("a backup is there", || {
            let epoch = scene.epoch + 1;
            let vm = scene.rights.vm().clone();
            let wants = None;
            host(&scene.rights).role == Role::Primary { vm, epoch, wants }
        });
        assert_eq!(host(&rights).unfit, None);
        scene.tenure.end();
    }
}
