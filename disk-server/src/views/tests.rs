//! The service's decisions, ping by ping.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::arbiter::{ClaimRequest, Claimant, Next, Record, VmName, acknowledge, decide};

const FROM: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9));

fn claimant(name: &str) -> Claimant {
    name.parse().unwrap()
}

fn vm() -> VmName {
    "db".parse().unwrap()
}

fn capabilities(memory_mib: u64) -> Capabilities {
    Capabilities {
        memory_mib,
        processor: Text::cut("AMD family 23 model 49 stepping 0"),
        instructions: 0x1234,
        paging: Paging::Shadow,
        exports: ["db".parse().unwrap()].into(),
    }
}

fn idle() -> Role {
    Role::Idle {
        vm: vm(),
        declined: None,
    }
}

fn declines(view: u64) -> Role {
    Role::Idle {
        vm: vm(),
        declined: Some(Declined {
            view,
            cause: Cause::Other,
            reason: Text::cut("the network is down"),
        }),
    }
}

fn primary(epoch: u64, wants: bool) -> Role {
    let wanted = Wanted {
        address: "0.0.0.0:7421".parse().unwrap(),
        needs: capabilities(1024),
    };
    Role::Primary {
        vm: vm(),
        epoch,
        wants: wants.then_some(wanted),
        condition: Condition::default(),
    }
}

fn backup(epoch: u64) -> Role {
    Role::Backup {
        vm: vm(),
        epoch,
        condition: Condition::default(),
    }
}

/// A service, the arbiter's records, and hosts that number their pings.
#[derive(Default)]
struct Place {
    views: Views,
    records: BTreeMap<VmName, Record>,
    numbers: BTreeMap<Claimant, u64>,
    carry: BTreeMap<Claimant, Capabilities>,
    /// Those that do not ping from [`FROM`].
    from: BTreeMap<Claimant, IpAddr>,
}

impl Place {
    /// A service that has run for a while; `hosta` is primary of view 1.
    fn running() -> Place {
        let mut place = Place::default();
        place
            .records
            .insert(vm(), Record::held(1, claimant("hosta")));
        place.pass(MISSED_PINGS);
        place
    }

    fn ping(&mut self, host: &str, role: Role) -> Option<Proposal> {
        let number = self.numbers.entry(claimant(host)).or_insert(0);
        *number += 1;
        let number = *number;
        self.send(host, number, role)
    }

    fn send(&mut self, host: &str, number: u64, role: Role) -> Option<Proposal> {
        self.try_send(host, number, role).expect("room for it")
    }

    fn try_send(
        &mut self,
        host: &str,
        number: u64,
        role: Role,
    ) -> Result<Option<Proposal>, TooManyHosts> {
        let host = claimant(host);
        let from = self.from.get(&host).copied().unwrap_or(FROM);
        let carries = self.carry.get(&host).cloned();
        let ping = Ping {
            carries: carries.unwrap_or_else(|| capabilities(2048)),
            host,
            number,
            role,
        };
        let records = &self.records;
        let record = |vm: &VmName| records.get(vm).cloned().unwrap_or_default();
        self.views.ping(&ping, from, record)
    }

    fn pass(&mut self, intervals: u32) {
        (0..intervals).for_each(|_| self.views.tick());
    }

    fn moved(&mut self, expected: u64, who: &str, next: Next) {
        let claimant = claimant(who);
        let request = ClaimRequest {
            expected,
            claimant,
            next,
        };
        let (_, new) = decide(&self.records[&vm()], &request);
        self.records.insert(vm(), new.expect("a member moves on"));
    }

    fn hosts(&self) -> BTreeMap<String, HostRecord> {
        let record = |vm: &VmName| self.records.get(vm).cloned().unwrap_or_default();
        let hosts = self.views.hosts(None, record);
        hosts.map(|host| (host.host.to_string(), host)).collect()
    }
}

#[test]
fn an_idle_host_is_proposed_to_a_primary_that_wants_a_backup() {
    let mut place = Place::running();
    assert_eq!(place.ping("hostb", idle()), None, "nobody wants one");
    assert_eq!(place.ping("hosta", primary(1, true)), None);
    let proposal = place.ping("hostb", idle()).unwrap();
    let expected = Proposal {
        vm: vm(),
        view: 1,
        primary: claimant("hosta"),
        // The primary did not say where it is: its ping came from there.
        address: "10.0.0.9:7421".parse().unwrap(),
    };
    assert_eq!(proposal, expected);
    assert!(place.hosts()["hostb"].proposed);
    assert_eq!(place.ping("hostc", idle()), None, "one at a time");
    assert_eq!(
        place.ping("hostb", idle()),
        Some(expected),
        "it is told again"
    );
}

#[test]
fn a_proposal_ends_with_its_view() {
    let mut place = Place::running();
    place.ping("hosta", primary(1, true));
    place.ping("hostc", idle());
    assert!(place.ping("hostb", idle()).is_none());
    assert!(place.ping("hostc", idle()).is_some());
    place.moved(1, "hosta", Next::With(claimant("hostc")));
    assert_eq!(place.ping("hostc", idle()), None, "the view moved on");
    // Its backup's join was cut: the primary says so in the name of the new view.
    assert_eq!(place.ping("hosta", primary(1, true)), None);
    assert_eq!(
        place.ping("hostb", idle()),
        None,
        "a ping of view 1 means nothing"
    );
    place.ping("hosta", primary(2, true));
    let again = place.ping("hostb", idle()).unwrap();
    assert_eq!(again.view, 2);
}

#[test]
fn the_service_stays_in_a_view_until_its_primary_has_acknowledged_it_even_if_that_seems_dead() {
    let mut place = Place::running();
    place.moved(1, "hosta", Next::With(claimant("hostb")));
    place.ping("hosta", primary(2, true));
    place.pass(MISSED_PINGS);
    assert!(!place.hosts()["hosta"].live);
    for _ in 0..3 * MISSED_PINGS {
        assert_eq!(place.ping("hostc", idle()), None);
        assert_eq!(place.ping("hostb", backup(2)), None);
        place.pass(1);
    }
    // And the arbiter lets neither of them in.
    for host in ["hostb", "hostc"] {
        let claim = ClaimRequest {
            expected: 2,
            claimant: claimant(host),
            next: Next::Alone,
        };
        assert_eq!(decide(&place.records[&vm()], &claim).1, None);
    }
    // It was not dead, and says what it wants: its view's backup did not get the state.
    place.ping("hosta", primary(2, true));
    let proposal = place.ping("hostc", idle()).unwrap();
    assert_eq!((proposal.view, proposal.primary), (2, claimant("hosta")));
}

#[test]
fn only_the_primary_of_the_current_view_is_given_a_backup() {
    let mut place = Place::running();
    place.ping("hostc", idle());
    // One of the view before, one that says so of itself, and one that wants none.
    place.moved(1, "hosta", Next::Alone);
    for (host, role) in [
        ("hosta", primary(1, true)),
        ("hosta", primary(3, true)),
        ("hostb", primary(2, true)),
        ("hosta", primary(2, false)),
    ] {
        place.ping(host, role);
        assert_eq!(place.ping("hostc", idle()), None, "{host}");
    }
    place.ping("hosta", primary(2, true));
    assert!(place.ping("hostc", idle()).is_some());
}

#[test]
fn a_member_of_the_view_is_not_proposed_and_one_that_did_not_get_into_it_is() {
    let mut place = Place::running();
    place.moved(1, "hosta", Next::With(claimant("hostb")));
    place.ping("hosta", primary(2, true));
    let again = place.ping("hostb", idle());
    assert!(again.is_some_and(|again| again.view == 2));
    let record = place.records.get_mut(&vm()).unwrap();
    *record = acknowledge(record, 2, &claimant("hosta")).unwrap();
    assert_eq!(place.ping("hostb", idle()), None);
    assert_eq!(place.hosts()["hostb"].unfit, Some(Unfit::HasRole));
}

#[test]
fn an_old_ping_changes_nothing() {
    let mut place = Place::running();
    place.ping("hosta", primary(1, true));
    assert!(place.ping("hostb", idle()).is_some());
    place.ping("hosta", primary(1, true));
    let proposal = place.ping("hostb", idle()).unwrap();
    let before = place.views.clone();
    place.send("hosta", 1, primary(1, false));
    assert_eq!(place.send("hostb", 1, declines(1)), None);
    assert_eq!(place.send("hostb", 1, backup(1)), None);
    assert_eq!(place.send("hostb", 2, idle()), Some(proposal), "repeated");
    assert_eq!(place.views, before);
}

#[test]
fn a_host_that_declines_is_passed_over_for_a_while() {
    let mut place = Place::running();
    place.ping("hosta", primary(1, true));
    place.ping("hostb", idle());
    place.ping("hostb", declines(0));
    assert!(place.hosts()["hostb"].proposed, "it declined another one");
    assert_eq!(place.ping("hostb", declines(1)), None);
    let unfit = place.hosts()["hostb"].unfit.clone().unwrap();
    assert!(unfit.to_string().contains("the network is down"), "{unfit}");
    assert!(place.ping("hostc", idle()).is_some());
    place.ping("hostc", declines(1));
    for _ in 0..MISSED_PINGS {
        assert_eq!(place.ping("hostb", declines(1)), None, "said again");
        place.ping("hosta", primary(1, true));
        place.pass(1);
    }
    assert!(place.ping("hostb", idle()).is_some(), "nobody else is left");
}

#[test]
fn what_is_proposed_and_comes_to_nothing_is_proposed_to_the_next_one() {
    let mut place = Place::running();
    for n in 0..MISSED_PINGS {
        place.ping("hosta", primary(1, true));
        assert!(place.ping("hostb", idle()).is_some(), "after {n} intervals");
        assert_eq!(place.ping("hostc", idle()), None);
        place.pass(1);
    }
    place.ping("hosta", primary(1, true));
    assert_eq!(place.ping("hostb", idle()), None);
    assert!(place.ping("hostc", idle()).is_some());
}

#[test]
fn a_host_that_dies_is_not_waited_for() {
    let mut place = Place::running();
    place.ping("hostb", idle());
    place.pass(MISSED_PINGS - 1);
    place.ping("hosta", primary(1, true));
    assert!(place.hosts()["hostb"].proposed);
    place.pass(1);
    place.ping("hosta", primary(1, true));
    assert_eq!(place.hosts()["hostb"].unfit, Some(Unfit::Dead));
    assert!(place.ping("hostc", idle()).is_some());
    place.ping("hostb", idle());
    assert!(place.hosts()["hostb"].live, "one ping is enough");
}

#[test]
fn a_service_that_has_just_started_proposes_nothing_and_calls_nobody_dead() {
    let mut place = Place::running();
    place.ping("hosta", primary(1, true));
    place.ping("hostb", idle());
    place.views = Views::new();
    place.ping("hosta", primary(1, true));
    for _ in 0..MISSED_PINGS {
        assert_eq!(place.ping("hostb", idle()), None);
        assert!(place.hosts().values().all(|host| host.live));
        place.pass(1);
    }
    place.ping("hosta", primary(1, true));
    assert!(place.ping("hostb", idle()).is_some());
}

#[test]
fn the_host_with_most_memory_is_proposed_of_those_that_fit() {
    let mut place = Place::running();
    let mut carry = |host: &str, change: &dyn Fn(&mut Capabilities)| {
        let mut it = capabilities(4096);
        change(&mut it);
        place.carry.insert(claimant(host), it);
    };
    let nothing = |_: &mut Capabilities| {};
    carry("hostc", &nothing);
    carry("hostb", &nothing);
    carry("hostd", &|it| it.memory_mib = 2048);
    carry("small", &|it| it.memory_mib = 512);
    carry("other", &|it| it.instructions += 1);
    carry("nested", &|it| it.paging = Paging::Nested);
    carry("diskless", &|it| it.exports.clear());
    let hosts: Vec<String> = place.carry.keys().map(ToString::to_string).collect();
    for host in &hosts {
        place.ping(host, idle());
    }
    place.ping("hosta", primary(1, true));
    let told = place.hosts();
    assert!(told["hostb"].proposed, "the first of two");
    let processor = Text::cut("AMD family 23 model 49 stepping 0");
    let memory = Unfit::Memory {
        has: 512,
        needs: 1024,
    };
    assert_eq!(memory.to_string(), "has 512 MiB of memory of 1024");
    for (host, unfit) in [
        ("hosta", None),
        ("hostb", None),
        ("hostc", None),
        ("hostd", None),
        ("small", Some(memory)),
        (
            "other",
            Some(Unfit::Processor {
                has: processor.clone(),
                needs: processor,
            }),
        ),
        (
            "nested",
            Some(Unfit::Paging {
                has: Paging::Nested,
                needs: Paging::Shadow,
            }),
        ),
        ("diskless", Some(Unfit::Export("db".parse().unwrap()))),
    ] {
        assert_eq!(told[host].unfit, unfit, "{host}");
    }
    place.ping("hostb", backup(1));
    assert!(
        place.ping("hostc", idle()).is_some(),
        "before one with less"
    );
}

/// A primary beside the disk server that did not say where it is, or named a loopback address.
#[test]
fn a_loopback_address_is_proposed_only_to_hosts_of_that_machine() {
    let listens = |address: &str| {
        let mut role = primary(1, true);
        if let Role::Primary {
            wants: Some(wanted),
            ..
        } = &mut role
        {
            wanted.address = address.parse().unwrap();
        }
        role
    };
    for (listen, from, reached) in [
        ("0.0.0.0:7421", "127.0.0.1", "127.0.0.1:7421"),
        ("[::]:7421", "::1", "[::1]:7421"),
        ("[::]:7421", "::ffff:127.0.0.1", "127.0.0.1:7421"),
        ("127.0.0.7:7421", "10.0.0.1", "127.0.0.7:7421"),
    ] {
        let mut place = Place::running();
        place.from.insert(claimant("hosta"), from.parse().unwrap());
        place.ping("hosta", listens(listen));
        assert_eq!(place.ping("hostb", idle()), None, "{listen} from {from}");
        let unfit = Unfit::OutOfReach(reached.parse().unwrap());
        let told = unfit.to_string();
        assert_eq!(place.hosts()["hostb"].unfit, Some(unfit), "{listen}");
        assert!(
            told.contains(reached) && told.contains("--listen"),
            "{told}"
        );
        place
            .from
            .insert(claimant("hostc"), "127.0.0.1".parse().unwrap());
        let proposal = place.ping("hostc", idle()).expect("it is on that machine");
        assert_eq!(proposal.address, reached.parse().unwrap());
    }
    // Others are left as they are.
    let mut place = Place::running();
    place.ping("hosta", listens("10.0.1.1:7421"));
    assert!(place.ping("hostb", idle()).is_some());
    // It listens at none of its IPv6 addresses.
    let mut place = Place::running();
    let from = "fd00::1".parse().unwrap();
    place.from.insert(claimant("hosta"), from);
    place.ping("hosta", listens("0.0.0.0:7421"));
    assert_eq!(place.ping("hostb", idle()), None);
    let unfit = Unfit::OutOfReach("0.0.0.0:7421".parse().unwrap());
    assert_eq!(place.hosts()["hostb"].unfit, Some(unfit));
    place.ping("hosta", listens("[::]:7421"));
    let proposal = place.ping("hostb", idle()).expect("it listens there");
    assert_eq!(proposal.address, "[fd00::1]:7421".parse().unwrap());
}

#[test]
fn a_host_that_tells_as_many_exports_as_it_may_is_not_unfit_for_one_that_it_does_not_tell() {
    let mut place = Place::running();
    place.ping("hosta", primary(1, true));
    for (count, fits) in [(MAX_EXPORTS - 1, false), (MAX_EXPORTS, true)] {
        let mut carries = capabilities(2048);
        let names = (0..count).map(|n| format!("a{n}").parse().unwrap());
        carries.exports = names.collect();
        place.carry.insert(claimant("hostb"), carries);
        assert_eq!(place.ping("hostb", idle()).is_some(), fits, "{count}");
    }
}

#[test]
fn hosts_of_another_guest_are_not_proposed() {
    let mut place = Place::running();
    place.ping("hosta", primary(1, true));
    let web = Role::Idle {
        vm: "web".parse().unwrap(),
        declined: None,
    };
    assert_eq!(place.ping("hostc", web.clone()), None);
    assert!(place.ping("hostb", idle()).is_some());
    assert_eq!(place.ping("hostb", web), None, "it is for another one now");
    assert!(!place.hosts()["hostb"].proposed);
}

#[test]
fn hosts_are_bounded_and_the_dead_make_room() {
    let mut place = Place::running();
    for n in 0..MAX_HOSTS {
        place.ping(&format!("host{n:04}"), idle());
        if n == 0 {
            place.pass(1);
        }
    }
    assert_eq!(place.try_send("late", 1, idle()), Err(TooManyHosts));
    assert_eq!(place.hosts().len(), MAX_HOSTS);
    assert_eq!(place.ping("host0001", idle()), None, "one that is known");
    assert!(!place.hosts().contains_key("late"));
    place.pass(MISSED_PINGS - 1);
    place.ping("late", idle());
    let hosts = place.hosts();
    assert!(hosts.len() == MAX_HOSTS && hosts.contains_key("late"));
    assert!(!hosts.contains_key("host0000"), "dead for longest");
    place.pass(FORGOTTEN_PINGS);
    assert!(place.hosts().is_empty());
}

/// Who pings what, in any order, old and new.
fn any_ping() -> impl Strategy<Value = (usize, u64, Role)> {
    let vm = || prop_oneof![Just("db"), Just("web")].prop_map(|vm| vm.parse::<VmName>().unwrap());
    let wanted = || Wanted {
        address: "10.0.0.1:7421".parse().unwrap(),
        needs: capabilities(1024),
    };
    let role = prop_oneof![
        3 => (vm(), prop::option::of(0..4_u64)).prop_map(|(vm, view)| Role::Idle {
            vm,
            declined: view.map(|view| Declined { view, cause: Cause::Other, reason: Text::cut("no") }),
        }),
        2 => (vm(), 0..4_u64, any::<bool>()).prop_map(move |(vm, epoch, wants)| Role::Primary {
            vm,
            epoch,
            wants: wants.then(wanted),
            condition: Condition::default(),
        }),
        1 => (vm(), 0..4_u64).prop_map(|(vm, epoch)| Role::Backup {
            vm,
            epoch,
            condition: Condition::default(),
        }),
    ];
    (0..4_usize, 0..40_u64, role)
}

proptest! {
    /// Whatever hosts say, a guest has one proposal at most, to an idle host that was not given to another.
    #[test]
    fn never_two_hosts_for_a_guest_and_never_a_host_for_two(
        steps in prop::collection::vec((any_ping(), 0..3_u32, 0..8_usize), 1..120),
    ) {
        let mut place = Place::running();
        let names = ["a", "b", "c", "d"];
        for ((who, number, role), intervals, holder) in steps {
            place.pass(intervals);
            if let Some(holder) = names.get(holder) {
                for vm in ["db", "web"] {
                    let record = place.records.entry(vm.parse().unwrap()).or_default();
                    *record = Record::held(record.epoch % 3 + 1, claimant(holder));
                }
            }
            if let Some(told) = place.send(names[who], number, role) {
                let role = &place.hosts()[names[who]].role;
                let waits = matches!(role, Role::Idle { vm, .. } if *vm == told.vm);
                prop_assert!(waits);
                let record = &place.records[&told.vm];
                prop_assert_eq!(record.epoch, told.view);
                prop_assert_eq!(record.holder.as_ref(), Some(&told.primary));
                prop_assert!(told.primary != claimant(names[who]));
            }
            let proposed: Vec<_> = place.hosts().into_values().filter(|host| host.proposed).collect();
            for host in &proposed {
                let is_idle = matches!(host.role, Role::Idle { .. });
                prop_assert!(host.live && is_idle);
                let same = proposed.iter().filter(|other| other.role.vm() == host.role.vm());
                prop_assert_eq!(same.count(), 1);
            }
        }
    }
}
