//! The fleet in a real process: an operator, a daemon, a primary and a backup that a test plays, and a service that
//! is killed in between.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use disk_server::arbiter::{Arbiter, Claim, Claimant, Next, Record};
use disk_server::fleet::{
    Answer, Definition, Entry, Image, ImageDigest, LagBounds, NamedHosts, Operation, Order, State,
    Verb, VmStatus, What,
};
use disk_server::views::{Condition, Phase, Ping, Role, Tended, Text, Wanted};

use crate::support::{Process, until};
use crate::views::capabilities;

fn vm() -> disk_server::arbiter::VmName {
    "db".parse().unwrap()
}

fn by() -> Text {
    Text::cut("anna@ops1")
}

/// The guest `db`.
pub(crate) fn definition() -> Definition {
    Definition {
        vm: vm(),
        memory_mib: 256,
        kernel: Image {
            path: "/images/kernel".to_owned(),
            sha256: ImageDigest([7; 32]),
        },
        initrd: None,
        append: String::new(),
        mac: "52:54:00:00:00:01".to_owned(),
        clock: "host".to_owned(),
        disk: None,
        export: None,
        heartbeat_timeout_ms: None,
        lag: LagBounds::default(),
        hosts: NamedHosts::default(),
    }
}

/// A run of ftvm, as far as the service knows it.
struct Run {
    claimant: Claimant,
    number: u64,
}

impl Run {
    fn new(claimant: &str) -> Run {
        Run {
            claimant: claimant.parse().unwrap(),
            number: 0,
        }
    }

    fn ping(&mut self, arbiter: &Arbiter, role: Role) -> (Option<Record>, Option<Order>) {
        self.number += 1;
        let ping = Ping {
            host: self.claimant.clone(),
            number: self.number,
            carries: capabilities(4096),
            role,
        };
        arbiter.ping(&ping).unwrap()
    }
}

fn daemon(process: Option<&Run>) -> Role {
    let process = process.map(|it| (vm(), Some(it.claimant.clone())));
    Role::Host(Tended {
        processes: BTreeMap::from_iter(process),
        ended: Vec::new(),
        machine: Text::cut("a machine"),
        console: "0.0.0.0:7422".parse().unwrap(),
    })
}

fn primary(epoch: u64, phase: Phase) -> Role {
    let wants = (phase == Phase::Alone).then(|| Wanted {
        address: "0.0.0.0:7430".parse().unwrap(),
        needs: capabilities(256),
    });
    let condition = Condition {
        phase,
        ..Condition::default()
    };
    Role::Primary {
        vm: vm(),
        epoch,
        wants,
        condition,
    }
}

fn verb(arbiter: &Arbiter, verb: Verb) -> u64 {
    let (vm, by) = (vm(), by());
    match arbiter.operate(Operation::Guest { vm, verb, by }).unwrap() {
        Answer::Accepted { order } => order,
        other => panic!("{other:?}"),
    }
}

fn status(arbiter: &Arbiter) -> VmStatus {
    match arbiter.operate(Operation::Status { vm: vm() }).unwrap() {
        Answer::Status(status) => *status,
        other => panic!("{other:?}"),
    }
}

fn history(arbiter: &Arbiter) -> Vec<Entry> {
    let (vm, before) = (None, None);
    match arbiter.operate(Operation::History { vm, before }).unwrap() {
        Answer::History { entries, .. } => entries,
        other => panic!("{other:?}"),
    }
}

fn claim(arbiter: &Arbiter, epoch: u64, run: &Run, next: Next) {
    let never = AtomicBool::new(false);
    let claimed = arbiter.claim(&vm(), epoch, (&run.claimant, next), &never, |_| {});
    assert_eq!(claimed.unwrap(), Claim::Won { epoch: epoch + 1 });
}

#[test]
fn a_guest_is_defined_started_protected_and_stopped_through_a_crash_of_the_service() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Process::start("127.0.0.1:0", directory.path());
    let arbiter = server.arbiter();
    let unknown = arbiter.operate(Operation::Status { vm: vm() }).unwrap_err();
    assert!(unknown.to_string().contains("ftvm vm define"), "{unknown}");
    let definition = definition();
    let define = Operation::Define {
        definition: Box::new(definition.clone()),
        by: by(),
    };
    arbiter.operate(define).unwrap();
    let start = verb(&arbiter, Verb::Start { force: false });
    // What was accepted survives, and a journal entry that was cut does no harm.
    server.kill();
    let server = Process::start("127.0.0.1:0", directory.path());
    let arbiter = server.arbiter();
    let kept = arbiter.operate(Operation::Definition { vm: vm() }).unwrap();
    assert_eq!(kept, Answer::Definition(Box::new(definition)));
    assert_eq!(status(&arbiter).pending.unwrap().0, start);

    let (mut host_a, mut host_b) = (Run::new("a/1"), Run::new("b/1"));
    let mut order = None;
    until("the start is ordered", || {
        let (record, told) = host_a.ping(&arbiter, daemon(None));
        assert_eq!(record, None, "a daemon is of no guest");
        order = told;
        order.is_some()
    });
    let (vm, epoch) = (vm(), 0);
    assert_eq!(order, Some(Order::Start { vm, epoch }));
    let mut runs = Run::new("a/2");
    claim(&arbiter, 0, &runs, Next::Start);
    let mut order = None;
    until("a backup is proposed", || {
        host_a.ping(&arbiter, daemon(Some(&runs)));
        runs.ping(&arbiter, primary(1, Phase::Alone));
        order = host_b.ping(&arbiter, daemon(None)).1;
        order.is_some()
    });
    let Some(Order::Join(proposal)) = order else {
        panic!("{order:?}");
    };
    assert_eq!(proposal.address, "127.0.0.1:7430".parse().unwrap());
    let follows = Run::new("b/2");
    claim(&arbiter, 1, &runs, Next::With(follows.claimant.clone()));
    arbiter.acknowledge(&self::vm(), 2, &runs.claimant).unwrap();
    until("it is protected", || {
        host_a.ping(&arbiter, daemon(Some(&runs)));
        host_b.ping(&arbiter, daemon(Some(&follows)));
        runs.ping(&arbiter, primary(2, Phase::Protected));
        status(&arbiter).state == State::Protected
    });
    let placement = status(&arbiter).placement;
    assert_eq!(
        placement.primary.unwrap().console,
        "127.0.0.1:7422".parse().ok()
    );
    assert_eq!(placement.backup.unwrap().host.as_str(), "b");

    let stop = verb(&arbiter, Verb::Stop {});
    let (_, order) = runs.ping(&arbiter, primary(2, Phase::Protected));
    assert_eq!(order, Some(Order::Stop {}));
    claim(&arbiter, 2, &runs, Next::Stopped);
    let is_done = |order: u64| {
        let done =
            |entry: &Entry| matches!(entry.what, What::Done { order: it, .. } if it == order);
        history(&arbiter).iter().any(done)
    };
    until("it is stopped", || {
        host_a.ping(&arbiter, daemon(None));
        host_b.ping(&arbiter, daemon(None));
        is_done(stop)
    });
    assert!(is_done(start));
    assert_eq!(status(&arbiter).state, State::Stopped { reason: None });
    let (vm, by) = (self::vm(), by());
    arbiter.operate(Operation::Undefine { vm, by }).unwrap();
    assert_eq!(arbiter.list().unwrap(), [], "nor has the arbiter a record");
    let numbers: Vec<u64> = history(&arbiter).iter().map(|it| it.number).collect();
    assert!(numbers.is_sorted_by(|a, b| a > b) && numbers.last() == Some(&1));
}
