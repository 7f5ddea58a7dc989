//! A host stands still for longer than the heartbeat timeout, and wakes up in the belief that no
//! time has passed: the other one runs the guest, and the one that slept halts.

use std::time::Duration;

use testbed::pair::{Guest, Pair};
use testbed::{Exit, Result, Testbed};

const LIMIT: Duration = Duration::from_secs(180);

/// Which of the two hosts sleeps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sleeper {
    Primary,
    Backup,
}

fn one_sleeps(sleeper: Sleeper) -> Result<()> {
    let testbed = Testbed::new("frozen-host")?;
    let pair = Pair::start(&testbed, Guest::redis("sleepy"))?;

    let (host, asleep, mut awake) = match sleeper {
        Sleeper::Primary => (&pair.a, pair.primary, pair.backup),
        Sleeper::Backup => (&pair.b, pair.backup, pair.primary),
    };
    host.freeze()?;
    awake.wait_for("live", LIMIT)?;
    pair.client.goes_on("of the other host")?;
    host.thaw()?;
    let (exit, told) = asleep.end(LIMIT)?;
    assert_eq!(exit, Exit::Code(3), "{told:?}");
    assert!(told.has("lost") && !told.has("live"), "{told:?}");

    pair.client.goes_on("after the other host woke up")?;
    pair.client.lost_nothing();
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
