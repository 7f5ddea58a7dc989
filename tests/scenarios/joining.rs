//! A backup joins a guest that runs: one that was started alone, and again and again after failovers.

use testbed::Result;
use testbed::failover::{Failovers, Judgement, Options};
use testbed::joins::{self, Joins, Kind, Moment, Outcome};
use testbed::pair::{Boot, PATIENCE};

/// More than a test run has time for: `FTVM_SUCCESSIVE=10`.
const SUCCESSIVE: u32 = 3;

/// The last join of three is cut once. The disk server is killed and started again in each failover and in each
/// join, at moments of the seed; `cargo xtask demo --successive 10 --restart-disk-server` makes more.
#[test]
fn one_connection_outlives_host_after_host() -> Result<()> {
    let failovers = std::env::var("FTVM_SUCCESSIVE")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(SUCCESSIVE);
    let options = Options {
        seed: 5,
        heartbeat_timeout: PATIENCE,
        restart_disk_server: true,
        boot: Boot::Quick,
        client_rests: true,
        ..Options::default()
    };
    let mut testbed = Failovers::start("joining", options)?;
    let runs = testbed.successive(failovers, &mut ())?;
    for run in &runs {
        eprintln!("{run:?}");
        assert_eq!(run.judgement, Judgement::Pass, "{:?}", run.reason);
        let took = (run.unprotected_ms, run.join_ms, run.pause_ms);
        assert!(matches!(took, (Some(_), Some(_), Some(_))), "{took:?}");
        assert!(run.transfer_bytes > Some(0) && run.rounds > Some(0));
        assert_eq!(run.joins_cut, u32::from(run.number >= 3));
        assert!(run.disk_server.is_some() && run.disk_server_in_join_ms.is_some());
    }
    assert_eq!(runs.len(), failovers as usize);
    let last = runs.last().expect("the last one");
    assert_eq!((last.lost, last.reconnects), (Some(0), 0));
    testbed.end(true)
}

/// A guest that was started alone: its first join is complete, and others are cut off. Never a half state,
/// never an old one, and nothing lost where a copy is left. `cargo xtask endure --only joins` makes many, at
/// random moments and of more kinds.
#[test]
fn joins_that_are_cut_off_leave_one_guest() -> Result<()> {
    let options = joins::Options {
        seed: 1,
        client_rests: true,
        ..joins::Options::default()
    };
    let mut joins = Joins::start("joins-cut", options)?;
    eprintln!("{}", joins.join_and_fail_over()?);
    for (percent, kind) in Kind::SHARE {
        let cut = joins.cut(kind, Moment::Told(percent))?;
        eprintln!("{cut}");
        assert!(kind.is_of_source() || cut.outcome != Outcome::Gone, "{cut}");
    }
    joins.end()
}
