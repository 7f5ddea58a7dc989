//! The backup's host dies: the primary claims the right to run alone and goes on, though nobody reads
//! its events and its log. A backup on a third host joins, yet another one is refused, and the one that
//! joined goes on with the guest when the primary's host dies. Before that, the hosts' clocks jump, and
//! nobody minds.

use testbed::pair::{DiskServer, Guest, Pair};
use testbed::workload::Client;
use testbed::{Exit, Host, HostKind, LIMIT, Result, Testbed, wait_until};

use crate::frozen_host::unread_fifo;

/// ftvm's exit status when a host is not taken as the backup.
const REFUSED: Exit = Exit::Code(1);

/// Sets a host's wall clock forth by so many seconds, or back.
fn jump(host: &Host, seconds: i64) -> Result<()> {
    let script = format!("date -s @$(($(date +%s) + {seconds}))");
    host.check(&["sh", "-c", &script]).map(drop)
}

/// The same guest on a host where its `ftvm` has a full pipe at standard output, where its events go,
/// and at standard error.
fn unheard(guest: &Guest, host: &Host, pipe: &str) -> Result<Guest> {
    let program = format!("{pipe}.sh");
    let script = format!(
        "echo '#!/bin/sh' > {program}; echo 'exec ftvm \"$@\" > {pipe} 2>&1' >> {program}; \
         chmod +x {program}"
    );
    host.check(&["sh", "-c", &script])?;
    let guest = guest.clone();
    Ok(Guest { program, ..guest })
}

#[test]
fn the_primary_goes_on_alone() -> Result<()> {
    // Hosts that are namespaces have this machine's clock, which is not to be set.
    let testbed = Testbed::with_hosts("backup-lost", HostKind::Qemu)?;
    let [a, b] = testbed.start_hosts(["a", "b"])?;
    let disk_server = DiskServer::start(&testbed)?;
    let guest = Guest::redis("alone").quick();
    let pipe = format!("/tmp/ftvm-unheard-{}", std::process::id());
    let _full = unread_fifo(&a, &pipe)?;
    let primary = unheard(&guest, &a, &pipe)?.primary(&a, &disk_server, &[])?;
    let backup = guest.backup(&b, &a, &disk_server)?;
    let client = Client::redis_with_pauses(testbed.client());
    client.goes_on("after the boot")?;
    let mut pair = Pair {
        client,
        primary,
        backup,
        guest,
        disk_server,
        a,
        b,
    };
    let first = pair.backup.wait_for("role", LIMIT)?["epoch"].as_u64();
    let record = |pair: &Pair| pair.disk_server.record(&pair.a, &pair.guest.name);

    for (a, b) in [(3600, 0), (-7200, 3600), (0, -7200)] {
        jump(&pair.a, a)?;
        jump(&pair.b, b)?;
        pair.client.goes_on("after a clock's jump")?;
    }
    let told = pair.backup.told();
    assert!(!told.has("peer-lost") && !told.has("diverged"), "{told:?}");
    let (epoch, primary) = record(&pair)?;
    assert_eq!(Some(epoch), first, "both are there");

    pair.b.kill();
    wait_until("the primary's claim", LIMIT, || {
        let (now, holder) = record(&pair)?;
        Ok(now == epoch + 1 && holder == primary)
    })?;
    pair.client.goes_on("without a backup")?;

    let c = testbed.start_host("c")?;
    let mut third = pair.guest.backup(&c, &pair.a, &pair.disk_server)?;
    third.wait_for("joined", LIMIT)?;
    assert_eq!(record(&pair)?, (epoch + 2, primary));
    pair.client.goes_on("with another backup")?;

    // The network interface and the port are those of the one that joined.
    let mut fourth = pair.guest.clone();
    fourth
        .options
        .retain(|option| !["--tap", "tap0"].contains(&option.as_str()));
    let (exit, told) = fourth
        .backup_with(
            &c,
            &pair.a,
            &pair.disk_server,
            &["--listen", "0.0.0.0:7001"],
        )?
        .end(LIMIT)?;
    assert_eq!(exit, REFUSED, "{told:?}");
    for words in ["refuses this backup", "already has a backup"] {
        assert!(told.errors.contains(words), "{words}: {told:?}");
    }
    pair.client.goes_on("after the refusal")?;
    assert!(!third.has_ended());
    assert!(!pair.primary.has_ended());
    let told = pair.primary.told();
    assert!(told.events.is_empty() && told.errors.is_empty(), "{told:?}");
    pair.a.check(&["rm", &pipe, &format!("{pipe}.sh")])?;

    pair.a.kill();
    third.wait_for("live", LIMIT)?;
    pair.client.goes_on("of the other backup")?;
    pair.client.lost_nothing();
    third.stop()?;

    testbed.succeed();
    Ok(())
}
