//! Guests that notice what KVM does with their page tables are replayed without a difference under
//! shadow paging: programs that look at accessed bits, with few stops and with many of them (`stressors` has
//! one that fills and gives back memory). Where the host drops KVM's shadow pages by itself, that is found.

use std::fs;

use guest_images::{Archive, accessed_bits};
use testbed::pair::QUICK;
use testbed::{Host, HostProcess, LIMIT, Result, Testbed};

use crate::recording::{command, run};
use crate::shadow_pages::ShadowPages;

/// Process 1 of a guest that runs the command after `ftvm.run=`, with `+` for spaces, twice.
const INIT: &str = r#"#!/bin/sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox mount -t tmpfs tmpfs /tmp
read -r words < /proc/cmdline
for word in $words; do
    case $word in
        ftvm.run=*) command=$(echo "${word#*=}" | /bin/busybox tr + ' ') ;;
    esac
done
cd /tmp
$command
$command
/bin/busybox poweroff -f
"#;

/// How a guest is stopped that looks at its paging.
struct Case {
    words: &'static str,
    options: &'static [&'static str],
    /// State deltas that there are, at least.
    deltas: u64,
}

/// The guest's command line, with further words.
fn words(further: &str) -> String {
    format!("quiet mitigations=off {further} rdinit=/paging/init ftvm.run=accessed-bits+400+64")
}

const CASES: [Case; 2] = [
    // Its timer would be found out with a stop a second.
    Case {
        words: QUICK,
        options: &["--memory", "128", "--latency", "1000"],
        deltas: 0,
    },
    // Most stops are those in which it finds out how fast its timer is.
    Case {
        words: "",
        options: &[
            "--memory",
            "128",
            "--latency",
            "1",
            "--digest-interval",
            "100",
        ],
        deltas: 10,
    },
];

/// Makes an initramfs in a host: the tiny guest's, with [`INIT`] and the program in it.
fn initrd(testbed: &Testbed, host: &Host) -> Result<String> {
    let mut archive = Archive::new();
    let program = accessed_bits::program().expect("it compiles");
    archive
        .file("paging/init", 0o755, INIT)
        .file("bin/accessed-bits", 0o755, program);
    let local = testbed.logs().join("paging.cpio");
    fs::write(&local, archive.to_bytes()).expect("a file in the run's directory");
    let (base, ours) = (
        host.image("tiny.cpio"),
        host.provide(&local, "paging.cpio")?,
    );
    let both = "/tmp/guest.cpio";
    host.check(&["sh", "-c", &format!("cat {base} {ours} > {both}")])?;
    Ok(both.to_owned())
}

#[test]
fn guests_that_look_at_their_paging_are_replayed_without_a_difference() -> Result<()> {
    let testbed = Testbed::new("paging")?;
    let host = testbed.start_host("a")?;
    let watching = ShadowPages::watch(&host)?;
    let initrd = initrd(&testbed, &host)?;
    for case in CASES {
        let words = words(case.words);
        let log = ["--verify", "--log", "/tmp/paging.log"];
        let record = [case.options, &log, &["--console-log", "/tmp/console"]].concat();
        host.check(&["rm", "-f", "/tmp/console"])?;
        let recorded = run(&host, &command(&host, "record", &initrd, &words, &record))?;
        assert!(recorded.exit.success(), "{recorded:?}");
        let console = host.check(&["cat", "/tmp/console"])?;
        assert_eq!(console.matches("accessed-bits: ").count(), 2, "{console}");
        let replay = [&case.options[..2], &["/tmp/paging.log"]].concat();
        let replayed = run(&host, &command(&host, "replay", &initrd, &words, &replay))?;
        assert!(replayed.exit.success(), "{replayed:?}");
        let line = replayed.stdout.trim();
        println!("{:?}: {line}", case.options);
        assert!(line.starts_with("no difference: "), "{replayed:?}");
        let deltas = line
            .rsplit("; ")
            .next()
            .and_then(|end| end.split(' ').next());
        let deltas: u64 = deltas.and_then(|n| n.parse().ok()).expect("a number");
        assert!(deltas >= case.deltas, "{line}");
    }
    watching.were_enough()?;
    testbed.succeed();
    Ok(())
}

/// Has a host drop the shadow pages of its guests again and again, until [`stop_dropping`]. It looks
/// which memory `ftvm` writes (proc(5), `clear_refs`), for which Linux takes all of it out of KVM's
/// tables, as for NUMA balancing or swapping.
fn drop_shadow_pages(host: &Host) -> Result<HostProcess> {
    const AGAIN: &str = "rm -f /tmp/enough
        until [ -e /tmp/enough ]; do
            sleep 0.05
            for ftvm in $(pidof ftvm); do echo 4 > /proc/$ftvm/clear_refs; done
        done";
    host.spawn(&["sh", "-c", AGAIN])
}

fn stop_dropping(host: &Host, dropping: HostProcess) -> Result<()> {
    host.check(&["touch", "/tmp/enough"])?;
    dropping.wait(LIMIT).map(drop)
}

/// It shows in the replay.
#[test]
fn a_host_that_drops_shadow_pages_is_found_out() -> Result<()> {
    let testbed = Testbed::new("dropped-shadow-pages")?;
    let host = testbed.start_host("a")?;
    let words = words(QUICK);
    let initrd = initrd(&testbed, &host)?;
    let options = ["--digest-interval", "10", "--log", "/tmp/paging.log"];
    let dropping = drop_shadow_pages(&host)?;
    let recorded = run(&host, &command(&host, "record", &initrd, &words, &options))?;
    stop_dropping(&host, dropping)?;
    assert!(recorded.exit.success(), "{recorded:?}");
    let replay = command(&host, "replay", &initrd, &words, &["/tmp/paging.log"]);
    let replayed = run(&host, &replay)?;
    assert!(!replayed.exit.success(), "{replayed:?}");
    assert!(replayed.stderr.contains("diverged"), "{replayed:?}");
    // Wherever it shows: the cause is among those that are named.
    assert!(replayed.stderr.contains("NUMA balancing"), "{replayed:?}");
    testbed.succeed();
    Ok(())
}
