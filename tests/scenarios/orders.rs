//! What operators order on three hosts, by `ftvm` and one after the other, while a client asks all the time, with
//! pauses: nothing is lost, and nobody connects anew. Daemons are killed in the middle of it, and of two opposite orders
//! that are given at once the later one counts.

use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use disk_server::fleet::{HostVerb, OrderNumber, Verb};
use testbed::fleet::{Daemon, Operator, Stage};
use testbed::pair::{DiskServer, Guest};
use testbed::workload::Client;
use testbed::{LIMIT, Result, Testbed};

const HOSTS: [&str; 3] = ["a", "b", "c"];
const VM: &str = "db";

#[test]
fn orders_move_a_guest_under_load_and_nothing_is_lost() -> Result<()> {
    let testbed = Testbed::new("orders")?;
    let service = DiskServer::start(&testbed)?;
    let [anna, ben] = ["anna", "ben"].map(|name| Operator::called(name, &testbed, &service));
    let guest = Guest::redis(VM).quick();
    let client = |testbed: &Testbed| Client::redis_with_pauses(testbed.client());
    let mut stage = Stage::start(&testbed, &service, HOSTS, anna, &guest, client)?;
    let since = Instant::now();
    lists_have_it(&stage)?;
    the_places_change(&mut stage, &service)?;
    it_is_drained_and_undrained_at_once(&stage, &ben)?;
    for (place, host) in HOSTS.into_iter().enumerate() {
        everything_leaves(&mut stage, &service, host, place == 1)?;
    }
    copies_move(&stage)?;
    the_backup_starts_anew(&stage)?;
    its_primary_dies(&mut stage, &service)?;
    protection_is_suspended(&stage)?;
    it_fails_over_and_stops(stage, &ben, since)?;
    testbed.succeed();
    Ok(())
}

fn lists_have_it(stage: &Stage) -> Result<()> {
    let (primary, backup) = stage.protected()?;
    let told = stage.operator.told(&["vm", "list"])?.remove(0);
    let guest = &told["vms"][0];
    assert_eq!(guest["vm"], VM, "{told}");
    assert_eq!(guest["state"], "protected", "{told}");
    let told = stage.operator.told(&["host", "list"])?.remove(0);
    let hosts = told["hosts"].as_array().expect("hosts");
    assert_eq!(hosts.len(), HOSTS.len());
    for (copy, host) in [("primaries", &primary), ("backups", &backup)] {
        let with: Vec<_> = hosts.iter().filter(|it| it[copy][0] == VM).collect();
        assert!(
            matches!(&with[..], [it] if it["host"] == **host),
            "{copy} of {told}"
        );
    }
    Ok(())
}

/// By plan: there, and back while there is no daemon on the host that is left.
fn the_places_change(stage: &mut Stage, service: &DiskServer) -> Result<()> {
    let (primary, backup) = stage.protected()?;
    stage.order(&["failover", VM])?;
    assert_eq!(stage.protected()?, (backup.clone(), primary.clone()));
    stage.order_and(&["failover", VM], |stage| {
        restart_daemon(stage, service, &backup)
    })?;
    assert_eq!(stage.protected()?.0, primary);
    Ok(())
}

/// Two operators want the opposite of a host at once.
fn it_is_drained_and_undrained_at_once(stage: &Stage, ben: &Operator) -> Result<()> {
    let anna = &stage.operator;
    let (host, _) = stage.protected()?;
    let (drain, undrain) = at_once(
        || anna.order_host(&host, HostVerb::Drain),
        || ben.order_host(&host, HostVerb::Undrain),
    );
    let (drain, undrain) = (drain?, undrain?);
    let drained = anna.outcome(drain, LIMIT)?;
    eprintln!("order {drain}, to drain: {drained:?}; order {undrain}, to undrain");
    let undrained = ben.outcome(undrain, LIMIT)?;
    if drain < undrain {
        assert_eq!(undrained.as_deref(), Ok("noted"));
        is_done_or_replaced(&drained, undrain);
    } else {
        assert_eq!(undrained.as_deref(), Ok("it was not drained"));
        assert_eq!(drained.as_deref(), Ok("it is empty"));
        assert_eq!(stage.idle_host()?, host);
        stage.order(&["host", "undrain", &host])?;
    }
    stage.protected().map(drop)
}

/// Does both at once, each on a thread of its own.
fn at_once<A: Send, B>(one: impl FnOnce() -> A + Send, other: impl FnOnce() -> B) -> (A, B) {
    let begin = Barrier::new(2);
    thread::scope(|scope| {
        let one = scope.spawn(|| {
            begin.wait();
            one()
        });
        begin.wait();
        let other = other();
        (one.join().expect("it does not panic"), other)
    })
}

/// An order that had a later one of ben's behind it: if it was not carried out by then, it is not any more.
fn is_done_or_replaced(outcome: &std::result::Result<String, String>, later: OrderNumber) {
    let replaced = format!("replaced by order {later} of ben");
    assert!(
        outcome.as_ref().err().is_none_or(|why| *why == replaced),
        "{outcome:?}"
    );
}

/// A host's daemon is killed, and started again when the client has had replies without it.
fn restart_daemon(stage: &mut Stage, service: &DiskServer, host: &str) -> Result<()> {
    stage.take_daemon(host).kill()?;
    stage.client.goes_on("without a daemon")?;
    let daemon = Daemon::start(stage.host(host), service)?;
    stage.daemons.push(daemon);
    Ok(())
}

/// A host with a copy is drained; if so, its daemon is away meanwhile.
fn everything_leaves(
    stage: &mut Stage,
    service: &DiskServer,
    host: &str,
    without_daemon: bool,
) -> Result<()> {
    if stage.idle_host()? == host {
        stage.order(&["migrate", VM, host])?;
    }
    let drain = ["host", "drain", host];
    match without_daemon {
        true => stage.order_and(&drain, |stage| restart_daemon(stage, service, host))?,
        false => stage.order(&drain)?,
    }
    assert_eq!(stage.idle_host()?, host);
    stage.order(&["host", "undrain", host])
}

fn copies_move(stage: &Stage) -> Result<()> {
    let (primary, _) = stage.protected()?;
    let idle = stage.idle_host()?;
    stage.order(&["migrate", VM, &idle])?;
    assert_eq!(stage.protected()?, (primary, idle));
    let idle = stage.idle_host()?;
    stage.order(&["migrate", VM, &idle, "--primary"])?;
    assert_eq!(stage.protected()?.0, idle);
    Ok(())
}

fn the_backup_starts_anew(stage: &Stage) -> Result<()> {
    let backup = || {
        let status = stage.operator.status(VM)?;
        Ok::<_, testbed::Error>(status.placement.backup.map(|it| it.claimant))
    };
    let (primary, _) = stage.protected()?;
    let before = backup()?;
    stage.order(&["restart-backup", VM])?;
    assert_eq!(stage.protected()?.0, primary);
    assert_ne!(backup()?, before);
    Ok(())
}

/// Its process is killed, and so is the daemon of the host that takes over.
fn its_primary_dies(stage: &mut Stage, service: &DiskServer) -> Result<()> {
    let (_, backup) = stage.protected()?;
    stage.order_and(&["test-failover", VM], |stage| {
        restart_daemon(stage, service, &backup)
    })?;
    assert_eq!(stage.protected()?.0, backup);
    Ok(())
}

fn protection_is_suspended(stage: &Stage) -> Result<()> {
    stage.order(&["suspend-protection", VM])?;
    let told = stage.operator.told(&["vm", "status", VM])?.remove(0);
    assert_eq!(told["words"], "Not protected: suspended by anna");
    let refusal = stage.operator.told_refusal(&["failover", VM])?;
    assert_eq!(refusal["outcome"], "refused", "{refusal}");
    let words = refusal["words"].as_str().unwrap_or_default();
    assert!(words.contains("suspended by anna"), "{refusal}");
    stage.order(&["resume-protection", VM])?;
    stage.protected().map(drop)
}

/// Two operators want the opposite of a guest at once, whose client has had all of its replies. A guest that is to stop
/// cannot be handed over: so it stops, whichever comes first.
fn it_fails_over_and_stops(stage: Stage, ben: &Operator, since: Instant) -> Result<()> {
    let gap = stage.client.lost_nothing().longest_gap(since);
    eprintln!("{gap:?} at most without a reply");
    let (fail_over, stop) = at_once(
        || stage.operator.order(VM, Verb::Failover {}),
        || ben.order(VM, Verb::Stop {}),
    );
    let stop = stop?;
    match fail_over {
        Ok(fail_over) => {
            assert!(fail_over < stop, "{fail_over}, {stop}");
            is_done_or_replaced(&stage.operator.outcome(fail_over, LIMIT)?, stop);
        }
        Err(refusal) => {
            let refusal = refusal.to_string();
            assert!(refusal.contains("db does not run"), "{refusal}");
        }
    }
    let outcome = ben.outcome(stop, LIMIT)?;
    assert_eq!(outcome.as_deref(), Ok("it is stopped"));
    let undefined = ben.told(&["vm", "undefine", VM])?.remove(0);
    assert_eq!(undefined["vm"], VM);
    Ok(())
}
