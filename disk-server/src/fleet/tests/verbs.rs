//! Each verb, what it refuses, and what it comes to.

use super::world::*;
use crate::fleet::{Cause, Definition, HostVerb, Operation, Refused, State, Verb, What};

#[test]
fn a_guest_is_started_protected_and_stopped() {
    let mut world = World::of(&["a", "b", "c"]);
    assert!(matches!(
        world.verb(Verb::Start { force: false }),
        Err(Refused::NotDefined(_))
    ));
    world.define("db", 1).unwrap();
    assert_eq!(world.state(), State::Stopped { reason: None });
    world.pass(10);
    assert_eq!(world.starts.len(), 0, "nobody asked for it");
    let order = world.verb(Verb::Start { force: false }).unwrap();
    assert_eq!(world.status().pending.unwrap().0, order);
    assert_eq!(world.until_done(order), "it runs on a");
    world.until(|world| world.state() == State::Protected);
    assert!(world.places_are("a", "b"), "those with most memory");
    let status = world.status();
    assert_eq!(
        (status.lag_ms, status.log_bytes_per_second),
        (Some(3), Some(1000))
    );
    let console = status.placement.primary.unwrap().console.unwrap();
    assert_eq!(
        console.to_string(),
        "10.0.0.97:7422",
        "where its pings come from"
    );
    let order = world.verb(Verb::Stop {}).unwrap();
    assert_eq!(world.state().to_string(), "Not running: stopping");
    assert_eq!(world.until_done(order), "it is stopped");
    assert_eq!(world.state(), State::Stopped { reason: None });
    world.pass(30);
    assert_eq!(world.starts.len(), 1);
    assert!(world.hosts.values().all(|host| host.processes.is_empty()));
    let order = world.verb(Verb::Start { force: false }).unwrap();
    world.until_done(order);
}

#[test]
fn a_guest_that_ends_by_itself_stays_ended() {
    for (status, why, told) in [
        (
            0,
            "the guest powered off",
            "Stopped: it ended by itself: the guest powered off",
        ),
        (5, "triple fault", "Stopped: it crashed: triple fault"),
    ] {
        let mut world = World::protected(&["a", "b"]);
        world.powers_off(status, why);
        world.pass(40);
        assert_eq!(world.state().to_string(), told);
        assert_eq!(world.starts.len(), 1);
        // Also for a service that did not hear of it in time.
        world.restart_service();
        world.pass(40);
        assert_eq!(world.state().to_string(), told);
        let order = world.verb(Verb::Start { force: false }).unwrap();
        world.until_done(order);
    }
}

#[test]
fn a_guest_that_ended_while_the_service_was_away_stays_ended() {
    let mut world = World::protected(&["a", "b"]);
    world.powers_off(0, "the guest powered off");
    for name in ["a", "b"] {
        world.at(name).daemon = None;
        world.start_daemon(name);
    }
    world.restart_service();
    world.pass(60);
    assert!(matches!(world.state(), State::Stopped { reason: Some(_) }));
    assert_eq!(world.starts.len(), 1);
}

#[test]
fn a_failover_by_plan_makes_the_old_primary_the_backup() {
    let mut world = World::protected(&["a", "b", "c"]);
    let order = world.verb(Verb::Failover {}).unwrap();
    let how = world.until_done(order);
    assert_eq!(
        how,
        "it runs on b after an outage of 700 ms, protected by a"
    );
    assert!(
        world.places_are("b", "a"),
        "and not on c, which has as much memory"
    );
    let failovers = world.journal.iter().filter_map(|entry| match &entry.what {
        What::Failover {
            from, to, cause, ..
        } => Some((from.clone().unwrap(), to.clone(), cause.unwrap())),
        _ => None,
    });
    let moved = (host("a"), host("b"), Cause::Order(order));
    assert_eq!(failovers.collect::<Vec<_>>(), [moved]);
}

#[test]
fn a_failover_is_refused_while_nobody_could_go_on_and_says_why() {
    let mut world = World::of(&["a"]);
    world.define("db", 1).unwrap();
    let refused = world.verb(Verb::Failover {}).unwrap_err().to_string();
    assert!(refused.contains("ftvm vm start db"), "{refused}");
    world.verb(Verb::Start { force: false }).unwrap();
    world.until(|world| matches!(world.state(), State::NotProtected(_)));
    world.pass(3);
    for verb in [Verb::Failover {}, Verb::TestFailover {}] {
        let refused = world.verb(verb).unwrap_err().to_string();
        assert!(refused.contains("Not protected: no idle host"), "{refused}");
    }
    let refused = world.verb(Verb::RestartBackup {}).unwrap_err().to_string();
    assert!(refused.contains("has no backup"), "{refused}");
}

#[test]
fn a_primary_that_does_not_hand_over_is_given_up() {
    let mut world = World::protected(&["a", "b"]);
    let order = world.verb(Verb::Failover {}).unwrap();
    // It pings no more, and runs on.
    let cut_off = |world: &mut World, is: bool| {
        let processes = world.at("a").processes.values_mut();
        processes.for_each(|it| it.is_cut_off = is);
    };
    cut_off(&mut world, true);
    let why = world.until_failed(order);
    assert_eq!(why, "a did not let its backup go on");
    cut_off(&mut world, false);
    world.pass(20);
    assert!(world.places_are("a", "b"), "nothing of it is left");
}

#[test]
fn a_test_failover_kills_the_primary_and_waits_for_protection() {
    let mut world = World::protected(&["a", "b"]);
    let order = world.verb(Verb::TestFailover {}).unwrap();
    assert_eq!(
        world.until_done(order),
        "it runs on b after an outage of 700 ms, protected by a"
    );
    let died = world.journal.iter().any(|entry| {
        matches!(&entry.what, What::Ended { host, status: None, .. } if host.as_str() == "a")
    });
    assert!(died);
    assert_eq!(world.starts.len(), 1, "it was not started anew");
}

#[test]
fn a_backup_is_restarted() {
    let mut world = World::protected(&["a", "b"]);
    let before = world.record().backup;
    let order = world.verb(Verb::RestartBackup {}).unwrap();
    assert_eq!(world.until_done(order), "its backup is on b now");
    assert_ne!(world.record().backup, before);
    assert_eq!(world.places().0, Some(host("a")));
}

#[test]
fn a_backup_that_does_not_hear_the_service_is_given_up() {
    let verbs = [
        Verb::RestartBackup {},
        migrate("c"),
        migrate_primary("c"),
        Verb::SuspendProtection {},
    ];
    for verb in verbs {
        let mut world = World::protected(&["a", "b", "c"]);
        let processes = world.at("b").processes.values_mut();
        processes.for_each(|it| it.is_cut_off = true);
        let order = world.verb(verb).unwrap();
        let why = world.until_failed(order);
        assert_eq!(why, "b does not leave: it does not hear the service");
    }
}

#[test]
fn nothing_is_handed_over_to_a_backup_that_does_not_ping() {
    let mut world = World::protected(&["a", "b", "c"]);
    let processes = world.at("b").processes.values_mut();
    processes.for_each(|it| it.is_cut_off = true);
    world.pass(10);
    world.orders.clear();
    let failover = world.verb(Verb::Failover {}).unwrap();
    world.until_failed(failover);
    world.host_verb("a", HostVerb::Drain).unwrap();
    world.pass(30);
    assert!(world.orders.is_empty(), "{:?}", world.orders);
}

#[test]
fn a_backup_is_migrated() {
    let mut world = World::protected(&["a", "b", "c"]);
    let order = world.verb(migrate("c")).unwrap();
    assert_eq!(world.until_done(order), "its backup is on c now");
    assert!(world.places_are("a", "c"));
    world.pass(20);
    assert!(world.places_are("a", "c"), "it stays");
    // It is there already.
    let order = world.verb(migrate("c")).unwrap();
    world.until_done(order);
}

#[test]
fn a_migration_to_a_host_that_does_not_fit_is_refused_and_costs_no_protection() {
    let mut world = World::protected(&["a", "b", "c"]);
    for (to, because) in [
        ("a", "runs on a"),
        ("x", "no host of the name x is known"),
        ("c", "has 100 MiB of memory of 1024"),
    ] {
        world.at("c").memory_mib = 100;
        world.pass(2);
        let refused = world.verb(migrate(to)).unwrap_err().to_string();
        assert!(refused.contains(because), "{refused}");
    }
    let refused = world.verb(migrate_primary("c")).unwrap_err().to_string();
    assert!(refused.contains("of memory"), "{refused}");
    world.pass(5);
    assert!(world.places_are("a", "b") && world.state() == State::Protected);
}

#[test]
fn a_migration_to_a_host_that_turns_out_not_to_work_ends_with_another_backup() {
    let mut world = World::protected(&["a", "b", "c"]);
    world.at("c").logging_is_down = true;
    let order = world.verb(migrate("c")).unwrap();
    let why = world.until_failed(order);
    assert!(
        why.contains("does not reach the primary: no primary answered"),
        "{why}"
    );
    world.until(|world| world.state() == State::Protected);
    assert!(world.places_are("a", "b"), "{:?}", world.places());
}

#[test]
fn a_primary_is_migrated_by_way_of_its_backup() {
    let mut world = World::protected(&["a", "b", "c"]);
    let order = world.verb(migrate_primary("c")).unwrap();
    let how = world.until_done(order);
    assert!(how.starts_with("it runs on c after an outage"), "{how}");
    assert_eq!(world.places().0, Some(host("c")));
    assert_eq!(world.state(), State::Protected);
    let order = world.verb(migrate_primary("c")).unwrap();
    world.until_done(order);
}

#[test]
fn a_backup_that_joins_a_migrated_primary_stays() {
    let mut world = World::protected(&["a", "b", "c"]);
    let order = world.verb(migrate_primary("c")).unwrap();
    world.until(|world| world.places() == (Some(host("c")), None));
    // The join takes longer than a few pings.
    world.at("c").hangs = true;
    world.until(|world| world.places().1.is_some());
    let joining = world.places();
    world.pass(10);
    assert_eq!(world.places(), joining);
    world.at("c").hangs = false;
    world.until_done(order);
    assert_eq!(world.places(), joining);
}

#[test]
fn protection_is_suspended_and_resumed() {
    let mut world = World::protected(&["a", "b"]);
    let order = world.verb(Verb::SuspendProtection {}).unwrap();
    world.until_done(order);
    let suspended = "Not protected: suspended by anna@ops1";
    assert_eq!(world.state().to_string(), suspended);
    // Also in a view of which its primary has not said anything yet.
    let mut next = world.record();
    next.epoch += 1;
    let state = world.fleet.state_of(&vm(), &|_| next.clone());
    assert_eq!(state.to_string(), suspended);
    world.pass(20);
    assert_eq!(world.state().to_string(), suspended);
    world.restart_service();
    world.pass(20);
    assert_eq!(world.state().to_string(), suspended);
    for verb in [migrate("b"), migrate_primary("b")] {
        let refused = world.verb(verb).unwrap_err().to_string();
        assert!(refused.contains("ftvm resume-protection db"), "{refused}");
    }
    let order = world.verb(Verb::ResumeProtection {}).unwrap();
    world.until_done(order);
    assert_eq!(world.state(), State::Protected);
}

#[test]
fn a_backup_does_not_leave_while_its_primary_may_be_lost() {
    let mut world = World::protected(&["a", "b"]);
    world.verb(Verb::SuspendProtection {}).unwrap();
    world.crash("a");
    world.orders.clear();
    world.pass(20);
    let left = |(_, order): &(_, crate::fleet::Order)| *order == crate::fleet::Order::Leave {};
    assert!(!world.orders.iter().any(left));
    assert_eq!(world.places().0, Some(host("b")), "it went live");
    assert_eq!(world.starts.len(), 1);
}

#[test]
fn of_two_operators_the_later_one_counts() {
    let mut world = World::protected(&["a", "b", "c"]);
    let one = world.verb(migrate("c")).unwrap();
    world.pass(1);
    let two = world.verb(migrate("b")).unwrap();
    let why = world.until_failed(one);
    assert_eq!(why, format!("replaced by order {two} of anna@ops1"));
    world.until_done(two);
    world.pass(30);
    assert!(world.places_are("a", "b"));

    let start = world.verb(Verb::Start { force: false }).unwrap();
    world.until_done(start);
    let stop = world.verb(Verb::Stop {}).unwrap();
    let start = world.verb(Verb::Start { force: false }).unwrap();
    world.until_failed(stop);
    world.until_done(start);
    world.pass(30);
    assert_eq!(world.state(), State::Protected);
    let start = world.verb(Verb::Start { force: true }).unwrap();
    let stop = world.verb(Verb::Stop {}).unwrap();
    world.until_done(stop);
    assert!(world.outcome(start).is_some());
    assert_eq!(world.state(), State::Stopped { reason: None });
    // Asked for twice is asked for once.
    let one = world.verb(Verb::Start { force: false }).unwrap();
    assert_eq!(world.verb(Verb::Start { force: false }).unwrap(), one);
}

#[test]
fn a_guest_that_is_started_while_it_stops_is_started_anew() {
    for at in [0, 3] {
        let mut world = World::protected(&["a", "b", "c"]);
        world.ends_slowly(true);
        world.verb(Verb::Stop {}).unwrap();
        world.pass(3);
        let start = world.verb(Verb::Start { force: false }).unwrap();
        world.pass(at);
        world.restart_service();
        world.pass(at);
        world.ends_slowly(false);
        world.until_done(start);
        world.until(|world| world.starts.len() == 2);
        world.until(|world| world.state() == State::Protected);
        // And what it does by itself later counts.
        world.powers_off(0, "the guest powered off");
        world.pass(40);
        assert!(matches!(world.state(), State::Stopped { reason: Some(_) }));
    }
}

#[test]
fn what_is_found_out_while_a_change_is_stored_stays() {
    let mut world = World::protected(&["a", "b"]);
    let records = |world: &World| {
        let records = world.records.clone();
        move |vm: &crate::arbiter::VmName| records.get(vm).cloned().unwrap_or_default()
    };
    let operation = Operation::Guest {
        vm: vm(),
        verb: Verb::SuspendProtection {},
        by: by(),
    };
    let planned = world.fleet.plan(operation, &records(&world)).unwrap();
    let crate::fleet::Planned::New(plan) = planned else {
        panic!("{planned:?}");
    };
    world.powers_off(0, "the guest powered off");
    world.pass(20);
    assert!(matches!(world.state(), State::Stopped { .. }));
    let records = records(&world);
    world.fleet.carry_out(&plan, &records);
    world.pass(40);
    assert!(matches!(world.state(), State::Stopped { reason: Some(_) }));
    assert_eq!(world.starts.len(), 1);
}

#[test]
fn a_change_of_view_is_no_start() {
    let mut world = World::protected(&["a", "b", "c"]);
    let before = world.told_states().len();
    for verb in [Verb::RestartBackup {}, Verb::Failover {}] {
        let order = world.verb(verb).unwrap();
        world.until_done(order);
    }
    let told = &world.told_states()[before..];
    let starts = told.iter().any(|told| told.starts_with("Not running"));
    assert!(!starts, "{told:?}");
}

#[test]
fn two_guests_do_not_share_an_address_or_a_disk() {
    let mut world = World::of(&["a", "b"]);
    world.define("db", 1).unwrap();
    let refused = world.define("web", 1).unwrap_err().to_string();
    assert_eq!(
        refused,
        "db has the Ethernet address 52:54:00:00:00:01 already: give web another one (`mac`)"
    );
    let mut web = definition("web", 2);
    web.disk = definition("db", 1).disk;
    let refused = world.ask(Operation::Define {
        definition: Box::new(web),
        by: by(),
    });
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains("db has the disk nbd://10.0.2.9/db"),
        "{refused}"
    );
    world.define("web", 2).unwrap();
}

#[test]
fn a_definition_changes_only_while_the_guest_is_stopped() {
    let mut world = World::protected(&["a", "b"]);
    world.define("db", 1).unwrap();
    let refused = world.define("db", 2).unwrap_err().to_string();
    assert_eq!(
        refused,
        "db is not stopped (Protected), and cannot change mac while it runs: `ftvm vm stop db` first"
    );
    let undefine = |world: &mut World| world.ask(Operation::Undefine { vm: vm(), by: by() });
    assert!(matches!(undefine(&mut world), Err(Refused::Runs { .. })));
    let stop = world.verb(Verb::Stop {}).unwrap();
    assert!(world.define("db", 2).is_err(), "it is only about to stop");
    world.until_done(stop);
    world.define("db", 2).unwrap();
    undefine(&mut world).unwrap();
    assert!(matches!(undefine(&mut world), Err(Refused::NotDefined(_))));
}

#[test]
fn what_the_service_alone_knows_of_a_guest_changes_while_it_runs() {
    let mut world = World::protected(&["a", "b", "c"]);
    let mut changed = definition("db", 1);
    let define = |world: &mut World, changed: &Definition| {
        world.ask(Operation::Define {
            definition: Box::new(changed.clone()),
            by: by(),
        })
    };
    changed.lag.red_ms = 2;
    changed.lag.yellow_ms = 1;
    define(&mut world, &changed).unwrap();
    assert_eq!(
        world.state().to_string(),
        "Not protected: lagging by 3 ms",
        "the limit counts at once"
    );
    changed.lag = definition("db", 1).lag;
    changed.hosts = [host("a"), host("b")].into_iter().collect();
    define(&mut world, &changed).unwrap();
    assert_eq!(world.state(), State::Protected);
    world.crash("b");
    world.pass(40);
    assert_eq!(world.places().1, None, "c is not named");
    changed.hosts = [host("a"), host("c")].into_iter().collect();
    define(&mut world, &changed).unwrap();
    world.until(|world| world.state() == State::Protected);
    assert!(world.places_are("a", "c"));
    // Neither copy's host can be left out, nor anything else changed beside.
    changed.hosts = [host("a"), host("b")].into_iter().collect();
    let refused = define(&mut world, &changed).unwrap_err().to_string();
    assert!(refused.contains("c runs db, or is its backup"), "{refused}");
    changed.hosts = definition("db", 1).hosts;
    changed.append = "quiet".to_owned();
    let refused = define(&mut world, &changed).unwrap_err().to_string();
    assert!(refused.contains("cannot change append"), "{refused}");
}

/// Its record stays, as it does where it has a disk: that is nothing to tell of.
#[test]
fn a_guest_that_is_forgotten_is_not_there_any_more_however_it_ended() {
    for is_lost in [false, true] {
        let mut world = World::protected(&["a", "b"]);
        world.verb(Verb::SuspendProtection {}).unwrap();
        world.until(|world| world.places().1.is_none());
        if is_lost {
            world.end(&host("a"), &vm(), None, "killed by SIGKILL");
        }
        let stop = world.verb(Verb::Stop {}).unwrap();
        world.until_done(stop);
        assert_eq!(world.fleet.guests(None).next(), Some(&vm()));
        world
            .ask(Operation::Undefine { vm: vm(), by: by() })
            .unwrap();
        let told = world.told_states();
        for _ in 0..20 {
            assert!(!world.fleet.is_there(&vm()));
            assert_eq!(world.fleet.guests(None).next(), None);
            world.second();
        }
        assert_eq!(world.told_states(), told, "nothing more is told");
        assert_ne!(world.record().epoch, 0, "its record is there");
        world.restart_service();
        world.pass(10);
        assert!(!world.fleet.is_there(&vm()));
        // Under its name there may be another one.
        world.define("db", 1).unwrap();
        assert_eq!(world.fleet.guests(None).next(), Some(&vm()));
    }
}
