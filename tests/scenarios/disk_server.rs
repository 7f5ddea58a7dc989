//! The disk server at its position, as the hosts see it.

use std::time::Duration;

use testbed::{Network, Result, Testbed, keys, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn hosts_reach_the_disk_server_over_the_storage_network() -> Result<()> {
    let testbed = Testbed::new("disk-server")?;
    let state = testbed.logs().join("state").to_string_lossy().into_owned();
    let address = format!("{}:7070", testbed.disk().address());
    let _server = testbed.start_disk_server(&["--listen", &address, "--state", &state])?;
    let host = testbed.start_host("a")?;

    let answers = || {
        Ok(host
            .run(
                &[
                    &["disk-server", "status", "--server", &address][..],
                    &keys::options(),
                ]
                .concat(),
            )?
            .exit
            .success())
    };
    wait_until("the disk server's answer", LIMIT, answers)?;
    testbed.cut(&host, Network::Storage)?;
    assert!(!answers()?, "the storage link is cut");
    testbed.heal(&host, Network::Storage)?;
    wait_until("the disk server's answer again", LIMIT, answers)?;

    testbed.succeed();
    Ok(())
}
