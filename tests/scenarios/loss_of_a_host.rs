//! A host is frozen, thawed, killed; the other one lives on.

use std::time::Instant;

use testbed::{Error, LIMIT, Network, Result, Testbed, wait_until};

#[test]
fn one_host_outlives_the_other() -> Result<()> {
    let testbed = Testbed::new("loss-of-a-host")?;
    let [mut a, b] = testbed.start_hosts(["a", "b"])?;
    let a_address = a.address(Network::Logging);

    a.freeze()?;
    assert!(!b.pings(a_address)?, "a frozen host answers nothing");
    a.thaw()?;
    wait_until("the thawed host's answer", LIMIT, || b.pings(a_address))?;

    let mut counter = a.spawn(&[
        "sh",
        "-c",
        "n=0; while true; do n=$((n+1)); echo $n; usleep 100000; done",
    ])?;
    counter.wait_for_line("5", LIMIT)?;
    a.kill();
    let killed = Instant::now();
    assert!(!a.is_alive());
    assert!(
        matches!(counter.wait(LIMIT), Err(Error::Agent { .. })),
        "its commands are gone"
    );
    assert!(matches!(a.run(&["true"]), Err(Error::Agent { .. })));
    assert!(killed.elapsed() < LIMIT / 2, "and nobody waits for them");
    assert!(!b.pings(a_address)?);

    // There is none without a module for the processor, whichever that is.
    b.check(&["test", "-c", "/dev/kvm"])?;

    testbed.succeed();
    Ok(())
}
