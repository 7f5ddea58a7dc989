//! Another stock kernel, Debian 13's: compressed modules, virtio's PCI driver built in. Its boot is
//! replayed without a difference, and a client's connection survives the loss of its host. It runs
//! with the mitigations that it has by itself.

use guest_images::GuestImages;
use testbed::pair::{Guest, Pair, QUICK};
use testbed::{GUEST, LIMIT, Result, Testbed};

const LOG: &str = "/tmp/debian-13.log";

#[test]
fn it_replays_and_survives_the_loss_of_its_host() -> Result<()> {
    let testbed = Testbed::new("debian-13")?;
    let hosts = testbed.start_hosts(["a", "b"])?;
    let host = &hosts[0];
    let (kernel, initrd) = (
        host.image(GuestImages::VMLINUX_DEBIAN_13),
        host.image(GuestImages::TINY),
    );
    let mut guest = vec!["--kernel", &kernel, "--initrd", &initrd];
    guest.extend(["--append", "quiet ftvm.do=poweroff"]);
    let record = ["ftvm", "record", "--verify", "--log", LOG];
    host.check(&[&record[..], &guest].concat())?;
    let replayed = host.check(&[&["ftvm", "replay"], &guest[..], &[LOG]].concat())?;
    assert!(replayed.starts_with("no difference: "), "{replayed}");
    assert!(
        replayed.contains("32768 pages of memory"),
        "all of memory: {replayed}"
    );

    let mut guest = Guest::redis("newer");
    guest.kernel = GuestImages::VMLINUX_DEBIAN_13.to_owned();
    guest.words = format!("quiet ftvm.ip={GUEST}/24 {QUICK}");
    let mut pair = Pair::start_on(&testbed, hosts, guest, &[], &[])?;
    pair.a.kill();
    pair.backup.wait_for("live", LIMIT)?;
    pair.client.goes_on("of the backup")?;
    pair.client.lost_nothing();
    testbed.succeed();
    Ok(())
}
