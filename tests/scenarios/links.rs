//! The networks between two hosts: whole, cut, healed, delayed.

use std::time::{Duration, Instant};

use testbed::{Host, LIMIT, Network, Result, Testbed, wait_until};

fn wait_for_ping(from: &Host, to: &Host, network: Network) -> Result<()> {
    let what = format!("a ping from {} to {} on {network}", from.name(), to.name());
    wait_until(&what, LIMIT, || from.pings(to.address(network)))
}

#[test]
fn links_can_be_cut_healed_and_delayed() -> Result<()> {
    let testbed = Testbed::new("links")?;
    let [a, b] = testbed.start_hosts(["a", "b"])?;

    for network in Network::ALL {
        wait_for_ping(&a, &b, network)?;
        wait_for_ping(&b, &a, network)?;
    }
    wait_until("a ping to the disk server", LIMIT, || {
        a.pings(testbed.disk().address())
    })?;
    wait_until("a ping to the client", LIMIT, || {
        a.pings(testbed.client().address())
    })?;

    testbed.cut(&b, Network::Logging)?;
    assert!(
        !a.pings(b.address(Network::Logging))?,
        "the logging link is cut"
    );
    assert!(
        a.pings(b.address(Network::Client))?,
        "the client link is whole"
    );
    testbed.heal(&b, Network::Logging)?;
    wait_for_ping(&a, &b, Network::Logging)?;

    let delay = Duration::from_millis(300);
    a.delay(Network::Logging, delay)?;
    let start = Instant::now();
    wait_for_ping(&a, &b, Network::Logging)?;
    assert!(start.elapsed() >= delay, "what a sends is delayed");
    a.lose(Network::Logging, 1.0)?;
    assert!(
        !a.pings(b.address(Network::Logging))?,
        "all that a sends is lost"
    );
    a.undisturb(Network::Logging)?;
    wait_for_ping(&a, &b, Network::Logging)?;

    testbed.succeed();
    Ok(())
}
