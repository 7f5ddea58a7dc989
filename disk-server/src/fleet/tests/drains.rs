use super::world::*;
use crate::fleet::{Cause, HostVerb, Order, Refused, State, Subject, Verb, What};

/// What the journal has of moves that are tried again later.
fn deferred(world: &World) -> Vec<String> {
    let told = world.journal.iter().filter_map(|entry| match &entry.what {
        What::Deferred { why, .. } if entry.subject == Subject::Vm(vm()) => Some(why.to_string()),
        _ => None,
    });
    told.collect()
}

#[test]
fn a_drained_host_is_left_by_backups_and_primaries() {
    let mut world = World::protected(&["a", "b", "c"]);
    for (name, primary) in [("b", "a"), ("a", "c")] {
        let order = world.host_verb(name, HostVerb::Drain).unwrap();
        assert_eq!(world.host_verb(name, HostVerb::Drain).unwrap(), order);
        assert_eq!(world.until_done(order), "it is empty");
        let again = world.host_verb(name, HostVerb::Drain).unwrap();
        assert_ne!(again, order, "nobody waits for what is done");
        assert_eq!(world.until_done(again), "it is empty");
        if name == "b" {
            assert!(world.places_are(primary, "c"));
            world.until(|world| world.state() == State::Protected);
            world.host_verb(name, HostVerb::Undrain).unwrap();
        }
    }
    world.until(|world| world.state() == State::Protected);
    assert!(world.places_are("c", "b"));
    assert_eq!(world.starts.len(), 1, "nothing was started anew");
}

#[test]
fn a_drain_waits_where_nobody_else_fits() {
    let mut world = World::protected(&["a", "b"]);
    let b = world.host_verb("b", HostVerb::Drain).unwrap();
    world.pass(40);
    assert_eq!(world.outcome(b), None);
    assert!(world.places_are("a", "b") && world.state() == State::Protected);
    // So does its primary.
    world.host_verb("b", HostVerb::Undrain).unwrap();
    assert!(world.until_failed(b).contains("replaced by order"));
    let a = world.host_verb("a", HostVerb::Drain).unwrap();
    world.pass(40);
    assert_eq!(world.outcome(a), None);
    assert!(world.places_are("a", "b") && world.state() == State::Protected);
    // A host that goes down itself waits for nobody: its guest is without a backup elsewhere.
    let own = world.own_verb("a", HostVerb::Drain);
    world.until_done(own);
    world.pass(20);
    assert_eq!(
        world.state().to_string(),
        "Not protected: no idle host: a is drained"
    );
    world.host_verb("a", HostVerb::Undrain).unwrap();
    world.until(|world| world.state() == State::Protected);
}

#[test]
fn a_drain_is_not_done_before_a_guest_that_was_handed_over_is_protected() {
    let mut world = World::protected(&["a", "b", "c"]);
    world.at("c").fails_with = Some(1);
    let drain = world.host_verb("a", HostVerb::Drain).unwrap();
    world.until(|world| world.places().0 == Some(host("b")));
    world.pass(5);
    assert_eq!(world.outcome(drain), None, "nobody protects it yet");
    // Nobody else can, so this host does.
    world.until(|world| world.state() == State::Protected);
    assert!(world.places_are("b", "a"));
    world.at("c").fails_with = None;
    assert_eq!(world.until_done(drain), "it is empty");
    assert!(world.places_are("b", "c") && world.state() == State::Protected);
    world.crash("b");
    world.until(|world| world.places().0 == Some(host("c")));
    world.pass(2);
    let causes = world.journal.iter().filter_map(|entry| match &entry.what {
        What::Failover { cause, .. } => Some(cause.unwrap()),
        _ => None,
    });
    assert_eq!(
        causes.collect::<Vec<_>>(),
        [Cause::Drain(drain), Cause::Loss {}]
    );
}

/// Whichever of two hosts is drained, and whichever is lost: a copy that had to stay comes back.
#[test]
fn a_copy_that_stayed_on_a_drained_host_is_replaced_there_when_it_is_lost() {
    for (drained, lost) in [("b", "b"), ("b", "a"), ("a", "a"), ("a", "b")] {
        let mut world = World::protected(&["a", "b"]);
        let drain = world.host_verb(drained, HostVerb::Drain).unwrap();
        world.crash(lost);
        world.until(|world| world.state() != State::Protected);
        world.pass(40);
        world.start_daemon(lost);
        world.until(|world| world.state() == State::Protected);
        // And again, now where the other one has taken over meanwhile.
        world.restart_service();
        world.crash("a");
        world.pass(40);
        world.start_daemon("a");
        world.until(|world| world.state() == State::Protected);
        assert_eq!(world.starts.len(), 1, "nothing was started anew");
        assert_eq!(world.outcome(drain), None, "{drained} has a copy");
    }
}

/// Not of what it had before it was empty.
#[test]
fn a_drained_host_that_is_empty_stays_so() {
    let mut world = World::protected(&["a", "b", "c"]);
    let drain = world.host_verb("b", HostVerb::Drain).unwrap();
    world.until_done(drain);
    assert!(world.places_are("a", "c"));
    world.crash("c");
    world.pass(60);
    let state = world.state().to_string();
    assert!(state.contains("no idle host: b is drained"), "{state}");
}

/// It hands its guest over although no other host could have the backup, and is to have that when it is up again.
#[test]
fn a_drained_host_that_went_down_has_a_backup_back_when_it_is_up() {
    let mut world = World::protected(&["a", "b"]);
    let drain = world.host_verb("a", HostVerb::Drain).unwrap();
    let own = world.own_verb("a", HostVerb::Drain);
    assert_eq!(world.until_done(own), "it is empty");
    assert_eq!(world.places(), (Some(host("b")), None));
    world.crash("a");
    world.pass(40);
    world.start_daemon("a");
    world.own_verb("a", HostVerb::Undrain);
    world.until(|world| world.state() == State::Protected);
    assert!(world.places_are("b", "a"));
    assert_eq!(world.outcome(drain), None, "it has a copy");
}

#[test]
fn a_host_that_goes_down_hands_over_to_one_that_operators_want_empty() {
    let mut world = World::protected(&["a", "b"]);
    world.host_verb("b", HostVerb::Drain).unwrap();
    let own = world.own_verb("a", HostVerb::Drain);
    world.until_done(own);
    assert_eq!(world.places().0, Some(host("b")));
}

#[test]
fn a_drain_ends_where_a_guest_has_ended_and_its_record_has_not() {
    let mut world = World::protected(&["a", "b", "c"]);
    let backup = world.record().backup.unwrap();
    world.verb(Verb::SuspendProtection {}).unwrap();
    world.until(|world| world.places().1.is_none());
    assert_eq!(backup.host(), host("b"));
    world.crash("a");
    world.verb(Verb::Stop {}).unwrap();
    world.start_daemon("a");
    world.until(|world| world.state() == State::Stopped { reason: None });
    assert_eq!(world.places().0, Some(host("a")), "as the record has it");
    let drain = world.host_verb("a", HostVerb::Drain).unwrap();
    assert_eq!(world.until_done(drain), "it is empty");
}

#[test]
fn a_drain_ends_a_migration_to_that_host() {
    let mut world = World::protected(&["a", "b", "c"]);
    let migration = world.verb(migrate("c")).unwrap();
    let drain = world.host_verb("c", HostVerb::Drain).unwrap();
    assert_eq!(world.until_failed(migration), "c is drained");
    world.until_done(drain);
    let refused = world.verb(migrate("c")).unwrap_err().to_string();
    assert!(refused.contains("is drained"), "{refused}");
    assert!(matches!(
        world.host_verb("x", HostVerb::Drain),
        Err(Refused::NoSuchHost { .. })
    ));
    // A host that comes for the first time has this done before its daemon is known.
    let undrain = world.host_verb("x", HostVerb::Undrain).unwrap();
    assert_eq!(world.until_done(undrain), "it was not drained");
}

#[test]
fn a_drained_host_has_a_backup_back_until_another_one_can_have_it() {
    let mut world = World::protected(&["a", "b", "c"]);
    world.at("c").fails_with = Some(1);
    let drain = world.host_verb("b", HostVerb::Drain).unwrap();
    let (mut unprotected, mut longest) = (0, 0);
    for _ in 0..400 {
        world.second();
        unprotected = match world.state() {
            State::Protected => 0,
            _ => unprotected + 1,
        };
        longest = longest.max(unprotected);
    }
    assert!(world.places_are("a", "b") && world.state() == State::Protected);
    assert!(longest < 20, "it was without protection for {longest} s");
    assert_eq!(world.outcome(drain), None);
    let pauses: Vec<String> = [30, 60, 120, 240].map(back).into();
    assert_eq!(deferred(&world), pauses);
    // That it is owed survives the service.
    world.until(|world| world.places().1 != Some(host("b")));
    world.restart_service();
    world.until(|world| world.state() == State::Protected);
    assert!(world.places_are("a", "b"));
    world.at("c").fails_with = None;
    assert_eq!(world.until_done(drain), "it is empty");
    assert!(world.places_are("a", "c") && world.state() == State::Protected);
}

fn back(pause: u32) -> String {
    format!("no other host could have its backup: it leaves b at the earliest in {pause} s")
}

#[test]
fn a_drained_host_has_a_backup_back_that_an_operator_wanted_elsewhere() {
    for verb in [
        Verb::RestartBackup {},
        Verb::MigrateBackup { to: host("c") },
    ] {
        let mut world = World::protected(&["a", "b", "c"]);
        world.at("c").fails_with = Some(1);
        world.host_verb("b", HostVerb::Drain).unwrap();
        world.until(|world| !deferred(world).is_empty());
        world.pass(10);
        assert!(world.places_are("a", "b"), "it stays for a while");
        world.verb(verb.clone()).unwrap();
        world.until(|world| world.places().1.is_none());
        world.until(|world| world.state() == State::Protected);
        assert!(world.places_are("a", "b"), "{verb}");
    }
}

#[test]
fn a_drain_lets_go_of_a_guest_that_needs_no_backup_any_more() {
    let mut world = World::protected(&["a", "b", "c"]);
    world.at("c").fails_with = Some(1);
    let drain = world.host_verb("b", HostVerb::Drain).unwrap();
    world.until(|world| world.places().1.is_none());
    world.pass(1);
    assert_eq!(world.outcome(drain), None, "it is empty, and owes a backup");
    world.verb(Verb::SuspendProtection {}).unwrap();
    world.until_done(drain);
}

#[test]
fn a_hand_over_that_never_comes_about_is_asked_for_ever_more_seldom() {
    let mut world = World::protected(&["a", "b", "c"]);
    world.keeps_guests = true;
    let drain = world.host_verb("a", HostVerb::Drain).unwrap();
    let mut asked = Vec::new();
    for second in 0..700 {
        world.orders.clear();
        world.second();
        let is_asked = |(_, order): &(_, Order)| matches!(order, Order::HandOver { .. });
        if world.orders.iter().any(is_asked) {
            asked.push(second);
        }
    }
    let rounds = asked.chunk_by(|one, two| two - one == 1);
    let began: Vec<u32> = rounds.map(|round| round[0]).collect();
    let apart: Vec<u32> = began.windows(2).map(|two| two[1] - two[0]).collect();
    assert_eq!(apart, [60, 90, 150, 270], "{asked:?}");
    let said = [30, 60, 120, 240, 480].map(|pause| {
        format!("its primary did not hand it over: it leaves a at the earliest in {pause} s")
    });
    assert!(
        said.starts_with(&deferred(&world)),
        "{:?}",
        deferred(&world)
    );
    assert!(deferred(&world).len() >= 4);
    assert_eq!(world.outcome(drain), None, "the drain stands");
    world.keeps_guests = false;
    world.pass(500);
    assert_eq!(world.until_done(drain), "it is empty");
    assert_eq!(world.places().0, Some(host("b")));
}

#[test]
fn a_host_that_drained_itself_takes_that_back_and_no_operator_s_drain() {
    let mut world = World::protected(&["a", "b", "c"]);
    let own = world.own_verb("b", HostVerb::Drain);
    assert_eq!(world.own_verb("b", HostVerb::Drain), own);
    assert_eq!(world.until_done(own), "it is empty");
    assert!(world.places_are("a", "c"));
    world.restart_service();
    world.pass(10);
    let back = world.own_verb("b", HostVerb::Undrain);
    assert_eq!(world.until_done(back), "noted");
    assert!(!world.fleet.intents().is_drained(&host("b")));

    // An operator's stays, whichever came first.
    for operator_is_first in [true, false] {
        let mut orders = Vec::new();
        for is_operator in [operator_is_first, !operator_is_first] {
            orders.push(match is_operator {
                true => world.host_verb("b", HostVerb::Drain).unwrap(),
                false => world.own_verb("b", HostVerb::Drain),
            });
        }
        assert_ne!(orders[0], orders[1]);
        for order in orders {
            assert_eq!(world.until_done(order), "it is empty");
        }
        world.restart_service();
        world.pass(10);
        let back = world.own_verb("b", HostVerb::Undrain);
        assert_eq!(
            world.until_done(back),
            "an operator wants it empty: it stays so"
        );
        assert!(world.fleet.intents().is_drained(&host("b")));
        world.host_verb("b", HostVerb::Undrain).unwrap();
        assert!(!world.fleet.intents().is_drained(&host("b")));
    }
    let back = world.own_verb("b", HostVerb::Undrain);
    assert_eq!(world.until_done(back), "it was not drained");
}

/// As when the disk server is started again just before the host goes down.
#[test]
fn a_host_drains_itself_whose_daemon_was_not_heard_yet() {
    let mut world = World::protected(&["a", "b", "c"]);
    world.restart_service();
    assert!(world.host_verb("b", HostVerb::Drain).is_err());
    let own = world.own_verb("b", HostVerb::Drain);
    assert_eq!(world.until_done(own), "it is empty");
    assert!(world.places_are("a", "c"));
}

#[test]
fn what_a_host_owes_is_owed_when_one_of_its_two_drains_ends() {
    let mut world = World::protected(&["a", "b", "c"]);
    world.at("c").fails_with = Some(1);
    world.own_verb("b", HostVerb::Drain);
    world.until(|world| world.places().1 != Some(host("b")));
    let operator = world.host_verb("b", HostVerb::Drain).unwrap();
    world.own_verb("b", HostVerb::Undrain);
    world.until(|world| world.state() == State::Protected);
    assert!(world.places_are("a", "b"), "nobody else can have it");
    assert_eq!(world.outcome(operator), None);
}

#[test]
fn an_operator_takes_back_that_a_host_drains_itself() {
    let mut world = World::protected(&["a", "b"]);
    // It waits: its guest has no other place.
    world.crash("b");
    let own = world.own_verb("a", HostVerb::Drain);
    world.pass(40);
    assert_eq!(world.outcome(own), None);
    world.host_verb("a", HostVerb::Undrain).unwrap();
    assert!(world.until_failed(own).contains("replaced by order"));
    assert!(!world.fleet.intents().is_drained(&host("a")));
}

/// Or each shutdown of one of two hosts would take as long as its unit is given.
#[test]
fn a_host_that_drains_itself_does_not_wait_for_backups_that_nobody_else_can_have() {
    let mut world = World::protected(&["a", "b"]);
    let operator = world.host_verb("b", HostVerb::Drain).unwrap();
    let own = world.own_verb("b", HostVerb::Drain);
    assert_eq!(
        world.until_done(own),
        "it has nothing but backups that no other host can have"
    );
    world.pass(40);
    assert_eq!(world.outcome(operator), None, "that one waits");
    assert!(world.places_are("a", "b") && world.state() == State::Protected);
    world.host_verb("b", HostVerb::Undrain).unwrap();
    // Where somebody else can it waits for that, and a primary leaves in any case.
    let own = world.own_verb("a", HostVerb::Drain);
    assert_eq!(world.until_done(own), "it is empty");
    assert!(world.places().0 == Some(host("b")));
}
