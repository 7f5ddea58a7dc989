//! The backup's host dies: the primary claims the right to run alone and goes on. A backup that
//! comes later is refused, because it cannot join a running guest. Before that, the hosts' clocks
//! jump, and nobody minds.

use std::time::Duration;

use testbed::pair::{Guest, Pair};
use testbed::{Exit, Host, HostKind, Result, Testbed};

const LIMIT: Duration = Duration::from_secs(180);

/// Sets a host's wall clock forth by so many seconds, or back.
fn jump(host: &Host, seconds: i64) -> Result<()> {
    let script = format!("date -s @$(($(date +%s) + {seconds}))");
    host.check(&["sh", "-c", &script]).map(drop)
}

#[test]
fn the_primary_goes_on_alone() -> Result<()> {
    // Hosts that are namespaces have this machine's clock, which is not to be set.
    let testbed = Testbed::with_hosts("backup-lost", HostKind::Qemu)?;
    let mut pair = Pair::start(&testbed, Guest::redis("alone"))?;
    let first = pair.primary.wait_for("role", LIMIT)?["epoch"].clone();

    for (a, b) in [(3600, 0), (-7200, 3600), (0, -7200)] {
        jump(&pair.a, a)?;
        jump(&pair.b, b)?;
        pair.client.goes_on("after a clock's jump")?;
    }
    for side in [&mut pair.primary, &mut pair.backup] {
        let told = side.told();
        assert!(!told.has("peer-lost") && !told.has("diverged"), "{told:?}");
    }

    pair.b.kill();
    drop(pair.backup);
    pair.primary.wait_for("peer-lost", LIMIT)?;
    let live = pair.primary.wait_for("live", LIMIT)?;
    assert_eq!(
        live["epoch"].as_u64(),
        first.as_u64().map(|epoch| epoch + 1)
    );
    let (epoch, holder) = pair.disk_server.record(&pair.a, &pair.guest.name)?;
    assert_eq!(live["epoch"], epoch, "held by {holder}");
    pair.client.goes_on("without a backup")?;

    let c = testbed.start_host("c")?;
    let (exit, told) = pair
        .guest
        .backup(&c, &pair.a, &pair.disk_server)?
        .end(LIMIT)?;
    assert_eq!(exit, Exit::Code(1), "{told:?}");
    assert!(told.errors.contains("refuses this backup"), "{told:?}");
    assert!(told.errors.contains("already run"), "{told:?}");
    assert!(!told.errors.contains("panicked"), "{told:?}");

    pair.client.goes_on("after the refusal")?;
    pair.client.lost_nothing();
    assert!(!pair.primary.has_ended());

    testbed.succeed();
    Ok(())
}
