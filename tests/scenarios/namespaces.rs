//! Hosts that are namespaces: the same verbs on this machine's own kernel.
//!
//! Where this machine's KVM can run guests, every scenario runs this way. The
//! kind itself is tried everywhere, with commands that need no guest.

use std::time::Duration;

use testbed::{Error, Exit, HostKind, Network, Result, Signal, Testbed, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_namespace_is_a_host() -> Result<()> {
    let testbed = Testbed::with_hosts("namespaces", HostKind::Namespace)?;
    let [mut a, b] = testbed.start_hosts(["a", "b"])?;

    for network in Network::ALL {
        let what = format!("a ping on {network}");
        wait_until(&what, LIMIT, || a.pings(b.address(network)))?;
    }
    wait_until("a ping to the client", LIMIT, || {
        b.pings(testbed.client().address())
    })?;
    assert!(a.check(&["ip", "-br", "link"])?.contains("tap0"));

    testbed.cut(&b, Network::Logging)?;
    assert!(!a.pings(b.address(Network::Logging))?);
    a.freeze()?;
    assert!(
        !b.pings(a.address(Network::Storage))?,
        "a frozen host answers nothing"
    );
    a.thaw()?;
    wait_until("the thawed host", LIMIT, || {
        b.pings(a.address(Network::Storage))
    })?;
    assert!(
        !b.pings(a.address(Network::Logging))?,
        "thawing heals no cut link"
    );
    testbed.heal(&b, Network::Logging)?;
    wait_until("the healed link", LIMIT, || {
        b.pings(a.address(Network::Logging))
    })?;

    let mut shell = a.spawn(&["sh", "-c", "echo begun; exec sleep 1000"])?;
    shell.wait_for_line("begun", LIMIT)?;
    shell.signal(Signal::SIGTERM)?;
    assert_eq!(shell.wait(LIMIT)?, Exit::Signal(Signal::SIGTERM as i32));

    let mut doomed = a.spawn(&["sh", "-c", "echo begun; exec sleep 1000"])?;
    doomed.wait_for_line("begun", LIMIT)?;
    a.kill();
    assert!(!a.is_alive());
    assert!(matches!(doomed.wait(LIMIT), Err(Error::Agent { .. })));
    assert!(!b.pings(a.address(Network::Client))?);
    b.check(&["true"])?;

    testbed.succeed();
    Ok(())
}
