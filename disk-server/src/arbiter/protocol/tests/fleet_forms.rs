//! What operators ask and are answered, on the wire.

use super::*;
use crate::fleet::{
    Answer, Cause, Definition, Entry, Failover, Failure, HostVerb, Image, ImageDigest, LagBounds,
    MAX_DEFINITION, MAX_UNFIT, Member, NamedHosts, Placement, Reason, State, Subject, Verb,
    VmStatus, What,
};

fn host_name() -> impl Strategy<Value = HostName> {
    "[!-.0-~]{1,64}".prop_map(|name| name.parse().unwrap())
}

fn image() -> impl Strategy<Value = Image> {
    ("/[ -~]{0,99}", any::<[u8; 32]>()).prop_map(|(path, digest)| Image {
        path,
        sha256: ImageDigest(digest),
    })
}

fn definition() -> impl Strategy<Value = Definition> {
    let export = prop::option::of("[A-Za-z0-9._-]{1,64}");
    let numbers = (any::<u64>(), prop::option::of(any::<u64>()));
    let images = (image(), prop::option::of(image()));
    let texts = ("[ -~]{0,99}", prop::option::of("nbd://[a-z]{1,30}"));
    let hosts = prop::option::of(prop::collection::btree_set(host_name(), 1..4));
    let bounds = (any::<[u64; 2]>(), hosts);
    (vm(), images, texts, export, numbers, bounds).prop_map(
        |(vm, (kernel, initrd), (append, disk), export, (memory_mib, timeout), (lag, hosts))| {
            Definition {
                vm,
                memory_mib,
                kernel,
                initrd,
                append,
                mac: "52:54:00:00:00:01".to_owned(),
                clock: "host".to_owned(),
                disk,
                export: export.map(|name| name.parse().unwrap()),
                heartbeat_timeout_ms: timeout,
                lag: LagBounds {
                    yellow_ms: lag[0],
                    red_ms: lag[1],
                },
                hosts: hosts.map_or_else(NamedHosts::default, NamedHosts::from_iter),
            }
        },
    )
}

fn verb() -> impl Strategy<Value = Verb> {
    prop_oneof![
        any::<bool>().prop_map(|force| Verb::Start { force }),
        Just(Verb::Stop {}),
        Just(Verb::Failover {}),
        Just(Verb::TestFailover {}),
        Just(Verb::RestartBackup {}),
        host_name().prop_map(|to| Verb::MigrateBackup { to }),
        host_name().prop_map(|to| Verb::MigratePrimary { to }),
        Just(Verb::SuspendProtection {}),
        Just(Verb::ResumeProtection {}),
    ]
}

pub(super) fn operation() -> impl Strategy<Value = Operation> {
    let host_verb = prop_oneof![Just(HostVerb::Drain), Just(HostVerb::Undrain)];
    let by = text;
    prop_oneof![
        (definition(), by()).prop_map(|(definition, by)| Operation::Define {
            definition: Box::new(definition),
            by,
        }),
        (vm(), by()).prop_map(|(vm, by)| Operation::Undefine { vm, by }),
        vm().prop_map(|vm| Operation::Definition { vm }),
        (vm(), verb(), by()).prop_map(|(vm, verb, by)| Operation::Guest { vm, verb, by }),
        (host_name(), host_verb.clone(), by()).prop_map(|(host, verb, by)| Operation::Host {
            host,
            verb,
            by
        }),
        (host_name(), host_verb).prop_map(|(host, verb)| Operation::OwnHost { host, verb }),
        vm().prop_map(|vm| Operation::Status { vm }),
        prop::option::of(vm()).prop_map(|after| Operation::List { after }),
        (prop::option::of(vm()), prop::option::of(any::<u64>()))
            .prop_map(|(vm, before)| Operation::History { vm, before }),
    ]
}

fn unfit() -> impl Strategy<Value = Unfit> {
    prop_oneof![
        Just(Unfit::Dead),
        Just(Unfit::HasRole),
        (any::<u64>(), any::<u64>()).prop_map(|(has, needs)| Unfit::Memory { has, needs }),
        (text(), text()).prop_map(|(has, needs)| Unfit::Processor { has, needs }),
        text().prop_map(Unfit::Declined),
        text().prop_map(Unfit::Unreached),
        Just(Unfit::NotNamed),
        Just(Unfit::Draining),
        host_name().prop_map(Unfit::NotChosen),
    ]
}

fn state() -> impl Strategy<Value = State> {
    let unfit = prop::collection::vec((host_name(), unfit()), 0..=MAX_UNFIT);
    let reason = prop_oneof![
        Just(Reason::Starting {}),
        unfit.prop_map(|unfit| Reason::NoIdleHost { unfit }),
        any::<u8>().prop_map(|percent| Reason::Joining { percent }),
        Just(Reason::Diverged {}),
        any::<u64>().prop_map(|lag_ms| Reason::Lagging { lag_ms }),
        (host_name(), text()).prop_map(|(host, error)| Reason::LoggingNetworkDown { host, error }),
        text().prop_map(|by| Reason::Suspended { by }),
        Just(Reason::ServiceUnreachable {}),
        prop::collection::vec(host_name(), 1..3).prop_map(|hosts| Reason::Unknown { hosts }),
        Just(Reason::Stopping {}),
    ];
    let reason = reason.boxed();
    prop_oneof![
        prop::option::of(text()).prop_map(|reason| State::Stopped { reason }),
        reason.clone().prop_map(State::NotRunning),
        Just(State::Protected),
        reason.prop_map(State::NotProtected),
    ]
}

fn member() -> impl Strategy<Value = Option<Member>> {
    let member = (
        host_name(),
        claimant(),
        any::<bool>(),
        prop::option::of(address()),
    );
    prop::option::of(member.prop_map(|(host, claimant, live, console)| Member {
        host,
        claimant,
        live,
        console,
    }))
}

fn status() -> impl Strategy<Value = VmStatus> {
    let placement = (member(), member());
    let placement = placement.prop_map(|(primary, backup)| Placement { primary, backup });
    let failover = prop::option::of(any::<[u64; 3]>());
    let failure = (any::<u64>(), host_name(), any::<Option<i32>>(), text());
    let failure = failure.prop_map(|(unix_ms, host, status, reason)| Failure {
        unix_ms,
        host,
        status,
        reason,
    });
    let last = (failover, prop::option::of(failure));
    let pending = prop::option::of((any::<u64>(), text()));
    let more = (prop::option::of(any::<[u64; 2]>()), last, pending);
    (
        vm(),
        any::<bool>(),
        state(),
        any::<[u64; 2]>(),
        placement,
        more,
    )
        .prop_map(
            |(
                vm,
                defined,
                state,
                [view, red_ms],
                placement,
                (flow, (failover, last_failure), pending),
            )| VmStatus {
                vm,
                defined,
                state,
                view,
                placement,
                lag_ms: flow.map(|[lag_ms, _]| lag_ms),
                lag: LagBounds {
                    red_ms,
                    ..LagBounds::default()
                },
                log_bytes_per_second: flow.map(|[_, rate]| rate),
                last_failover: failover.map(|[unix_ms, view, outage_ms]| Failover {
                    unix_ms,
                    view,
                    outage_ms,
                }),
                last_failure,
                pending,
            },
        )
}

fn cause() -> impl Strategy<Value = Cause> {
    prop_oneof![
        any::<u64>().prop_map(Cause::Order),
        any::<u64>().prop_map(Cause::Drain),
        Just(Cause::Loss {}),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    let subject = prop_oneof![
        vm().prop_map(Subject::Vm),
        host_name().prop_map(Subject::Host)
    ];
    let failover = (
        any::<[u64; 2]>(),
        prop::option::of(host_name()),
        host_name(),
    );
    let members = (prop::option::of(claimant()), prop::option::of(claimant()));
    let what = prop_oneof![
        (text(), text(), any::<u64>()).prop_map(|(by, what, order)| What::Ordered {
            by,
            what,
            order
        }),
        (any::<u64>(), text()).prop_map(|(order, how)| What::Done { order, how }),
        (any::<u64>(), text()).prop_map(|(order, why)| What::Failed { order, why }),
        (any::<u64>(), text()).prop_map(|(order, why)| What::Deferred { order, why }),
        (any::<u64>(), members).prop_map(|(view, (primary, backup))| What::View {
            view,
            primary,
            backup
        }),
        state().prop_map(What::State),
        (failover, prop::option::of(cause())).prop_map(|(([view, outage_ms], from, to), cause)| {
            What::Failover {
                view,
                outage_ms,
                from,
                to,
                cause,
            }
        }),
        (host_name(), prop::option::of(any::<i32>()), text()).prop_map(|(host, status, reason)| {
            What::Ended {
                host,
                status,
                reason,
            }
        }),
        Just(What::Live {}),
        Just(What::Dead {}),
    ];
    (any::<u64>(), any::<u64>(), subject, what).prop_map(|(number, unix_ms, subject, what)| Entry {
        number,
        unix_ms,
        subject,
        what,
    })
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        any::<u64>().prop_map(|order| Answer::Accepted { order }),
        definition().prop_map(|it| Answer::Definition(Box::new(it))),
        status().prop_map(|it| Answer::Status(Box::new(it))),
        (prop::collection::vec(status(), 0..3), any::<bool>())
            .prop_map(|(vms, more)| Answer::Guests { vms, more }),
        (prop::collection::vec(entry(), 0..3), any::<bool>())
            .prop_map(|(entries, more)| Answer::History { entries, more }),
    ]
}

proptest! {
    #[test]
    fn answers_survive_the_wire(outcome in answer()) {
        let response = Response::Operated { outcome };
        let back: Response = serde_json::from_slice(&encode(&response)).unwrap();
        prop_assert_eq!(back, response);
    }
}

fn backslashes<T: std::str::FromStr<Err: std::fmt::Debug>>(len: usize) -> T {
    "\\".repeat(len).parse().unwrap()
}

#[test]
fn the_longest_of_everything_fits_into_a_line() {
    let text = || Text::cut(&"\\".repeat(MAX_TEXT));
    let unfit = || Unfit::Processor {
        has: text(),
        needs: text(),
    };
    let host = || backslashes::<HostName>(HostName::MAX_LEN);
    let claimant = || backslashes::<Claimant>(Claimant::MAX_LEN);
    let address = "[1111:1111:1111:1111:1111:1111:1111:1111]:65535";
    let state = State::NotProtected(Reason::NoIdleHost {
        unfit: vec![(host(), unfit()); MAX_UNFIT],
    });
    let member = || {
        Some(Member {
            host: host(),
            claimant: claimant(),
            live: false,
            console: Some(address.parse().unwrap()),
        })
    };
    let vm = || backslashes::<VmName>(VmName::MAX_LEN);
    let status = VmStatus {
        vm: vm(),
        defined: false,
        state: state.clone(),
        view: u64::MAX,
        placement: Placement {
            primary: member(),
            backup: member(),
        },
        lag_ms: Some(u64::MAX),
        lag: LagBounds {
            yellow_ms: u64::MAX,
            red_ms: u64::MAX,
        },
        log_bytes_per_second: Some(u64::MAX),
        last_failover: Some(Failover {
            unix_ms: u64::MAX,
            view: u64::MAX,
            outage_ms: u64::MAX,
        }),
        last_failure: Some(Failure {
            unix_ms: u64::MAX,
            host: host(),
            status: Some(i32::MIN),
            reason: text(),
        }),
        pending: Some((u64::MAX, text())),
    };
    let entry = Entry {
        number: u64::MAX,
        unix_ms: u64::MAX,
        subject: Subject::Vm(vm()),
        what: What::State(state),
    };
    let (vms, more) = page(std::iter::repeat_n(status, 50));
    assert!(!vms.is_empty() && more);
    let outcome = Answer::Guests { vms, more };
    assert!(encode(&Response::Operated { outcome }).len() <= MAX_LINE);
    let (entries, more) = page(std::iter::repeat_n(entry, 50));
    assert!(!entries.is_empty() && more);
    let outcome = Answer::History { entries, more };
    assert!(encode(&Response::Operated { outcome }).len() <= MAX_LINE);
}

#[test]
fn a_page_of_entries_of_any_length_fits_into_a_line() {
    for len in 0..=MAX_TEXT {
        let entry = Entry {
            number: 1,
            unix_ms: 1,
            subject: Subject::Vm("db".parse().unwrap()),
            what: What::Done {
                order: 1,
                how: Text::cut(&"x".repeat(len)),
            },
        };
        let (entries, more) = page(std::iter::repeat_n(entry, MAX_LINE));
        assert!(more);
        let outcome = Answer::History { entries, more };
        let line = encode(&Response::Operated { outcome });
        assert!(line.len() <= MAX_LINE, "{} bytes", line.len());
    }
}

#[test]
fn the_longest_definition_fits_into_a_line() {
    let image = |path: String| Image {
        path,
        sha256: ImageDigest([0xff; 32]),
    };
    let mut longest = Definition {
        vm: backslashes(VmName::MAX_LEN),
        memory_mib: u64::MAX,
        kernel: image("/k".to_owned()),
        initrd: Some(image("/i".to_owned())),
        append: String::new(),
        mac: "52:54:00:00:00:01".to_owned(),
        clock: "host".to_owned(),
        disk: None,
        export: None,
        heartbeat_timeout_ms: Some(u64::MAX),
        lag: LagBounds::default(),
        hosts: NamedHosts::default(),
    };
    let len = serde_json::to_vec(&longest).unwrap().len();
    longest.append = "x".repeat(MAX_DEFINITION - len);
    longest.check().unwrap();
    let request = Request::Operate {
        operation: Operation::Define {
            definition: Box::new(longest.clone()),
            by: Text::cut(&"\\".repeat(MAX_TEXT)),
        },
    };
    assert!(encode(&request).len() <= MAX_LINE);
    longest.append.push('x');
    let error = longest.check().unwrap_err().to_string();
    assert!(error.contains("shorten"), "{error}");
}

#[test]
fn the_documented_forms_are_the_real_ones() {
    let guest = |verb: &str| {
        format!(
            r#"{{"op":"operate","operation":{{"what":"guest","vm":"db","verb":{verb},"by":"anna@ops1"}}}}"#
        )
    };
    let lines = [
        guest(r#"{"start":{"force":false}}"#),
        guest(r#"{"stop":{}}"#),
        guest(r#"{"failover":{}}"#),
        guest(r#"{"test_failover":{}}"#),
        guest(r#"{"restart_backup":{}}"#),
        guest(r#"{"migrate_backup":{"to":"hostB"}}"#),
        guest(r#"{"migrate_primary":{"to":"hostB"}}"#),
        guest(r#"{"suspend_protection":{}}"#),
        guest(r#"{"resume_protection":{}}"#),
        r#"{"op":"operate","operation":{"what":"undefine","vm":"db","by":"anna@ops1"}}"#.to_owned(),
        r#"{"op":"operate","operation":{"what":"definition","vm":"db"}}"#.to_owned(),
        r#"{"op":"operate","operation":{"what":"host","host":"hostB","verb":"drain","by":"anna@ops1"}}"#
            .to_owned(),
        r#"{"op":"operate","operation":{"what":"own_host","host":"hostB","verb":"undrain"}}"#
            .to_owned(),
        r#"{"op":"operate","operation":{"what":"status","vm":"db"}}"#.to_owned(),
        r#"{"op":"operate","operation":{"what":"list","after":null}}"#.to_owned(),
        r#"{"op":"operate","operation":{"what":"history","vm":null,"before":17}}"#.to_owned(),
    ];
    for line in lines {
        let request: Request = serde_json::from_str(&line).unwrap();
        assert_eq!(String::from_utf8(encode(&request)).unwrap(), line + "\n");
    }
    for bad in [
        r#"{"op":"operate","operation":{"what":"status","vm":"db","more":1}}"#.to_owned(),
        guest(r#"{"stop":{"now":true}}"#),
        guest(r#"{"explode":{}}"#),
    ] {
        assert!(serde_json::from_str::<Request>(&bad).is_err(), "{bad}");
    }
    let accepted = Response::Operated {
        outcome: Answer::Accepted { order: 7 },
    };
    assert_eq!(
        String::from_utf8(encode(&accepted)).unwrap(),
        "{\"answer\":\"operated\",\"outcome\":{\"accepted\":{\"order\":7}}}\n"
    );
}
