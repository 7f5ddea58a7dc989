//! A backup joins a guest that runs: one that was started alone, and again and again after failovers.

use std::time::Duration;

use testbed::failover::{Failovers, Judgement, Options};
use testbed::joins::{self, Joins, Kind, Outcome};
use testbed::pair::{DiskServer, Guest, PATIENCE};
use testbed::workload::Client;
use testbed::{Exit, Result, Testbed};

const LIMIT: Duration = Duration::from_secs(180);
/// More than a test run has time for: `FTVM_SUCCESSIVE=10`.
const SUCCESSIVE: u32 = 3;
/// ftvm's exit status when a host is not taken as the backup.
const REFUSED: Exit = Exit::Code(1);
/// When a backup is not fit to go on with the guest.
const UNFIT: Exit = Exit::Code(4);

/// The last join of three is cut once.
#[test]
fn one_connection_outlives_host_after_host() -> Result<()> {
    let failovers = std::env::var("FTVM_SUCCESSIVE")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(SUCCESSIVE);
    let options = Options {
        seed: 5,
        heartbeat_timeout: PATIENCE,
        quick_boot: true,
        ..Options::default()
    };
    let mut testbed = Failovers::start("joining", options)?;
    let runs = testbed.successive(failovers, &mut ())?;
    for run in &runs {
        eprintln!("{run:?}");
        assert_eq!(run.judgement, Judgement::Pass, "{:?}", run.reason);
        let took = (run.unprotected_ms, run.join_ms, run.pause_ms);
        assert!(matches!(took, (Some(_), Some(_), Some(_))), "{took:?}");
        assert!(run.transfer_bytes > Some(0) && run.rounds > Some(0));
        assert_eq!(run.joins_cut, u32::from(run.number >= 3));
    }
    assert_eq!(runs.len(), failovers as usize);
    let last = runs.last().expect("the last one");
    assert_eq!((last.lost, last.reconnects), (Some(0), 0));
    testbed.end(true)
}

/// Then a second backup comes, and the hosts die one after the other: the second one while it is the
/// only one that has the guest.
#[test]
fn a_guest_that_was_started_alone_gets_a_backup() -> Result<()> {
    let testbed = Testbed::new("joining-alone")?;
    let [mut a, mut b] = testbed.start_hosts(["a", "b"])?;
    let disk_server = DiskServer::start(&testbed)?;
    let guest = Guest::redis("joined").quick();
    let mut primary = guest.primary_at_once(&a, &disk_server, &[])?;
    let client = Client::redis(testbed.client());
    client.goes_on("of a guest without a backup")?;
    assert!(!primary.told().has("protected"));

    let mut backup = guest.backup(&b, &a, &disk_server)?;
    primary.wait_for("joining", LIMIT)?;
    let protected = primary.wait_for("protected", LIMIT)?;
    backup.wait_for("joined", LIMIT)?;
    client.goes_on("of a guest with a backup")?;
    let (epoch, _) = disk_server.record(&a, &guest.name)?;
    assert_eq!(protected["epoch"].as_u64(), Some(epoch));

    // Its network interface and its port are those of the first one.
    let mut second = guest.clone();
    second
        .options
        .retain(|option| !["--tap", "tap0"].contains(&option.as_str()));
    let (exit, told) = second
        .backup_with(&b, &a, &disk_server, &["--listen", "0.0.0.0:7001"])?
        .end(LIMIT)?;
    assert_eq!(exit, REFUSED, "{told:?}");
    for words in ["refuses this backup", "already has a backup"] {
        assert!(told.errors.contains(words), "{words}: {told:?}");
    }
    client.goes_on("after the refusal")?;
    assert!(!primary.told().has("peer-lost") && !backup.has_ended());

    a.kill();
    let mut live = backup;
    live.wait_for("live", LIMIT)?;
    client.goes_on("of the backup")?;
    client.lost_nothing();

    testbed.boot_again(&mut a)?;
    let target = guest.backup(&a, &b, &disk_server)?;
    live.wait_until("the middle of a join", LIMIT, |told| {
        told.joining(0).filter(|join| join.percent > 0.0)
    })?;
    let before = disk_server.record(&a, &guest.name)?;
    b.kill();
    let (exit, told) = target.end(LIMIT)?;
    assert_eq!(exit, UNFIT, "{told:?}");
    for words in ["it was joining", "so is the guest"] {
        assert!(told.errors.contains(words), "{words}: {told:?}");
    }
    assert!(
        told.has("refused") && !told.has("live") && !told.has("joined"),
        "{told:?}"
    );
    assert!(!told.errors.contains("panicked"), "{told:?}");
    assert_eq!(disk_server.record(&a, &guest.name)?, before);

    testbed.succeed();
    Ok(())
}

/// Joins are cut off at random moments: never a half state, never an old one, and nothing lost where a copy
/// is left. `cargo xtask endure --only joins` makes many, of more kinds.
#[test]
fn joins_that_are_cut_off_leave_one_guest() -> Result<()> {
    let options = joins::Options {
        seed: 1,
        ..joins::Options::default()
    };
    let mut joins = Joins::start("joins-cut", options)?;
    for kind in Kind::SHARE {
        let cut = joins.cut(kind)?;
        eprintln!("{cut}");
        assert!(kind.is_of_source() || cut.outcome != Outcome::Gone);
    }
    joins.end()
}
