//! What a disk is called: the same on every way to it, and never the same as another one.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use disk_server::nbd::ClientTag;
use disk_server::nbd::client::connect;
use transport::Endpoint;

use crate::support::{Process, command};

const TIMEOUT: Duration = Duration::from_secs(60);

/// A server of the disks `a` and `b`, which are alike.
fn start(directory: &Path) -> Process {
    let mut program = command("127.0.0.1:0", &directory.join("state"));
    program.args(["--nbd-listen", "127.0.0.1:0"]);
    for name in ["a", "b"] {
        let image = directory.join(name);
        File::create(&image).unwrap().set_len(1 << 20).unwrap();
        program.args(["--export", &format!("{name}={}", image.display())]);
    }
    Process::start_with(&mut program)
}

fn name(server: &Process, export: &str) -> String {
    let address = server.nbd.unwrap().into();
    let connection = connect(&address, export, &Endpoint::plain(), TIMEOUT).unwrap();
    connection.name.expect("our server names its disks")
}

#[test]
fn a_disk_is_called_the_same_on_every_way_and_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = start(directory.path());
    let plain = name(&server, "a");
    assert!(plain.ends_with("/a"), "{plain}");
    let tagged = format!("a@~{}", ClientTag::new(1));
    assert_eq!(name(&server, &tagged), plain);
    server.kill();
    let server = start(directory.path());
    assert_eq!(name(&server, "a"), plain);
}

#[test]
fn a_boot_number_lasts_as_long_as_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let boot = |server: &Process, export: &str| {
        let address = server.nbd.unwrap().into();
        let connection = connect(&address, export, &Endpoint::plain(), TIMEOUT).unwrap();
        connection.boot.expect("our server has one")
    };
    let mut server = start(directory.path());
    let first = boot(&server, "a");
    assert_eq!(boot(&server, "a"), first);
    assert_eq!(boot(&server, "b"), first);
    server.kill();
    let server = start(directory.path());
    assert_ne!(boot(&server, "a"), first);
}

#[test]
fn the_arbiter_says_that_it_is_the_server_of_the_disks() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = start(directory.path());
    let number = server.arbiter().server().unwrap().expect("it says so");
    assert_eq!(name(&server, "a"), format!("{number}/a"));
    server.kill();
    let server = start(directory.path());
    assert_eq!(server.arbiter().server().unwrap(), Some(number));
    // Without disks, too.
    let other = tempfile::tempdir().unwrap();
    let other = Process::start("127.0.0.1:0", &other.path().join("state"));
    let other = other.arbiter().server().unwrap();
    assert!(other.is_some_and(|other| other != number));
}

#[test]
fn two_disks_are_never_called_the_same() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let servers = [start(one.path()), start(other.path())];
    let mut names = Vec::new();
    for server in &servers {
        names.extend(["a", "b"].map(|export| name(server, export)));
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 4, "{names:?}");
}
