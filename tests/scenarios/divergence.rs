//! A backup whose guest differs from the primary's finds out, says what differs, does not go live
//! with it, and is repaired while the primary runs on.

use std::time::Duration;

use serde_json::Value;
use testbed::pair::{DiskServer, Guest, Pair};
use testbed::{Exit, Result, Testbed};

const LIMIT: Duration = Duration::from_secs(180);

/// A bit of `target` is flipped in the backup. Returns what the backup says of it.
fn one_bit_is_flipped(target: &str) -> Result<String> {
    let testbed = Testbed::new(&format!("divergence-{target}"))?;
    let sabotage = ["--sabotage", target, "--sabotage-after", "20"];
    let hosts = testbed.start_hosts(["a", "b"])?;
    let guest = Guest::redis("bent").sabotaged(&hosts)?;
    let mut pair = Pair::start_on(&testbed, hosts, guest, &[], &sabotage)?;

    let told = pair.backup.wait_for("diverged", LIMIT)?;
    let difference = told["difference"].as_str().unwrap_or_default().to_owned();
    pair.primary.wait_for("state-sent", LIMIT)?;
    pair.backup.wait_for("repaired", LIMIT)?;
    pair.client.goes_on("after the repair")?;

    // The state that was sent is the guest's: it goes on, and has what was acknowledged.
    pair.a.kill();
    pair.backup.wait_for("live", LIMIT)?;
    pair.client.goes_on("of the repaired backup")?;
    pair.client.lost_nothing();
    let told = pair.backup.told();
    let times = |event: &str| told.events.iter().filter(|e| is(e, event)).count();
    assert_eq!((times("diverged"), times("repaired")), (1, 1));

    testbed.succeed();
    Ok(difference)
}

fn is(event: &Value, name: &str) -> bool {
    event["event"] == name
}

#[test]
fn a_flipped_bit_of_memory_is_found_and_repaired() -> Result<()> {
    let difference = one_bit_is_flipped("memory")?;
    assert!(difference.contains("1 pages of memory"), "{difference}");
    assert!(difference.contains("0x9f000"), "{difference}");
    Ok(())
}

#[test]
fn a_flipped_bit_of_a_register_is_found_and_repaired() -> Result<()> {
    one_bit_is_flipped("register").map(|_| ())
}

#[test]
fn a_flipped_bit_of_a_log_entry_is_found_and_repaired() -> Result<()> {
    one_bit_is_flipped("entry").map(|_| ())
}

/// The primary dies before it has repaired its backup: nobody goes live with a wrong state.
#[test]
fn a_backup_that_differs_does_not_go_live() -> Result<()> {
    let testbed = Testbed::new("divergence-failover")?;
    let [mut a, b] = testbed.start_hosts(["a", "b"])?;
    let disk_server = DiskServer::start(&testbed)?;
    let guest = Guest::redis("unfit").sabotaged([&a, &b])?;
    let _primary = guest.primary(&a, &disk_server, &["--never-repair"])?;
    let options = ["--sabotage", "memory", "--sabotage-after", "20"];
    let mut backup = guest.backup_with(&b, &a, &disk_server, &options)?;
    backup.wait_for("diverged", LIMIT)?;
    let (epoch, holder) = disk_server.record(&b, "unfit")?;

    a.kill();
    let (exit, told) = backup.end(LIMIT)?;
    assert_eq!(exit, Exit::Code(4), "{told:?}");
    assert!(told.has("refused") && !told.has("live"), "{told:?}");
    assert!(told.errors.contains("does not go live"), "{}", told.errors);
    assert!(told.errors.contains("memory"), "{}", told.errors);
    assert_eq!(disk_server.record(&b, "unfit")?, (epoch, holder));

    testbed.succeed();
    Ok(())
}
