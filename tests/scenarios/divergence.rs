//! A backup whose guest differs from the primary's finds out, says what differs, does not go live
//! with it, and is repaired while the primary runs on.

use serde_json::Value;
use testbed::pair::{DiskServer, Guest, Pair, Told};
use testbed::{Exit, LIMIT, Result, Signal, Testbed};

/// Bits of the backup are flipped, in this order. From the third one on it is no accident any more: its
/// repair waits, and the cause is named.
const TARGETS: &str = "memory,entry,window,accessed-bit";
/// A digest comes between two flips of a bit, which follow one another in a second: the second one makes
/// good what the first one did.
const DIGESTS_MS: &str = "100";
/// What the causes of the third and the fourth are said to be.
const CAUSES: [&str; 2] = [
    "open the interrupt window at other places",
    "page tables alone differ",
];

/// What it says of each event of a kind.
fn each(told: &Told, kind: &str) -> Vec<Value> {
    let events = told.events.iter();
    events.filter(|e| e["event"] == kind).cloned().collect()
}

/// Each flipped bit is found, and repaired while a client goes on; then the primary's host dies.
#[test]
fn flipped_bits_are_found_and_repaired() -> Result<()> {
    let testbed = Testbed::new("divergence")?;
    let hosts = testbed.start_hosts(["a", "b"])?;
    let guest = Guest::redis("bent").quick().sabotaged(&hosts)?;
    let (primary, backup) = (["--digest-interval", DIGESTS_MS], ["--sabotage", TARGETS]);
    let mut pair = Pair::start_on(&testbed, hosts, guest, &primary, &backup)?;

    let (mut differences, mut causes) = (Vec::new(), Vec::new());
    for (before, target) in TARGETS.split(',').enumerate() {
        pair.backup.signal(Signal::SIGUSR1)?;
        let next = |kind| move |told: &Told| each(told, kind).get(before).cloned();
        let what = |event: &str| format!("{event} after a flipped bit of: {target}");
        let told = &what("difference");
        let told = pair.backup.wait_until(told, LIMIT, next("diverged"))?;
        differences.push(told["difference"].to_string());
        causes.extend(told["likely_cause"].as_str().map(str::to_owned));
        let sent = &what("state");
        pair.primary.wait_until(sent, LIMIT, next("state-sent"))?;
        let repaired = &what("repair");
        pair.backup.wait_until(repaired, LIMIT, next("repaired"))?;
        pair.client.goes_on(&what("repair"))?;
    }
    let of_memory = &differences[0];
    assert!(of_memory.contains("1 pages of memory"), "{of_memory}");
    assert!(of_memory.contains("0x9f000"), "{of_memory}");
    assert_eq!(causes.len(), CAUSES.len(), "{causes:?}");
    for (told, expected) in causes.iter().zip(CAUSES) {
        assert!(told.contains(expected), "{told}");
    }

    // The state that was sent is the guest's: it goes on, and has what was acknowledged.
    pair.a.kill();
    pair.backup.wait_for("live", LIMIT)?;
    pair.client.goes_on("of the repaired backup")?;
    pair.client.lost_nothing();
    let count = differences.len();
    for kind in ["diverged", "repaired"] {
        let told = each(pair.backup.told(), kind);
        assert_eq!(told.len(), count, "{told:?}");
    }
    testbed.succeed();
    Ok(())
}

/// The primary dies before it has repaired its backup: nobody goes live with a wrong state.
#[test]
fn a_backup_that_differs_does_not_go_live() -> Result<()> {
    let testbed = Testbed::new("divergence-failover")?;
    let [mut a, b] = testbed.start_hosts(["a", "b"])?;
    let disk_server = DiskServer::start(&testbed)?;
    let guest = Guest::tiny("unfit", "ftvm.do=shell").quick();
    let guest = guest.sabotaged([&a, &b])?;
    let _primary = guest.primary(&a, &disk_server, &["--never-repair"])?;
    let mut backup = guest.backup_with(&b, &a, &disk_server, &["--sabotage", "register"])?;
    backup.wait_for("role", LIMIT)?;
    backup.signal(Signal::SIGUSR1)?;
    backup.wait_for("diverged", LIMIT)?;
    let (epoch, holder) = disk_server.record(&b, "unfit")?;

    a.kill();
    let (exit, told) = backup.end(LIMIT)?;
    assert_eq!(exit, Exit::Code(4), "{told:?}");
    assert!(told.has("refused") && !told.has("live"), "{told:?}");
    assert!(told.errors.contains("does not go live"), "{}", told.errors);
    // By the digest of the registers at an event, or by that of the state, which names the one.
    let named = ["the registers", "r14"].map(|named| told.errors.contains(named));
    assert!(named.contains(&true), "{}", told.errors);
    assert_eq!(disk_server.record(&b, "unfit")?, (epoch, holder));

    testbed.succeed();
    Ok(())
}
