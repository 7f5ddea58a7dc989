//! As whom a guest's disk is opened.

use disk_server::arbiter::ServerNumber;
use ftvm_vmm::disk::DiskOp;
use ftvm_vmm::disk::DiskPort as _;
use ftvm_vmm::disk::DiskRequest;
use ftvm_vmm::disk::guest_disk::GuestDisk;
use ftvm_vmm::disk::serving::Serving;
use ftvm_vmm::events::Events;
use parking_lot::Mutex;
use transport::Endpoint;

use crate::fake_server::{FakeServer, Foreign};
use crate::world::{PATIENCE, quick};

/// The names under which a guest that runs alone opens its disk, from the first look at it to the
/// connection after a lost one.
fn names_opened(server: &FakeServer) -> Vec<String> {
    let uri = format!("nbd://{}/disk", server.address);
    let disk = GuestDisk::open(&uri.parse().unwrap(), "vm", &Endpoint::plain(), quick()).unwrap();
    let (complete, done) = crossbeam_channel::unbounded();
    let mut service = disk.serve(Serving::default(), &Events::default(), move |completion| {
        complete.send(completion).unwrap_or(());
    });
    for id in 1..=2 {
        service.submit(
            DiskRequest {
                id,
                op: DiskOp::Flush,
            },
            None,
        );
        assert_eq!(done.recv_timeout(PATIENCE).unwrap().result, Ok(Vec::new()));
        server.drop_connections();
    }
    server.state().opened.clone()
}

#[test]
fn a_guest_that_runs_alone_opens_its_disk_under_one_name_of_its_own() {
    let server = FakeServer::start(4096, 1);
    let first = names_opened(&server);
    assert!(first.len() >= 3, "{first:?}");
    let tag = first[0].strip_prefix("disk@~").expect("a tag");
    assert_eq!(tag.len(), 16);
    assert!(first.iter().all(|name| *name == first[0]), "{first:?}");
    // Of another server: the first guest may still be about to connect to this one.
    let second = names_opened(&FakeServer::start(4096, 3));
    assert_ne!(second[0], first[0], "two guests are two clients");
}

#[test]
fn a_server_that_knows_no_tags_is_good_enough_for_a_guest_that_runs_alone() {
    for foreign in [Foreign::KnowsItsNames, Foreign::TakesAnyName] {
        let server = FakeServer::start(4096, 2);
        server.state().foreign = foreign;
        let mut names = names_opened(&server);
        names.retain(|name| !name.contains("@~"));
        assert!(names.len() >= 3);
        assert!(names.iter().all(|name| name == "disk"), "{names:?}");
    }
}

/// Lines of the log that this test program wrote.
struct Collected(Mutex<Vec<String>>);

static LOG: Collected = Collected(Mutex::new(Vec::new()));

impl log::Log for Collected {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = format!("{} {}", record.level(), record.args());
        self.0.lock().push(line);
    }

    fn flush(&self) {}
}

#[test]
fn a_guest_that_runs_alone_is_told_that_nothing_is_fenced() {
    // Fails when another test of this program was first.
    let _ = log::set_logger(&LOG);
    log::set_max_level(log::LevelFilter::Warn);
    for (foreign, warnings) in [
        (Foreign::No, 0),
        (Foreign::KnowsItsNames, 1),
        (Foreign::TakesAnyName, 1),
    ] {
        let server = FakeServer::start(4096, 2);
        server.state().foreign = foreign;
        open(&server);
        let log = LOG.0.lock();
        let of_this = log
            .iter()
            .filter(|line| line.contains(server.address.as_str()));
        let of_this: Vec<_> = of_this.collect();
        assert_eq!(of_this.len(), warnings, "{of_this:?}");
        for line in of_this {
            assert!(line.starts_with("WARN"), "{line}");
            assert!(
                line.contains("keeps no other client from writing"),
                "{line}"
            );
        }
    }
}

fn open(server: &FakeServer) -> GuestDisk {
    let uri = format!("nbd://{}/disk", server.address);
    GuestDisk::open(&uri.parse().unwrap(), "vm", &Endpoint::plain(), quick()).unwrap()
}

#[test]
fn a_pair_takes_no_disk_whose_server_cannot_fence() {
    for foreign in [Foreign::KnowsItsNames, Foreign::TakesAnyName] {
        let server = FakeServer::start(4096, 2);
        server.state().foreign = foreign;
        let error = open(&server)
            .require_fenced_by(ServerNumber(1))
            .unwrap_err();
        let text = error.to_string();
        assert!(text.contains("--export NAME=PATH,vm=vm"), "{text}");
    }
}

#[test]
fn a_disk_is_fenced_by_the_server_that_it_is_of_and_by_no_other() {
    let server = FakeServer::start(4096, 2);
    let disk = open(&server);
    disk.require_fenced_by(ServerNumber(1)).unwrap();
    let error = disk.require_fenced_by(ServerNumber(2)).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("same disk-server for both"), "{text}");
}
