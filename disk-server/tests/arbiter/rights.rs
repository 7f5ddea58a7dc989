//! A disk server with keys: who may do what.

use std::collections::BTreeMap;
use std::fs;

use disk_server::arbiter::{Arbiter, CallError, Claim, HostName, Next};
use disk_server::fleet::{Answer, FLEET_FILE, HostVerb, Operation, Verb, What};
use disk_server::nbd::client;
use disk_server::views::{Cause, Ended, Ping, Role, Tended, Text, Unfit};
use transport::Endpoint;

use crate::scene::{Scene, claim, define, definition_for, vm};
use crate::support::until;
use crate::views::capabilities;

/// What a daemon without guests tells of its host.
fn tended() -> Tended {
    Tended {
        processes: BTreeMap::new(),
        ended: Vec::new(),
        machine: Text::cut("a machine"),
        console: "0.0.0.0:1".parse().unwrap(),
    }
}

fn ping_of_daemon(host: &str, number: u64, tended: Tended) -> Ping {
    Ping {
        host: host.parse().unwrap(),
        number,
        carries: capabilities(1024),
        role: Role::Host(tended),
    }
}

#[test]
fn a_host_claims_only_under_its_own_name_and_only_what_names_it() {
    let scene = Scene::start();
    define(&scene, &["a", "b"]);
    let told = claim(&scene.arbiter("b"), "a/1", 0, Next::Start).unwrap_err();
    assert!(told.contains("the host b cannot speak for a/1"), "{told}");
    let told = claim(&scene.arbiter("c"), "c/1", 0, Next::Start).unwrap_err();
    assert!(
        told.contains("c is not among the hosts that may run db"),
        "{told}"
    );
    let a = scene.arbiter("a");
    assert_eq!(
        claim(&a, "a/1", 0, Next::Start),
        Ok(Claim::Won { epoch: 1 })
    );
    let told = claim(&a, "a/1", 1, Next::With("c/1".parse().unwrap())).unwrap_err();
    assert!(told.contains("c is not among the hosts"), "{told}");
    let with = Next::With("b/1".parse().unwrap());
    assert_eq!(claim(&a, "a/1", 1, with), Ok(Claim::Won { epoch: 2 }));
    let told = scene
        .arbiter("b")
        .acknowledge(&vm(), 2, &"a/1".parse().unwrap());
    assert!(matches!(told, Err(CallError::Denied { .. })), "{told:?}");
    // All of it is told, the last of it perhaps in a moment.
    let words = ["(host b): the host b cannot speak for a/1", "(number 4)"];
    until("the log has it", || {
        words.iter().all(|it| scene.log().contains(it))
    });
}

#[test]
fn an_operator_commands_in_its_own_name_and_a_monitor_looks() {
    let scene = Scene::start();
    define(&scene, &["a"]);
    let start = || Operation::Guest {
        vm: vm(),
        verb: Verb::Start { force: false },
        by: Text::cut("somebody else"),
    };
    for name in ["prometheus", "a"] {
        let arbiter = scene.arbiter(name);
        let denied = arbiter.operate(start());
        assert!(
            matches!(denied, Err(CallError::Denied { .. })),
            "{denied:?}"
        );
        let status = arbiter.operate(Operation::Status { vm: vm() });
        assert!(matches!(status, Ok(Answer::Status(_))), "{status:?}");
        arbiter.list_hosts().unwrap();
    }
    let anna = scene.arbiter("anna");
    anna.operate(start()).unwrap();
    let all = Operation::History {
        vm: None,
        before: None,
    };
    let Answer::History { entries, .. } = anna.operate(all).unwrap() else {
        panic!("another answer");
    };
    let orderers = entries.iter().filter_map(|entry| match &entry.what {
        What::Ordered { by, .. } => Some(by.as_str()),
        _ => None,
    });
    assert_eq!(orderers.collect::<Vec<_>>(), ["anna", "anna"]);
}

#[test]
fn a_host_drains_itself_and_no_other_one() {
    let scene = Scene::start();
    let [a, b, anna] = ["a", "b", "anna"].map(|name| scene.arbiter(name));
    a.ping(&ping_of_daemon("a/d", 1, tended())).unwrap();
    let host: HostName = "a".parse().unwrap();
    let own = |verb| Operation::OwnHost {
        host: host.clone(),
        verb,
    };
    let of_operator = |verb| Operation::Host {
        host: host.clone(),
        verb,
        by: Text::cut("root@nowhere"),
    };
    a.operate(own(HostVerb::Drain)).unwrap();
    for denied in [
        b.operate(own(HostVerb::Drain)),
        anna.operate(own(HostVerb::Drain)),
        a.operate(of_operator(HostVerb::Drain)),
    ] {
        assert!(
            matches!(denied, Err(CallError::Denied { .. })),
            "{denied:?}"
        );
    }
    let is_drained = |asks: &Arbiter| {
        let hosts = asks.list_hosts().unwrap();
        hosts[0].unfit == Some(Unfit::Draining)
    };
    a.operate(own(HostVerb::Undrain)).unwrap();
    assert!(!is_drained(&b));
    a.operate(own(HostVerb::Drain)).unwrap();
    anna.operate(of_operator(HostVerb::Drain)).unwrap();
    a.operate(own(HostVerb::Undrain)).unwrap();
    assert!(is_drained(&b), "an operator's drain stays");
    // That is kept.
    let scene = scene.again("ds", |_| {});
    let [a, anna] = ["a", "anna"].map(|name| scene.arbiter(name));
    a.operate(own(HostVerb::Undrain)).unwrap();
    a.ping(&ping_of_daemon("a/d", 2, tended())).unwrap();
    assert!(is_drained(&a));
    anna.operate(of_operator(HostVerb::Undrain)).unwrap();
    assert!(!is_drained(&a));
}

#[test]
fn what_was_denied_is_told_to_those_who_watch_without_names() {
    let scene = Scene::start_with(&["--metrics", "127.0.0.1:0"]);
    let denials = |action: &str| {
        let name = format!("ftvm_denials_total{{action=\"{action}\"}}");
        scene.server.metric(&name)
    };
    define(&scene, &["a"]);
    claim(&scene.arbiter("b"), "b/1", 0, Next::Start).unwrap_err();
    scene.open("prometheus", "disk").unwrap_err();
    for (action, count) in [
        ("run", 1.0),
        ("open_disk", 1.0),
        ("command", 0.0),
        ("connect", 0.0),
    ] {
        assert_eq!(denials(action), count, "{action}");
    }
    (scene.arbiter_as(Endpoint::plain()).read(&vm())).unwrap_err();
    until("it is counted", || denials("connect") == 1.0);
    let metrics = scene.server.watched("/metrics");
    assert!(!metrics.contains("prometheus"), "{metrics}");
}

#[test]
fn a_disk_is_written_by_the_host_that_runs_its_guest_and_read_by_those_that_may() {
    let scene = Scene::start();
    define(&scene, &["a", "b"]);
    let a = scene.arbiter("a");
    assert_eq!(
        claim(&a, "a/1", 0, Next::Start),
        Ok(Claim::Won { epoch: 1 })
    );
    let refused = |name: &str, export: &str| scene.open(name, export).unwrap_err().to_string();
    // In the very epoch, but another host's.
    let told = refused("b", "disk@db:1");
    assert!(told.contains("a/1 runs db, and not b"), "{told}");
    let told = refused("c", "disk");
    assert!(told.contains("c is not among the hosts"), "{told}");
    let told = refused("prometheus", "disk");
    assert!(
        told.contains("the monitor prometheus may not open disks"),
        "{told}"
    );
    for (name, export) in [("a", "disk@db:1"), ("b", "disk"), ("anna", "disk")] {
        let mut disk = scene.open(name, export).unwrap();
        disk.requests.read(1, 0, 4096).unwrap();
        disk.requests.flush_buffer().unwrap();
        disk.replies.next_reply().unwrap();
        disk.requests.disconnect();
    }
}

/// As in a pair that is run by hand, of which the server was told nothing.
#[test]
fn a_guest_that_is_not_defined_is_run_by_nobody_until_it_is() {
    let scene = Scene::start();
    let c = scene.arbiter("c");
    let told = claim(&c, "c/1", 0, Next::Start).unwrap_err();
    assert!(told.contains("db is not defined"), "{told}");
    assert!(told.contains("ftvm vm define FILE"), "{told}");
    let told = scene.open("c", "disk").unwrap_err().to_string();
    assert!(told.contains("db is not defined"), "{told}");
    define(&scene, &["a", "b"]);
    let told = claim(&c, "c/1", 0, Next::Start).unwrap_err();
    assert!(told.contains("c is not among the hosts"), "{told}");
    let a = scene.arbiter("a");
    assert_eq!(
        claim(&a, "a/1", 0, Next::Start),
        Ok(Claim::Won { epoch: 1 })
    );
    assert_eq!(
        claim(&a, "a/1", 1, Next::Stopped),
        Ok(Claim::Won { epoch: 2 })
    );
    // Nor any more when it is none again.
    let undefine = Operation::Undefine {
        vm: vm(),
        by: Text::cut("root@nowhere"),
    };
    until("it has stopped", || {
        scene.arbiter("anna").operate(undefine.clone()).is_ok()
    });
    let told = claim(&a, "a/1", 2, Next::Start).unwrap_err();
    assert!(told.contains("db is not defined"), "{told}");
}

#[test]
fn another_definition_ends_what_hosts_that_it_does_not_name_have_open() {
    let scene = Scene::start();
    define(&scene, &["a", "c"]);
    let read = |disk: &mut client::Connection, cookie| {
        let asked = disk.requests.read(cookie, 0, 4096);
        asked.and_then(|()| disk.requests.flush_buffer()).is_ok()
            && disk.replies.next_reply().is_ok()
    };
    let [mut a, mut c, mut anna] = ["a", "c", "anna"].map(|name| scene.open(name, "disk").unwrap());
    assert!(read(&mut a, 1) && read(&mut c, 1) && read(&mut anna, 1));
    define(&scene, &["a", "b"]);
    assert!(!read(&mut c, 2), "c is not among them any more");
    assert!(read(&mut a, 2) && read(&mut anna, 2));
}

#[test]
fn a_definition_leaves_out_nobody_who_runs_the_guest() {
    let scene = Scene::start();
    define(&scene, &["a", "b"]);
    assert_eq!(
        claim(&scene.arbiter("a"), "a/1", 0, Next::Start),
        Ok(Claim::Won { epoch: 1 })
    );
    // What the server was told is lost, but for the epochs.
    let scene = scene.again("ds", |state| {
        fs::remove_file(state.join(FLEET_FILE)).unwrap();
    });
    let refused = scene.arbiter("anna").operate(definition_for(&["b", "c"]));
    let Err(CallError::Refused { message, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert!(message.contains("a runs db"), "{message}");
    define(&scene, &["a", "c"]);
}

/// A host has nothing to say about guests that do not name it, in a ping that is heard for the others.
#[test]
fn a_daemon_is_heard_only_of_guests_that_name_its_host() {
    let scene = Scene::start();
    define(&scene, &["a", "b"]);
    let ended = Ended {
        vm: vm(),
        number: 1,
        status: Some(1),
        cause: Cause::Other,
        reason: Text::cut("made up"),
    };
    let ping = |number, host: &str| {
        let mut tended = tended();
        tended.processes = [(vm(), None)].into();
        tended.ended = vec![ended.clone()];
        ping_of_daemon(host, number, tended)
    };
    let [a, c] = ["a", "c"].map(|name| scene.arbiter(name));
    let history = || {
        let all = Operation::History {
            vm: Some(vm()),
            before: None,
        };
        let Answer::History { entries, .. } = a.operate(all).unwrap() else {
            panic!("another answer");
        };
        let ends = entries.iter().filter_map(|entry| match &entry.what {
            What::Ended { host, .. } => Some(host.to_string()),
            _ => None,
        });
        ends.collect::<Vec<_>>()
    };
    c.ping(&ping(1, "c/d")).unwrap();
    assert!(history().is_empty());
    let hosts = a.list_hosts().unwrap();
    let of_c = hosts
        .iter()
        .find(|it| it.host.host().as_str() == "c")
        .unwrap();
    assert!(
        matches!(&of_c.role, Role::Host(tended) if tended.processes.is_empty() && of_c.live),
        "{of_c:?}"
    );
    a.ping(&ping(1, "a/d")).unwrap();
    assert_eq!(history(), ["a"]);
}
