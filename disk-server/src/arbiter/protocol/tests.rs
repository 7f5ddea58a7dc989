//! The forms of the wire, as they are documented.

mod fleet_forms;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::*;
use crate::arbiter::HostName;
use crate::views::{
    Capabilities, Cause, Condition, Declined, Ended, MAX_ENDED, MAX_EXPORTS, MAX_PROCESSES,
    MAX_TEXT, Paging, Phase, Proposal, Role, Tended, Text, Unfit, Wanted, WentLive,
};

fn vm() -> impl Strategy<Value = VmName> {
    "[!-~]{1,64}".prop_map(|name| name.parse().unwrap())
}

fn claimant() -> impl Strategy<Value = Claimant> {
    "[!-~]{1,128}".prop_map(|name| name.parse().unwrap())
}

fn next() -> impl Strategy<Value = Next> {
    prop_oneof![
        Just(Next::Start),
        Just(Next::Alone),
        claimant().prop_map(Next::With),
        Just(Next::Stopped),
    ]
}

fn text() -> impl Strategy<Value = Text> {
    "[ -~é]{0,90}".prop_map(|text| Text::cut(&text))
}

fn capabilities() -> impl Strategy<Value = Capabilities> {
    let exports = prop::collection::btree_set("[A-Za-z0-9._-]{1,64}", 0..=MAX_EXPORTS);
    let paging = prop_oneof![Just(Paging::Shadow), Just(Paging::Nested)];
    (any::<u64>(), text(), any::<u32>(), paging, exports).prop_map(
        |(memory_mib, processor, instructions, paging, exports)| Capabilities {
            memory_mib,
            processor,
            instructions,
            paging,
            exports: exports.iter().map(|name| name.parse().unwrap()).collect(),
        },
    )
}

// Without what has no text: an IPv6 address's flow and scope.
fn address() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(SocketAddr::from)
}

fn condition() -> impl Strategy<Value = Condition> {
    let phase = prop_oneof![
        Just(Phase::Starting),
        Just(Phase::Alone),
        (0..=100_u8).prop_map(|percent| Phase::Joining { percent }),
        Just(Phase::Protected),
        Just(Phase::Diverged),
        Just(Phase::Waiting),
    ];
    let went_live = (any::<u64>(), any::<u64>());
    let went_live = went_live.prop_map(|(epoch, outage_ms)| WentLive { epoch, outage_ms });
    let went_live = prop::option::of(went_live);
    (phase, any::<u64>(), any::<u64>(), went_live).prop_map(
        |(phase, lag_ms, log_bytes_per_second, went_live)| Condition {
            phase,
            lag_ms,
            log_bytes_per_second,
            went_live,
        },
    )
}

fn cause() -> impl Strategy<Value = Cause> {
    prop_oneof![Just(Cause::Unreached), Just(Cause::Other)]
}

fn tended() -> impl Strategy<Value = Tended> {
    let processes =
        prop::collection::btree_map(vm(), prop::option::of(claimant()), 0..=MAX_PROCESSES);
    let status = prop::option::of(any::<i32>());
    let ended = (any::<u64>(), vm(), status, cause(), text());
    let ended = ended.prop_map(|(number, vm, status, cause, reason)| Ended {
        number,
        vm,
        status,
        cause,
        reason,
    });
    let ended = prop::collection::vec(ended, 0..=MAX_ENDED);
    let all = (processes, ended, text(), address());
    all.prop_map(|(processes, ended, machine, console)| Tended {
        processes,
        ended,
        machine,
        console,
    })
}

fn role() -> impl Strategy<Value = Role> {
    let declined = (any::<u64>(), cause(), text());
    let declined = declined.prop_map(|(view, cause, reason)| Declined {
        view,
        cause,
        reason,
    });
    let wanted = (address(), capabilities());
    let wanted = wanted.prop_map(|(address, needs)| Wanted { address, needs });
    prop_oneof![
        tended().prop_map(Role::Host),
        (vm(), prop::option::of(declined)).prop_map(|(vm, declined)| Role::Idle { vm, declined }),
        (vm(), any::<u64>(), prop::option::of(wanted), condition()).prop_map(
            |(vm, epoch, wants, condition)| Role::Primary {
                vm,
                epoch,
                wants,
                condition,
            }
        ),
        (vm(), any::<u64>(), condition()).prop_map(|(vm, epoch, condition)| Role::Backup {
            vm,
            epoch,
            condition
        }),
    ]
}

fn ping() -> impl Strategy<Value = Ping> {
    (claimant(), any::<u64>(), capabilities(), role()).prop_map(|(host, number, carries, role)| {
        Ping {
            host,
            number,
            carries,
            role,
        }
    })
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (vm(), 0..crate::arbiter::MAX_EPOCH, claimant(), next()).prop_map(
            |(vm, expected_epoch, claimant, next)| Request::CompareAndSet {
                vm,
                expected_epoch,
                claimant,
                next,
            }
        ),
        (vm(), 0..=crate::arbiter::MAX_EPOCH, claimant())
            .prop_map(|(vm, epoch, holder)| Request::Acknowledge { vm, epoch, holder }),
        vm().prop_map(|vm| Request::Read { vm }),
        vm().prop_map(|vm| Request::Forget { vm }),
        prop::option::of(vm()).prop_map(|after| Request::List { after }),
        prop::option::of("[A-Za-z0-9._-]{1,64}").prop_map(|after| Request::ListExports {
            after: after.map(|name| name.parse().unwrap()),
        }),
        prop::option::of(claimant()).prop_map(|after| Request::ListHosts { after }),
        ping().prop_map(Request::Ping),
        fleet_forms::operation().prop_map(|operation| Request::Operate { operation }),
        Just(Request::Echo {}),
    ]
}

proptest! {
    #[test]
    fn requests_survive_the_wire(request in request()) {
        let line = encode(&request);
        prop_assert!(line.len() <= MAX_LINE);
        prop_assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
        let back: Request = serde_json::from_slice(&line).unwrap();
        prop_assert_eq!(back, request);
    }

    #[test]
    fn no_line_makes_the_decoder_panic(line in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = serde_json::from_slice::<Request>(&line);
        let _ = serde_json::from_slice::<Response>(&line);
        let _ = serde_json::from_slice::<Greeting>(&line);
    }
}

#[test]
fn the_documented_forms_are_the_real_ones() {
    let request: Request = serde_json::from_str(
        r#"{"op":"compare_and_set","vm":"db","expected_epoch":4,"claimant":"a/1","next":{"with":"b/2"}}"#,
    )
    .unwrap();
    assert!(matches!(
        request,
        Request::CompareAndSet {
            expected_epoch: 4,
            next: Next::With(_),
            ..
        }
    ));
    for ok in [
        r#"{"op":"list"}"#,
        r#"{"op":"list","after":"db"}"#,
        r#"{"op":"list_exports"}"#,
        r#"{"op":"list_exports","after":"disk"}"#,
        r#"{"op":"list_hosts"}"#,
        r#"{"op":"list_hosts","after":"a/1"}"#,
        r#"{"op":"echo"}"#,
    ] {
        serde_json::from_str::<Request>(ok).unwrap();
    }
    for bad in [
        r#"{"op":"read","vm":"db","force":true}"#,
        r#"{"op":"read","vm":"a b"}"#,
        r#"{"op":"read"}"#,
        r#"{"op":"echo","x":1}"#,
        r#"{"op":"ping"}"#,
        r#"{"op":"compare_and_set","vm":"db","expected_epoch":1,"claimant":"a/1"}"#,
        r#"{"op":"compare_and_set","vm":"db","expected_epoch":1,"claimant":"a/1","next":"both"}"#,
        r#"{"op":"compare_and_set","vm":"db","expected_epoch":-1,"claimant":"a/1","next":"alone"}"#,
        r#"{"op":"compare_and_set","vm":"db","expected_epoch":1.5,"claimant":"a/1","next":"alone"}"#,
    ] {
        assert!(serde_json::from_str::<Request>(bad).is_err(), "{bad}");
    }
    let lost = Response::Lost {
        epoch: 0,
        holder: None,
    };
    assert_eq!(
        encode(&lost),
        b"{\"answer\":\"lost\",\"epoch\":0,\"holder\":null}\n"
    );
    assert_eq!(encode(&Response::Echo {}), b"{\"answer\":\"echo\"}\n");
    let record = Response::Record(Record {
        backup: Some("b/2".parse().unwrap()),
        ..Record::held(4, "a/1".parse().unwrap())
    });
    let line = "{\"answer\":\"record\",\"epoch\":4,\"holder\":\"a/1\",\"backup\":\"b/2\",\
                \"acknowledged\":false}\n";
    assert_eq!(String::from_utf8(encode(&record)).unwrap(), line);
    let later = r#"{"answer":"error","code":"moon_phase","message":"m","more":1}"#;
    assert!(matches!(
        serde_json::from_str::<Response>(later).unwrap(),
        Response::Error {
            code: ErrorCode::Unknown,
            ..
        }
    ));
}

#[test]
fn a_server_says_which_one_it_is_and_a_client_does_not() {
    let line = encode(&Greeting::of(ServerNumber(0xabc)));
    let with = "{\"ftvm\":\"arbiter\",\"version\":4,\"server\":\"0000000000000abc\"}\n";
    assert_eq!(line, with.as_bytes());
    let without = "{\"ftvm\":\"arbiter\",\"version\":4}\n";
    assert_eq!(encode(&Greeting::ours()), without.as_bytes());
    let older: Greeting = serde_json::from_str(without).unwrap();
    assert_eq!(older, Greeting::ours());
}

#[test]
fn a_full_page_fits_into_a_line() {
    let worst = VmRecord {
        vm: "\"".repeat(VmName::MAX_LEN).parse().unwrap(),
        record: Record {
            backup: Some("\\".repeat(Claimant::MAX_LEN).parse().unwrap()),
            ..Record::held(
                crate::arbiter::MAX_EPOCH,
                "\\".repeat(Claimant::MAX_LEN).parse().unwrap(),
            )
        },
    };
    let page = Response::Page {
        vms: vec![worst; PAGE],
        more: false,
    };
    assert!(encode(&page).len() <= MAX_LINE);
}

#[test]
fn a_page_of_exports_fits_into_a_line_and_has_one_at_least() {
    let record = |path: usize| ExportRecord {
        name: "x".repeat(ExportName::MAX_LEN).parse().unwrap(),
        path: Some("\"".repeat(path)),
        size: u64::MAX,
        read_only: false,
        owner: Some(Owner {
            vm: "\\".repeat(VmName::MAX_LEN).parse().unwrap(),
            epoch: crate::arbiter::MAX_EPOCH,
            runs: false,
        }),
        connections: u64::MAX,
        refused_requests: u64::MAX,
        refused_connections: u64::MAX,
    };
    // The longest path that is told is of 1024 bytes and an ellipsis.
    for (path, fit) in [(1027, 1), (0, 6)] {
        let (exports, more) = page(std::iter::repeat_n(record(path), 50));
        assert!(exports.len() >= fit && more, "{} exports", exports.len());
        assert!(encode(&Response::Exports { exports, more }).len() <= MAX_LINE);
    }
    assert!(!page(std::iter::once(record(1027))).1);
}

#[test]
fn the_documented_forms_of_pings_are_the_real_ones() {
    let carries = r#"{"memory_mib":3412,"processor":"AMD family 23 model 49 stepping 0","instructions":305419896,"paging":"shadow","exports":["db"]}"#;
    let condition = r#"{"phase":"protected","lag_ms":3,"log_bytes_per_second":410000,"went_live":{"epoch":3,"outage_ms":812}}"#;
    let joins = r#"{"phase":{"joining":{"percent":40}},"lag_ms":0,"log_bytes_per_second":0,"went_live":null}"#;
    for role in [
        r#"{"idle":{"vm":"db","declined":null}}"#,
        r#"{"idle":{"vm":"db","declined":{"view":3,"cause":"unreached","reason":"connection refused"}}}"#,
        &format!(r#"{{"backup":{{"vm":"db","epoch":3,"condition":{joins}}}}}"#),
        &format!(r#"{{"primary":{{"vm":"db","epoch":3,"wants":null,"condition":{condition}}}}}"#),
        &format!(
            r#"{{"primary":{{"vm":"db","epoch":3,"wants":{{"address":"0.0.0.0:7421","needs":{carries}}},"condition":{condition}}}}}"#
        ),
        r#"{"host":{"processes":{"db":"hostB/90c1","web":null},"ended":[{"number":7,"vm":"ci","status":1,"cause":"other","reason":"no such image"}],"machine":"b08dfa6083e7567a1921a715000001fb","console":"0.0.0.0:7422"}}"#,
    ] {
        let line = format!(
            r#"{{"op":"ping","host":"hostB/77aa","number":12,"carries":{carries},"role":{role}}}"#
        );
        let request: Request = serde_json::from_str(&line).unwrap();
        assert_eq!(String::from_utf8(encode(&request)).unwrap(), line + "\n");
        let more = format!(
            r#"{{"op":"ping","more":1,"host":"hostB/77aa","number":12,"carries":{carries},"role":{role}}}"#
        );
        assert!(serde_json::from_str::<Request>(&more).is_err(), "{more}");
    }
    let record = Record::held(3, "hostA/1f0c".parse().unwrap());
    let join = Order::Join(Box::new(Proposal {
        vm: "db".parse().unwrap(),
        view: 3,
        primary: "hostA/1f0c".parse().unwrap(),
        address: "192.0.2.1:7421".parse().unwrap(),
    }));
    let start = Order::Start {
        vm: "db".parse().unwrap(),
        epoch: 4,
    };
    for (order, form) in [
        (
            Some(join),
            r#"{"join":{"vm":"db","view":3,"primary":"hostA/1f0c","address":"192.0.2.1:7421"}}"#,
        ),
        (Some(start), r#"{"start":{"vm":"db","epoch":4}}"#),
        (
            Some(Order::HandOver { view: 3 }),
            r#"{"hand_over":{"view":3}}"#,
        ),
        (Some(Order::Leave {}), r#"{"leave":{}}"#),
        (Some(Order::Stop {}), r#"{"stop":{}}"#),
        (Some(Order::Die { view: 3 }), r#"{"die":{"view":3}}"#),
        (None, "null"),
    ] {
        let pinged = Response::Pinged {
            record: Some(record.clone()),
            order,
        };
        let line = format!(
            r#"{{"answer":"pinged","record":{{"epoch":3,"holder":"hostA/1f0c","backup":null,"acknowledged":false}},"order":{form}}}"#
        );
        assert_eq!(String::from_utf8(encode(&pinged)).unwrap(), line + "\n");
    }
}

#[test]
fn a_host_tells_of_no_more_guests_and_ends_than_it_may() {
    let ended = |number| Ended {
        number,
        vm: "db".parse().unwrap(),
        status: None,
        cause: Cause::Other,
        reason: Text::cut(""),
    };
    let tended = |processes: usize, ended_: u64| Tended {
        processes: (0..processes)
            .map(|n| (format!("vm{n}").parse().unwrap(), None))
            .collect(),
        ended: (0..ended_).map(ended).collect(),
        machine: Text::cut(""),
        console: "0.0.0.0:7422".parse().unwrap(),
    };
    for (processes, ended, taken) in [
        (MAX_PROCESSES, MAX_ENDED as u64, true),
        (MAX_PROCESSES + 1, 0, false),
        (0, MAX_ENDED as u64 + 1, false),
    ] {
        let json = serde_json::to_vec(&tended(processes, ended)).unwrap();
        assert_eq!(serde_json::from_slice::<Tended>(&json).is_ok(), taken);
    }
}

#[test]
fn the_longest_host_fits_into_a_line_of_its_ping_and_of_a_list() {
    let exports: BTreeSet<ExportName> = (0..MAX_EXPORTS)
        .map(|n| format!("{n:064}").parse().unwrap())
        .collect();
    let text = || Text::cut(&"\\".repeat(MAX_TEXT));
    let vm = || "\\".repeat(VmName::MAX_LEN).parse().unwrap();
    let host: Claimant = "\\".repeat(Claimant::MAX_LEN).parse().unwrap();
    let address = "[1111:1111:1111:1111:1111:1111:1111:1111]:65535";
    let carries = Capabilities {
        memory_mib: u64::MAX,
        processor: text(),
        instructions: u32::MAX,
        paging: Paging::Shadow,
        exports,
    };
    let condition = Condition {
        phase: Phase::Joining { percent: u8::MAX },
        lag_ms: u64::MAX,
        log_bytes_per_second: u64::MAX,
        went_live: Some(WentLive {
            epoch: u64::MAX,
            outage_ms: u64::MAX,
        }),
    };
    let idle = Role::Idle {
        vm: vm(),
        declined: Some(Declined {
            view: u64::MAX,
            cause: Cause::Unreached,
            reason: text(),
        }),
    };
    let primary = Role::Primary {
        vm: vm(),
        epoch: u64::MAX,
        wants: Some(Wanted {
            address: address.parse().unwrap(),
            needs: carries.clone(),
        }),
        condition,
    };
    let ended = Ended {
        number: u64::MAX,
        vm: vm(),
        status: Some(i32::MIN),
        cause: Cause::Unreached,
        reason: text(),
    };
    let process = |n: usize| {
        let name = format!("{n:02}{}", "\\".repeat(VmName::MAX_LEN - 2));
        (name.parse().unwrap(), Some(host.clone()))
    };
    let daemon = Role::Host(Tended {
        processes: (0..MAX_PROCESSES).map(process).collect(),
        ended: vec![ended; MAX_ENDED],
        machine: text(),
        console: address.parse().unwrap(),
    });
    for role in [idle, primary, daemon] {
        let ping = Request::Ping(Ping {
            host: host.clone(),
            number: u64::MAX,
            carries: carries.clone(),
            role: role.clone(),
        });
        assert!(encode(&ping).len() <= MAX_LINE, "{}", encode(&ping).len());
        // A daemon is of no guest, for which it would not fit.
        let unfit = role.vm().is_some().then(|| Unfit::Processor {
            has: text(),
            needs: text(),
        });
        let record = HostRecord {
            host: host.clone(),
            live: false,
            carries: carries.clone(),
            role,
            proposed: false,
            unfit,
        };
        let (hosts, more) = page(std::iter::repeat_n(record, 50));
        assert!(!hosts.is_empty() && more);
        assert!(encode(&Response::Hosts { hosts, more }).len() <= MAX_LINE);
    }
}
