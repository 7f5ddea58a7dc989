//! The hosts cannot hear each other, and both are well: the disk server decides which one goes
//! on, and without its answer nobody does. One guest loses a host in one way after the other, and a new
//! backup joins in between.

use std::time::Duration;

use testbed::pair::{Guest, Pair, Side, one_goes_on};
use testbed::{Exit, Host, LIMIT, Network, Result, Testbed, wait_until};

/// No reply for so long, from a client that had several a second: no output leaves.
const SILENCE: Duration = Duration::from_secs(3);

#[test]
fn of_two_hosts_that_lose_each_other_one_goes_on() -> Result<()> {
    let testbed = Testbed::new("partition")?;
    let pair = Pair::start(&testbed, Guest::redis("split").quick())?;
    let pair = a_host_without_the_disk_server_waits_while_the_other_goes_on(&testbed, pair)?;
    let pair = with_the_disk_server_one_goes_on_at_once(&testbed, pair)?;
    without_the_disk_server_both_hosts_wait(&testbed, pair)?;
    testbed.succeed();
    Ok(())
}

/// The primary hears neither the backup nor the disk server: it waits and lets nothing out while
/// the backup goes on, and it halts when it reaches the disk server again.
fn a_host_without_the_disk_server_waits_while_the_other_goes_on(
    testbed: &Testbed,
    mut pair: Pair,
) -> Result<Pair> {
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
    assert!(!pair.backup.has_ended());

    let (mut primary, [a, b]) = (pair.backup, [pair.b, pair.a]);
    let backup = (pair.guest).join(&b, (&a, &mut primary), &pair.disk_server, &[])?;
    Ok(Pair {
        primary,
        backup,
        a,
        b,
        ..pair
    })
}

/// The logging link is cut: exactly one host goes on, the other one halts, and the client keeps
/// its connection and its increments, whoever wins.
fn with_the_disk_server_one_goes_on_at_once(testbed: &Testbed, pair: Pair) -> Result<Pair> {
    testbed.cut(&pair.b, Network::Logging)?;
    let (mut winner, first_won) = winner(pair.primary, pair.backup)?;
    let live = winner.wait_for("live", LIMIT)?;
    let (epoch, holder) = pair.disk_server.record(&pair.b, &pair.guest.name)?;
    assert_eq!(live["epoch"], epoch, "held by {holder}");

    pair.client.goes_on("of the winner")?;
    // Both hear each other again: nothing comes of it.
    testbed.heal(&pair.b, Network::Logging)?;
    pair.client.goes_on("after the healing")?;
    assert!(!winner.has_ended());
    assert!(!winner.told().has("lost"));

    let [a, b] = by_winner(pair.a, pair.b, first_won);
    let backup = (pair.guest).join(&b, (&a, &mut winner), &pair.disk_server, &[])?;
    Ok(Pair {
        primary: winner,
        backup,
        a,
        b,
        ..pair
    })
}

/// The logging link is cut while the disk server is down: both hosts wait and say so, no output
/// leaves, and when the disk server is back, exactly one goes on.
fn without_the_disk_server_both_hosts_wait(testbed: &Testbed, mut pair: Pair) -> Result<()> {
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

    pair.disk_server.restart(testbed)?;
    let (mut winner, _) = winner(pair.primary, pair.backup)?;
    pair.client.goes_on("of the one that won in the end")?;
    pair.client.lost_nothing();
    assert!(!winner.has_ended());
    Ok(())
}

/// The side that goes on, and whether that is the first one. The other one must halt because it lost.
fn winner(primary: Side, backup: Side) -> Result<(Side, bool)> {
    let outcome = one_goes_on(primary, backup, LIMIT)?;
    let told = &outcome.loser_told;
    assert_eq!(outcome.loser, Exit::Code(3), "{told:?}");
    assert!(told.has("lost") && !told.has("live"), "{told:?}");
    Ok((outcome.winner, outcome.first_won))
}

/// The host where the guest runs, and the other one.
fn by_winner(first: Host, second: Host, first_won: bool) -> [Host; 2] {
    match first_won {
        true => [first, second],
        false => [second, first],
    }
}
