//! Nobody says which host is to be a guest's backup: the disk server proposes idle ones. It is killed,
//! and moved to another machine, while all is well; backups die and fall asleep; and the guest goes on.

use std::time::{Duration, Instant};

use testbed::pair::{DiskServer, Guest, PATIENCE, Side};
use testbed::workload::Client;
use testbed::{Exit, Host, LIMIT, Result, Signal, Testbed, wait_until};

/// The longest pause of a client because a backup was lost. That is found after twice the heartbeat timeout
/// at most (`--output-timeout`). The rest is for the claim, and for a machine that has other work to do.
const LONGEST_PAUSE: Duration = PATIENCE.saturating_mul(3);

#[test]
fn idle_hosts_become_backups_and_an_old_one_is_refused() -> Result<()> {
    let testbed = Testbed::new("views")?;
    let [mut a, b, c] = testbed.start_hosts(["a", "b", "c"])?;
    let mut service = DiskServer::start(&testbed)?;
    let guest = Guest::redis("db").quick();
    let mut primary = guest.primary(&a, &service, &[])?;
    let mut first = guest.idle_backup(&b, &service)?;
    let client = Client::redis_with_pauses(testbed.client());
    client.goes_on("after the boot")?;
    proposed_and_joined(&mut first, &mut primary)?;

    let moved_at = Instant::now();
    service.kill();
    client.goes_on("without the service")?;
    service.restart(&testbed)?;
    client.goes_on("with the service again")?;
    service.move_to_another_machine(&testbed)?;
    client.goes_on("after the service was moved")?;
    let moved = client.longest_gap(moved_at);
    for side in [&mut primary, &mut first] {
        let told = side.told();
        assert!(!told.has("peer-lost") && !told.has("waiting"), "{told:?}");
    }
    eprintln!("service killed, and moved: {moved:?} at most without a reply");

    let mut second = guest.idle_backup(&c, &service)?;
    second.wait_for_error("idle, until the disk server", LIMIT)?;
    let lost_at = Instant::now();
    let reason = pauses(&client, &mut primary, "backup killed", || {
        first.signal(Signal::SIGKILL)
    })?;
    assert!(reason.contains("closed without a goodbye"), "{reason}");
    proposed_and_joined(&mut second, &mut primary)?;
    client.goes_on("with the second backup")?;

    // It sleeps for so long that another one takes its place.
    let mut third = guest.idle_backup(&b, &service)?;
    let reason = pauses(&client, &mut primary, "backup's host frozen", || c.freeze())?;
    assert!(reason.contains("nothing was heard for"), "{reason}");
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

    a.kill();
    third.wait_for("live", LIMIT)?;
    client.goes_on("of the third backup")?;
    let refused = one_is_refused_and_idle_again(&guest, &c, &service)?;
    drop(refused);
    let mut fourth = guest.idle_backup(&c, &service)?;
    proposed_and_joined(&mut fourth, &mut third)?;
    client.goes_on("protected again")?;
    let gap = client.lost_nothing().longest_gap(lost_at);
    eprintln!("{gap:?} at most without a reply");
    third.stop()?;
    testbed.succeed();
    Ok(())
}

/// The primary's backup is lost by this: its guest pauses, and no longer than it may. Why it is lost to the
/// primary.
fn pauses(
    client: &Client,
    primary: &mut Side,
    what: &str,
    strike: impl FnOnce() -> Result<()>,
) -> Result<String> {
    primary.forget_events();
    let struck = Instant::now();
    strike()?;
    let lost = primary.wait_for("peer-lost", LIMIT)?;
    primary.wait_for("live", LIMIT)?;
    client.goes_on("of the primary alone")?;
    let pause = client.longest_gap(struck);
    eprintln!("{what}: {pause:?} at most without a reply until the guest went on alone");
    assert!(pause < LONGEST_PAUSE, "{what}: {pause:?}");
    Ok(lost["reason"].as_str().unwrap_or_default().to_owned())
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

/// An idle host whose guest is another one under the same name: it is proposed, refused, and says why.
fn one_is_refused_and_idle_again(guest: &Guest, host: &Host, service: &DiskServer) -> Result<Side> {
    let mut other = guest.clone();
    other.words.push_str(" another=guest");
    let mut side = other.idle_backup(host, service)?;
    side.wait_for_error("and idle again: ", LIMIT)?;
    let status = ["disk-server", "status", "--server", service.address()];
    let status = [&status[..], service.key_options()].concat();
    wait_until(
        "that the disk server tells why it has no backup",
        LIMIT,
        || {
            let told = host.check(&status)?;
            Ok(told.contains("db wants a backup: no host fits")
                && told.contains("another guest image"))
        },
    )?;
    assert!(!side.has_ended());
    Ok(side)
}
