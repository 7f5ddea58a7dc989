//! The table of who may do what is the one in the documentation.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use transport::{Peer, Role};

use super::*;
use crate::arbiter::protocol::Request;

/// `db` may be run by the hosts a and b, `web` by all, and others are not defined.
struct Guests;

impl Definitions for Guests {
    fn names(&self, vm: &VmName, host: &HostName) -> Option<bool> {
        match vm.as_str() {
            "db" => Some(["a", "b"].contains(&host.as_str())),
            "web" => Some(true),
            _ => None,
        }
    }

    fn generation(&self) -> u64 {
        0
    }
}

/// The columns of the table: who asks, of a guest that names the hosts a and b.
const CALLERS: [(&str, &str, Role); 6] = [
    ("host a", "a", Role::Host),
    ("host b, in the name of a", "b", Role::Host),
    ("host c", "c", Role::Host),
    ("operator", "anna", Role::Operator),
    ("monitor", "prometheus", Role::Monitor),
    ("disk server", "ds", Role::DiskServer),
];

fn caller(name: &str, role: Role) -> Caller {
    let name = name.to_owned();
    Caller::Known(Peer { name, role })
}

fn request(value: Value) -> Request {
    serde_json::from_value(value).expect("a request")
}

fn ping(host: &str, role: Value) -> Request {
    let carries = json!({"memory_mib": 1, "processor": "", "instructions": 0, "paging": "shadow", "exports": []});
    request(json!({"op": "ping", "host": host, "number": 1, "carries": carries, "role": role}))
}

fn operate(what: Value) -> Request {
    request(json!({"op": "operate", "operation": what}))
}

fn order(verb: Value) -> Request {
    operate(json!({"what": "guest", "vm": "db", "by": "", "verb": verb}))
}

/// The rows about the arbiter's protocol, in the name of this host.
fn requests(host: &str) -> Vec<(&'static str, Request)> {
    let me = format!("{host}/1");
    let condition =
        json!({"phase": "starting", "lag_ms": 0, "log_bytes_per_second": 0, "went_live": null});
    let claim = |next: Value| {
        request(
            json!({"op": "compare_and_set", "vm": "db", "expected_epoch": 1, "claimant": me, "next": next}),
        )
    };
    let tended = json!({"processes": {}, "ended": [], "machine": "", "console": "0.0.0.0:1"});
    let member = json!({"vm": "db", "epoch": 1, "condition": condition});
    let primary = json!({"vm": "db", "epoch": 1, "condition": condition, "wants": null});
    let image = json!({"path": "/k", "sha256": "0".repeat(64)});
    let definition = json!({
        "vm": "db", "memory_mib": 64, "kernel": image, "initrd": null, "append": "", "mac": "", "clock": "",
        "disk": null, "export": null, "heartbeat_timeout_ms": null, "lag": {},
    });
    vec![
        ("claim: start, go on alone, stop", claim(json!("alone"))),
        (
            "claim with a backup that the guest names",
            claim(json!({"with": "b/2"})),
        ),
        (
            "claim with one that it does not name",
            claim(json!({"with": "c/2"})),
        ),
        (
            "acknowledge a backup",
            request(json!({"op": "acknowledge", "vm": "db", "epoch": 1, "holder": me})),
        ),
        (
            "ping as its primary",
            ping(&me, json!({"primary": primary})),
        ),
        ("ping as its backup", ping(&me, json!({"backup": member}))),
        (
            "ping as idle for it",
            ping(&me, json!({"idle": {"vm": "db", "declined": null}})),
        ),
        (
            "ping as a host's daemon",
            ping(&me, json!({"host": tended})),
        ),
        (
            "see a definition",
            operate(json!({"what": "definition", "vm": "db"})),
        ),
        (
            "see a guest's status",
            operate(json!({"what": "status", "vm": "db"})),
        ),
        ("list guests", operate(json!({"what": "list"}))),
        (
            "see the history",
            operate(json!({"what": "history", "vm": null})),
        ),
        ("read a record", request(json!({"op": "read", "vm": "db"}))),
        ("list records", request(json!({"op": "list"}))),
        ("list exports", request(json!({"op": "list_exports"}))),
        ("list hosts", request(json!({"op": "list_hosts"}))),
        ("echo", request(json!({"op": "echo"}))),
        (
            "define",
            operate(json!({"what": "define", "by": "", "definition": definition})),
        ),
        (
            "undefine",
            operate(json!({"what": "undefine", "vm": "db", "by": ""})),
        ),
        ("start", order(json!({"start": {"force": false}}))),
        ("start --force", order(json!({"start": {"force": true}}))),
        ("stop", order(json!({"stop": {}}))),
        ("failover", order(json!({"failover": {}}))),
        ("test-failover", order(json!({"test_failover": {}}))),
        ("restart-backup", order(json!({"restart_backup": {}}))),
        ("migrate", order(json!({"migrate_backup": {"to": "a"}}))),
        (
            "migrate --primary",
            order(json!({"migrate_primary": {"to": "a"}})),
        ),
        (
            "suspend-protection",
            order(json!({"suspend_protection": {}})),
        ),
        ("resume-protection", order(json!({"resume_protection": {}}))),
        (
            "host drain",
            operate(json!({"what": "host", "host": "a", "by": "", "verb": "drain"})),
        ),
        (
            "host undrain",
            operate(json!({"what": "host", "host": "a", "by": "", "verb": "undrain"})),
        ),
        (
            "host drain, as the host that is drained",
            operate(json!({"what": "own_host", "host": host, "verb": "drain"})),
        ),
        (
            "host undrain, as that host",
            operate(json!({"what": "own_host", "host": host, "verb": "undrain"})),
        ),
        (
            "forget a record",
            request(json!({"op": "forget", "vm": "db"})),
        ),
    ]
}

/// May it, of the callers in [`CALLERS`]? They speak as themselves, but for the second one, who speaks as a.
fn cells(act: impl Fn(&str) -> bool) -> String {
    let mut cells = String::new();
    for (_, name, _) in CALLERS {
        cells.push_str(if act(name) { " yes |" } else { " - |" });
    }
    cells
}

fn table() -> String {
    let mut table = String::from("| |");
    for (who, _, _) in CALLERS {
        write!(table, " {who} |").expect("text");
    }
    table.push_str("\n| --- |");
    table.push_str(&" --- |".repeat(CALLERS.len()));
    table.push('\n');
    let role = |name: &str| {
        CALLERS
            .iter()
            .find(|it| it.1 == name)
            .expect("one of them")
            .2
    };
    let said = |name: &str| if name == "c" { "c" } else { "a" }.to_owned();
    for (at, (what, _)) in requests("a").into_iter().enumerate() {
        let may = cells(|name| {
            let (_, request) = requests(&said(name)).swap_remove(at);
            permit(&caller(name, role(name)), &Act::of(&request), &Guests).is_ok()
        });
        writeln!(table, "| {what} |{may}").expect("text");
    }
    let [a, b] = ["a/1", "b/1"].map(|name| name.parse::<Claimant>().expect("a name"));
    let [vm, undefined] = ["db", "undefined"].map(|name| name.parse().expect("a name"));
    let others = [
        ("tell of its process in such a ping", Act::Tell { vm: &vm }),
        ("list exports, describe one (NBD)", Act::Look),
        (
            "open an export without a guest",
            Act::OpenDisk { owner: None },
        ),
        ("open a guest's disk", Act::OpenDisk { owner: Some(&vm) }),
        (
            "write to it, a holding its epoch",
            Act::WriteDisk {
                vm: &vm,
                holder: Some(&a),
            },
        ),
        (
            "write to it, b holding its epoch",
            Act::WriteDisk {
                vm: &vm,
                holder: Some(&b),
            },
        ),
        (
            "open the disk of a guest that is not defined",
            Act::OpenDisk {
                owner: Some(&undefined),
            },
        ),
    ];
    for (what, act) in others {
        let may = cells(|name| permit(&caller(name, role(name)), &act, &Guests).is_ok());
        writeln!(table, "| {what} |{may}").expect("text");
    }
    table
}

#[test]
fn who_may_do_what_is_documented() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/rights.md");
    let page = fs::read_to_string(path).expect("a page of the docs");
    let table = table();
    assert!(
        page.contains(&table),
        "docs/rights.md is to have this table:\n{table}"
    );
}

#[test]
fn without_keys_everybody_may_everything() {
    for (what, request) in requests("a") {
        assert_eq!(
            permit(&Caller::Anybody, &Act::of(&request), &Guests),
            Ok(()),
            "{what}"
        );
    }
}

#[test]
fn a_guest_that_names_no_hosts_may_be_run_by_all() {
    let other = "web".parse().expect("a name");
    let by = "c/1".parse().expect("a name");
    let run = Act::Run {
        vm: &other,
        by: &by,
        backup: None,
    };
    assert_eq!(permit(&caller("c", Role::Host), &run, &Guests), Ok(()));
}

#[test]
fn a_guest_that_is_not_defined_may_be_run_by_none() {
    let vm: VmName = "undefined".parse().expect("a name");
    let by = "a/1".parse().expect("a name");
    let run = Act::Run {
        vm: &vm,
        by: &by,
        backup: None,
    };
    let denied = permit(&caller("a", Role::Host), &run, &Guests);
    assert_eq!(denied, Err(Denied::NotDefined { vm: vm.clone() }));
    assert_eq!(permit(&Caller::Anybody, &run, &Guests), Ok(()));
}

#[test]
fn what_is_denied_says_why_and_is_counted() {
    let guard = Guard::new(std::sync::Arc::new(Guests));
    let vm = "db".parse().expect("a name");
    let [a, c] = ["a/1", "c/1"].map(|name| name.parse::<Claimant>().expect("a name"));
    let run = |by| Act::Run {
        vm: &vm,
        by,
        backup: None,
    };
    let told = |name: &str, role, act: Act<'_>| {
        let denied = guard.permit(&caller(name, role), &act, "192.0.2.1:5");
        denied.expect_err("it may not").to_string()
    };
    let text = told("m", Role::Monitor, Act::Command);
    assert_eq!(text, "the monitor m may not give commands: an operator may");
    let text = told("b", Role::Host, run(&a));
    assert!(
        text.starts_with("the host b cannot speak for a/1: "),
        "{text}"
    );
    let host = a.host();
    let text = told("b", Role::Host, Act::DrainItself { host: &host });
    assert!(
        text.starts_with("the host b cannot speak for a: "),
        "{text}"
    );
    let text = told("c", Role::Host, run(&c));
    assert!(
        text.starts_with("c is not among the hosts that may run db: "),
        "{text}"
    );
    let text = told(
        "b",
        Role::Host,
        Act::WriteDisk {
            vm: &vm,
            holder: Some(&a),
        },
    );
    assert!(text.starts_with("a/1 runs db, and not b: "), "{text}");
    // A name that no host can have is no host's.
    let text = told("a/1", Role::Host, run(&a));
    assert!(
        text.starts_with("the host \"a/1\" is listed in trust.toml"),
        "{text}"
    );
    let text = told("a", Role::Host, Act::Command);
    assert!(text.contains("ftvm key generate ~/.config"), "{text}");
    assert_eq!(guard.denials(), 7);
}
