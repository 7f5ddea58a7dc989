//! A backup that only keeps the guest's state and log goes on with the guest, and turns hot.

use testbed::pair::{DiskServer, Guest};
use testbed::workload::Client;
use testbed::{LIMIT, Result, Signal, Testbed};

const COLD: [&str; 4] = ["--cold", "/tmp/cold", "--cold-replay", "2"];

/// It joins, gets the state anew while the guest goes on, and its host is left alone; a second one turns
/// hot before that happens.
#[test]
fn a_cold_backup_goes_on_and_turns_hot() -> Result<()> {
    let testbed = Testbed::new("cold")?;
    let [mut a, mut b] = testbed.start_hosts(["a", "b"])?;
    let disk_server = DiskServer::start(&testbed)?;
    let guest = Guest::redis("cold").quick();
    let mut primary = guest.primary_at_once(&a, &disk_server, &[])?;
    let client = Client::redis(testbed.client());
    client.goes_on("of a guest without a backup")?;

    let durable = [COLD.as_slice(), &["--cold-durable"]].concat();
    let mut backup = guest.backup_with(&b, &a, &disk_server, &durable)?;
    let protected = primary.wait_for("protected", LIMIT)?;
    assert_eq!(protected["standby"], "cold");
    backup.wait_for("joined", LIMIT)?;
    let renewed = backup.wait_for("renewed", LIMIT)?;
    assert!(renewed["log_bytes"].as_u64() > Some(0), "{renewed}");
    client.goes_on("while the backup gets the state anew")?;
    for trouble in ["backup-diverged", "unprotected", "peer-lost"] {
        assert!(!primary.told().has(trouble), "{:?}", primary.told());
    }

    a.kill();
    let mut live = backup;
    let replaying = live.wait_for("replaying", LIMIT)?;
    live.wait_for("live", LIMIT)?;
    client.goes_on("of the cold backup")?;
    assert!(!live.told().has("diverged"), "{replaying}");

    testbed.boot_again(&mut a)?;
    let mut second = guest.backup_with(&a, &b, &disk_server, &COLD)?;
    live.wait_for("protected", LIMIT)?;
    second.wait_for("joined", LIMIT)?;
    second.signal(Signal::SIGUSR2)?;
    second.wait_for("hot", LIMIT)?;
    client.goes_on("with a backup that turned hot")?;
    b.kill();
    second.wait_for("live", LIMIT)?;
    client.goes_on("of the backup that turned hot")?;
    client.lost_nothing();
    assert!(!second.told().has("diverged"), "{:?}", second.told());

    testbed.succeed();
    Ok(())
}
