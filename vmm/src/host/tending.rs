//! Which guests have a process on this host, which have ended, and what comes of an order.
//!
//! ```text
//!             order                    it was started
//!   (nothing) ─────▶ being prepared ───────────────────▶ running
//!       ▲                  │                                │
//!       │                  └────────▶ ended ◀───────────────┘
//!       └─────the service has heard of it────┘
//! ```
//!
//! Orders are given again for as long as they hold: one for a guest that is here is carried out already. Nor
//! is one taken up between a guest's end and the answer to the ping that told of it, because it may have been
//! given before.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use disk_server::arbiter::{Claimant, VmName};
use disk_server::fleet::Order;
use disk_server::views::{Cause, Ended, MAX_ENDED, MAX_PROCESSES, Proposal, Tended, Text};

/// A process that is to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// A primary, which starts the guest anew.
    Start {
        /// The guest.
        vm: VmName,
        /// The epoch from which it is claimed.
        epoch: u64,
    },
    /// A backup.
    Join(Proposal),
}

/// A guest that has a process here, or is about to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guest {
    /// Which run of ftvm, as soon as that is known.
    pub claimant: Option<Claimant>,
    /// How much memory it takes, in MiB.
    pub memory_mib: u64,
    /// Its process, once that was started.
    pub pid: Option<u32>,
}

/// The guests of this host.
#[derive(Debug, PartialEq, Eq)]
pub struct Tending {
    guests: BTreeMap<VmName, Guest>,
    /// Not told yet, or not heard.
    ended: BTreeMap<u64, Ended>,
    /// Of the next end.
    number: u64,
}

impl Task {
    /// The guest that it is about.
    #[must_use]
    pub fn vm(&self) -> &VmName {
        match self {
            Self::Start { vm, .. } => vm,
            Self::Join(proposal) => &proposal.vm,
        }
    }
}

impl Tending {
    /// Of a host without guests, which counts their ends from `number` on: above those of earlier runs.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self {
            guests: BTreeMap::new(),
            ended: BTreeMap::new(),
            number,
        }
    }

    /// The service gives an order: what is to be done, if anything.
    pub fn ordered(&mut self, order: Order) -> Option<Task> {
        let task = match order {
            Order::Start { vm, epoch } => Task::Start { vm, epoch },
            Order::Join(proposal) => Task::Join(*proposal),
            // These are for the guests' own processes.
            Order::HandOver { .. } | Order::Leave {} | Order::Stop {} | Order::Die { .. } => {
                return None;
            }
        };
        let vm = task.vm();
        if self.is_known(vm) || self.guests.len() >= MAX_PROCESSES {
            return None;
        }
        self.guests.insert(vm.clone(), Guest::default());
        Some(task)
    }

    /// A guest's process is here, or is being started.
    pub fn is_here(&mut self, vm: &VmName, guest: Guest) {
        self.guests.insert(vm.clone(), guest);
    }

    /// A guest's process says who it is.
    pub fn claims(&mut self, vm: &VmName, claimant: Claimant) {
        if let Some(guest) = self.guests.get_mut(vm) {
            guest.claimant = Some(claimant);
        }
    }

    /// A guest's process has ended, or could not be started: with this status, `None` if it is not known, and for this
    /// reason.
    pub fn ended(
        &mut self,
        vm: &VmName,
        status: Option<i32>,
        (cause, reason): (Cause, &str),
    ) -> Ended {
        self.guests.remove(vm);
        let ended = Ended {
            number: self.number,
            vm: vm.clone(),
            status,
            cause,
            reason: Text::cut(reason),
        };
        self.number += 1;
        self.ended.insert(ended.number, ended.clone());
        ended
    }

    /// An end that an earlier run of the daemon saw, and perhaps told.
    pub fn ended_before(&mut self, ended: Ended) {
        self.number = self.number.max(ended.number + 1);
        self.ended.insert(ended.number, ended);
    }

    /// What is told of this host, which is this machine.
    #[must_use]
    pub fn tended(&self, machine: &Text, console: SocketAddr) -> Tended {
        let claimants =
            (self.guests.iter()).map(|(vm, guest)| (vm.clone(), guest.claimant.clone()));
        Tended {
            processes: claimants.collect(),
            ended: self.ended.values().take(MAX_ENDED).cloned().collect(),
            machine: machine.clone(),
            console,
        }
    }

    /// The service has heard that. Gives the guests of which nothing is left.
    pub fn heard(&mut self, told: &Tended) -> Vec<VmName> {
        let known = (told.ended.iter()).filter(|ended| self.ended.remove(&ended.number).is_some());
        let gone: Vec<VmName> = known.map(|ended| ended.vm.clone()).collect();
        gone.into_iter().filter(|vm| !self.is_known(vm)).collect()
    }

    /// The guests of this host.
    #[must_use]
    pub fn guests(&self) -> &BTreeMap<VmName, Guest> {
        &self.guests
    }

    fn is_known(&self, vm: &VmName) -> bool {
        self.guests.contains_key(vm) || self.ended.values().any(|ended| ended.vm == *vm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(name: &str) -> VmName {
        name.parse().expect("a name")
    }

    fn start(name: &str) -> Order {
        Order::Start {
            vm: vm(name),
            epoch: 3,
        }
    }

    fn console() -> SocketAddr {
        "10.0.1.1:7422".parse().expect("an address")
    }

    #[test]
    fn an_order_that_is_given_again_is_carried_out_once() {
        let mut tending = Tending::new(7);
        let task = tending.ordered(start("db")).expect("it is new");
        assert_eq!(task.vm(), &vm("db"));
        assert_eq!(tending.ordered(start("db")), None);
        let proposal = Proposal {
            vm: vm("db"),
            view: 3,
            primary: "a/1".parse().expect("a claimant"),
            address: console(),
        };
        assert_eq!(
            tending.ordered(Order::Join(Box::new(proposal.clone()))),
            None
        );
        let told = tending.tended(&Text::cut(""), console());
        assert_eq!(told.processes, BTreeMap::from([(vm("db"), None)]));
        let claimant: Claimant = "here/1".parse().expect("a claimant");
        tending.claims(&vm("db"), claimant.clone());
        let told = tending.tended(&Text::cut(""), console());
        assert_eq!(told.processes[&vm("db")], Some(claimant));
        for order in [Order::Leave {}, Order::Stop {}, Order::Die { view: 3 }] {
            assert_eq!(tending.ordered(order), None);
        }
        let other = Proposal {
            vm: vm("web"),
            ..proposal
        };
        let task = tending.ordered(Order::Join(Box::new(other.clone())));
        assert_eq!(task, Some(Task::Join(other)));
    }

    #[test]
    fn an_end_is_told_until_it_was_heard_and_no_order_is_taken_up_before() {
        let mut tending = Tending::new(7);
        tending.ordered(start("db"));
        let before = tending.tended(&Text::cut(""), console());
        let ended = tending.ended(&vm("db"), Some(1), (Cause::Unreached, "no\nroom"));
        assert_eq!((ended.number, ended.reason.as_str()), (7, "no room"));
        assert_eq!(tending.heard(&before), [], "it was not told by that");
        assert_eq!(tending.ordered(start("db")), None, "given before");
        let told = tending.tended(&Text::cut(""), console());
        assert_eq!((told.processes.len(), told.ended.len()), (0, 1));
        assert_eq!(tending.tended(&Text::cut(""), console()), told, "again");
        assert_eq!(tending.heard(&told), [vm("db")]);
        assert_eq!(tending.heard(&told), [], "an answer that comes twice");
        assert_eq!(tending.tended(&Text::cut(""), console()).ended, []);
        assert!(tending.ordered(start("db")).is_some());
    }

    #[test]
    fn ends_are_told_a_few_at_a_time_and_in_their_order() {
        let mut tending = Tending::new(0);
        for guest in 0..=MAX_ENDED {
            tending.ended(&vm(&format!("vm{guest}")), None, (Cause::Other, "killed"));
        }
        let told = tending.tended(&Text::cut(""), console());
        assert_eq!(told.ended.len(), MAX_ENDED);
        assert_eq!(tending.heard(&told).len(), MAX_ENDED);
        let last = tending.tended(&Text::cut(""), console()).ended;
        assert_eq!(last[0].number, MAX_ENDED as u64);
    }

    #[test]
    fn what_an_earlier_run_saw_is_told_with_its_number() {
        let mut tending = Tending::new(5);
        let seen = Tending::new(40).ended(&vm("db"), Some(0), (Cause::Other, "powered off"));
        tending.ended_before(seen.clone());
        assert_eq!(
            tending
                .ended(&vm("web"), None, (Cause::Other, "killed"))
                .number,
            41
        );
        assert_eq!(tending.tended(&Text::cut(""), console()).ended[0], seen);
    }

    #[test]
    fn a_host_takes_as_many_guests_as_it_can_tell_of() {
        let mut tending = Tending::new(0);
        let orders = (0..2 * MAX_PROCESSES).map(|guest| start(&format!("vm{guest}")));
        let taken = orders.filter_map(|order| tending.ordered(order)).count();
        assert_eq!(taken, MAX_PROCESSES);
    }
}
