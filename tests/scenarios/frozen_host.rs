//! A host stands still for longer than the heartbeat timeout, and wakes up in the belief that no
//! time has passed: the other one runs the guest, and the one that slept halts.

use std::time::Duration;

use testbed::failover::CounterClient;
use testbed::pair::{DiskServer, Guest};
use testbed::{Exit, Result, Testbed, wait_until};

const LIMIT: Duration = Duration::from_secs(180);

/// Which of the two hosts sleeps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sleeper {
    Primary,
    Backup,
}

fn one_sleeps(sleeper: Sleeper) -> Result<()> {
    let testbed = Testbed::new("frozen-host")?;
    let [a, b] = testbed.start_hosts(["a", "b"])?;
    let disk_server = DiskServer::start(&testbed)?;
    let guest = Guest::redis("sleepy");
    let primary = guest.primary(&a, &disk_server, &[])?;
    let backup = guest.backup(&b, &a, &disk_server)?;
    let client = CounterClient::start(testbed.client());
    wait_until("replies", LIMIT, || Ok(client.counter() > 20))?;

    let (host, asleep, mut awake) = match sleeper {
        Sleeper::Primary => (&a, primary, backup),
        Sleeper::Backup => (&b, backup, primary),
    };
    host.freeze()?;
    awake.wait_for("live", LIMIT)?;
    let counter = client.counter();
    wait_until("replies of the other host", LIMIT, || {
        Ok(client.counter() > counter + 20 || client.trouble().is_some())
    })?;
    host.thaw()?;
    let (exit, told) = asleep.end(LIMIT)?;
    assert_eq!(exit, Exit::Code(3), "{told:?}");
    assert!(told.has("lost") && !told.has("live"), "{told:?}");

    let counter = client.counter();
    wait_until("replies after the other host woke up", LIMIT, || {
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
    assert!(!awake.has_ended());

    testbed.succeed();
    Ok(())
}

/// A frozen primary is replaced, and does not disturb its successor when it wakes up.
#[test]
fn a_primary_that_slept_halts() -> Result<()> {
    one_sleeps(Sleeper::Primary)
}

/// A frozen backup is given up, and does not go live when it wakes up.
#[test]
fn a_backup_that_slept_halts() -> Result<()> {
    one_sleeps(Sleeper::Backup)
}
