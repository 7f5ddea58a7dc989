//! Tells the view service of this host, and hears what it wants, on a thread and a connection of its own: neither the guest nor the
//! owner of its epoch waits for that, and a service that does not answer costs new backups alone.

use std::io;
use std::sync::{Arc, Weak};
use std::thread;

use confinement::Calls;
use disk_server::arbiter::{Arbiter, Claimant, Settings, VmName};
use disk_server::fleet::Order;
use disk_server::views::{Capabilities, Cause, PING_INTERVAL, Proposal, Role};
use parking_lot::{Condvar, Mutex};

use super::claim::{ArbiterConfig, Rights};
use super::member::Member;
use crate::assembly::Guest;
use crate::config::VmConfig;
use crate::control::{Asked, Console, ControlSocket, Status};
use crate::doctor::capabilities;
use crate::protocol::pings::Pings;
use crate::ram::Room;
use crate::threads;

/// What this host is, when it pings.
enum Being {
    /// It has not begun.
    Starting(Role),
    /// It waits to be the backup of this guest, or tries to be.
    Idle(VmName),
    /// It runs a guest, or is its backup.
    Member(Arc<Member>),
}

/// This host's pings, which go on until this is dropped.
pub(super) struct Pinging(Arc<Shared>);

/// This host, as who asks its control socket finds it. A handle, which keeps nothing going.
struct Report(Weak<Shared>);

struct Shared {
    me: Claimant,
    /// What the guest needs, and this host has, but for the memory that is left.
    needs: Capabilities,
    arbiter: Arbiter,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    pings: Pings,
    being: Being,
    /// There is a thread that pings.
    pinging: bool,
    /// Bytes that this host has set aside for the guest already.
    reserved: u64,
    /// To be tried.
    proposal: Option<Proposal>,
}

/// What a host needs that is to carry this guest.
pub(super) fn needs(guest: &Guest, vm: &VmConfig) -> Capabilities {
    let memory_mib = guest.footprint().of_backup().div_ceil(1 << 20);
    let exports = vm.disk.iter().map(|disk| disk.export().clone()).collect();
    capabilities(&guest.host_report, memory_mib, exports)
}

impl Pinging {
    /// Of a host that is to be that, and does not ping yet.
    pub(super) fn starting(
        config: &ArbiterConfig,
        rights: &Rights,
        needs: Capabilities,
        role: Role,
    ) -> Self {
        Self(Arc::new(Shared {
            me: rights.claimant().clone(),
            needs,
            arbiter: config.client(Settings::default()),
            state: Mutex::new(State {
                pings: Pings::new(rights.claimant().clone()),
                being: Being::Starting(role),
                pinging: false,
                reserved: 0,
                proposal: None,
            }),
            changed: Condvar::new(),
        }))
    }

    /// It is idle from now on, for this guest, and pings.
    ///
    /// # Errors
    /// The host has no thread for it.
    pub(super) fn be_idle(&self, vm: VmName) -> io::Result<()> {
        self.be(Being::Idle(vm))
    }

    /// It runs a guest from now on, or is its backup, and pings. A host that has no thread for that goes on
    /// without.
    pub(super) fn be_member(&self, member: Member) {
        if let Err(error) = self.be(Being::Member(Arc::new(member))) {
            log::warn!("the disk server proposes no backup for this host's guest: {error}");
        }
    }

    fn be(&self, being: Being) -> io::Result<()> {
        let mut state = self.0.state.lock();
        state.being = being;
        state.reserved = 0;
        if !state.pinging {
            let weak = Arc::downgrade(&self.0);
            threads::start("pings", &[Calls::Connect, Calls::Files], move || {
                ping_until_dropped(&weak)
            })?;
            state.pinging = true;
        }
        Ok(())
    }

    /// This host, for who asks it: how it is then.
    pub(super) fn asked(&self) -> Box<dyn Asked> {
        Box::new(Report(Arc::downgrade(&self.0)))
    }

    /// Answers at this control socket for this host, and its `guest`, until the process ends.
    ///
    /// # Errors
    /// The host has no thread for it.
    pub(super) fn answer_at(&self, socket: ControlSocket, guest: &Guest) -> io::Result<()> {
        let host = &guest.host;
        let output = host.outlet.console().clone();
        let console = Console::new(output, host.lanes.typed.clone(), host.live.clone());
        socket.serve(Report(Arc::downgrade(&self.0)), console)
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
    pub(super) fn decline(&self, cause: Cause, reason: &str) {
        self.0.state.lock().pings.decline(cause, reason);
    }
}

impl State {
    fn role(&self) -> Role {
        match &self.being {
            Being::Starting(role) => role.clone(),
            Being::Idle(vm) => self.pings.idle(vm.clone()),
            Being::Member(member) => member.role(),
        }
    }

    fn member(&self) -> Option<Arc<Member>> {
        match &self.being {
            Being::Member(member) => Some(member.clone()),
            Being::Starting(_) | Being::Idle(_) => None,
        }
    }
}

impl Report {
    fn member(&self) -> Option<Arc<Member>> {
        self.0.upgrade()?.state.lock().member()
    }
}

impl Asked for Report {
    fn status(&self) -> Option<Status> {
        let shared = self.0.upgrade()?;
        let role = shared.state.lock().role();
        Some(Status {
            claimant: shared.me.clone(),
            role,
        })
    }

    fn hand_over(&self) -> Result<(), String> {
        match self.member() {
            Some(member) => member.ask_hand_over(),
            None => Err("no guest runs here".into()),
        }
    }

    fn has_console(&self) -> Result<(), String> {
        match self.member() {
            Some(member) => member.has_console(),
            None => Err("no guest runs here yet".into()),
        }
    }
}

fn ping_until_dropped(shared: &Weak<Shared>) {
    let mut answers = true;
    while let Some(shared) = shared.upgrade() {
        let ping = {
            let mut state = shared.state.lock();
            let role = state.role();
            let left = Room::left_to_lock().bytes.saturating_add(state.reserved);
            let carries = Capabilities {
                memory_mib: left >> 20,
                ..shared.needs.clone()
            };
            state.pings.next(carries, role)
        };
        match shared.arbiter.ping(&ping) {
            Ok((record, order)) => {
                if !std::mem::replace(&mut answers, true) {
                    log::info!("the view service answers again");
                }
                let mut state = shared.state.lock();
                let (proposal, order) = match order {
                    Some(Order::Join(proposal)) => (Some(*proposal), None),
                    order => (None, order),
                };
                let record = record.unwrap_or_default();
                if let Some(new) = state.pings.answered(&ping, &record, proposal) {
                    state.proposal = Some(new);
                    shared.changed.notify_all();
                }
                let member = state.member();
                drop(state);
                if let (Some(member), Some(order)) = (member, order) {
                    member.carry_out(&order);
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
    use disk_server::arbiter::HostName;
    use disk_server::views::{Condition, HostRecord, Phase, Text, Unfit, Wanted};

    use super::*;
    use crate::events::Events;
    use crate::roles::Force;
    use crate::roles::sessions::Sessions;
    use crate::roles::sessions::tests::{little_needs, session};
    use crate::roles::tenure::tests::{primary, wait_until};
    use crate::sources::Lanes;
    use transport::Endpoint;

    /// With a real disk server: an idle host is proposed while the guest is alone, and not once a backup is
    /// there.
    #[test]
    fn an_idle_host_is_proposed_to_a_guest_that_is_alone() {
        let scene = primary();
        let (look, events) = (Lanes::default().look, Events::default());
        let sessions = Sessions::alone(scene.tenure.standing(), look, &events);
        let config = ArbiterConfig {
            server: scene.server.address.clone(),
            endpoint: Endpoint::plain(),
            host: HostName::of_this_host(),
            force: Force::No,
        };
        let needs = little_needs();
        let wanted = Wanted {
            address: "0.0.0.0:7421".parse().unwrap(),
            needs: needs.clone(),
        };
        let rights = Rights::new(&config, "db").unwrap();
        let vm = || scene.rights.vm().clone();
        let starting = |rights| {
            let role = Role::Backup {
                vm: vm(),
                epoch: 0,
                condition: Condition::default(),
            };
            Pinging::starting(&config, rights, needs.clone(), role)
        };
        let idle = starting(&rights);
        idle.be_idle(vm()).unwrap();
        let pinging = starting(&scene.rights);
        pinging.be_member(Member {
            vm: vm(),
            sessions: sessions.clone(),
            wanted,
            following: None,
            control: Lanes::default().control,
            log: Mutex::default(),
            handed_over: Mutex::default(),
        });
        let proposal = idle.proposal();
        assert_eq!(proposal.view, scene.epoch);
        assert_eq!(&proposal.primary, scene.rights.claimant());
        assert_eq!(proposal.address, "127.0.0.1:7421".parse().unwrap());

        let arbiter = config.client(Settings::default());
        let host = |name: &Rights| -> HostRecord {
            let hosts = arbiter.list_hosts().unwrap();
            let found = hosts.into_iter().find(|it| it.host == *name.claimant());
            found.expect("it pings")
        };
        assert!(host(&rights).proposed);
        idle.decline(Cause::Unreached, "the network is down");
        wait_until("the service hears of that", || {
            let unfit = host(&rights).unfit;
            unfit == Some(Unfit::Unreached(Text::cut("the network is down")))
        });

        let (sender, _receiver) = session(&scene);
        sessions.offer(sender, false);
        wait_until("a backup is there", || {
            let epoch = scene.epoch + 1;
            let vm = scene.rights.vm().clone();
            let condition = Condition {
                phase: Phase::Joining { percent: 0 },
                ..Condition::default()
            };
            host(&scene.rights).role
                == Role::Primary {
                    vm,
                    epoch,
                    wants: None,
                    condition,
                }
        });
        assert_eq!(host(&rights).unfit, None);
        scene.tenure.end();
    }
}
