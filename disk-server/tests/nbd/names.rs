//! What a disk is called: the same on every way to it, and never the same as another one.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use disk_server::nbd::ClientTag;
use disk_server::nbd::client::connect_named;

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
    let connection = connect_named(&address, export, TIMEOUT).unwrap();
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
