//! What `ftvm` tells programs where it can do nothing.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use disk_server::arbiter::{Arbiter, Settings};
use disk_server::server::{Config, Limits, Server};
use disk_server::views::Ping;
use serde_json::{Value, json};
use transport::Endpoint;

/// More than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// Runs it with these words: its exit status, and the objects that it printed.
fn ftvm(words: &[&str]) -> (Option<i32>, Vec<Value>) {
    let output = Command::new(env!("CARGO_BIN_EXE_ftvm"))
        .args(words)
        .output()
        .expect("it runs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let objects = text.lines().map(serde_json::from_str);
    (
        output.status.code(),
        objects.collect::<Result<_, _>>().expect("JSON"),
    )
}

#[test]
fn every_command_says_that_the_service_is_not_reachable() {
    // It was free a moment ago: nobody answers there.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let server = silent.local_addr().expect("its address").to_string();
    drop(silent);
    let service = ["--json", "--plain", "--disk-server", &server];
    for words in [
        &["vm", "status", "db"][..],
        &["vm", "list"],
        &["vm", "undefine", "db"],
        &["vm", "stop", "db"],
        &["host", "list"],
        &["host", "drain", "a"],
        &["failover", "db"],
        &["history"],
    ] {
        let (status, told) = ftvm(&[words, &service].concat());
        assert_eq!(status, Some(1), "{words:?}");
        let [told] = &told[..] else {
            panic!("{words:?}: {told:?}");
        };
        assert_eq!(told["outcome"], "unreachable", "{words:?}: {told}");
        let why = told["words"].as_str().unwrap_or_default();
        assert!(why.contains(&server), "{words:?}: {told}");
    }
}

#[test]
fn a_file_that_is_wrong_is_told_as_well() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("guest.toml");
    std::fs::write(&file, "name = 7\n").expect("a file");
    let file = file.to_str().expect("UTF-8");
    let words = ["vm", "define", file, "--json", "--plain"];
    let (status, told) = ftvm(&[&words[..], &["--disk-server", "127.0.0.1:1"]].concat());
    assert_eq!(status, Some(1));
    assert_eq!(told[0]["outcome"], "failed", "{told:?}");
    let why = told[0]["words"].as_str().unwrap_or_default();
    assert!(why.contains("guest.toml"), "{told:?}");
}

/// On a host that has too little memory nothing would be seen of an order that waits.
#[test]
fn a_start_that_waits_says_of_each_host_why_without_a_terminal() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::bind(Config {
        listen: "127.0.0.1:0".parse().expect("an address"),
        state: folder.path().join("state"),
        endpoint: Endpoint::plain(),
        nbd: None,
        metrics: None,
        limits: Limits::default(),
    });
    let server = server.expect("a server");
    let (address, stop) = (server.local_addr(), server.stop_handle());
    let serving = thread::spawn(move || server.run());
    let arbiter = Arbiter::new(address.into(), Endpoint::plain(), Settings::default());
    let define = json!({"what": "define", "by": "anna", "definition": {
        "vm": "db", "memory_mib": 256, "kernel": {"path": "/k", "sha256": "0".repeat(64)}, "initrd": null,
        "append": "", "mac": "52:54:00:00:00:01", "clock": "host", "disk": null, "export": null,
        "heartbeat_timeout_ms": null, "lag": {},
    }});
    let define = serde_json::from_value(define).expect("an operation");
    arbiter.operate(define).expect("it is defined");

    let server = address.to_string();
    let mut child = Command::new(env!("CARGO_BIN_EXE_ftvm"))
        .args(["vm", "start", "db", "--plain", "--disk-server", &server])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let (say, said) = mpsc::channel();
    let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
    let reading = thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            let _ = say.send(line);
        }
    });
    let (mut number, mut lines) = (0, Vec::new());
    let deadline = Instant::now() + LONG;
    while !lines.iter().any(|line: &String| line.contains("MiB")) {
        assert!(Instant::now() < deadline, "{lines:?}");
        number += 1;
        let ping: Ping = serde_json::from_value(json!({
            "host": "a/1", "number": number,
            "carries": {"memory_mib": 64, "processor": "", "instructions": 1, "paging": "shadow", "exports": []},
            "role": {"host": {"processes": {}, "ended": [], "machine": "m", "console": "0.0.0.0:7422"}},
        }))
        .expect("a ping");
        arbiter.ping(&ping).expect("it is heard");
        lines.extend(said.recv_timeout(Duration::from_millis(500)));
    }
    child.kill().expect("it is there");
    child.wait().expect("it ends");
    reading.join().expect("all is read");
    stop.stop();
    serving.join().expect("it stops").expect("in order");
    let at = (lines.iter()).position(|line| line.contains("waits: Not running: no idle host"));
    let at = at.unwrap_or_else(|| panic!("{lines:?}"));
    assert!(
        lines[at].starts_with("ftvm: db: start (order "),
        "{lines:?}"
    );
    assert_eq!(lines[at + 1], "  a has 64 MiB of memory of 256");
}
