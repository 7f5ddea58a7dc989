//! `iperf3`, with its server in the guest.

use std::time::Duration;

use serde_json::Value;
use testbed::{GUEST, Result};

use super::driver::{Driver, Rates, senseless};
use super::{agent, command};

/// Starts the server, which stays, and waits until it listens at its usual port, 5201 (0x1451).
const START: &str = "pidof iperf3 > /dev/null || iperf3 -s -D; \
     n=0; until grep -qi ':1451 ' /proc/net/tcp /proc/net/tcp6 2> /dev/null; do \
     n=$((n + 1)); [ $n -lt 100 ] || exit 1; sleep 0.1; done";

/// What is left out at the beginning: TCP's slow start, which is as long as round trips are, and whose
/// end varies with them.
pub(super) const SLOW_START: Duration = Duration::from_secs(3);

pub(super) fn prepare(driver: &Driver<'_>) -> Result<u64> {
    agent::run(driver, START).map(|_| 0)
}

/// Megabits in a second that the receiver got after [`SLOW_START`], to the guest or, with `--reverse`,
/// from it.
pub(super) fn run(driver: &Driver<'_>, direction: &[&str]) -> Result<Rates> {
    let (address, seconds) = (GUEST.to_string(), driver.seconds());
    let slow_start = SLOW_START.as_secs().to_string();
    let mut arguments = vec!["--json", "--client", &address];
    arguments.extend(["--time", &seconds, "--omit", &slow_start]);
    arguments.extend(direction);
    let text = command::run(driver, "iperf3", &arguments)?;
    let report: Value = serde_json::from_str(&text).unwrap_or_default();
    let received = report["end"]["sum_received"]["bits_per_second"].as_f64();
    let received = received.ok_or_else(|| senseless("iperf3", &text))?;
    Ok((received / 1e6, None))
}
