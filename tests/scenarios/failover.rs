//! The main job: a client's one connection survives the loss of the primary's host, under load
//! and during the guest's boot, and nothing that was acknowledged is lost.

use testbed::failover::{Failovers, Options, Verdict};
use testbed::pair::PATIENCE;

/// More rounds than a test run has time for: `FTVM_FAILOVERS=20`.
const FAILOVERS: u32 = 3;

#[test]
fn nothing_acknowledged_is_lost_when_the_primary_dies() -> testbed::Result<()> {
    let failovers = std::env::var("FTVM_FAILOVERS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(FAILOVERS);
    let options = Options {
        // With this seed a kill during the boot is among the first four.
        seed: 5,
        heartbeat_timeout: PATIENCE,
        ..Options::default()
    };
    let mut testbed = Failovers::start("failover", options)?;
    for _ in 0..failovers {
        let run = testbed.run(&mut |_| {})?;
        eprintln!("{run:?}");
        assert_eq!(run.verdict, Verdict::Pass, "{:?}", run.reason);
        assert_eq!((run.lost, run.reconnects), (0, 0));
    }
    testbed.end(true)
}
