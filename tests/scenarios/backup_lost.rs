//! The backup's host dies: the primary claims the right to run alone and goes on. A backup that
//! comes later is refused, because it cannot join a running guest.

use std::time::Duration;

use testbed::failover::CounterClient;
use testbed::pair::{DiskServer, Guest};
use testbed::{Exit, Result, Testbed, wait_until};

const LIMIT: Duration = Duration::from_secs(180);

#[test]
fn the_primary_goes_on_alone() -> Result<()> {
    let testbed = Testbed::new("backup-lost")?;
    let [a, mut b, c] = testbed.start_hosts(["a", "b", "c"])?;
    let disk_server = DiskServer::start(&testbed)?;
    let guest = Guest::redis("alone");
    let mut primary = guest.primary(&a, &disk_server, &[])?;
    let backup = guest.backup(&b, &a, &disk_server)?;
    let first = primary.wait_for("role", LIMIT)?["epoch"].clone();
    let client = CounterClient::start(testbed.client());
    wait_until("replies", LIMIT, || Ok(client.counter() > 20))?;

    b.kill();
    drop(backup);
    primary.wait_for("peer-lost", LIMIT)?;
    let live = primary.wait_for("live", LIMIT)?;
    assert_eq!(
        live["epoch"].as_u64(),
        first.as_u64().map(|epoch| epoch + 1)
    );
    let (epoch, holder) = disk_server.record(&a, &guest.name)?;
    assert_eq!(live["epoch"], epoch, "held by {holder}");
    let counter = client.counter();
    wait_until("replies without a backup", LIMIT, || {
        Ok(client.counter() > counter + 20 || client.trouble().is_some())
    })?;

    let (exit, told) = guest.backup(&c, &a, &disk_server)?.end(LIMIT)?;
    assert_eq!(exit, Exit::Code(1), "{told:?}");
    assert!(told.errors.contains("refuses this backup"), "{told:?}");
    assert!(told.errors.contains("already run"), "{told:?}");
    assert!(!told.errors.contains("panicked"), "{told:?}");

    let counter = client.counter();
    wait_until("replies after the refusal", LIMIT, || {
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
    assert!(!primary.has_ended());

    testbed.succeed();
    Ok(())
}
