//! A real server process: starting, ending, and clients that misbehave.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::support::{
    Process, SmallDisk, call, command, exchange, has_own_mounts, refused, refused_by, until,
};
use disk_server::arbiter::{CallError, Claim, Next, STATE_FILE};
use nix::sys::signal::Signal;
use std::sync::atomic::AtomicBool;

const HELLO: &str = "{\"ftvm\":\"arbiter\",\"version\":4}\n";

fn claim(server: &Process, vm: &str, expected: u64, who: &str) -> Claim {
    let (vm, who) = (vm.parse().unwrap(), who.parse().unwrap());
    server
        .arbiter()
        .claim(
            &vm,
            expected,
            (&who, Next::Start),
            &AtomicBool::new(false),
            |reason| eprintln!("waiting: {reason}"),
        )
        .unwrap()
}

#[test]
fn claims_reads_and_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let server = Process::start("127.0.0.1:0", directory.path());
    assert_eq!(claim(&server, "db", 0, "a/1"), Claim::Won { epoch: 1 });
    assert_eq!(claim(&server, "db", 0, "a/1"), Claim::Won { epoch: 1 });
    let holder = Some("a/1".parse().unwrap());
    assert_eq!(
        claim(&server, "db", 0, "b/2"),
        Claim::Lost {
            epoch: 1,
            holder: holder.clone()
        }
    );
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let server = Process::start("127.0.0.1:0", &directory.path().join("other"));
        // An idle client with a session does not hold the server up.
        let arbiter = server.arbiter();
        arbiter.warm().unwrap();
        assert!(server.end_with(signal), "{signal} ends it in order");
    }
    server.signal(Signal::SIGHUP);
    for _ in 0..200 {
        // A server that was about to end would not take all of these connections.
        server.arbiter().warm().unwrap();
    }
    assert!(server.end_with(Signal::SIGTERM));
    let server = Process::start("127.0.0.1:0", directory.path());
    let record = server.arbiter().read(&"db".parse().unwrap()).unwrap();
    assert_eq!((record.epoch, record.holder), (1, holder));
    let record = server.arbiter().read(&"other".parse().unwrap()).unwrap();
    assert_eq!((record.epoch, record.holder), (0, None));
}

#[test]
fn the_status_table_has_every_machine() {
    let directory = tempfile::tempdir().unwrap();
    let server = Process::start("127.0.0.1:0", directory.path());
    for n in 0..20 {
        claim(&server, &format!("vm{n:02}"), 0, "a/1");
    }
    claim(&server, "vm07", 1, "b/2");
    let output = Command::new(env!("CARGO_BIN_EXE_disk-server"))
        .args(["status", "--plain", "--server", &server.address.to_string()])
        .output()
        .unwrap();
    assert!(output.status.success());
    let table = String::from_utf8(output.stdout).unwrap();
    let rows = table.lines().filter(|row| row.starts_with("vm"));
    assert_eq!(rows.count(), 20, "{table}");
    assert!(table.ends_with("\nplain, without keys: whoever can connect may do everything\n"));
    let row = table.lines().find(|row| row.starts_with("vm07")).unwrap();
    let columns: Vec<_> = row.split_whitespace().collect();
    assert_eq!(columns, ["vm07", "2", "b/2", "-"]);
}

#[test]
fn a_machine_that_is_done_with_can_be_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("disk.img");
    fs::File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let server = Process::start_with(
        command("127.0.0.1:0", &directory.path().join("state"))
            .args(["--nbd-listen", "127.0.0.1:0"])
            .args(["--export", &format!("disk={},vm=kept", image.display())]),
    );
    let forget = |vm: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_disk-server"))
            .args([
                "forget",
                vm,
                "--plain",
                "--server",
                &server.address.to_string(),
            ])
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        if output.status.success() {
            Ok(())
        } else {
            Err(said)
        }
    };
    assert!(forget("db").unwrap_err().contains("nobody ever claimed db"));
    assert!(forget("kept").unwrap_err().contains("is exported here"));
    claim(&server, "db", 0, "a/1");
    let held = forget("db").unwrap_err();
    assert!(held.contains("a/1 runs db in epoch 1"), "{held}");
    let (vm, holder) = ("db".parse().unwrap(), "a/1".parse().unwrap());
    let stop = (&holder, Next::Stopped);
    let stopped = server
        .arbiter()
        .claim(&vm, 1, stop, &AtomicBool::new(false), |_| {});
    assert_eq!(stopped.unwrap(), Claim::Won { epoch: 2 });
    forget("db").unwrap();
    assert!(server.arbiter().list().unwrap().is_empty());
    // A host that starts it again asks first, as always.
    let record = server.arbiter().read(&"db".parse().unwrap()).unwrap();
    assert_eq!((record.epoch, record.holder), (2, None));
    assert_eq!(claim(&server, "db", 2, "b/2"), Claim::Won { epoch: 3 });
}

#[test]
fn a_port_in_use_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let server = Process::start("127.0.0.1:0", &directory.path().join("a"));
    let address = server.address.to_string();
    let message = refused(&address, &directory.path().join("b"));
    assert!(message.contains(&address), "{message}");
    assert!(message.contains("in use"), "{message}");
    assert!(message.contains("--listen"), "{message}");
}

#[test]
fn a_state_in_use_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Process::start("127.0.0.1:0", directory.path());
    let message = refused("127.0.0.1:0", directory.path());
    assert!(message.contains("another disk-server"), "{message}");
    let state = directory.path().display().to_string();
    assert!(message.contains(&state), "{message}");
    assert!(server.is_running());
}

#[test]
fn a_damaged_state_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(STATE_FILE);
    let mut server = Process::start("127.0.0.1:0", directory.path());
    claim(&server, "db", 0, "a/1");
    server.kill();
    let whole = fs::read(&path).unwrap();
    let mut garbage = whole.clone();
    garbage.iter_mut().for_each(|byte| *byte = !*byte);
    for damaged in [&[] as &[u8], b"x", &whole[..whole.len() / 2], &garbage] {
        fs::write(&path, damaged).unwrap();
        let message = refused("127.0.0.1:0", directory.path());
        assert!(message.contains("damaged"), "{message}");
        assert!(!message.contains("panicked"), "{message}");
        assert!(fs::read(&path).unwrap() == damaged, "it was left alone");
    }
    fs::write(&path, &whole).unwrap();
    let server = Process::start("127.0.0.1:0", directory.path());
    assert_eq!(claim(&server, "db", 0, "a/1"), Claim::Won { epoch: 1 });
}

#[test]
fn a_full_disk_is_told_as_one_and_waited_for() {
    if !has_own_mounts("process::a_full_disk_is_told_as_one_and_waited_for") {
        return;
    }
    let disk = SmallDisk::new("20m");
    let directory = disk.path();
    let state = directory.join("state");
    let mut server = Process::start("127.0.0.1:0", &state);
    claim(&server, "db", 0, "a/1");
    let filler = directory.join("filler");
    let fill = || {
        let mut file = fs::File::create(&filler).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
    };
    fill();
    // A claim waits until there is room. All else goes on, and the server does too.
    let mut reasons = Vec::new();
    let vm = "db".parse().unwrap();
    let won = server.arbiter().claim(
        &vm,
        1,
        (&"b/2".parse().unwrap(), Next::Start),
        &AtomicBool::new(false),
        |reason| {
            reasons.push(reason.to_string());
            assert_eq!(server.arbiter().read(&vm).unwrap().epoch, 1);
            fs::remove_file(&filler).unwrap();
        },
    );
    assert_eq!(won.unwrap(), Claim::Won { epoch: 2 });
    assert!(reasons[0].contains("cannot store decisions"), "{reasons:?}");
    // Nor does a start need room, where there is a state.
    server.kill();
    fill();
    let mut server = Process::start("127.0.0.1:0", &state);
    assert_eq!(claim(&server, "db", 1, "b/2"), Claim::Won { epoch: 2 });
    server.kill();
    let message = refused("127.0.0.1:0", &directory.join("new"));
    assert!(message.contains("make room"), "{message}");
    assert!(message.contains("No space left"), "{message}");
    disk.remount("ro");
    let message = refused("127.0.0.1:0", &state);
    assert!(message.contains("Read-only file system"), "{message}");
    assert!(!message.contains("damaged"), "{message}");
    disk.remount("rw");
    let server = Process::start("127.0.0.1:0", &state);
    assert_eq!(claim(&server, "db", 1, "b/2"), Claim::Won { epoch: 2 });
}

#[test]
fn the_state_of_an_earlier_version_is_refused_and_not_called_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let earlier = directory.path().join("arbiter.redb");
    fs::write(&earlier, "redb").unwrap();
    let message = refused("127.0.0.1:0", directory.path());
    assert!(
        message.contains(&earlier.display().to_string()),
        "{message}"
    );
    assert!(message.contains("earlier version"), "{message}");
    assert!(!message.contains("damaged"), "{message}");
    assert_eq!(fs::read(&earlier).unwrap(), b"redb", "it was left alone");
}

#[test]
fn a_state_directory_that_cannot_be_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let message = refused("127.0.0.1:0", &file.join("state"));
    assert!(message.contains("file/state"), "{message}");
    let message = refused("127.0.0.1:0", &file);
    assert!(message.contains("cannot"), "{message}");

    let locked = directory.path().join("locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).unwrap();
    let server = command("127.0.0.1:0", &locked);
    let message = if nix::unistd::geteuid().is_root() {
        // Root without the right to write everywhere.
        let mut program = Command::new("setpriv");
        program.arg("--bounding-set=-dac_override");
        program.arg(server.get_program()).args(server.get_args());
        refused_by(&mut program)
    } else {
        refused("127.0.0.1:0", &locked)
    };
    assert!(message.contains("writable"), "{message}");
}

#[test]
fn what_clients_do_wrong_stays_theirs() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Process::start("127.0.0.1:0", directory.path());
    let hello = |rest: &str| [HELLO, rest].concat().into_bytes();
    let long = "x".repeat(1 << 20);
    let wrong: Vec<(Vec<u8>, &str)> = vec![
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "\"malformed\""),
        (vec![0xff; 100], ""),
        (b"\n".to_vec(), "\"malformed\""),
        (long.clone().into_bytes(), "\"too_long\""),
        (
            b"{\"ftvm\":\"arbiter\",\"version\":3}\n".to_vec(),
            "\"code\":\"version\"",
        ),
        (
            b"{\"ftvm\":\"arbiter\",\"version\":8,\"newest\":9}\n".to_vec(),
            "version 8 to 9",
        ),
        (
            b"{\"ftvm\":\"nbd\",\"version\":4}\n".to_vec(),
            "\"code\":\"version\"",
        ),
        (hello("nonsense\n"), "\"malformed\""),
        (hello("{\"op\":\"drop_all\"}\n"), "\"malformed\""),
        (hello(&long), "\"too_long\""),
        (hello(&"[".repeat(4000)), ""),
        (hello(&format!("{}\n", "[".repeat(4000))), "\"malformed\""),
        (hello("{\"op\":\"read\",\"vm\":\"d"), ""),
        (
            hello(
                "{\"op\":\"compare_and_set\",\"vm\":\"db\",\"expected_epoch\":9007199254740991,\
                 \"claimant\":\"a\",\"next\":\"start\"}\n",
            ),
            "no epoch follows",
        ),
        (
            hello(
                "{\"op\":\"compare_and_set\",\"vm\":\"d b\",\"expected_epoch\":0,\"claimant\":\"a\",\"next\":\"start\"}\n",
            ),
            "VM name",
        ),
    ];
    for (bytes, expected) in wrong {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
        let answer = exchange(&mut server.connect(), &bytes);
        assert!(answer.contains(expected), "{shown:?} got {answer:?}");
        assert!(server.is_running(), "after {shown:?}");
    }
    let pipelined =
        hello("{\"op\":\"echo\"}\n{\"op\":\"list\"}\n{\"op\":\"read\",\"vm\":\"db\"}\n");
    let answer = exchange(&mut server.connect(), &pipelined);
    let number = server.arbiter().server().unwrap().unwrap();
    let greeting = HELLO.replace("}", &format!(",\"server\":\"{number}\"}}"));
    assert_eq!(
        answer,
        [
            &greeting,
            "{\"answer\":\"echo\"}\n",
            "{\"answer\":\"page\",\"vms\":[],\"more\":false}\n",
            "{\"answer\":\"record\",\"epoch\":0,\"holder\":null,\"backup\":null,\"acknowledged\":false}\n"
        ]
        .concat()
    );
    // One that speaks other versions too.
    let wider = HELLO.replace("4}", "3,\"newest\":4}");
    let echo = [&wider, "{\"op\":\"echo\"}\n"].concat();
    let answer = exchange(&mut server.connect(), echo.as_bytes());
    assert!(answer.ends_with("{\"answer\":\"echo\"}\n"), "{answer}");
    assert_eq!(claim(&server, "db", 0, "a/1"), Claim::Won { epoch: 1 });
}

#[test]
fn clients_that_vanish_and_too_many_clients_do_not_matter() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Process::start_with(
        command("127.0.0.1:0", directory.path()).args(["--max-connections", "4"]),
    );
    for n in 0..50_u64 {
        // The server may be full.
        let Ok(mut stream) = call(server.address) else {
            continue;
        };
        let request = format!(
            "{HELLO}{{\"op\":\"compare_and_set\",\"vm\":\"v{n}\",\"expected_epoch\":0,\"claimant\":\"a\",\"next\":\"start\"}}\n"
        );
        let cut = usize::try_from(n).unwrap() * request.len() / 49;
        let _ = stream.write_all(&request.as_bytes()[..cut]);
    }
    assert!(server.is_running());
    // Held connections fill the server, which closes further ones.
    let mut held = Vec::new();
    until("a call is turned away", || {
        held.extend(call(server.address));
        matches!(
            server.arbiter().warm(),
            Err(CallError::Closed { .. } | CallError::Lost { .. })
        )
    });
    drop(held);
    // A claim waits until there is room.
    assert_eq!(claim(&server, "db", 0, "a/1"), Claim::Won { epoch: 1 });
}

#[test]
fn a_state_that_shares_a_file_system_with_an_image_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("disk.img");
    fs::File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let said = |options: &str| {
        // An address that no host has: it ends at once.
        let output = command("192.0.2.1:1", &directory.path().join("state"))
            .env("RUST_LOG", "warn")
            .args(["--nbd-listen", "127.0.0.1:0"])
            .args(["--export", &format!("db={}{options}", image.display())])
            .output()
            .unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    let warning = "is on the file system of db";
    let shared = said("");
    assert!(shared.contains(warning), "{shared}");
    // Nobody's writes are ahead of a decision there.
    let read_only = said(",read-only");
    assert!(!read_only.contains(warning), "{read_only}");
}
