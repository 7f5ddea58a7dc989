//! What `disk-server status` tells of the exports.

use std::fs::File;
use std::sync::atomic::AtomicBool;

use disk_server::arbiter::Next;
use disk_server::nbd::ClientTag;
use disk_server::nbd::protocol::ErrorCode;
use serde_json::{Value, json};

use crate::client::Client;
use crate::support::{Process, command, until};

fn status(server: &Process, arguments: &[&str]) -> String {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_disk-server"))
        .args(["status", "--plain", "--server", &server.address.to_string()])
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn json(server: &Process) -> Value {
    serde_json::from_str(&status(server, &["--json"])).unwrap()
}

#[test]
fn the_exports_are_told_with_who_uses_them_and_what_was_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    for name in ["db.img", "tools.img"] {
        File::create(path(name)).unwrap().set_len(1 << 20).unwrap();
    }
    let server = Process::start_with(
        command("127.0.0.1:0", &directory.path().join("state"))
            .args(["--nbd-listen", "127.0.0.1:0"])
            .args([
                "--export",
                &format!("tools={},read-only", path("tools.img")),
            ])
            .args(["--export", &format!("db={},vm=web", path("db.img"))]),
    );
    let nbd = server.nbd.unwrap();
    let claim = |expected: u64, who: &str| {
        let (vm, who) = ("web".parse().unwrap(), who.parse().unwrap());
        let claimed = server.arbiter().claim(
            &vm,
            expected,
            (&who, Next::Start),
            &AtomicBool::new(false),
            |_| {},
        );
        claimed.unwrap();
    };
    claim(0, "a/1");
    let mut old = Client::open(nbd, "db@web:1");
    let _reader = Client::open(nbd, "db");
    let exports = json(&server)["exports"].clone();
    let expected = json!([
        {
            "name": "db", "path": path("db.img"), "size": 1 << 20, "read_only": false,
            "owner": { "vm": "web", "epoch": 1, "runs": true },
            "connections": 2, "refused_requests": 0, "refused_connections": 0,
        },
        {
            "name": "tools", "path": path("tools.img"), "size": 1 << 20, "read_only": true,
            "owner": null,
            "connections": 0, "refused_requests": 0, "refused_connections": 0,
        },
    ]);
    assert_eq!(exports, expected);

    claim(1, "b/2");
    for _ in 0..3 {
        assert_eq!(old.write(0, &[1; 512]), Err(ErrorCode::NotPermitted));
    }
    old.read(0, 512).unwrap();
    // Opened as our own client does: without asking for more before.
    let negotiation = crate::client::Negotiation::start(nbd).unwrap();
    assert!(negotiation.go("db@web:1").unwrap().is_err());
    drop(old);
    until("one connection has ended", || {
        json(&server)["exports"][0]["connections"] == 1
    });
    let db = json(&server)["exports"][0].clone();
    assert_eq!(db["owner"]["epoch"], 2);
    assert_eq!(db["refused_requests"], 3);
    assert_eq!(db["refused_connections"], 1);

    let text = status(&server, &[]);
    let row = text.lines().find(|row| row.starts_with("db ")).unwrap();
    let columns: Vec<&str> = row.split_whitespace().collect();
    let img = path("db.img");
    assert_eq!(columns, ["db", "1048576", "web", "2", "1", "3", "1", &img]);
    assert!(
        text.lines()
            .any(|row| row.split_whitespace().eq(["web", "2", "b/2", "-"]))
    );
}

#[test]
fn a_write_of_a_superseded_connection_counts_as_refused() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("disk.img");
    File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let server = Process::start_with(
        command("127.0.0.1:0", &directory.path().join("state"))
            .args(["--nbd-listen", "127.0.0.1:0"])
            .args(["--export", &format!("disk={}", image.display())]),
    );
    let name = format!("disk@~{}", ClientTag::new(3));
    let mut old = Client::open(server.nbd.unwrap(), &name);
    let mut new = Client::open(server.nbd.unwrap(), &name);
    new.write(0, &[2; 512]).unwrap();
    assert_eq!(old.write(0, &[1; 512]), Err(ErrorCode::NotPermitted));
    assert_eq!(new.read(0, 512).unwrap(), [2; 512]);
    assert_eq!(json(&server)["exports"][0]["refused_requests"], 1);
}

#[test]
fn more_exports_than_fit_into_one_answer_are_all_told() {
    const EXPORTS: usize = 40;
    let directory = tempfile::tempdir().unwrap();
    let mut program = command("127.0.0.1:0", &directory.path().join("state"));
    program.args(["--nbd-listen", "127.0.0.1:0"]);
    for n in 0..EXPORTS {
        let image = directory
            .path()
            .join(format!("{n}-{}.img", "x".repeat(200)));
        File::create(&image).unwrap().set_len(512).unwrap();
        program.args(["--export", &format!("disk{n:02}={}", image.display())]);
    }
    let server = Process::start_with(&mut program);
    let exports = server.arbiter().list_exports().unwrap();
    let names: Vec<String> = exports.iter().map(|e| e.name.to_string()).collect();
    let expected: Vec<String> = (0..EXPORTS).map(|n| format!("disk{n:02}")).collect();
    assert_eq!(names, expected);
}
