//! Programs that compute without asking the host for anything: while they run, the guest answers
//! pings and its clients; its primary's host dies in the middle, and what they find is what an
//! undisturbed run finds. Time stamp counters that programs read never go back, and are the same
//! in a replay.

use std::time::Duration;

use guest_images::load::{Load, MEMORY_MIB};
use testbed::failover::{Failovers, Options, Run, Verdict};
use testbed::pair::PATIENCE;
use testbed::workload::LoadWatcher;
use testbed::{Exit, GUEST, Result, Signal, Testbed, wait_until};

const LIMIT: Duration = Duration::from_secs(300);

/// One failover under a load.
fn fail_over(load: Load) -> Result<Run> {
    let options = Options {
        seed: 3,
        load: Some(load),
        heartbeat_timeout: PATIENCE,
        ..Options::default()
    };
    let mut failovers = Failovers::start(&format!("load-{load}"), options)?;
    let run = failovers.run(&mut |_| {})?;
    eprintln!("{run:?}");
    assert_eq!(run.verdict, Verdict::Pass, "{:?}", run.reason);
    assert_eq!((run.lost, run.reconnects), (0, 0));
    let [before, after] = run.load_results.expect("the load was watched");
    assert!(before > 0 && after > 0, "{before} before, {after} after");
    assert!(run.ping_ms_max.is_some(), "pings were answered");
    assert_eq!(run.pings_lost, 0);
    failovers.end(true)?;
    Ok(run)
}

/// In turn: `openssl speed`, which ends by a timer and never would without interrupts in user mode;
/// stress-ng, which fills memory and verifies it; and a busy shell. Each computes before and after.
#[test]
fn programs_find_the_same_across_a_failover() -> Result<()> {
    fail_over(Load::Mixed).map(drop)
}

/// Every value is compared with the one before it, in the guest, also across the failover.
#[test]
fn time_stamp_counters_never_go_back_across_a_failover() -> Result<()> {
    fail_over(Load::Tsc).map(drop)
}

/// A program that reads its time stamp counter all the time is replayed without a difference.
#[test]
fn time_stamp_counter_reads_of_programs_are_replayed() -> Result<()> {
    /// Thousands of reads each.
    const RESULTS: usize = 3;
    let testbed = Testbed::new("replay-tsc")?;
    let host = testbed.start_host("a")?;
    let (kernel, initrd) = (host.image("vmlinux"), host.image("load.cpio"));
    let words = format!(
        "quiet mitigations=off ftvm.ip={GUEST}/24 {}",
        Load::Tsc.word()
    );
    let memory = MEMORY_MIB.to_string();
    let guest = [
        "--kernel", &kernel, "--initrd", &initrd, "--append", &words, "--memory", &memory,
    ];

    let mut record = vec!["ftvm", "record", "--verify", "--log", "/tmp/tsc.log"];
    record.extend(["--tap", "tap0"]);
    record.extend(guest);
    let recording = host.spawn(&record)?;
    let watcher = LoadWatcher::start(testbed.client(), Load::Tsc);
    wait_until("time stamp counter reads", LIMIT, || {
        Ok(watcher.results() >= RESULTS || watcher.trouble().is_some())
    })?;
    let seen = watcher.finish();
    assert_eq!((seen.wrong, seen.trouble), (None, None));
    recording.signal(Signal::SIGTERM)?;
    assert_eq!(recording.wait(LIMIT)?, Exit::Code(0));

    let mut replay = vec!["ftvm", "replay"];
    replay.extend(guest);
    replay.push("/tmp/tsc.log");
    let replayed = host.check(&replay)?;
    assert!(replayed.starts_with("no difference: "), "{replayed}");
    let pages = format!("{} pages of memory", u64::from(MEMORY_MIB) << 20 >> 12);
    assert!(replayed.contains(&pages), "`{pages}` compared: {replayed}");
    testbed.succeed();
    Ok(())
}
