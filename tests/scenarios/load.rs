//! Programs that compute without asking the host for anything: while they run, the guest answers
//! pings and its clients; its primary's host dies in the middle, and what they find is what an
//! undisturbed run finds. Time stamp counters that programs read never go back.

use guest_images::load::Load;
use testbed::Result;
use testbed::failover::{Failovers, Judgement, Options};
use testbed::pair::{Boot, PATIENCE};

/// One failover under a load.
fn fail_over(load: Load) -> Result<()> {
    let options = Options {
        seed: 3,
        load: Some(load),
        // The timer interrupts programs that make no exit; those that read counters make many.
        boot: match load {
            Load::Tsc => Boot::Quick,
            _ => Boot::QuickWithTimer,
        },
        // The guest's time is the load's.
        client_rests: true,
        heartbeat_timeout: PATIENCE,
        ..Options::default()
    };
    let mut failovers = Failovers::start(&format!("load-{load}"), options)?;
    let run = failovers.run(&mut ())?;
    eprintln!("{run:?}");
    assert_eq!(run.judgement, Judgement::Pass, "{:?}", run.reason);
    assert_eq!((run.lost, run.reconnects), (Some(0), 0), "{run:?}");
    let [before, after] = run.load_results.expect("the load was watched");
    assert!(before > 0 && after > 0, "{before} before, {after} after");
    assert!(run.ping_ms_max.is_some(), "pings were answered");
    assert_eq!(run.pings_lost, 0, "{run:?}");
    failovers.end(true)
}

/// In turn: `openssl speed`, which ends by a timer and never would without interrupts in user mode;
/// stress-ng, which fills memory and verifies it; and a busy shell. Each computes before and after.
#[test]
fn programs_find_the_same_across_a_failover() -> Result<()> {
    fail_over(Load::Mixed)
}

/// Every value is compared with the one before it, in the guest, also across the failover.
#[test]
fn time_stamp_counters_never_go_back_across_a_failover() -> Result<()> {
    fail_over(Load::Tsc)
}
