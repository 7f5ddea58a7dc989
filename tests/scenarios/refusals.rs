//! What ftvm does not take: each is refused with a message that says why, and an exit status; and
//! a primary that waits for its backup goes on waiting.

use std::path::Path;
use std::time::Duration;

use guest_images::{DebianKernel, PackageStore};
use testbed::pair::{DiskServer, Guest, assert_refused, log_address};
use testbed::{Exit, Host, Layout, Output, Result, Signal, Testbed, wait_until};

const LIMIT: Duration = Duration::from_secs(120);

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

    // The rest of the host keeps its /dev.
    let tiny = host.image("tiny.cpio");
    let script = format!(
        "mount -t tmpfs none /dev && exec ftvm run --kernel {vmlinux} --initrd {tiny} \
         --append ftvm.do=poweroff"
    );
    let without = host.run(&["unshare", "-m", "sh", "-c", &script])?;
    assert_refused("no /dev/kvm", &without, "/dev/kvm");
    assert_eq!(without.exit, Exit::Code(2), "this host cannot run guests");

    testbed.succeed();
    Ok(())
}

/// Whoever comes to the logging port of a waiting primary and is not its backup; a second backup;
/// a second primary.
#[test]
fn a_primary_takes_its_own_backup_only() -> Result<()> {
    let testbed = Testbed::new("refusals-pair")?;
    let host = testbed.start_host("a")?;
    let disk_server = DiskServer::start(&testbed)?;
    let guest = Guest::tiny("picky", "ftvm.do=shell");
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
    primary.wait_for_error("is not an ftvm handshake", LIMIT)?;

    // Backups of other guests.
    let other_words = Guest::tiny("picky", "ftvm.do=poweroff");
    let other_name = Guest::tiny("choosy", "ftvm.do=shell");
    let mut other_size = guest.clone();
    other_size.options = ["--memory", "96"].map(str::to_owned).to_vec();
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
    assert!(!primary.told().has("role"), "it still waits");

    // Its own backup, and a second one.
    let mut backup = guest.backup(&host, &host, &disk_server)?;
    primary.wait_for("role", LIMIT)?;
    backup.wait_for("role", LIMIT)?;
    let (exit, told) = guest.backup(&host, &host, &disk_server)?.end(LIMIT)?;
    assert_eq!(exit, Exit::Code(1), "{told:?}");
    assert!(told.errors.contains("already has a backup"), "{told:?}");

    // A second primary, while the first one runs, and after both were killed.
    let elsewhere = format!("{address}:7100");
    let second = |options: &[&str]| guest.primary_at(&host, &disk_server, &elsewhere, options);
    let refused = |what: &str| -> Result<()> {
        let (exit, told) = second(&[])?.end(LIMIT)?;
        assert_eq!(exit, Exit::Code(1), "{what}: {told:?}");
        for part in ["picky is run by ", "--force"] {
            assert!(told.errors.contains(part), "{what}: {told:?}");
        }
        Ok(())
    };
    refused("while it runs")?;
    assert!(!primary.has_ended() && !backup.has_ended());
    assert!(!primary.told().has("peer-lost"));
    assert!(!primary.told().errors.contains("panicked"));
    for side in [primary, backup] {
        side.signal(Signal::SIGKILL)?;
        // The first one to go may leave the other one the time to go live; either is killed.
        let (exit, _) = side.end(LIMIT)?;
        assert_eq!(exit, Exit::Signal(Signal::SIGKILL as i32));
    }
    refused("after it was killed")?;
    let (before, _) = disk_server.record(&host, "picky")?;
    let mut forced = second(&["--force"])?;
    forced.wait_for_error("waiting for a backup", LIMIT)?;
    let (after, _) = disk_server.record(&host, "picky")?;
    assert_eq!(after, before + 1);

    testbed.succeed();
    Ok(())
}
