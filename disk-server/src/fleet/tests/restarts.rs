//! The service ends and starts again in the middle of everything, and so do daemons.

use super::world::*;
use crate::fleet::{HostVerb, Refused, State, Verb};

/// Does something `at` so many seconds after an order, and sees it done all the same.
fn through(hosts: &[&str], verb: Verb, disturb: fn(&mut World)) -> Vec<World> {
    let mut worlds = Vec::new();
    for at in 0..12 {
        let mut world = World::protected(hosts);
        let order = world.verb(verb.clone()).unwrap();
        world.pass(at);
        disturb(&mut world);
        world.until_done(order);
        world.until(|world| world.state() == State::Protected);
        assert_eq!(world.starts.len(), 1, "after {at} seconds");
        worlds.push(world);
    }
    worlds
}

fn restart_daemons(world: &mut World) {
    for name in ["a", "b", "c"] {
        world.start_daemon(name);
    }
}

#[test]
fn the_service_restarts_in_the_middle_of_each_verb() {
    for disturb in [World::restart_service, restart_daemons] {
        for world in through(&["a", "b", "c"], Verb::Failover {}, disturb) {
            assert_eq!(world.places().0, Some(host("b")));
        }
        for world in through(&["a", "b", "c"], Verb::TestFailover {}, disturb) {
            assert_eq!(world.places().0, Some(host("b")));
        }
        through(&["a", "b", "c"], Verb::RestartBackup {}, disturb);
        let to = host("c");
        for world in through(&["a", "b", "c"], Verb::MigrateBackup { to }, disturb) {
            assert!(world.places_are("a", "c"));
        }
        let to = host("c");
        for world in through(&["a", "b", "c"], Verb::MigratePrimary { to }, disturb) {
            assert_eq!(world.places().0, Some(host("c")));
        }
    }
}

#[test]
fn the_service_restarts_in_the_middle_of_a_start_a_stop_and_a_drain() {
    for at in 0..15 {
        let mut world = World::of(&["a", "b", "c"]);
        world.define("db", 1).unwrap();
        let order = world.verb(Verb::Start { force: false }).unwrap();
        world.pass(at);
        world.restart_service();
        world.until_done(order);
        world.until(|world| world.state() == State::Protected);

        let order = world.host_verb("a", HostVerb::Drain).unwrap();
        world.pass(at);
        world.restart_service();
        restart_daemons(&mut world);
        world.until_done(order);
        world.until(|world| world.state() == State::Protected);
        assert_eq!(world.starts.len(), 1);
        assert!(!world.hosts[&host("a")].processes.contains_key(&vm()));

        let order = world.verb(Verb::Stop {}).unwrap();
        world.pass(at % 3);
        world.restart_service();
        world.until_done(order);
        world.pass(20);
        assert!(world.hosts.values().all(|host| host.processes.is_empty()));
        assert_eq!(world.starts.len(), 1);
    }
}

#[test]
fn what_is_asked_before_hosts_were_heard_is_asked_again() {
    for verb in [
        Verb::Failover {},
        Verb::TestFailover {},
        Verb::RestartBackup {},
        migrate("c"),
        migrate_primary("c"),
    ] {
        let mut world = World::protected(&["a", "b", "c"]);
        world.restart_service();
        let refused = world.verb(verb.clone()).unwrap_err();
        assert_eq!(refused, Refused::TooEarly, "{verb}");
        let refused = world.host_verb("a", HostVerb::Drain).unwrap_err();
        assert_eq!(refused, Refused::TooEarly);
        world.pass(10);
        let order = world.verb(verb).unwrap();
        world.until_done(order);
    }
}

#[test]
fn a_start_that_was_ordered_before_a_stop_is_undone() {
    for at in 0..8 {
        let mut world = World::of(&["a", "b", "c"]);
        world.define("db", 1).unwrap();
        world.verb(Verb::Start { force: false }).unwrap();
        world.pass(at);
        world.verb(Verb::Stop {}).unwrap();
        world.restart_service();
        world.pass(40);
        assert!(world.hosts.values().all(|host| host.processes.is_empty()));
        assert_eq!(world.state(), State::Stopped { reason: None });
    }
}

#[test]
fn a_service_that_starts_again_tells_no_transitions_that_were_none() {
    let mut world = World::protected(&["a", "b", "c"]);
    world.pass(10);
    let before = world.told_states();
    world.restart_service();
    world.pass(30);
    assert_eq!(world.told_states(), before);
}

#[test]
fn a_guest_that_is_defined_anew_before_anybody_has_pinged_runs_on() {
    for at in 0..8 {
        let mut world = World::protected(&["a", "b", "c"]);
        world.fleet = crate::fleet::Fleet::default();
        world.pass(at);
        world.define("db", 1).unwrap();
        world.pass(30);
        assert_eq!(world.state(), State::Protected, "after {at} seconds");
        assert_eq!(world.starts.len(), 1);
    }
}

#[test]
fn a_guest_of_which_the_journal_has_nothing_is_looked_at_after_a_restart() {
    let mut world = World::protected(&["a", "b", "c"]);
    let stop = world.verb(Verb::Stop {}).unwrap();
    world.until_done(stop);
    for name in ["a", "b", "c"] {
        world.at(name).memory_mib = 1;
    }
    world.pass(2);
    world.verb(Verb::Start { force: false }).unwrap();
    world.journal.clear();
    world.restart_service();
    world.pass(10);
    let told = world.told_states();
    let waits = told.iter().any(|told| told.contains("no idle host"));
    assert!(waits, "{told:?}");
}

#[test]
fn a_guest_that_is_defined_anew_after_a_loss_of_the_state_runs_on() {
    let mut world = World::protected(&["a", "b", "c"]);
    world.fleet = crate::fleet::Fleet::default();
    world.pass(20);
    assert_eq!(world.state(), State::Protected);
    assert!(!world.status().defined);
    world.define("db", 1).unwrap();
    world.pass(20);
    assert_eq!(world.state(), State::Protected);
    assert_eq!(world.starts.len(), 1);
    world.crash("b");
    world.until(|world| world.places_are("a", "c") && world.state() == State::Protected);
}
