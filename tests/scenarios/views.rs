//! Nobody says which host is to be a guest's backup: the disk server proposes idle ones. It is killed
//! and moved while all is well, backups die and fall asleep, and the guest goes on.

use std::time::{Duration, Instant};

use testbed::pair::{DiskServer, Guest, PATIENCE, Side};
use testbed::workload::Client;
use testbed::{Exit, Result, Signal, Testbed, wait_until};

const LIMIT: Duration = Duration::from_secs(180);

/// The longest time without a reply where a backup is lost: it is found, and the next epoch claimed.
const PAUSE: Duration = PATIENCE.saturating_mul(2);

#[test]
fn idle_hosts_become_backups_and_an_old_one_is_refused() -> Result<()> {
    let testbed = Testbed::new("views")?;
    let [a, b, c] = testbed.start_hosts(["a", "b", "c"])?;
    let mut service = DiskServer::start(&testbed)?;
    let guest = Guest::redis("db").quick();
    let mut primary = guest.primary(&a, &service, &[])?;
    let mut first = guest.idle_backup(&b, &service)?;
    let client = Client::redis_with_pauses(testbed.client());
    client.goes_on("after the boot")?;
    proposed_and_joined(&mut first, &mut primary)?;

    service.kill();
    client.goes_on("without the service")?;
    service.restart_at(&testbed, "moved-state")?;
    client.goes_on("after the service was moved")?;
    for side in [&mut primary, &mut first] {
        let told = side.told();
        assert!(!told.has("peer-lost") && !told.has("waiting"), "{told:?}");
    }

    let mut second = guest.idle_backup(&c, &service)?;
    second.wait_for_error("idle, until the disk server", LIMIT)?;
    primary.forget_events();
    let lost_at = Instant::now();
    first.signal(Signal::SIGKILL)?;
    proposed_and_joined(&mut second, &mut primary)?;
    client.goes_on("with the second backup")?;
    let gap = client.longest_gap(lost_at);
    assert!(gap < PAUSE, "{gap:?} without a reply");

    // It sleeps for so long that another one takes its place.
    let mut third = guest.idle_backup(&b, &service)?;
    primary.forget_events();
    c.freeze()?;
    proposed_and_joined(&mut third, &mut primary)?;
    client.goes_on("with the third backup")?;
    let (view, _) = service.record(&b, &guest.name)?;
    c.thaw()?;
    let (exit, told) = second.end(LIMIT)?;
    assert_eq!(exit, Exit::Code(3), "{told:?}");
    assert!(told.has("lost") && !told.has("live"), "{told:?}");
    let refused = format!("epoch {view} belongs to");
    assert!(told.errors.contains(&refused), "{refused}: {told:?}");
    client.goes_on("after the old backup woke up")?;
    assert!(!primary.has_ended() && !primary.told().has("lost"));

    let mut fourth = guest.idle_backup(&c, &service)?;
    a.kill();
    third.wait_for("live", LIMIT)?;
    client.goes_on("of the third backup")?;
    proposed_and_joined(&mut fourth, &mut third)?;
    client.goes_on("protected again")?;
    client.lost_nothing();
    third.stop()?;
    testbed.succeed();
    Ok(())
}

/// Waits until an idle host was proposed, and protects the primary's guest.
fn proposed_and_joined(idle: &mut Side, primary: &mut Side) -> Result<()> {
    let proposed = idle.wait_for("proposed", LIMIT)?;
    idle.wait_for("joined", LIMIT)?;
    primary.wait_for("protected", LIMIT)?;
    eprintln!("{proposed}");
    wait_until("that it is the backup of a later view", LIMIT, || {
        let role = idle.told().event("role").cloned();
        Ok(role.is_some_and(|role| role["epoch"].as_u64() > proposed["view"].as_u64()))
    })
}
