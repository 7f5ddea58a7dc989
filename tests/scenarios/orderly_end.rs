//! A guest that ends in order ends on both hosts, and nobody takes it for a failure; one that runs
//! alone ends although nobody reads what `ftvm` says.

use testbed::pair::{DiskServer, Guest, Side};
use testbed::{Exit, Host, LIMIT, Result, Signal, Testbed, wait_until};

use crate::frozen_host::unread_fifo;

/// Both sides end with status 0 for this reason, nobody goes live, and the disk server knows that
/// the guest is stopped.
fn both_end(
    (primary, backup): (Side, Side),
    reason: &str,
    disk_server: &DiskServer,
    (host, guest): (&Host, &Guest),
) -> Result<u64> {
    let mut exits = Vec::new();
    for side in [primary, backup] {
        let (exit, told) = side.end(LIMIT)?;
        assert_eq!(exit, Exit::Code(0), "{told:?}");
        let ended = told.event("ended").expect("it tells its end");
        assert_eq!(ended["reason"], reason, "{told:?}");
        exits.push(ended["exits"].clone());
        for failure in ["peer-lost", "live", "lost", "waiting"] {
            assert!(!told.has(failure), "{told:?}");
        }
    }
    assert_eq!(exits[0], exits[1], "both ran the guest equally far");
    let (epoch, holder) = disk_server.record(host, &guest.name)?;
    assert_eq!(holder, "stopped");
    Ok(epoch)
}

/// SIGHUP has the events go on in a new file, and SIGTERM ends the guest, while nobody reads standard
/// error.
fn ends_with_a_full_pipe_after_a_log_rotation(host: &Host) -> Result<()> {
    let id = std::process::id();
    let (unread, events) = (format!("/tmp/unread-{id}"), format!("/tmp/events-{id}"));
    let moved = format!("{events}.1");
    let _unread = unread_fifo(host, &unread)?;
    let (kernel, initrd) = (host.image("vmlinux"), host.image("tiny.cpio"));
    let run = host.spawn(&[
        "sh",
        "-c",
        &format!(
            "exec ftvm run --kernel {kernel} --initrd {initrd} --append quiet --events {events} \
             2>{unread}"
        ),
    ])?;
    let tells = |what: &str, file: &str| {
        let found = host.run(&["grep", "-q", &format!("\"event\":\"{what}\""), file])?;
        Ok(found.exit.success())
    };
    wait_until("figures in the file", LIMIT, || tells("stats", &events))?;
    host.check(&["mv", &events, &moved])?;
    run.signal(Signal::SIGHUP)?;
    wait_until("figures in a new file", LIMIT, || tells("stats", &events))?;
    run.signal(Signal::SIGTERM)?;
    assert_eq!(run.wait(LIMIT)?, Exit::Code(0));
    assert!(tells("ended", &events)? && !tells("ended", &moved)?);
    host.check(&["rm", &unread, &events, &moved])?;
    Ok(())
}

/// The guest powers off; it starts again without force; then the primary is told to end.
#[test]
fn both_hosts_end_and_the_guest_starts_again() -> Result<()> {
    let testbed = Testbed::new("orderly-end")?;
    let [a, b] = testbed.start_hosts(["a", "b"])?;
    let disk_server = DiskServer::start(&testbed)?;

    let guest = Guest::tiny("orderly", "ftvm.do=poweroff").quick();
    let primary = guest.primary(&a, &disk_server, &[])?;
    let backup = guest.backup(&b, &a, &disk_server)?;
    let first = both_end((primary, backup), "PowerOff", &disk_server, (&a, &guest))?;

    // Without --force, and the other way round.
    let mut primary = guest.primary(&b, &disk_server, &[])?;
    let mut backup = guest.backup(&a, &b, &disk_server)?;
    let role = primary.wait_for("role", LIMIT)?;
    assert!(role["epoch"].as_u64() > Some(first), "{role}");
    primary.wait_for("protected", LIMIT)?;
    backup.wait_for("joined", LIMIT)?;
    primary.signal(Signal::SIGTERM)?;
    let second = both_end((primary, backup), "Stopped", &disk_server, (&a, &guest))?;
    assert!(second > first);

    ends_with_a_full_pipe_after_a_log_rotation(&a)?;
    testbed.succeed();
    Ok(())
}
