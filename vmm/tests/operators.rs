//! What `ftvm` tells programs where it can do nothing.

use std::net::TcpListener;
use std::process::Command;

use serde_json::Value;

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
