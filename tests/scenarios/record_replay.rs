//! Recordings and their replays: not one register, not one page differs; and a damaged recording
//! is refused with a message, never with a panic.

use std::fs;
use std::path::{Path, PathBuf};

use guest_images::{Archive, DebianKernel, PackageStore};
use testbed::workload::Client;
use testbed::{
    Exit, Host, HostKind, LIMIT, Layout, Output, Paging, Result, Signal, Testbed, wait_until,
};

use crate::recording::{Compared, POWER_OFF, command, quick_power_off, run};

/// Variable: how many boots are recorded and replayed. One, unless it is set.
const ROUNDS_VARIABLE: &str = "FTVM_ROUNDS";
/// Pages of the guest's 128 MiB.
const ALL_PAGES: u64 = 32768;

/// A replay without a difference that compared all there is.
fn assert_everything(replayed: &Output) {
    let compared = Compared::read(replayed.exit, replayed.stdout.trim());
    let Compared {
        exits,
        registers,
        digests,
        pages,
        ..
    } = compared;
    assert!(
        registers >= exits && exits > 1000,
        "registers at every exit: {compared:?}"
    );
    assert!(digests > 0, "one at the end at least: {compared:?}");
    assert_eq!(pages, ALL_PAGES, "all of memory: {compared:?}");
}

/// Makes an initramfs in a host: the tiny guest's, before which Debian's `ptp_kvm` is loaded. That
/// module asks KVM for the host's clock, by a hypercall, as soon as it is loaded.
fn with_ptp_kvm(testbed: &Testbed, host: &Host) -> Result<String> {
    const INIT: &str = "#!/bin/sh\n\
        /bin/busybox mount -t proc proc /proc\n\
        while read -r module; do insmod \"/ptp/$module\"; done < /ptp/order\n\
        umount /proc\n\
        exec /init\n";
    let kernel = DebianKernel::unpack(&PackageStore::new(Layout::find().packages()))?;
    let mut archive = Archive::new();
    let added = (kernel.modules()?).add_to(&mut archive, "ptp", &["ptp_kvm"]);
    added.expect("the kernel has it as a module");
    archive.file("ptp/init", 0o755, INIT);
    let local = testbed.logs().join("ptp.cpio");
    fs::write(&local, archive.to_bytes()).expect("a file in the run's directory");
    let (tiny, ptp) = (host.image("tiny.cpio"), host.provide(&local, "ptp.cpio")?);
    let both = "/tmp/tiny-ptp.cpio";
    host.check(&["sh", "-c", &format!("cat {tiny} {ptp} > {both}")])?;
    Ok(both.to_owned())
}

/// The whole boot of a guest, to its power-off, is replayed without a difference; also where it loads
/// a module that would read the host's clock past the log, and under nested paging.
#[test]
fn a_boot_is_replayed_without_a_difference() -> Result<()> {
    let rounds = std::env::var(ROUNDS_VARIABLE).map_or(1, |rounds| {
        rounds.parse().expect("FTVM_ROUNDS is a number of rounds")
    });
    let testbed = Testbed::new("replay-boot")?;
    let host = testbed.start_host("a")?;
    let initrd = with_ptp_kvm(&testbed, &host)?;
    // The kernel is told not to load it; here it is, as one that ftvm does not know would be.
    let words = format!("{POWER_OFF} rdinit=/ptp/init module_blacklist=");
    for _ in 0..rounds {
        record_and_replay(&host, &initrd, &words, Paging::Shadow)?;
    }
    // A namespace has this machine's paging.
    if host.kind() == HostKind::Qemu {
        host.set_paging(Paging::Nested)?;
        record_and_replay(&host, &initrd, &words, Paging::Nested)?;
    }
    testbed.succeed();
    Ok(())
}

/// The whole of a guest, on a host with this paging.
fn record_and_replay(host: &Host, initrd: &str, words: &str, paging: Paging) -> Result<()> {
    let allow = paging.options();
    let record = ["--verify", "--log", "/tmp/boot.log"];
    let record = [&record[..], &["--console-log", "/tmp/boot.console"], allow].concat();
    let recorded = run(host, &command(host, "record", initrd, words, &record))?;
    assert!(recorded.exit.success(), "{recorded:?}");
    // Where KVM answers, it is loaded, and the guest has a clock of the host's.
    let console = host.check(&["cat", "/tmp/boot.console"])?;
    assert!(
        console.contains("can't insert '/ptp/ptp_kvm.ko'"),
        "{console}"
    );
    let replay = [allow, &["/tmp/boot.log"]].concat();
    let replay = command(host, "replay", initrd, words, &replay);
    assert_everything(&run(host, &replay)?);
    host.check(&["rm", "/tmp/boot.console"]).map(drop)
}

/// A server that clients used, and that was switched off in the middle, is replayed without a
/// difference: the network's frames arrive at the same instructions. Its programs, of which each reads
/// the time stamp counter, have page tables with little of the kernel in them.
#[test]
fn a_server_with_clients_is_replayed_without_a_difference() -> Result<()> {
    const WORDS: &str = "quiet mitigations=off pti=on ftvm.ip=10.77.0.10/24";
    let testbed = Testbed::new("replay-redis")?;
    let host = testbed.start_host("a")?;
    let options = ["--verify", "--log", "/tmp/redis.log", "--tap", "tap0"];
    let record = command(&host, "record", "redis.cpio", WORDS, &options);
    let record: Vec<&str> = record.iter().map(String::as_str).collect();
    let recording = host.spawn(&record)?;

    let client = Client::redis(testbed.client());
    wait_until("increments", LIMIT, || Ok(client.counter() >= 50))?;
    let client = client.finish();
    assert_eq!(
        (client.reconnects, client.irregular, &client.trouble),
        (0, None, &None)
    );
    recording.signal(Signal::SIGTERM)?;
    assert_eq!(recording.wait(LIMIT)?, Exit::Code(0));

    let replay = command(&host, "replay", "redis.cpio", WORDS, &["/tmp/redis.log"]);
    assert_everything(&run(&host, &replay)?);
    testbed.succeed();
    Ok(())
}

/// A recording, kept on this machine, and damaged copies of it for the host.
struct Recording<'a> {
    host: &'a Host,
    copy: PathBuf,
    bytes: Vec<u8>,
}

impl Recording<'_> {
    const DAMAGED: &'static str = "/tmp/damaged.log";

    /// The replay of a log with other contents, and with a command line of the caller's.
    fn replay(&self, bytes: &[u8], words: &str) -> Result<Output> {
        fs::write(&self.copy, bytes).expect("a file in the run's directory");
        self.host.put(&self.copy, Self::DAMAGED)?;
        let argv = command(self.host, "replay", "tiny.cpio", words, &[Self::DAMAGED]);
        run(self.host, &argv)
    }

    fn refused(&self, what: &str, bytes: &[u8], words: &str, message: &str) -> Result<()> {
        let output = self.replay(bytes, words)?;
        let context = format!("{what}: {output:?}");
        assert_eq!(output.exit, Exit::Code(1), "{context}");
        assert!(output.stderr.contains(message), "`{message}`, {context}");
        assert!(!output.stdout.contains("no difference"), "{context}");
        assert!(!output.stderr.contains("panicked"), "{context}");
        Ok(())
    }

    fn flipped(&self, at: usize) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes[at] ^= 0x10;
        bytes
    }
}

/// Whatever happened to a log, its replay says so: what a reader finds of each bit is tested with it.
#[test]
fn damaged_logs_are_refused() -> Result<()> {
    let power_off = &quick_power_off();
    let testbed = Testbed::new("damaged-logs")?;
    let host = testbed.start_host("a")?;
    let argv = command(
        &host,
        "record",
        "tiny.cpio",
        power_off,
        &["--log", "/tmp/log"],
    );
    let recorded = run(&host, &argv)?;
    assert!(recorded.exit.success(), "{recorded:?}");
    let copy = testbed.logs().join("log");
    host.get("/tmp/log", &copy)?;
    let bytes = fs::read(Path::new(&copy)).expect("the log that was copied");
    let middle = bytes.len() / 2;
    let log = Recording {
        host: &host,
        copy,
        bytes,
    };

    log.refused("empty", &[], power_off, "is cut")?;
    log.refused("not a log", &[b'x'; 4096], power_off, "is not an ftvm log")?;
    log.refused("cut in its header", &log.bytes[..40], power_off, "is cut")?;
    log.refused(
        "cut in the middle",
        &log.bytes[..middle],
        power_off,
        "the log is cut",
    )?;
    log.refused(
        "a flip in the magic",
        &log.flipped(0),
        power_off,
        "is not an ftvm log",
    )?;
    log.refused(
        "a flip in the header",
        &log.flipped(40),
        power_off,
        "corrupt",
    )?;
    log.refused(
        "a flip in an entry",
        &log.flipped(middle / 4),
        power_off,
        "corrupt",
    )?;
    let other = "quiet mitigations=off ftvm.do=reboot";
    log.refused("another command line", &log.bytes, other, "another guest")?;
    let argv = command(
        &host,
        "replay",
        "tiny.cpio",
        power_off,
        &["/tmp/no-such-log"],
    );
    let missing = run(&host, &argv)?;
    assert_eq!(missing.exit, Exit::Code(1), "{missing:?}");
    assert!(missing.stderr.contains("/tmp/no-such-log"), "{missing:?}");
    testbed.succeed();
    Ok(())
}
