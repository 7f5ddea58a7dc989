//! Three hosts and their disk server go from one version of ftvm to the next, one after the other, and a guest is
//! protected meanwhile: by a host of the other version, too, and each takes over from the other when its process is
//! killed. Nobody connects anew, and nothing is lost.
//!
//! The next version has another field in a message of the handshake, in each heartbeat and in each ping: who does not
//! speak the version that both know is not understood.

use std::time::{Duration, Instant};

use disk_server::arbiter::protocol;
use logging_channel::codec;
use testbed::fleet::{Daemon, Operator, Stage, log_of};
use testbed::pair::{DiskServer, Guest};
use testbed::workload::Client;
use testbed::{
    LIMIT, Layout, NEXT_DISK_SERVER, Result, SABOTAGED_FTVM, Testbed, guest_address, wait_until,
};

const HOSTS: [&str; 3] = ["a", "b", "c"];
const VM: &str = "db";
/// Between two requests of the client.
const REST: Duration = Duration::from_millis(200);

/// What is released speaks these; the next version one more of each.
const LOG: u16 = codec::PROTOCOL_VERSION;
const SERVICE: u16 = protocol::VERSIONS.newest;

#[test]
fn hosts_are_upgraded_one_by_one_and_the_guest_stays_protected() -> Result<()> {
    let testbed = Testbed::new("upgrade")?;
    let mut service = DiskServer::start(&testbed)?;
    let operator = Operator::new(&testbed, &service);
    let guest = Guest::counting(VM, 1).quick();
    let client = |testbed: &Testbed| Client::counting(testbed.client(), guest_address(1), REST);
    let mut stage = Stage::start(&testbed, &service, HOSTS, operator, &guest, client)?;
    for daemon in &mut stage.daemons {
        daemon.speaks(SERVICE, LIMIT)?;
    }
    let since = Instant::now();
    let (first, second) = protected_in(&stage, LOG)?;
    let third = stage.idle_host()?;

    stage.order(&["host", "drain", &third])?;
    upgrade(&mut stage, &third, &service, SERVICE)?;
    stage.order(&["host", "undrain", &third])?;

    // The only hosts that may have the guest now are one of each version.
    stage.order(&["host", "drain", &second])?;
    assert_eq!(protected_in(&stage, LOG)?, (first.clone(), third.clone()));
    stage.order(&["test-failover", VM])?;
    assert_eq!(protected_in(&stage, LOG)?, (third.clone(), first.clone()));
    stage.order(&["test-failover", VM])?;
    assert_eq!(protected_in(&stage, LOG)?, (first.clone(), third.clone()));
    upgrade(&mut stage, &second, &service, SERVICE)?;
    stage.order(&["host", "undrain", &second])?;

    stage.order(&["host", "drain", &first])?;
    assert_eq!(protected_in(&stage, LOG + 1)?, (third, second));
    upgrade(&mut stage, &first, &service, SERVICE)?;
    stage.order(&["host", "undrain", &first])?;

    service.upgrade(&testbed, &Layout::find().program(NEXT_DISK_SERVER)?)?;
    for daemon in &mut stage.daemons {
        daemon.speaks(SERVICE + 1, LIMIT)?;
    }
    // It can order the guest about when it has heard from both of its processes.
    protected_in(&stage, LOG + 1)?;
    stage.order(&["failover", VM])?;
    protected_in(&stage, LOG + 1)?;

    let gap = stage.client.lost_nothing().longest_gap(since);
    eprintln!(
        "{gap:?} at most without a reply, {:.0} s for all of it",
        since.elapsed().as_secs_f64()
    );
    stage.operator.stop(VM, LIMIT)?;
    testbed.succeed();
    Ok(())
}

/// Where the guest runs and where its backup is, once it is protected and serves, and both hosts say that they
/// speak this version.
fn protected_in(stage: &Stage, version: u16) -> Result<(String, String)> {
    let (primary, backup) = stage.protected()?;
    let told = [
        (&primary, "PROTECTED by the backup at "),
        (&backup, "backup of "),
    ];
    for (host, what) in told {
        let words = format!("protocol {version})");
        let mut log = String::new();
        let is_told = || {
            log = log_of(stage.host(host), VM)?;
            let last = log.lines().rfind(|line| line.contains(what));
            Ok(last.is_some_and(|line| line.contains(&words)))
        };
        wait_until(&format!("`{what}…{words}` of {host}"), LIMIT, is_told)
            .inspect_err(|_| eprintln!("the log of {VM} on {host}:\n{log}"))?;
    }
    eprintln!("{primary} with its backup {backup} in version {version}");
    Ok((primary, backup))
}

/// An empty host gets the next version, which speaks this with the disk server.
fn upgrade(stage: &mut Stage, host: &str, service: &DiskServer, version: u16) -> Result<()> {
    stage.take_daemon(host).kill()?;
    let program = Layout::find().program(SABOTAGED_FTVM)?;
    let mut daemon = Daemon::start_as(stage.host(host), service, &program)?;
    daemon.speaks(version, LIMIT)?;
    stage.daemons.push(daemon);
    Ok(())
}
