//! Hosts are restored from one snapshot: what was the same in all of them and must not be, and what they
//! can be given instead.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use testbed::{Host, HostKind, Network, Paging, Result, Testbed};

/// How far a host's clock may be off: what a busy machine needs to read it. The snapshot is older
/// than that in all runs but the first one.
const TOLERANCE: Duration = Duration::from_secs(30);

#[test]
fn hosts_of_one_snapshot_differ() -> Result<()> {
    let testbed = Testbed::with_hosts("hosts", HostKind::Qemu)?;
    let [mut a, b] = testbed.start_hosts(["a", "b"])?;
    let differ = |what: &[&str]| -> Result<()> {
        let [a, b] = [a.check(what)?, b.check(what)?];
        assert_ne!(a, b, "{what:?}");
        Ok(())
    };
    differ(&["hostname"])?;
    differ(&["head", "-c", "16", "/dev/urandom"])?;
    for link in ["client", "logging", "storage", "management", "br0", "tap0"] {
        differ(&["cat", &format!("/sys/class/net/{link}/address")])?;
    }
    for host in [&a, &b] {
        let off = clock(host)?.abs_diff(now());
        assert!(off < TOLERANCE, "the clock of {} is off", host.name());
        assert_eq!(nested(host)?, "0", "they have shadow paging");
    }
    for (paging, npt) in [(Paging::Nested, "1"), (Paging::Shadow, "0")] {
        a.set_paging(paging)?;
        assert_eq!(nested(&a)?, npt, "{paging}");
        a.check(&["test", "-c", "/dev/kvm"])?;
    }

    // A host that was killed comes back where it was, and has forgotten everything.
    let forgotten = "/tmp/forgotten";
    a.check(&["touch", forgotten])?;
    let address = a.address(Network::Logging);
    a.kill();
    assert!(!b.pings(address)?);
    testbed.boot_again(&mut a)?;
    assert_eq!(a.check(&["hostname"])?.trim(), "a");
    assert_eq!(a.address(Network::Logging), address);
    assert!(b.pings(address)?);
    assert!(!a.run(&["test", "-e", forgotten])?.exit.success());
    testbed.succeed();
    Ok(())
}

/// Whether a host's KVM lets the processor translate guests' addresses.
fn nested(host: &Host) -> Result<String> {
    let npt = host.check(&["cat", "/sys/module/kvm_amd/parameters/npt"])?;
    Ok(npt.trim().replace('N', "0").replace('Y', "1"))
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("later")
}

fn clock(host: &Host) -> Result<Duration> {
    let seconds = host.check(&["date", "+%s"])?;
    Ok(Duration::from_secs(
        seconds.trim().parse().expect("seconds"),
    ))
}
