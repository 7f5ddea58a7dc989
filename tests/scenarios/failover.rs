//! The main job: a client's one connection survives the loss of the primary's host, under load
//! and during the guest's boot, and nothing that was acknowledged is lost.

use testbed::failover::{Failovers, Judgement, KillMoment, Options};
use testbed::pair::{Boot, PATIENCE};
use testbed::{HostKind, Layout, Paging};

/// More rounds than a test run has time for: `FTVM_FAILOVERS=20`.
const FAILOVERS: u32 = 2;

#[test]
fn nothing_acknowledged_is_lost_when_the_primary_dies() -> testbed::Result<()> {
    let failovers = std::env::var("FTVM_FAILOVERS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(FAILOVERS);
    let options = Options {
        seed: 5,
        heartbeat_timeout: PATIENCE,
        ..Options::default()
    };
    let mut testbed = Failovers::start("failover", options)?;
    let mut moments = Vec::new();
    for _ in 0..failovers {
        let run = testbed.run(&mut ())?;
        eprintln!("{run:?}");
        assert_eq!(run.judgement, Judgement::Pass, "{:?}", run.reason);
        assert_eq!((run.lost, run.reconnects), (Some(0), 0));
        moments.extend(run.kill);
    }
    for moment in [KillMoment::Boot, KillMoment::Load] {
        assert!(failovers < 2 || moments.contains(&moment), "{moments:?}");
    }
    testbed.end(true)
}

/// Under nested paging too: what differs is found and repaired.
#[test]
fn nothing_acknowledged_is_lost_under_nested_paging() -> testbed::Result<()> {
    if HostKind::choose(&Layout::find()) == HostKind::Namespace {
        eprintln!("SKIPPED: namespaces have the paging of this machine");
        return Ok(());
    }
    let options = Options {
        seed: 5,
        heartbeat_timeout: PATIENCE,
        paging: Paging::Nested,
        boot: Boot::Quick,
        ..Options::default()
    };
    let mut testbed = Failovers::start("failover-nested", options)?;
    let run = testbed.run(&mut ())?;
    eprintln!("{run:?}");
    assert_eq!(run.judgement, Judgement::Pass, "{:?}", run.reason);
    assert_eq!((run.lost, run.reconnects), (Some(0), 0));
    testbed.end(true)
}
