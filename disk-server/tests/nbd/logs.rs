//! What clients can do to the log, and the log to clients.

use std::fs::{self, File};
use std::io::{Read as _, Write as _, pipe};
use std::path::Path;
use std::process::Command as Program;
use std::sync::atomic::AtomicBool;

use disk_server::arbiter::Next;
use disk_server::nbd::protocol::{ErrorCode, OptionType};
use nix::sys::signal::Signal;

use crate::client::{Client, Negotiation};
use crate::support::{Process, command};

/// A server that logs as much as an operator sees.
fn server(directory: &Path, more: &[&str]) -> Program {
    let image = directory.join("disk.img");
    File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let mut program = command("127.0.0.1:0", &directory.join("state"));
    program
        .args(["--nbd-listen", "127.0.0.1:0", "--export"])
        .arg(format!("disk={}", image.display()))
        .args(more)
        .env("RUST_LOG", "info");
    program
}

#[test]
fn what_clients_say_takes_little_room_in_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let mut program = server(directory.path(), &[]);
    program.stderr(File::create(&log).unwrap());
    let server = Process::start_with(&mut program);
    let long = |character: &str| character.repeat((64 << 10) / character.len());
    for n in 0..100 {
        let name = [long("x"), long("\0"), format!("disk@a:{}", long("€"))];
        let mut client = Negotiation::start(server.nbd.unwrap()).unwrap();
        let name = &name[n % 3].as_bytes()[..64 << 10];
        // In the old way, whose only error is the end of the connection.
        assert!(client.option(OptionType::ExportName, name).is_err());
        let mut client = server.connect();
        let greeting = format!("{{\"ftvm\":\"{}\",\"version\":1}}\n", "\\u0000".repeat(500));
        let _ = client.write_all(greeting.as_bytes());
        let _ = client.read_to_end(&mut Vec::new());
        let who = format!("{n}/{}", "x".repeat(100)).parse().unwrap();
        (server.arbiter())
            .claim(
                &"db".parse().unwrap(),
                0,
                (&who, Next::Start),
                &AtomicBool::new(false),
                |_| {},
            )
            .unwrap();
    }
    assert!(server.end_with(Signal::SIGTERM));
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("sent away"), "{log}");
    assert!(log.contains("refused"), "{log}");
    assert!(log.contains("lost epoch 1"), "{log}");
    assert!(log.contains("client 127.0.0.1:"), "{log}");
    assert!(log.len() < 20_000, "{} bytes: {log}", log.len());
    assert!(log.lines().all(|line| line.len() < 1000), "{log}");
}

#[test]
fn failures_of_the_storage_name_the_export_and_are_counted_beyond_a_rate() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let mut program = server(directory.path(), &[]);
    program.stderr(File::create(&log).unwrap());
    let server = Process::start_with(&mut program);
    let mut client = Client::open(server.nbd.unwrap(), "disk");
    // Somebody makes the image shorter.
    let image = directory.path().join("disk.img");
    File::options()
        .write(true)
        .open(image)
        .unwrap()
        .set_len(0)
        .unwrap();
    for _ in 0..200 {
        assert_eq!(client.read(0, 4096), Err(ErrorCode::Io));
    }
    assert!(server.end_with(Signal::SIGTERM));
    let log = fs::read_to_string(log).unwrap();
    let failures: Vec<_> = log.lines().filter(|line| line.contains("ERROR")).collect();
    assert!((1..50).contains(&failures.len()), "{log}");
    assert!(
        failures[0].contains("export disk: Read of 4096 bytes at 0"),
        "{log}"
    );
}

#[test]
fn a_host_that_was_replaced_cannot_fill_the_log_nor_hide_a_failure() {
    const WRITES: u64 = 300;
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let image = directory.path().join("disk.img");
    File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let mut program = command("127.0.0.1:0", &directory.path().join("state"));
    program
        .args(["--nbd-listen", "127.0.0.1:0", "--export"])
        .arg(format!("disk={},vm=db", image.display()))
        .env("RUST_LOG", "info")
        .stderr(File::create(&log).unwrap());
    let server = Process::start_with(&mut program);
    let arbiter = server.arbiter();
    let claim = |epoch: u64| {
        let (vm, who) = ("db".parse().unwrap(), format!("a/{epoch}").parse().unwrap());
        arbiter
            .claim(
                &vm,
                epoch - 1,
                (&who, Next::Start),
                &AtomicBool::new(false),
                |_| {},
            )
            .unwrap();
    };
    let nbd = server.nbd.unwrap();
    claim(1);
    let mut old = Client::open(nbd, "disk@db:1");
    let mut new = Client::open(nbd, "disk@db:1");
    new.write(0, &[1; 512]).unwrap();
    let flood = |client: &mut Client| {
        for _ in 0..WRITES {
            assert_eq!(client.write(0, &[2; 512]), Err(ErrorCode::NotPermitted));
        }
    };
    // Superseded by a connection of its own host, and by another host.
    flood(&mut old);
    claim(2);
    flood(&mut new);
    let refused = arbiter.list_exports().unwrap()[0].refused_requests;
    assert_eq!(refused, 2 * WRITES, "all are counted");
    // Somebody makes the image shorter.
    let image = File::options().write(true).open(image).unwrap();
    image.set_len(0).unwrap();
    assert_eq!(new.read(0, 4096), Err(ErrorCode::Io));
    assert!(server.end_with(Signal::SIGTERM));
    let log = fs::read_to_string(log).unwrap();
    let told = |kind: &str| -> Vec<&str> {
        let with = |line: &&str| line.contains(kind) && line.contains("bytes at 0");
        log.lines().filter(with).collect()
    };
    let refusals = told("WARN");
    assert!((1..50).contains(&refusals.len()), "{log}");
    let first =
        "export disk@db:1: Write of 512 bytes at 0: a newer connection of db has taken over";
    assert!(refusals[0].ends_with(first), "{log}");
    let failures = told("ERROR");
    assert_eq!(failures.len(), 1, "{log}");
    assert!(failures[0].contains("disk@db:1: Read of 4096"), "{log}");
}

#[test]
fn a_log_that_nobody_reads_stops_neither_claims_nor_the_end() {
    const CLAIMS: u64 = 6000;
    let directory = tempfile::tempdir().unwrap();
    let (mut reader, mut full) = pipe().unwrap();
    // A pipe holds 64 KiB.
    full.write_all(&vec![b'.'; 64 << 10]).unwrap();
    let mut program = server(directory.path(), &[]);
    program
        .stderr(full.try_clone().unwrap())
        .env("RUST_LOG", "debug");
    let server = Process::start_with(&mut program);
    // Only the server has it from here on, so that reading finds its end.
    drop((full, program));
    let arbiter = server.arbiter();
    let vm = "db".parse().unwrap();
    let claim = |who: &str| {
        // So many lines of this length are more than waits for a reader.
        let who = format!("{who}{}", "x".repeat(100)).parse().unwrap();
        arbiter
            .claim(&vm, 0, (&who, Next::Start), &AtomicBool::new(false), |_| {})
            .unwrap();
    };
    claim("a/1");
    // Each of them is a line of the log.
    (0..CLAIMS).for_each(|_| claim("b/2"));
    let mut log = vec![0; 64 << 10];
    reader.read_exact(&mut log).unwrap();
    claim("b/2");
    let text = thread_read(reader.try_clone().unwrap());
    assert!(server.end_with(Signal::SIGTERM));
    drop(reader);
    let text = text.join().unwrap();
    let told = text.lines().find(|line| line.contains("were dropped"));
    let told = told.unwrap_or_else(|| panic!("nothing was told in {} bytes", text.len()));
    let dropped: u64 = told.split(' ').next().unwrap().parse().unwrap();
    assert!((1..CLAIMS).contains(&dropped), "{told}");
    assert!(text.contains("ended in order"), "the log goes on");

    // And once more to its end, without anybody who ever reads.
    let (reader, mut full) = pipe().unwrap();
    full.write_all(&vec![b'.'; 64 << 10]).unwrap();
    let mut program = crate::logs::server(directory.path(), &[]);
    program.stderr(full);
    assert!(Process::start_with(&mut program).end_with(Signal::SIGTERM));
    drop(reader);
}

fn thread_read(mut from: std::io::PipeReader) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = Vec::new();
        from.read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    })
}
