//! Hosts that are namespaces: the same verbs on this machine's own kernel.
//!
//! Where this machine's KVM can run guests, every scenario runs this way. The
//! kind itself is tried everywhere, with commands that need no guest.

use std::path::Path;

use testbed::{
    Error, Exit, Host, HostKind, LIMIT, Network, Result, Signal, Testbed, Wiretap, wait_until,
};

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

    has_all_of_its_own(&a, &b)?;

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

/// Neither the other host nor this machine shows in it, and it has the tools of an emulated one.
fn has_all_of_its_own(host: &Host, other: &Host) -> Result<()> {
    let _sleeper = other.spawn(&["sleep", "4321"])?;
    wait_until("the other host's process", LIMIT, || {
        Ok(other.run(&["pidof", "sleep"])?.exit.success())
    })?;
    assert!(!host.run(&["pidof", "sleep"])?.exit.success());
    other.check(&["sh", "-c", "echo other > /tmp/ftvm-of-the-other-host"])?;
    assert!(
        !host
            .run(&["test", "-e", "/tmp/ftvm-of-the-other-host"])?
            .exit
            .success()
    );
    assert!(!Path::new("/tmp/ftvm-of-the-other-host").exists());
    host.check(&[
        "sh",
        "-c",
        "usleep 1 && netstat -tln && nc -h 2>&1 | grep BusyBox",
    ])?;
    // What is mounted in it goes with it.
    host.check(&["mkdir", "/tmp/small"])?;
    host.check(&["mount", "-t", "tmpfs", "none", "/tmp/small"])?;
    assert!(!mounts().contains("/tmp/small"));
    Ok(())
}

fn mounts() -> String {
    std::fs::read_to_string("/proc/self/mounts").expect("this machine's mounts")
}

/// The MAC address under which a host is on the client network.
fn mac(host: &Host) -> Result<[u8; 6]> {
    let link = host.check(&["ip", "-br", "link", "show", "br0"])?;
    let mac = link
        .split_whitespace()
        .nth(2)
        .expect("name, state, address");
    let bytes: Vec<u8> = mac
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal"))
        .collect();
    Ok(bytes.try_into().expect("six bytes"))
}

#[test]
fn a_wiretap_counts_what_a_host_sends_and_not_what_it_gets() -> Result<()> {
    let testbed = Testbed::with_hosts("wiretap", HostKind::Namespace)?;
    let [a, b] = testbed.start_hosts(["a", "b"])?;
    let sent = Wiretap::start(&testbed, &a, Network::Client, mac(&a)?)?;
    let got = Wiretap::start(&testbed, &a, Network::Client, mac(&b)?)?;
    let elsewhere = Wiretap::start(&testbed, &a, Network::Storage, mac(&a)?)?;

    wait_until("a ping", LIMIT, || b.pings(a.address(Network::Client)))?;
    wait_until("the answer on the wire", LIMIT, || Ok(sent.frames()? > 0))?;
    assert_eq!((got.frames()?, elsewhere.frames()?), (0, 0));

    // The link of a frozen namespace goes down, and the tap outlives that.
    a.freeze()?;
    a.thaw()?;
    let before = sent.frames()?;
    wait_until("another ping", LIMIT, || {
        b.pings(a.address(Network::Client))
    })?;
    wait_until("its answer", LIMIT, || Ok(sent.frames()? > before))?;
    assert_eq!(got.frames()?, 0);

    testbed.succeed();
    Ok(())
}
