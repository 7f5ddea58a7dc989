//! Hosts look after several guests: when one host is killed, and when another one is drained, all of them go on
//! elsewhere, are protected again, and the journal tells it. `cargo xtask endure --only fleet` does so with more guests
//! for an hour.

use testbed::Result;
use testbed::pair::PATIENCE;
use testbed::rounds::{Options, Rounds};

#[test]
fn one_host_is_killed_and_another_one_drained() -> Result<()> {
    let options = Options {
        guests: 3,
        // Hosts of the usual size have a snapshot.
        host_mib: 1024,
        heartbeat_timeout: PATIENCE,
        plain: false,
    };
    let mut rounds = Rounds::start("rounds", options, &mut |line| eprintln!("{line}"))?;
    for _ in 0..2 {
        eprintln!("{}", rounds.step()?);
    }
    eprintln!("{}", rounds.end()?);
    Ok(())
}
