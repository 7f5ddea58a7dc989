//! A guest is handed over to its backup by plan, and back: no client connects anew, nothing is lost, and the
//! outage is told.

use std::time::Instant;

use testbed::pair::{DiskServer, Guest};
use testbed::workload::Client;
use testbed::{Exit, Host, LIMIT, Result, Testbed};

/// Where each run is asked.
const CONTROL: &str = "/tmp/db.control";
const OPTIONS: [&str; 2] = ["--control", CONTROL];

#[test]
fn a_guest_is_handed_over_there_and_back() -> Result<()> {
    let testbed = Testbed::new("hand-over")?;
    let [a, b] = testbed.start_hosts(["a", "b"])?;
    let service = DiskServer::start(&testbed)?;
    let guest = Guest::redis("db").quick();
    let mut primary = guest.primary(&a, &service, &OPTIONS)?;
    let mut backup = guest.idle_backup_with(&b, &service, &OPTIONS)?;
    let client = Client::redis_with_pauses(testbed.client());
    client.goes_on("after the boot")?;
    for [from, to] in [[&a, &b], [&b, &a]] {
        backup.wait_for("joined", LIMIT)?;
        let protected = primary.wait_for("protected", LIMIT)?;
        let pause = protected["pause_ms"].as_u64().expect("it is told");
        assert_eq!(role(from)?, ("primary".into(), "protected".into()));
        assert_eq!(role(to)?, ("backup".into(), "protected".into()));
        let refused = to.ask(CONTROL, "{\"ask\":\"hand_over\"}")?;
        assert!(refused.contains("ask its primary"), "{refused}");
        let console = to.ask(CONTROL, "{\"ask\":\"console\"}")?;
        assert!(console.contains("the console is with"), "{console}");

        let since = Instant::now();
        let answer = from.ask(CONTROL, "{\"ask\":\"hand_over\"}")?;
        assert_eq!(answer.trim(), "{\"ok\":true}");
        let live = backup.wait_for("live", LIMIT)?;
        client.goes_on("after the guest was handed over")?;
        let gap = client.longest_gap(since).as_millis();
        let (exit, told) = primary.end(LIMIT)?;
        assert_eq!(exit, Exit::Code(3), "{told:?}");
        let handed = told.event("handed-over").expect("it says to whom");
        assert_eq!(handed["epoch"], live["epoch"]);
        assert!(!told.has("lost") && !told.has("live"), "{told:?}");
        let outage = live["outage_ms"].as_u64().expect("it is told");
        eprintln!(
            "handed over: the guest stood still for {outage} ms, as the host has it, and for {pause} ms at the end of \
             the join; the client waited {gap} ms at most for a reply"
        );

        primary = backup;
        primary.forget_events();
        backup = guest.idle_backup_with(from, &service, &OPTIONS)?;
    }
    backup.wait_for("joined", LIMIT)?;
    client.goes_on("protected again")?;
    client.lost_nothing();
    primary.stop()?;
    testbed.succeed();
    Ok(())
}

/// What a host's run does, and in which phase it is.
fn role(host: &Host) -> Result<(String, String)> {
    let answer = host.ask(CONTROL, "{\"ask\":\"status\"}")?;
    let told: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
    let role = told["role"].as_object().and_then(|role| role.iter().next());
    let (name, role) = role.expect("a role");
    let phase = role["condition"]["phase"].as_str().unwrap_or_default();
    Ok((name.clone(), phase.to_owned()))
}
