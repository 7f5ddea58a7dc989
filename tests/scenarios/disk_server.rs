//! The disk server at its position, as the hosts see it.

use testbed::pair::DiskServer;
use testbed::{LIMIT, Network, Result, Testbed, wait_until};

#[test]
fn hosts_reach_the_disk_server_over_the_storage_network() -> Result<()> {
    let testbed = Testbed::new("disk-server")?;
    let server = DiskServer::start(&testbed)?;
    let host = testbed.start_host("a")?;

    let status = ["disk-server", "status", "--server", server.address()];
    let status = [&status[..], server.key_options()].concat();
    let answers = || Ok(host.run(&status)?.exit.success());
    wait_until("the disk server's answer", LIMIT, answers)?;
    testbed.cut(&host, Network::Storage)?;
    assert!(!answers()?, "the storage link is cut");
    testbed.heal(&host, Network::Storage)?;
    wait_until("the disk server's answer again", LIMIT, answers)?;

    testbed.succeed();
    Ok(())
}
