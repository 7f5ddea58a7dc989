//! What ftvm does not take: each is refused with a message that says why, and an exit status; and
//! a primary that waits for its backup goes on waiting. How guests and processes end, as exit
//! statuses and events tell it.

use std::fs;
use std::path::Path;

use guest_images::{DebianKernel, PackageStore};
use serde_json::Value;
use testbed::pair::{DiskServer, Guest, QUICK, Side, assert_refused, log_address};
use testbed::{Exit, Host, LIMIT, Layout, Output, Result, Signal, Testbed, wait_until};

fn run_kernel(host: &Host, kernel: &str) -> Result<Output> {
    let initrd = host.image("tiny.cpio");
    host.run(&["ftvm", "run", "--kernel", kernel, "--initrd", &initrd])
}

/// Kernels that are none, and a host without KVM.
#[test]
fn what_cannot_run_is_refused() -> Result<()> {
    let testbed = Testbed::new("refusals-run")?;
    let host = testbed.start_host("a")?;
    let vmlinux = host.image("vmlinux");

    let missing = run_kernel(&host, "/no/such/vmlinux")?;
    assert_refused("a missing kernel", &missing, "/no/such/vmlinux");

    let cut = format!("head -c 5000000 {vmlinux} > /tmp/cut-vmlinux");
    host.check(&["sh", "-c", &cut])?;
    let truncated = run_kernel(&host, "/tmp/cut-vmlinux")?;
    assert_refused("a truncated kernel", &truncated, "is not a complete");

    host.check(&["sh", "-c", "> /tmp/empty-vmlinux"])?;
    let empty = run_kernel(&host, "/tmp/empty-vmlinux")?;
    assert_refused("an empty kernel", &empty, "is not a complete");

    let store = PackageStore::new(Layout::find().packages());
    let bzimage = DebianKernel::unpack(&store)?.bzimage()?;
    let compressed = run_kernel(&host, &host.provide(&bzimage, "bzImage")?)?;
    assert_refused("a compressed kernel", &compressed, "bzImage");

    let program = run_kernel(&host, &host.provide(Path::new("/bin/true"), "true")?)?;
    assert_refused("a program as kernel", &program, "no rdtsc instruction");

    let initrd = ["--initrd", "/no/such/initrd"];
    let argv = [&["ftvm", "run", "--kernel", &vmlinux][..], &initrd].concat();
    let missing = host.run(&argv)?;
    assert_refused("a missing initramfs", &missing, "/no/such/initrd");

    // What breaks it on purpose is in another program.
    for (role, option) in [
        ("primary", "--never-repair"),
        ("primary", "--break-output-rule"),
        ("backup", "--sabotage"),
    ] {
        let unknown = host.run(&["ftvm", role, option])?;
        assert_refused(option, &unknown, &format!("unexpected argument '{option}'"));
    }

    // The rest of the host keeps its /dev.
    let tiny = host.image("tiny.cpio");
    let without_kvm = |kernel: &str, initrd: &str, options: &str| {
        let script = format!(
            "mount -t tmpfs none /dev && exec ftvm run --kernel {kernel} --initrd {initrd} {options}"
        );
        host.run(&["unshare", "-m", "sh", "-c", &script])
    };
    let without = without_kvm(&vmlinux, &tiny, "--append ftvm.do=poweroff")?;
    assert_refused("no /dev/kvm", &without, "/dev/kvm");
    assert_eq!(without.exit, Exit::Code(2), "this host cannot run guests");

    // What is wrong with the guest, or with its connections, shows first, also there.
    let too_long = format!("--append {}", "x".repeat(2048));
    for (kernel, initrd, options, named) in [
        ("/no/such/vmlinux", &*tiny, "", "/no/such/vmlinux"),
        ("/tmp/cut-vmlinux", &tiny, "", "is not a complete"),
        (&vmlinux, "/no/such/initrd", "", "/no/such/initrd"),
        (&vmlinux, &tiny, "--memory 32", "give the guest at least"),
        (&vmlinux, &tiny, &too_long, "Linux takes 2047"),
        (&vmlinux, &tiny, "--mac 03:00:00:00:00:01", "--mac"),
        (&vmlinux, &tiny, "--tap nonesuch", "nonesuch"),
        (
            &vmlinux,
            &tiny,
            "--console-log /no/such/log",
            "/no/such/log",
        ),
    ] {
        let refused = without_kvm(kernel, initrd, options)?;
        assert_refused(named, &refused, named);
        assert!(!refused.stderr.contains("/dev/kvm"), "{refused:?}");
    }

    testbed.succeed();
    Ok(())
}

/// What has no room on a host, or is told wrong, is refused before a guest runs; guests that are told
/// by a file end with the status and the events that are promised.
#[test]
fn statuses_and_events_are_as_promised() -> Result<()> {
    let testbed = Testbed::new("refusals-statuses")?;
    let host = testbed.start_host("a")?;
    let (kernel, initrd) = (host.image("vmlinux"), host.image("tiny.cpio"));
    let configure = |name: &str, words: &str| {
        let text = format!(
            "name = \"{name}\"\nkernel = \"{kernel}\"\ninitrd = \"{initrd}\"\n\
             append = \"quiet mitigations=off {QUICK} ftvm.work=0 {words}\"\n"
        );
        let path = testbed.logs().join(format!("{name}.toml"));
        fs::write(&path, text).expect("a file in the run's directory");
        host.provide(&path, name)
    };

    // `--config`, `--events FILE`; a reset, and a crash.
    let ends = |name: &str, words: &str, status: i32, reason: &str| -> Result<()> {
        let (config, events) = (configure(name, words)?, format!("/tmp/{name}.events"));
        let told = host.run(&["ftvm", "run", "--config", &config, "--events", &events])?;
        assert_eq!(told.exit, Exit::Code(status), "{name}: {told:?}");
        let events = host.check(&["cat", &events])?;
        let ended = events
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("an event a line"))
            .find(|event| event["event"] == "ended");
        assert_eq!(ended.expect("it tells its end")["reason"], reason);
        Ok(())
    };
    ends("resetting", "ftvm.do=reboot", 0, "Reset")?;
    ends("crashing", "ftvm.do=reboot reboot=t", 5, "TripleFault")?;

    let config = configure("unusual", "\"\ncolour = \"blue")?;
    let unknown = host.run(&["ftvm", "run", "--config", &config])?;
    assert_refused("an unknown key", &unknown, "colour");
    let missing = host.run(&["ftvm", "run", "--config", "/no/such/file"])?;
    assert_refused("a missing file", &missing, "/no/such/file");

    // The command line is not understood.
    let config = configure("patient", "ftvm.do=shell")?;
    let primary = [
        "ftvm",
        "primary",
        "--config",
        &config,
        "--listen",
        "0.0.0.0:7000",
    ];
    for wrong in [
        ["--max-lag", "0"],
        ["--max-lag", "x"],
        ["--disk-timeout", "0"],
        ["--disk-timeout", "86401"],
    ] {
        let server = ["--disk-server", "10.77.2.1:7070"];
        let refused = host.run(&[&primary[..], &server, &wrong].concat())?;
        assert_refused("a value out of range", &refused, wrong[0]);
        assert_eq!(refused.exit, Exit::Code(2), "{wrong:?}: {refused:?}");
    }

    // No disk server: neither role starts.
    let nobody = ["--plain", "--disk-server", "10.77.2.1:7070"];
    let backup = [
        "ftvm",
        "backup",
        "--config",
        &config,
        "--connect",
        "10.77.1.11:7000",
    ];
    for role in [&primary, &backup] {
        let alone = host.run(&[&role[..], &nobody].concat())?;
        assert_refused("no disk server", &alone, "10.77.2.1:7070");
        assert_eq!(alone.exit, Exit::Code(1), "{alone:?}");
    }

    // No room for a recording, which is useless then; none for events, which a guest does not need.
    host.check(&["mkdir", "-p", "/tmp/small"])?;
    host.check(&[
        "mount",
        "-t",
        "tmpfs",
        "-o",
        "size=16k",
        "none",
        "/tmp/small",
    ])?;
    let config = configure("crammed", "ftvm.do=poweroff")?;
    let record = [
        "ftvm",
        "record",
        "--config",
        &config,
        "--log",
        "/tmp/small/log",
    ];
    let recorded = host.run(&record)?;
    assert_refused("a recording without room", &recorded, "No space left");
    let fill = "rm -f /tmp/small/log; head -c 100000 /dev/zero > /tmp/small/rest; true";
    host.check(&["sh", "-c", fill])?;
    let events = ["--events", "/tmp/small/events"];
    let ran = host.run(&[&["ftvm", "run", "--config", &config][..], &events].concat())?;
    assert_eq!(ran.exit, Exit::Code(0), "{ran:?}");
    assert!(ran.stderr.contains("No space left"), "{ran:?}");

    testbed.succeed();
    Ok(())
}

/// Whoever comes to the logging port of a waiting primary and is not its backup; a second backup;
/// a second primary. Then each of the pair is told to end.
#[test]
fn a_primary_takes_its_own_backup_only() -> Result<()> {
    let testbed = Testbed::new("refusals-pair")?;
    let host = testbed.start_host("a")?;
    let mut disk_server = DiskServer::start(&testbed)?;
    let mut guest = Guest::tiny("picky", "ftvm.do=shell").quick();
    guest.set_memory(96);
    // There is room for ftvm, and none for the guest's memory.
    let mut cramped = guest.clone();
    cramped.set_memory(3072);
    let script = testbed.logs().join("cramped-ftvm");
    let text = format!("#!/bin/sh\nulimit -v {}\nexec ftvm \"$@\"\n", 510 << 10);
    fs::write(&script, text).expect("a file in the run's directory");
    cramped.program = host.provide(&script, "cramped-ftvm")?;
    host.check(&["chmod", "755", &cramped.program])?;
    let finds_no_room = |side: Side| -> Result<()> {
        let (exit, told) = side.end(LIMIT)?;
        assert_eq!(exit, Exit::Code(1), "{told:?}");
        let text = "guest memory: the system refuses it";
        assert!(told.errors.contains(text), "{told:?}");
        Ok(())
    };
    let [address, port] = {
        let log = log_address(&host);
        let (address, port) = log.split_once(':').expect("address and port");
        [address, port].map(str::to_owned)
    };

    // The port is in use.
    let listener = host.spawn(&["nc", "-ll", "-p", &port, "-e", "/bin/cat"])?;
    wait_until("a program on the port", LIMIT, || {
        let listens = format!("netstat -tln | grep -q :{port}");
        Ok(host.run(&["sh", "-c", &listens])?.exit.success())
    })?;
    let (exit, told) = guest.primary(&host, &disk_server, &[])?.end(LIMIT)?;
    assert_eq!(exit, Exit::Code(1), "{told:?}");
    assert!(told.errors.contains("is in use"), "{told:?}");
    drop(listener);

    // A host without room for a primary.
    finds_no_room(cramped.primary(&host, &disk_server, &[])?)?;
    let known = disk_server.record(&host, "picky");
    assert!(known.is_err(), "it claimed an epoch: {known:?}");

    // A primary waits.
    let mut primary = None;
    wait_until("a primary on the port that is free again", LIMIT, || {
        let mut side = guest.primary(&host, &disk_server, &[])?;
        let waits = side.wait_for_error("waiting for a backup", LIMIT).is_ok();
        primary = waits.then_some(side);
        Ok(waits)
    })?;
    let mut primary = primary.expect("waited for");

    // Noise.
    for noise in [
        "printf 'GET / HTTP/1.0\\r\\n\\r\\n'",
        "head -c 300000 /dev/urandom",
        "printf ''",
        "head -c 100000 /dev/zero",
    ] {
        let script = format!("{noise} | timeout 10 nc {address} {port}");
        host.run(&["sh", "-c", &script])?;
    }
    primary.wait_for_error("does not speak as ftvm does", LIMIT)?;

    // Backups of other guests.
    let [mut other_words, mut other_name, mut other_size] = [(); 3].map(|()| guest.clone());
    other_words.words = "quiet mitigations=off ftvm.do=poweroff".to_owned();
    other_name.name = "choosy".to_owned();
    other_size.set_memory(80);
    for (other, reason) in [
        (other_words, "another guest image"),
        (other_name, "another VM"),
        (other_size, "another memory size"),
    ] {
        let (exit, told) = other.backup(&host, &host, &disk_server)?.end(LIMIT)?;
        assert_eq!(exit, Exit::Code(1), "{reason}: {told:?}");
        for part in ["refuses this backup", reason] {
            assert!(told.errors.contains(part), "{part}: {told:?}");
        }
        assert!(!told.errors.contains("panicked"), "{told:?}");
        primary.wait_for_error(reason, LIMIT)?;
        primary.wait_for_error("refused a backup", LIMIT)?;
    }
    finds_no_room(cramped.backup(&host, &host, &disk_server)?)?;
    assert!(!primary.told().has("protected"), "it still waits");

    // Its own backup, and a second one.
    let mut backup = guest.backup(&host, &host, &disk_server)?;
    primary.wait_for("protected", LIMIT)?;
    backup.wait_for("joined", LIMIT)?;
    let elsewhere = ["--listen", "127.0.0.1:7002"];
    let (exit, told) = guest
        .backup_with(&host, &host, &disk_server, &elsewhere)?
        .end(LIMIT)?;
    assert_eq!(exit, Exit::Code(1), "{told:?}");
    assert!(told.errors.contains("already has a backup"), "{told:?}");

    // A second primary, while the first one runs, and after both were killed.
    let elsewhere = format!("{address}:7100");
    let second = |disk_server: &DiskServer, options: &[&str]| {
        guest.primary_at(&host, disk_server, &elsewhere, options)
    };
    let refused = |disk_server: &DiskServer, what: &str| -> Result<()> {
        let (exit, told) = second(disk_server, &[])?.end(LIMIT)?;
        assert_eq!(exit, Exit::Code(1), "{what}: {told:?}");
        for part in ["picky is run by ", "--force"] {
            assert!(told.errors.contains(part), "{what}: {told:?}");
        }
        Ok(())
    };
    refused(&disk_server, "while it runs")?;
    assert!(!primary.has_ended() && !backup.has_ended());
    assert!(!primary.told().has("peer-lost"));
    assert!(!primary.told().errors.contains("panicked"));
    // The backup is told to end, and the primary goes on alone.
    backup.signal(Signal::SIGTERM)?;
    let (exit, told) = backup.end(LIMIT)?;
    assert_eq!(exit, Exit::Signal(Signal::SIGTERM as i32), "{told:?}");
    primary.wait_for("live", LIMIT)?;
    // A primary that is told to end, and has nobody to tell of it, ends at once when told again.
    let (exit, told) = disk_server.paused(|| {
        wait_until("the end at a second signal", LIMIT, || {
            let ended = primary.has_ended();
            if !ended {
                primary.signal(Signal::SIGTERM)?;
            }
            Ok(ended)
        })?;
        primary.end(LIMIT)
    })?;
    assert_eq!(exit, Exit::Code(130), "{told:?}");
    refused(&disk_server, "after it was killed")?;

    let (before, _) = disk_server.record(&host, "picky")?;
    let mut forced = second(&disk_server, &["--force"])?;
    forced.wait_for_error("waiting for a backup", LIMIT)?;
    let (after, _) = disk_server.record(&host, "picky")?;
    assert_eq!(after, before + 1);

    // One that waits gives its right back: the next one needs no force.
    forced.signal(Signal::SIGTERM)?;
    let (exit, told) = forced.end(LIMIT)?;
    assert_eq!(exit, Exit::Code(0), "{told:?}");
    let (_, holder) = disk_server.record(&host, "picky")?;
    assert_eq!(holder, "stopped");
    let mut next = second(&disk_server, &[])?;
    next.wait_for_error("waiting for a backup", LIMIT)?;

    testbed.succeed();
    Ok(())
}
