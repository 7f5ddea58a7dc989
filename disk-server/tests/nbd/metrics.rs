//! What the server tells those who watch it.

use std::fs::File;
use std::sync::atomic::AtomicBool;

use disk_server::arbiter::Next;
use serde_json::json;

use crate::client::Client;
use crate::support::{Process, command, refused_by, until};

#[test]
fn guests_disks_and_connections_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("db.img");
    File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let server = Process::start_with(
        command("127.0.0.1:0", &directory.path().join("state"))
            .args(["--nbd-listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"])
            .args(["--export", &format!("disk={},vm=db", image.display())]),
    );
    let define = serde_json::from_value(json!({"what": "define", "by": "anna", "definition": {
        "vm": "db", "memory_mib": 256, "kernel": {"path": "/k", "sha256": "0".repeat(64)}, "initrd": null,
        "append": "", "mac": "52:54:00:00:00:01", "clock": "host", "disk": null, "export": null,
        "heartbeat_timeout_ms": null, "lag": {},
    }}));
    server.arbiter().operate(define.unwrap()).unwrap();
    let claim = |expected: u64, who: &str| {
        let (vm, who) = ("db".parse().unwrap(), who.parse().unwrap());
        let never = AtomicBool::new(false);
        let claimed = (server.arbiter()).claim(&vm, expected, (&who, Next::Start), &never, |_| {});
        claimed.unwrap();
    };
    claim(0, "a/1");
    let mut disk = Client::open(server.nbd.unwrap(), "disk@db:1");
    disk.write(0, &[1; 4096]).unwrap();
    disk.write(4096, &[1; 4096]).unwrap();
    disk.flush().unwrap();
    disk.read(0, 512).unwrap();
    let of_disk = |name: &str, operation: &str| {
        server.metric(&format!(
            "ftvm_disk_operation_{name}{{export=\"disk\",operation=\"{operation}\"}}"
        ))
    };
    assert_eq!(of_disk("seconds_count", "write"), 2.0);
    assert_eq!(of_disk("bytes_total", "write"), 8192.0);
    assert_eq!(of_disk("seconds_count", "flush"), 1.0);
    assert!(of_disk("seconds_sum", "flush") > 0.0);
    assert_eq!(of_disk("bytes_total", "read"), 512.0);
    assert_eq!(of_disk("seconds_count", "discard"), 0.0);
    for (name, value) in [
        ("ftvm_fleet_vm_epoch{vm=\"db\"}", 1.0),
        ("ftvm_fleet_vm_state{vm=\"db\",state=\"protected\"}", 0.0),
        ("ftvm_connections{service=\"nbd\"}", 1.0),
        ("ftvm_disk_clients{export=\"disk\"}", 1.0),
        (
            "ftvm_disk_refusals_total{export=\"disk\",kind=\"request\"}",
            0.0,
        ),
    ] {
        assert_eq!(server.metric(name), value, "{name}");
    }
    // Another host has it: the first one's write is refused, and counted as that alone.
    claim(1, "b/1");
    disk.write(0, &[2; 512]).unwrap_err();
    let refusals = "ftvm_disk_refusals_total{export=\"disk\",kind=\"request\"}";
    until("it is counted", || server.metric(refusals) == 1.0);
    assert_eq!(of_disk("seconds_count", "write"), 2.0);
    assert_eq!(of_disk("errors_total", "write"), 0.0);
    // An image that was cut.
    let file = File::options().write(true).open(&image).unwrap();
    file.set_len(4096).unwrap();
    let mut reader = Client::open(server.nbd.unwrap(), "disk");
    reader.read(8192, 512).unwrap_err();
    until("it is counted", || of_disk("errors_total", "read") == 1.0);
    let running = "ftvm_disk_operations_running{export=\"disk\",operation=\"read\"}";
    assert_eq!(server.metric(running), 0.0);
    assert!(server.watched("/healthz").ends_with("\r\n\r\nok\n"));
    assert!(
        server
            .watched("/healthz/vm/db/primary")
            .starts_with("HTTP/1.1 404 ")
    );
}

#[test]
fn an_address_that_is_taken_is_told_with_its_option() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let told = refused_by(command("127.0.0.1:0", directory.path()).args(["--metrics", &address]));
    assert!(
        told.contains("--metrics") && told.contains("is in use"),
        "{told}"
    );
}
