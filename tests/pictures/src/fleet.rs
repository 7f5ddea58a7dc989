//! Ten guests on four hosts.

use disk_server::arbiter::{Claimant, HostName, VmName};
use disk_server::fleet::{
    Cause, Entry, Failover, LagBounds, Member, Placement, Reason, State, Subject, VmStatus, What,
};
use disk_server::views::{Capabilities, HostRecord, Paging, Role, Tended, Text, Unfit};
use ftvm_vmm::operator::hosts::summarise;
use ftvm_vmm::operator::top::Snapshot;

/// When the first picture is taken, in milliseconds since 1970.
const START: u64 = 1_795_929_153_000;

/// The guests: name, primary, backup, what they send to that in kilobytes a second, and their lag.
const GUESTS: [(&str, &str, Option<&str>, u64, u64); 10] = [
    ("auth", "ada", Some("bob"), 160, 9),
    ("cache", "ada", Some("cleo"), 3100, 22),
    ("db", "bob", Some("ada"), 1900, 14),
    ("mail", "bob", None, 0, 0),
    ("metrics", "cleo", Some("ada"), 820, 130),
    ("queue", "cleo", Some("bob"), 640, 11),
    ("shop", "ada", Some("cleo"), 1200, 17),
    ("web-1", "bob", Some("cleo"), 450, 12),
    ("web-2", "cleo", Some("bob"), 430, 12),
    ("wiki", "bob", None, 0, 0),
];

/// The hosts: name, and memory that is left.
const HOSTS: [(&str, u64); 4] = [
    ("ada", 5940),
    ("bob", 3310),
    ("cleo", 512),
    ("dora", 16_100),
];

fn name<T: std::str::FromStr<Err = E>, E: std::fmt::Debug>(name: &str) -> T {
    name.parse().expect("a name")
}

fn claimant(host: &str) -> Claimant {
    name(&format!("{host}/5eed"))
}

/// What the service says in this second.
pub(super) fn snapshot(second: u64) -> Snapshot {
    let vms: Vec<VmStatus> = (0..)
        .zip(GUESTS)
        .map(|(at, guest)| status(at, guest, second))
        .collect();
    let hosts: Vec<HostRecord> = HOSTS.iter().map(host).collect();
    Snapshot {
        hosts: summarise(&hosts, &vms),
        vms,
        unix_ms: START + 1000 * second,
    }
}

fn status(
    at: u64,
    (vm, primary, backup, kilobytes, lag): (&str, &str, Option<&str>, u64, u64),
    second: u64,
) -> VmStatus {
    let member = |host: &str| Member {
        host: name(host),
        claimant: claimant(host),
        live: true,
        console: None,
    };
    // Up and down, each guest in its own time.
    let wave = |period: u64| (second * (at + 3) + 7 * at) % period;
    let of = |most: u64, wave: u64| most * (40 + 3 * wave) / 100;
    let joins = vm == "wiki";
    let state = match (vm, backup) {
        (_, Some(_)) => State::Protected,
        ("wiki", None) => State::NotProtected(Reason::Joining {
            percent: u8::try_from(second).unwrap_or(100),
        }),
        _ => State::NotProtected(Reason::NoIdleHost { unfit: unfit() }),
    };
    VmStatus {
        vm: name(vm),
        defined: true,
        state,
        view: 4 + at,
        placement: Placement {
            primary: Some(member(primary)),
            backup: match joins {
                true => Some(member("ada")),
                false => backup.map(member),
            },
        },
        lag_ms: backup.map(|_| of(lag, wave(20))),
        lag: LagBounds::default(),
        log_bytes_per_second: (backup.is_some() || joins).then_some(match joins {
            true => 31_000_000 + 90_000 * wave(13),
            false => 1000 * of(kilobytes, wave(17)),
        }),
        last_failover: (vm == "db").then_some(Failover {
            unix_ms: START - 190_000,
            view: 5,
            outage_ms: 640,
        }),
        last_failure: None,
        pending: None,
    }
}

/// Why nobody is the backup of the guest that is large.
fn unfit() -> Vec<(HostName, Unfit)> {
    let memory = |has| Unfit::Memory { has, needs: 8192 };
    vec![
        (name("ada"), memory(5940)),
        (name("cleo"), memory(512)),
        (name("dora"), Unfit::Draining),
    ]
}

fn host((host, memory_mib): &(&str, u64)) -> HostRecord {
    HostRecord {
        host: claimant(host),
        live: true,
        carries: Capabilities {
            memory_mib: *memory_mib,
            processor: Text::cut("AMD family 23 model 49 stepping 0"),
            instructions: 1,
            paging: Paging::Shadow,
            exports: [].into(),
        },
        role: Role::Host(Tended {
            processes: [].into(),
            ended: Vec::new(),
            machine: Text::cut(""),
            console: ([0, 0, 0, 0], 7422).into(),
        }),
        proposed: false,
        unfit: (*host == "dora").then_some(Unfit::Draining),
    }
}

/// What happened to the guest `db`.
pub(super) fn history() -> Vec<Entry> {
    let vm: VmName = name("db");
    let view = |view, primary: &str, backup: Option<&str>| What::View {
        view,
        primary: Some(claimant(primary)),
        backup: backup.map(claimant),
    };
    let state = |reason| What::State(State::NotProtected(reason));
    let happened = [
        (
            190_700,
            What::Ended {
                host: name("ada"),
                status: None,
                reason: Text::cut("killed by SIGKILL"),
            },
        ),
        (
            190_000,
            What::Failover {
                view: 5,
                outage_ms: 640,
                from: Some(name("ada")),
                to: name("bob"),
                cause: Some(Cause::Loss {}),
            },
        ),
        (190_000, view(5, "bob", None)),
        (189_000, state(Reason::Starting {})),
        (186_000, state(Reason::Joining { percent: 0 })),
        (171_000, view(6, "bob", Some("ada"))),
        (170_000, What::State(State::Protected)),
    ];
    let entry = |(number, (before, what))| Entry {
        number,
        unix_ms: START - before,
        subject: Subject::Vm(vm.clone()),
        what,
    };
    (40..).zip(happened).map(entry).collect()
}
