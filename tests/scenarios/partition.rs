//! The hosts cannot hear each other, and both are well: the disk server decides which one goes
//! on, and without its answer nobody does.

use std::time::Duration;

use testbed::pair::{Guest, Pair, one_goes_on};
use testbed::{Exit, Network, Result, Testbed, wait_until};

const LIMIT: Duration = Duration::from_secs(180);
/// No reply for so long, from a client that had one every few milliseconds: no output leaves.
const SILENCE: Duration = Duration::from_secs(3);

/// The logging link is cut: exactly one host goes on, the other one halts, and the client keeps
/// its connection and its increments, whoever wins.
#[test]
fn of_two_hosts_that_lose_each_other_one_goes_on() -> Result<()> {
    let testbed = Testbed::new("partition")?;
    let pair = Pair::start(&testbed, Guest::redis("split").quick())?;

    testbed.cut(&pair.b, Network::Logging)?;
    let mut outcome = one_goes_on(pair.primary, pair.backup, LIMIT)?;
    assert_eq!(outcome.loser, Exit::Code(3), "{:?}", outcome.loser_told);
    assert!(outcome.loser_told.has("lost"), "{:?}", outcome.loser_told);
    assert!(!outcome.loser_told.has("live"), "{:?}", outcome.loser_told);
    let live = outcome.winner.wait_for("live", LIMIT)?;
    let (epoch, holder) = pair.disk_server.record(&pair.b, &pair.guest.name)?;
    assert_eq!(live["epoch"], epoch, "held by {holder}");

    pair.client.goes_on("of the winner")?;
    // Both hear each other again: nothing comes of it.
    testbed.heal(&pair.b, Network::Logging)?;
    pair.client.goes_on("after the healing")?;
    pair.client.lost_nothing();
    assert!(!outcome.winner.has_ended());
    assert!(!outcome.winner.told().has("lost"));

    testbed.succeed();
    Ok(())
}

/// The logging link is cut while the disk server is down: both hosts wait and say so, no output
/// leaves, and when the disk server is back, exactly one goes on.
#[test]
fn without_the_disk_server_both_hosts_wait() -> Result<()> {
    let testbed = Testbed::new("partition-arbiter-down")?;
    let mut pair = Pair::start(&testbed, Guest::redis("split").quick())?;

    pair.disk_server.kill();
    pair.client.goes_on("without a disk server")?;
    testbed.cut(&pair.b, Network::Logging)?;
    for side in [&mut pair.primary, &mut pair.backup] {
        side.wait_for("peer-lost", LIMIT)?;
        side.wait_for("waiting", LIMIT)?;
    }
    let silent = || {
        pair.client
            .last_reply()
            .is_some_and(|(at, _)| at.elapsed() > SILENCE)
    };
    wait_until("the end of all replies", LIMIT, || Ok(silent()))?;
    for side in [&mut pair.primary, &mut pair.backup] {
        assert!(!side.has_ended());
        assert!(!side.told().has("live") && !side.told().has("lost"));
    }

    pair.disk_server.restart(&testbed)?;
    let mut outcome = one_goes_on(pair.primary, pair.backup, LIMIT)?;
    assert_eq!(outcome.loser, Exit::Code(3), "{:?}", outcome.loser_told);
    assert!(!outcome.loser_told.has("live"), "{:?}", outcome.loser_told);
    pair.client.goes_on("of the winner")?;
    pair.client.lost_nothing();
    assert!(!outcome.winner.has_ended());

    testbed.succeed();
    Ok(())
}

/// The primary hears neither the backup nor the disk server: it waits and lets nothing out while
/// the backup goes on, and it halts when it reaches the disk server again.
#[test]
fn a_host_without_the_disk_server_waits_while_the_other_goes_on() -> Result<()> {
    let testbed = Testbed::new("partition-isolated")?;
    let mut pair = Pair::start(&testbed, Guest::redis("split").quick())?;

    testbed.cut(&pair.a, Network::Storage)?;
    testbed.cut(&pair.a, Network::Logging)?;
    pair.primary.wait_for("waiting", LIMIT)?;
    pair.backup.wait_for("live", LIMIT)?;
    pair.client.goes_on("of the backup")?;
    assert!(!pair.primary.has_ended() && !pair.primary.told().has("live"));

    testbed.heal(&pair.a, Network::Logging)?;
    testbed.heal(&pair.a, Network::Storage)?;
    let (exit, told) = pair.primary.end(LIMIT)?;
    assert_eq!(exit, Exit::Code(3), "{told:?}");
    assert!(told.has("lost") && !told.has("live"), "{told:?}");
    pair.client.goes_on("after the healing")?;
    pair.client.lost_nothing();
    assert!(!pair.backup.has_ended());

    testbed.succeed();
    Ok(())
}
