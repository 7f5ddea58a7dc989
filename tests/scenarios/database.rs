//! PostgreSQL on a shared disk, in a guest that three hosts look after: when its host is lost, a client's one connection
//! goes on at another one, nothing that was committed is lost, and the third host has the next backup.

use std::time::Instant;

use testbed::failover::{Disk, Fsck};
use testbed::fleet::{Operator, Stage};
use testbed::pair::{DiskServer, Guest};
use testbed::workload::Client;
use testbed::{Layout, Result, Testbed};

const VM: &str = "db";

#[test]
fn commits_survive_the_loss_of_their_host() -> Result<()> {
    let testbed = Testbed::new("database")?;
    let disk = Disk::new(&Layout::find(), testbed.logs())?;
    let mut service = DiskServer::start_with(&testbed, vec![disk.export(VM)])?;
    let operator = Operator::new(&testbed, &service);
    let guest = Guest::debian(VM, &disk.uri(&service)).quick();
    let client = |testbed: &Testbed| Client::postgres(testbed.client(), 1, Vec::new());
    let mut stage = Stage::start(
        &testbed,
        &service,
        ["a", "b", "c"],
        operator,
        &guest,
        client,
    )?;
    let (primary, backup) = stage.protected()?;
    let third = stage.idle_host()?;

    let since = Instant::now();
    stage.kill(&primary);
    stage.client.goes_on("of the host that was its backup's")?;
    assert_eq!(stage.protected()?, (backup, third));
    assert_eq!(disk.check(&mut service)?, Fsck::Clean);

    let gap = stage.client.lost_nothing().longest_gap(since);
    eprintln!(
        "{gap:?} at most without a commit\n{}",
        stage.operator.history(VM)?
    );
    testbed.succeed();
    Ok(())
}
