//! The view service in a real process: hosts ping, an idle one is proposed, and all of it again after a
//! crash, where the state was moved to another place.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use disk_server::arbiter::{Arbiter, Claimant, Next};
use disk_server::fleet::Order;
use disk_server::views::{
    Capabilities, Condition, MAX_HOSTS, Paging, Ping, Proposal, Role, Text, Wanted,
};
use nix::sys::signal::Signal;

use crate::support::{self, Process, until};

/// A host, which numbers its pings.
struct Host {
    name: Claimant,
    number: u64,
    role: Role,
    memory_mib: u64,
}

impl Host {
    fn new(name: &str, memory_mib: u64, role: Role) -> Host {
        Host {
            name: name.parse().unwrap(),
            number: 0,
            role,
            memory_mib,
        }
    }

    fn next(&mut self) -> Ping {
        self.number += 1;
        Ping {
            host: self.name.clone(),
            number: self.number,
            carries: capabilities(self.memory_mib),
            role: self.role.clone(),
        }
    }

    fn ping(&mut self, arbiter: &Arbiter) -> Option<Proposal> {
        let (record, order) = arbiter.ping(&self.next()).unwrap();
        let record = record.expect("it is of a guest");
        assert_eq!(
            (record.epoch, record.holder),
            (1, Some("a/1".parse().unwrap()))
        );
        order.map(|order| match order {
            Order::Join(proposal) => *proposal,
            other => panic!("an order that nobody gave: {other:?}"),
        })
    }
}

pub(crate) fn capabilities(memory_mib: u64) -> Capabilities {
    Capabilities {
        memory_mib,
        processor: Text::cut("a processor"),
        instructions: 7,
        paging: Paging::Shadow,
        exports: BTreeSet::new(),
    }
}

fn status(server: &Process) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_disk-server"))
        .args(["status", "--plain", "--server", &server.address.to_string()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn an_idle_host_is_proposed_and_again_by_a_service_that_was_moved() {
    let directory = tempfile::tempdir().unwrap();
    let (here, there) = (
        directory.path().join("here"),
        directory.path().join("there"),
    );
    let mut server = Process::start("127.0.0.1:0", &here);
    let vm = "db".parse().unwrap();
    let primary = "a/1".parse().unwrap();
    let never = AtomicBool::new(false);
    let claim = (&primary, Next::Start);
    server
        .arbiter()
        .claim(&vm, 0, claim, &never, |_| {})
        .unwrap();
    let wants = Some(Wanted {
        address: "0.0.0.0:7421".parse().unwrap(),
        needs: capabilities(1024),
    });
    let idle = || Role::Idle {
        vm: vm.clone(),
        declined: None,
    };
    let running = Role::Primary {
        vm: vm.clone(),
        epoch: 1,
        wants,
        condition: Condition::default(),
    };
    let mut a = Host::new("a/1", 4096, running);
    let mut b = Host::new("b/1", 512, idle());
    let mut c = Host::new("c/1", 2048, idle());
    let mut proposed = |server: &Process| {
        let arbiter = server.arbiter();
        let mut proposal = None;
        until("a proposal", || {
            assert_eq!(a.ping(&arbiter), None);
            assert_eq!(b.ping(&arbiter), None);
            proposal = c.ping(&arbiter);
            proposal.is_some()
        });
        proposal
    };
    let first = proposed(&server).unwrap();
    assert_eq!((first.view, first.primary.as_str()), (1, "a/1"));
    assert_eq!(first.address, "127.0.0.1:7421".parse().unwrap());
    let text = status(&server);
    assert!(
        text.contains("db wants a backup: c/1 is proposed\n"),
        "{text}"
    );

    server.kill();
    fs::rename(&here, &there).unwrap();
    let server = Process::start("127.0.0.1:0", &there);
    assert!(!status(&server).contains("c/1"), "pings are not kept");
    assert_eq!(proposed(&server), Some(first));
}

#[test]
fn a_host_for_which_there_is_no_room_is_told_and_the_log_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let mut command = support::command("127.0.0.1:0", &directory.path().join("state"));
    command.env("RUST_LOG", "info");
    let server = Process::start_with(command.stderr(File::create(&log).unwrap()));
    let arbiter = server.arbiter();
    let idle = || Role::Idle {
        vm: "db".parse().unwrap(),
        declined: None,
    };
    let mut hosts = (0..).map(|n| Host::new(&format!("host{n}/1"), 1024, idle()));
    for mut host in hosts.by_ref().take(MAX_HOSTS) {
        arbiter.ping(&host.next()).unwrap();
    }
    let told = "1000 hosts ping already";
    for mut host in hosts.take(20) {
        let refused = arbiter.ping(&host.next()).unwrap_err().to_string();
        assert!(refused.contains(told), "{refused}");
    }
    let lines = || fs::read_to_string(&log).unwrap();
    until("the log has it", || lines().contains(told));
    assert!(server.end_with(Signal::SIGTERM));
    let lines = lines();
    let told = lines.lines().filter(|line| line.contains(told)).count();
    assert!(told < 20, "{told} lines:\n{lines}");
}
