//! What the Output Rule is for. Both scenarios are the same: what the primary logs reaches the
//! backup late, a client increments a counter, and the primary's host is killed. Where outputs
//! wait for their acknowledgements, the backup knows everything that the client was told. Where
//! the rule is broken on purpose, the client was told of increments that never happened.

use std::time::Duration;

use testbed::pair::{DiskServer, Guest};
use testbed::workload::Client;
use testbed::{LIMIT, Network, Result, Testbed, wait_until};

/// How late the log comes: below the heartbeat timeout, [`testbed::pair::PATIENCE`].
const DELAY: Duration = Duration::from_millis(300);
/// How often a broken rule may go unnoticed.
const ROUNDS: u32 = 3;

/// What the client was told before the kill, and what the counter was afterwards.
#[derive(Debug)]
struct Counters {
    told: u64,
    afterwards: u64,
    reconnects: u32,
}

/// Kills the primary's host while a client increments. `increments` is how many replies come over
/// the delayed link before.
fn kill_the_primary(testbed: &Testbed, options: &[&str], increments: u64) -> Result<Counters> {
    let [mut a, b] = testbed.start_hosts(["a", "b"])?;
    let disk_server = DiskServer::start(testbed)?;
    let mut guest = Guest::redis("counter").quick();
    if !options.is_empty() {
        guest = guest.sabotaged([&a, &b])?;
    }
    let primary = guest.primary(&a, &disk_server, options)?;
    let mut backup = guest.backup(&b, &a, &disk_server)?;

    // Without pauses, or a broken rule might let out too little to be noticed.
    let client = Client::redis(testbed.client());
    wait_until("replies", LIMIT, || Ok(client.counter() > 20))?;
    a.delay(Network::Logging, DELAY)?;
    let before = client.counter();
    wait_until("replies over the delayed link", LIMIT, || {
        Ok(client.counter() >= before + increments)
    })?;
    assert!(!backup.told().has("peer-lost"), "late is not lost");
    a.kill();
    drop(primary);
    backup.wait_for("live", LIMIT)?;

    let told = client.counter();
    if options.is_empty() {
        wait_until("a reply of the other host", LIMIT, || {
            Ok(client.counter() > told || client.trouble().is_some())
        })?;
        let record = client.finish();
        assert_eq!((&record.trouble, record.irregular), (&None, None));
        return Ok(Counters {
            told: record.acked(),
            afterwards: record.final_counter.unwrap_or(0),
            reconnects: record.reconnects,
        });
    }
    // The guest on the other host does not know this connection's last segments: it is stuck.
    let record = client.abandon();
    let second = Client::redis_with_pauses(testbed.client());
    wait_until("a reply over a new connection", LIMIT, || {
        Ok(second.first_reply().is_some())
    })?;
    let (_, first) = second.first_reply().expect("waited for");
    Ok(Counters {
        told: record.acked(),
        // Its request incremented the counter.
        afterwards: first - 1,
        reconnects: 1,
    })
}

/// With the rule, the counter is never behind what the client was told.
#[test]
fn with_the_rule_no_client_knows_more_than_the_backup() -> Result<()> {
    let testbed = Testbed::new("output-rule-kept")?;
    let counters = kill_the_primary(&testbed, &[], 5)?;
    assert!(
        counters.told == counters.afterwards && counters.reconnects == 0,
        "{counters:?}"
    );
    testbed.succeed();
    Ok(())
}

/// Without the rule, a client sees the counter go back.
#[test]
fn without_the_rule_a_client_sees_the_counter_go_back() -> Result<()> {
    let mut seen = Vec::new();
    for round in 1..=ROUNDS {
        let testbed = Testbed::new(&format!("output-rule-broken-{round}"))?;
        let counters = kill_the_primary(&testbed, &["--break-output-rule"], 50)?;
        let inconsistent = counters.afterwards < counters.told;
        seen.push(counters);
        testbed.succeed();
        if inconsistent {
            return Ok(());
        }
    }
    panic!("the broken rule was never noticed: {seen:?}");
}
