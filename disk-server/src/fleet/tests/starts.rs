//! When a guest is started anew, and where.

use super::hosts::GUEST_MIB;
use super::world::*;
use crate::fleet::{Operation, Order, Refused, State, Verb, What};
use crate::views::{Phase, Unfit};

#[test]
fn a_guest_whose_hosts_are_gone_is_started_anew_once_they_say_so() {
    let mut world = World::protected(&["a", "b", "c"]);
    world.crash("a");
    world.crash("b");
    world.pass(60);
    let told =
        "Not running: a and b may run it and do not answer: if all of them are certainly gone, ";
    let state = world.state().to_string();
    assert!(state.starts_with(told), "{state}");
    assert_eq!(world.starts.len(), 1, "each of them may run it");
    world.start_daemon("a");
    world.pass(30);
    assert_eq!(world.starts.len(), 1, "b may");
    let told = "Not running: b may run it and does not answer: if that is certainly gone, ";
    let state = world.state().to_string();
    assert!(state.starts_with(told), "{state}");
    world.start_daemon("b");
    world.until(|world| world.state() == State::Protected);
    assert_eq!(world.starts.len(), 2);
}

#[test]
fn a_guest_is_only_on_hosts_that_it_names() {
    let mut world = World::of(&["a", "b", "c", "d"]);
    let mut named = definition("db", 1);
    named.hosts = [host("b"), host("d")].into_iter().collect();
    let definition = Box::new(named);
    world
        .ask(Operation::Define {
            definition,
            by: by(),
        })
        .unwrap();
    world.verb(Verb::Start { force: false }).unwrap();
    world.until(|world| world.state() == State::Protected);
    assert!(world.places_are("b", "d"), "a and c have more memory");
    let refused = world.verb(Verb::MigrateBackup { to: host("c") });
    let unfit = Unfit::NotNamed;
    assert!(
        matches!(&refused, Err(Refused::Unfit { unfit: it, .. }) if *it == unfit),
        "{refused:?}"
    );
    world.crash("d");
    world.pass(30);
    let state = world.state().to_string();
    assert!(
        state.contains("c is not among the hosts that may run the guest"),
        "{state}"
    );
}

#[test]
fn a_guest_is_started_with_force_where_its_hosts_do_not_say_anything() {
    let mut world = World::protected(&["a", "b", "c"]);
    world.crash("a");
    world.crash("b");
    world.pass(30);
    let order = world.verb(Verb::Start { force: true }).unwrap();
    assert_eq!(world.until_done(order), "it runs on c");
    // Force is spent: the next loss is looked at anew.
    world.crash("c");
    world.pass(30);
    assert_eq!(world.starts.len(), 2);
}

#[test]
fn a_start_with_force_is_recalled_when_a_member_pings() {
    let mut world = World::protected(&["a", "b", "c"]);
    for name in ["a", "b"] {
        world.at(name).is_cut_off = true;
    }
    world.pass(30);
    // Its daemon hears nothing of it yet.
    world.at("c").is_cut_off = true;
    world.verb(Verb::Start { force: true }).unwrap();
    world.tick();
    world.at("a").is_cut_off = false;
    world.process_pings(&host("a"), &vm());
    world.at("c").is_cut_off = false;
    world.pass(10);
    assert_eq!(world.starts.len(), 1);
    assert_eq!(world.places().0, Some(host("a")));
}

#[test]
fn force_starts_nothing_beside_one_that_runs() {
    let mut world = World::protected(&["a", "b", "c"]);
    let order = world.verb(Verb::Start { force: true }).unwrap();
    world.until_done(order);
    world.pass(20);
    assert_eq!(world.starts.len(), 1);
    // Its process is there, and says nothing.
    for name in ["a", "b"] {
        let processes = world.at(name).processes.values_mut();
        processes.for_each(|it| it.is_cut_off = true);
    }
    world.pass(20);
    world.verb(Verb::Start { force: true }).unwrap();
    world.pass(60);
    assert_eq!(world.starts.len(), 1);
}

#[test]
fn a_host_that_runs_a_guest_and_does_not_reach_the_service_keeps_it() {
    let mut world = World::protected(&["a", "b", "c"]);
    world.at("a").is_cut_off = true;
    world.at("b").is_cut_off = true;
    world.pass(120);
    assert_eq!(world.starts.len(), 1);
    world.at("a").is_cut_off = false;
    world.at("b").is_cut_off = false;
    world.until(|world| world.state() == State::Protected);
    assert!(world.places_are("a", "b"));
}

#[test]
fn the_backup_of_a_lost_primary_is_waited_for() {
    let mut world = World::protected(&["a", "b", "c"]);
    // It is late: its host is busy.
    let b = world.at("b").processes.get_mut(&vm()).unwrap();
    b.is_frozen = true;
    world.crash("a");
    world.start_daemon("a");
    world.pass(60);
    assert_eq!(world.starts.len(), 1, "it may go live");
    world.at("b").processes.get_mut(&vm()).unwrap().is_frozen = false;
    world.until(|world| world.places().0 == Some(host("b")));
    world.until(|world| world.state() == State::Protected);
    assert_eq!(world.starts.len(), 1);
}

#[test]
fn a_backup_that_had_not_joined_may_not_run_it() {
    let mut world = World::of(&["a", "b", "c"]);
    world.define("db", 1).unwrap();
    world.verb(Verb::Start { force: false }).unwrap();
    world.until(|world| world.places().1.is_some());
    assert!(!world.record().acknowledged);
    world.daemon_pings(&host("a"));
    world.crash("a");
    world.start_daemon("a");
    world.until(|world| world.starts.len() == 2);
}

#[test]
fn a_host_that_cannot_start_it_is_passed_over_and_the_journal_says_how_it_ended() {
    let mut world = World::of(&["a", "b", "c"]);
    world.define("db", 1).unwrap();
    world.at("a").fails_with = Some(1);
    let order = world.verb(Verb::Start { force: false }).unwrap();
    assert_eq!(world.until_done(order), "it runs on b");
    let ended = world.journal.iter().any(|entry| match &entry.what {
        What::Ended {
            host,
            status: Some(1),
            reason,
        } => host.as_str() == "a" && reason.as_str() == "it cannot",
        _ => false,
    });
    assert!(ended);
    assert_eq!(world.starts.len(), 2);
}

#[test]
fn why_no_host_starts_it_is_told() {
    let mut world = World::of(&["a", "b"]);
    world.at("a").memory_mib = 10;
    world.at("b").fails_with = Some(1);
    world.define("db", 1).unwrap();
    world.pass(1);
    world.verb(Verb::Start { force: false }).unwrap();
    world.until(|world| world.starts.len() == 1);
    world.pass(5);
    assert_eq!(
        world.state().to_string(),
        "Not running: no idle host: a has 10 MiB of memory of 1024; b was proposed, and is not a backup: it cannot"
    );
    world.at("a").memory_mib = 4096;
    world.until(|world| world.places().0 == Some(host("a")));
}

#[test]
fn why_a_guest_is_not_protected_is_told() {
    let mut world = World::of(&["a", "b", "c"]);
    world.at("b").logging_is_down = true;
    world.at("c").memory_mib = 10;
    world.define("db", 1).unwrap();
    world.verb(Verb::Start { force: false }).unwrap();
    world.until(|world| {
        world.state().to_string()
            == "Not protected: logging network down: b does not reach the primary: no primary \
                answered at 10.0.1.1:7430 in time"
    });
    let told = world.told_states();
    assert!(
        told.contains(&"Not running: starting".to_owned()),
        "{told:?}"
    );
    world.at("b").logging_is_down = false;
    world.until(|world| world.state() == State::Protected);
    assert_eq!(world.told_states().last().unwrap(), "Protected");
}

#[test]
fn how_a_guest_is_that_has_a_backup_is_told() {
    let mut world = World::protected(&["a", "b"]);
    for (phase, lag_ms, words) in [
        (Phase::Diverged, 3, "Not protected: diverged (repairing)"),
        (
            Phase::Joining { percent: 40 },
            3,
            "Not protected: joining 40 %",
        ),
        (Phase::Protected, 1000, "Protected"),
        (Phase::Protected, 1001, "Not protected: lagging by 1001 ms"),
        (Phase::Protected, 3, "Protected"),
    ] {
        let primary = world.at("a").processes.get_mut(&vm());
        primary.expect("it runs there").says = Some((phase, lag_ms));
        world.until(|world| world.told_states().last().unwrap() == words);
        assert_eq!(world.state().to_string(), words);
    }
}

#[test]
fn a_daemon_gets_one_order_at_a_time() {
    let mut world = World::of(&["a"]);
    world.define("db", 1).unwrap();
    world.define("web", 2).unwrap();
    // There is room for one of them.
    world.at("a").memory_mib = GUEST_MIB + 100;
    world.pass(1);
    world.verb(Verb::Start { force: false }).unwrap();
    let web = crate::fleet::Operation::Guest {
        vm: "web".parse().unwrap(),
        verb: Verb::Start { force: false },
        by: by(),
    };
    world.ask(web).unwrap();
    world.pass(30);
    assert_eq!(world.starts.len(), 1, "{:?}", world.starts);
    world.at("a").memory_mib = 2 * GUEST_MIB;
    world.until(|world| world.starts.len() == 2);
    assert!(world.starts[0].0 != world.starts[1].0);
}

#[test]
fn a_guest_that_was_started_by_hand_takes_no_orders() {
    let mut world = World::protected(&["a", "b"]);
    // The daemons of another state directory know nothing of it.
    let claimant = world.record().holder.unwrap();
    let stop = world.verb(Verb::Stop {}).unwrap();
    world.until_done(stop);
    world.orders.clear();
    let record = crate::arbiter::Record::held(world.record().epoch + 1, claimant.clone());
    world.records.insert(vm(), record);
    let ping = crate::views::Ping {
        host: claimant,
        number: 1000,
        carries: crate::views::Capabilities {
            memory_mib: 1,
            processor: crate::views::Text::cut("a processor"),
            instructions: 7,
            paging: crate::views::Paging::Shadow,
            exports: Default::default(),
        },
        role: crate::views::Role::Primary {
            vm: vm(),
            epoch: world.record().epoch,
            wants: None,
            condition: Default::default(),
        },
    };
    let records = world.records.clone();
    let record = |vm: &crate::arbiter::VmName| records[vm].clone();
    let from = std::net::Ipv4Addr::LOCALHOST.into();
    let order = world.fleet.ping(&ping, from, &record).unwrap();
    assert_eq!(order, None);
    let told = |(_, order): &(_, Order)| *order == Order::Stop {};
    assert!(!world.orders.iter().any(told));
}

#[test]
fn another_machine_of_a_hosts_name_is_not_believed() {
    for machine in ["another", ""] {
        for restarts in [false, true] {
            let mut world = World::of(&["a", "b"]);
            world.at("b").memory_mib = 1;
            world.define("db", 1).unwrap();
            world.verb(Verb::Start { force: false }).unwrap();
            world.until(|world| world.places().0 == Some(host("a")));
            world.pass(5);
            // It is cut off, runs on, and another machine has its name.
            world.crash("a");
            world.at("b").memory_mib = 4096;
            world.at("a").machine = machine.to_owned();
            world.start_daemon("a");
            if restarts {
                world.restart_service();
            }
            world.pass(60);
            let state = world.state().to_string();
            assert!(
                state.contains("a may run it and does not answer"),
                "{state}"
            );
            assert_eq!(world.starts.len(), 1);
            let order = world.verb(Verb::Start { force: true }).unwrap();
            world.until_done(order);
        }
    }
}

#[test]
fn a_process_that_does_not_run_the_guest_in_time_is_given_up() {
    let mut world = World::of(&["a", "b", "c"]);
    world.define("db", 1).unwrap();
    world.at("a").hangs = true;
    world.verb(Verb::Start { force: false }).unwrap();
    world.until(|world| world.places().0 == Some(host("b")));
    // It wakes up, and is too late.
    world.at("a").hangs = false;
    world.until(|world| world.state() == State::Protected);
    assert_eq!(world.places().0, Some(host("b")));
}

#[test]
fn two_daemons_of_one_name_are_not_believed() {
    let mut world = World::protected(&["a", "b", "c"]);
    // Another machine has the name of a, and knows nothing of the guest.
    let impostor = world.at("c").clone();
    world.crash("c");
    world.hosts.insert(host("z"), impostor);
    let process = world.at("a").processes.values_mut();
    process.for_each(|it| it.is_cut_off = true);
    world.pass(3);
    let claimant: crate::arbiter::Claimant = "a/ffff".parse().unwrap();
    let z = world.at("z").daemon.as_mut().unwrap();
    z.claimant = claimant;
    world.pass(10);
    world.crash("b");
    world.pass(200);
    assert_eq!(world.starts.len(), 1);
}
