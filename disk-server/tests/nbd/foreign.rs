//! Clients that are not ours: libnbd's, QEMU's, and fio's.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::{Process, command};

const SIZE: u64 = 32 << 20;

struct Fixture {
    server: Process,
    directory: TempDir,
}

impl Fixture {
    fn new() -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("disk.img");
        File::create(&image).unwrap().set_len(SIZE).unwrap();
        let server = Process::start_with(
            command("127.0.0.1:0", &directory.path().join("state"))
                .args(["--nbd-listen", "127.0.0.1:0"])
                .args(["--export", &format!("disk={},vm=db", image.display())]),
        );
        Fixture { server, directory }
    }

    fn uri(&self, export: &str) -> String {
        format!("nbd://{}/{export}", self.server.nbd.unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// Runs a program, which must succeed. Returns what it prints.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = tool(program, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{text}{errors}",
        output.status
    );
    text
}

fn tool(program: &str, arguments: &[&str]) -> std::process::Output {
    // Within a time: a client that waits for an answer that never comes waits for ever.
    let output = Command::new("timeout")
        .args(["120", program])
        .args(arguments)
        .output()
        .unwrap();
    assert!(
        output.status.code() != Some(127),
        "{program} is missing: `cargo xtask setup` installs the packages libnbd-bin, qemu-utils and fio"
    );
    output
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Data between holes, and a file of it.
fn sparse_image(path: &Path) -> Vec<u8> {
    let mut data = vec![0; SIZE as usize];
    let mut random = fastrand::Rng::with_seed(1);
    let file = File::create(path).unwrap();
    file.set_len(SIZE).unwrap();
    for start in [1 << 20, 9 << 20, 20 << 20] {
        let range = start..start + (1 << 20);
        random.fill(&mut data[range.clone()]);
        std::os::unix::fs::FileExt::write_all_at(&file, &data[range], start as u64).unwrap();
    }
    data
}

fn allocated(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

#[test]
fn nbdinfo_sees_what_there_is() {
    let fixture = Fixture::new();
    let list = run("nbdinfo", &["--list", &fixture.uri("")]);
    assert!(list.contains("export=\"disk\""), "{list}");
    assert!(
        list.contains("description: of db, which does not run"),
        "{list}"
    );
    let info = run("nbdinfo", &[&fixture.uri("disk")]);
    for expected in [
        "newstyle-fixed without TLS, using structured packets",
        "export-size: 33554432 (32M)",
        "base:allocation",
        "is_read_only: false",
        "can_flush: true",
        "can_fua: true",
        "can_trim: true",
        "can_zero: true",
        "can_multi_conn: true",
        "block_size_maximum: 33554432",
    ] {
        assert!(info.contains(expected), "{expected} is not in {info}");
    }
    let missing = tool("nbdinfo", &[&fixture.uri("other")]);
    assert!(!missing.status.success());
}

#[test]
fn nbdcopy_copies_there_and_back_and_holes_stay_holes() {
    let fixture = Fixture::new();
    let (source, copy) = (fixture.path("source.img"), fixture.path("copy.img"));
    let data = sparse_image(&source);
    let uri = fixture.uri("disk");
    run("nbdcopy", &["--flush", text(&source), &uri]);
    assert!(fs::read(fixture.path("disk.img")).unwrap() == data);
    assert_eq!(allocated(&fixture.path("disk.img")), 3 << 20);
    let map = run("nbdinfo", &["--map", &uri]);
    assert_eq!(map.matches("hole,zero").count(), 4, "{map}");
    assert_eq!(map.matches("data").count(), 3, "{map}");
    run("nbdcopy", &["--connections=4", &uri, text(&copy)]);
    assert!(fs::read(&copy).unwrap() == data);
}

#[test]
fn qemu_img_converts_and_compares() {
    let fixture = Fixture::new();
    let source = fixture.path("source.img");
    let data = sparse_image(&source);
    let uri = fixture.uri("disk");
    let raw = ["-f", "raw"];
    let convert = ["convert", "-n", "-O", "raw"];
    run(
        "qemu-img",
        &[&convert[..], &raw, &[text(&source), &uri]].concat(),
    );
    assert!(fs::read(fixture.path("disk.img")).unwrap() == data);
    let compare = ["compare", "-F", "raw"];
    run(
        "qemu-img",
        &[&compare[..], &raw, &[text(&source), &uri]].concat(),
    );
    assert!(
        allocated(&fixture.path("disk.img")) <= 4 << 20,
        "it is not sparse"
    );
    let map = run("qemu-img", &["map", "--output=json", "-f", "raw", &uri]);
    assert_eq!(map.matches("\"data\": true").count(), 3, "{map}");
}

#[test]
fn qemu_io_reads_what_it_wrote() {
    let fixture = Fixture::new();
    let uri = fixture.uri("disk");
    let steps = [
        "write -P 0x11 0 1M",
        "write -f -P 0x22 1M 64k",
        "write -z 256k 64k",
        "write -zu 320k 64k",
        "discard 384k 64k",
        "flush",
        "read -P 0x11 0 256k",
        "read -P 0 256k 192k",
        "read -P 0x22 1M 64k",
        "aio_write -P 0x33 2M 1M",
        "aio_write -P 0x44 4M 1M",
        "aio_flush",
        "read -P 0x33 2M 1M",
        "read -P 0x44 4M 1M",
        "read -P 0 31M 1M",
    ];
    let mut arguments = vec!["-f", "raw"];
    for step in steps {
        arguments.extend(["-c", step]);
    }
    arguments.push(&uri);
    let output = run("qemu-io", &arguments);
    assert!(!output.contains("failed"), "{output}");
}

#[test]
fn fio_verifies_what_it_wrote_at_random() {
    let fixture = Fixture::new();
    let uri = format!("--uri={}", fixture.uri("disk"));
    let output = run(
        "fio",
        &[
            "--name=verify",
            "--ioengine=nbd",
            &uri,
            "--rw=randwrite",
            "--bsrange=512-64k",
            "--iodepth=32",
            "--size=32M",
            "--fsync=64",
            "--verify=crc32c",
            "--verify_fatal=1",
            // It would be left behind in the current directory.
            "--verify_state_save=0",
        ],
    );
    assert!(output.contains("err= 0"), "{output}");
}
