//! The hosts cannot hear each other, and both are well: the disk server decides which one goes
//! on, and without its answer nobody does.

use std::time::Duration;

use testbed::failover::CounterClient;
use testbed::pair::{DiskServer, Guest, one_goes_on};
use testbed::{Exit, Network, Result, Testbed, wait_until};

const LIMIT: Duration = Duration::from_secs(180);
/// No reply for so long, from a client that had one every few milliseconds: no output leaves.
const SILENCE: Duration = Duration::from_secs(3);

/// The logging link is cut: exactly one host goes on, the other one halts, and the client keeps
/// its connection and its increments, whoever wins.
#[test]
fn of_two_hosts_that_lose_each_other_one_goes_on() -> Result<()> {
    let testbed = Testbed::new("partition")?;
    let [a, b] = testbed.start_hosts(["a", "b"])?;
    let disk_server = DiskServer::start(&testbed)?;
    let guest = Guest::redis("split");
    let primary = guest.primary(&a, &disk_server, &[])?;
    let backup = guest.backup(&b, &a, &disk_server)?;
    let client = CounterClient::start(testbed.client());
    wait_until("replies", LIMIT, || Ok(client.counter() > 20))?;

    testbed.cut(&b, Network::Logging)?;
    let mut outcome = one_goes_on(primary, backup, LIMIT)?;
    assert_eq!(outcome.loser, Exit::Code(3), "{:?}", outcome.loser_told);
    assert!(outcome.loser_told.has("lost"), "{:?}", outcome.loser_told);
    assert!(!outcome.loser_told.has("live"), "{:?}", outcome.loser_told);
    let live = outcome.winner.wait_for("live", LIMIT)?;
    let (epoch, holder) = disk_server.record(&b, &guest.name)?;
    assert_eq!(live["epoch"], epoch, "held by {holder}");

    let counter = client.counter();
    wait_until("replies of the winner", LIMIT, || {
        Ok(client.counter() > counter + 20 || client.trouble().is_some())
    })?;
    // Both hear each other again: nothing comes of it.
    testbed.heal(&b, Network::Logging)?;
    let counter = client.counter();
    wait_until("replies after the healing", LIMIT, || {
        Ok(client.counter() > counter + 20 || client.trouble().is_some())
    })?;
    let record = client.finish();
    assert_eq!((&record.trouble, record.irregular), (&None, None));
    assert_eq!(record.reconnects, 0);
    assert_eq!(
        record.final_counter,
        Some(record.acked()),
        "nothing is lost"
    );
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
    let [a, b] = testbed.start_hosts(["a", "b"])?;
    let mut disk_server = DiskServer::start(&testbed)?;
    let guest = Guest::redis("split");
    let mut primary = guest.primary(&a, &disk_server, &[])?;
    let mut backup = guest.backup(&b, &a, &disk_server)?;
    let client = CounterClient::start(testbed.client());
    wait_until("replies", LIMIT, || Ok(client.counter() > 20))?;

    disk_server.kill();
    let counter = client.counter();
    wait_until("replies without a disk server", LIMIT, || {
        Ok(client.counter() > counter + 20)
    })?;
    testbed.cut(&b, Network::Logging)?;
    for side in [&mut primary, &mut backup] {
        side.wait_for("peer-lost", LIMIT)?;
        side.wait_for("waiting", LIMIT)?;
    }
    let silent = || {
        client
            .last_reply()
            .is_some_and(|(at, _)| at.elapsed() > SILENCE)
    };
    wait_until("the end of all replies", LIMIT, || Ok(silent()))?;
    let counter = client.counter();
    for side in [&mut primary, &mut backup] {
        assert!(!side.has_ended());
        assert!(!side.told().has("live") && !side.told().has("lost"));
    }

    disk_server.restart(&testbed)?;
    let mut outcome = one_goes_on(primary, backup, LIMIT)?;
    assert_eq!(outcome.loser, Exit::Code(3), "{:?}", outcome.loser_told);
    assert!(!outcome.loser_told.has("live"), "{:?}", outcome.loser_told);
    wait_until("replies of the winner", LIMIT, || {
        Ok(client.counter() > counter + 20 || client.trouble().is_some())
    })?;
    let record = client.finish();
    assert_eq!((&record.trouble, record.irregular), (&None, None));
    assert_eq!(record.reconnects, 0);
    assert_eq!(
        record.final_counter,
        Some(record.acked()),
        "nothing is lost"
    );
    assert!(!outcome.winner.has_ended());

    testbed.succeed();
    Ok(())
}

/// The primary hears neither the backup nor the disk server: it waits and lets nothing out while
/// the backup goes on, and it halts when it reaches the disk server again.
#[test]
fn a_host_without_the_disk_server_waits_while_the_other_goes_on() -> Result<()> {
    let testbed = Testbed::new("partition-isolated")?;
    let [a, b] = testbed.start_hosts(["a", "b"])?;
    let disk_server = DiskServer::start(&testbed)?;
    let guest = Guest::redis("split");
    let mut primary = guest.primary(&a, &disk_server, &[])?;
    let mut backup = guest.backup(&b, &a, &disk_server)?;
    let client = CounterClient::start(testbed.client());
    wait_until("replies", LIMIT, || Ok(client.counter() > 20))?;

    testbed.cut(&a, Network::Storage)?;
    testbed.cut(&a, Network::Logging)?;
    primary.wait_for("waiting", LIMIT)?;
    backup.wait_for("live", LIMIT)?;
    let counter = client.counter();
    wait_until("replies of the backup", LIMIT, || {
        Ok(client.counter() > counter + 20 || client.trouble().is_some())
    })?;
    assert!(!primary.has_ended() && !primary.told().has("live"));

    testbed.heal(&a, Network::Logging)?;
    testbed.heal(&a, Network::Storage)?;
    let (exit, told) = primary.end(LIMIT)?;
    assert_eq!(exit, Exit::Code(3), "{told:?}");
    assert!(told.has("lost") && !told.has("live"), "{told:?}");
    let counter = client.counter();
    wait_until("replies after the healing", LIMIT, || {
        Ok(client.counter() > counter + 20 || client.trouble().is_some())
    })?;
    let record = client.finish();
    assert_eq!((&record.trouble, record.irregular), (&None, None));
    assert_eq!(record.reconnects, 0);
    assert_eq!(
        record.final_counter,
        Some(record.acked()),
        "nothing is lost"
    );
    assert!(!backup.has_ended());

    testbed.succeed();
    Ok(())
}
