//! Hosts whose processors are not the same: another name is a warning, other results are refused.

use guest_images::micro::DETERMINISTIC;
use serde_json::Value;
use testbed::pair::{DiskServer, Guest};
use testbed::{Exit, Host, HostKind, LIMIT, Output, Result, Testbed};

const LOG: &str = "/tmp/processors.log";

/// What the doctor tells of a host's processor.
fn told(host: &Host) -> Result<Value> {
    let json = host.run(&["ftvm", "doctor", "--json"])?.stdout;
    Ok(serde_json::from_str(&json).expect("the doctor tells JSON"))
}

fn replay(host: &Host) -> Result<Output> {
    let kernel = host.image(&DETERMINISTIC[0].image());
    host.run(&["ftvm", "replay", "--kernel", &kernel, LOG])
}

#[test]
fn another_name_is_a_warning_and_other_results_are_refused() -> Result<()> {
    let testbed = Testbed::with_hosts("processors", HostKind::Qemu)?;
    let a = testbed.start_host("a")?;
    let stepping = testbed.start_host_with_processor("b", "stepping=3")?;
    // What a kernel, once booted, does not miss.
    let without = testbed.start_host_with_processor("c", "-adx,-sse4a")?;
    let disk_server = DiskServer::start(&testbed)?;
    let guest = Guest::tiny("processors", "ftvm.do=poweroff").quick();

    let [here, there] = [told(&a)?, told(&without)?];
    for name in ["ADCX", "ADOX", "EXTRQ"] {
        assert!(here["instructions"][name].is_string(), "{name}: {here}");
        assert!(there["instructions"][name].is_null(), "{name}: {there}");
    }
    assert_eq!(
        here["instructions"],
        told(&stepping)?["instructions"],
        "the same twice, and on a host of another name"
    );

    // A backup that does not know what the primary's processor executes; then one of another name.
    let mut primary = guest.primary(&a, &disk_server, &[])?;
    primary.wait_for_error("waiting for a backup", LIMIT)?;
    let (exit, refused) = guest.backup(&without, &a, &disk_server)?.end(LIMIT)?;
    assert_eq!(exit, Exit::Code(1), "{refused:?}");
    for part in ["ADCX (known only here)", "EXTRQ (known only here)"] {
        assert!(refused.errors.contains(part), "{part}: {refused:?}");
    }
    let backup = guest.backup(&stepping, &a, &disk_server)?;
    for side in [primary, backup] {
        let (exit, told) = side.end(LIMIT)?;
        assert_eq!(exit, Exit::Code(0), "{told:?}");
        let ended = told.event("ended").expect("it tells its end");
        assert_eq!(ended["reason"], "PowerOff", "{told:?}");
        assert!(!told.has("peer-lost"), "it was protected: {told:?}");
        assert!(told.errors.contains("has another processor"), "{told:?}");
        let report = told.event("peer-report").expect("hosts compare");
        let differences = report["differences"].to_string();
        assert!(differences.contains("processor: here yes (AMD"), "{report}");
    }

    // The same for a recording.
    let kernel = a.image(&DETERMINISTIC[0].image());
    a.check(&["ftvm", "record", "--log", LOG, "--kernel", &kernel])?;
    let local = testbed.logs().join("processors.log");
    a.get(LOG, &local)?;
    for host in [&stepping, &without] {
        host.put(&local, LOG)?;
    }
    let replayed = replay(&stepping)?;
    assert_eq!(replayed.exit, Exit::Code(0), "{replayed:?}");
    let warning = "the host that recorded the log has another processor";
    assert!(replayed.stderr.contains(warning), "{replayed:?}");
    let refused = replay(&without)?;
    assert_eq!(refused.exit, Exit::Code(1), "{refused:?}");
    assert!(
        refused.stderr.contains("ADCX (known only there)"),
        "{refused:?}"
    );

    testbed.succeed();
    Ok(())
}
