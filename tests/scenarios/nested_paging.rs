//! A host whose processor translates its guests' addresses by itself, as a stock host has it: the doctor
//! finds out by trying, guests that run alone do, and what is recorded or replicated has to be allowed.
//! What that allows for, accessed bits that depend on the host, is found in a replay, and named.

use guest_images::micro::ACCESSED_BITS;
use serde_json::Value;
use testbed::pair::assert_refused;
use testbed::{Exit, Host, HostKind, Output, Paging, Result, Testbed};

const ALLOW: &str = "--allow-nested-paging";
const NESTED_LOG: &str = "/tmp/nested.log";
const SHADOW_LOG: &str = "/tmp/shadow.log";
/// This host cannot do it.
const UNFIT: Exit = Exit::Code(2);
/// The replay differs from its log.
const DIVERGED: Exit = Exit::Code(4);

/// `ftvm COMMAND` with the guest that looks at its accessed bits.
fn ftvm(host: &Host, command: &str, rest: &[&str]) -> Result<Output> {
    let image = host.image(&ACCESSED_BITS.image());
    host.run(&[&["ftvm", command, "--kernel", &image], rest].concat())
}

/// What the doctor says: the verdict, and whether there is shadow paging, in its words.
fn doctor(host: &Host) -> Result<(Exit, String, String)> {
    let output = host.run(&["ftvm", "doctor", "--json"])?;
    let report: Value = serde_json::from_str(&output.stdout).expect("one JSON object");
    let checks = report["checks"].as_array().expect("a list");
    let paging = checks.iter().find(|check| check["id"] == "paging");
    let words = |value: &Value| value.as_str().expect("words").to_owned();
    Ok((
        output.exit,
        words(&report["verdict"]),
        words(&paging.expect("the check is made")["measured"]),
    ))
}

#[test]
fn nested_paging_is_refused_or_allowed_and_what_it_does_is_named() -> Result<()> {
    let testbed = Testbed::with_hosts("nested-paging", HostKind::Qemu)?;
    let host = testbed.start_host("a")?;
    let record = |log, rest: &[&str]| {
        ftvm(
            &host,
            "record",
            &[&["--verify", "--log", log], rest].concat(),
        )
    };
    let replay = |log, rest: &[&str]| ftvm(&host, "replay", &[&[log], rest].concat());

    // Under shadow paging, which hosts of the testbed have, nothing differs.
    let fit = (Exit::Code(0), "fit".to_owned(), "shadow".to_owned());
    assert_eq!(doctor(&host)?, fit);
    for _ in 0..3 {
        let recorded = record(SHADOW_LOG, &[])?;
        assert!(recorded.exit.success(), "{recorded:?}");
        assert!(!recorded.stderr.contains("nested paging"), "{recorded:?}");
        let replayed = replay(SHADOW_LOG, &[])?;
        assert!(replayed.stdout.contains("no difference: "), "{replayed:?}");
    }

    host.set_paging(Paging::Nested)?;
    let alone = (UNFIT, "fit-alone".to_owned(), "nested".to_owned());
    assert_eq!(doctor(&host)?, alone);
    let ran = ftvm(&host, "run", &[])?;
    assert!(ran.exit.success(), "{ran:?}");
    let primary = [
        "--listen",
        "127.0.0.1:7421",
        "--disk-server",
        "127.0.0.1:7420",
        "--plain",
    ];
    let backup = [
        "--connect",
        "127.0.0.1:7421",
        "--disk-server",
        "127.0.0.1:7420",
        "--plain",
    ];
    for refused in [
        record(NESTED_LOG, &[])?,
        replay(SHADOW_LOG, &[])?,
        ftvm(&host, "primary", &primary)?,
        ftvm(&host, "backup", &backup)?,
    ] {
        assert_refused(
            "nested paging",
            &refused,
            "\"shadow paging\" failed: nested",
        );
        assert_refused("the way on", &refused, ALLOW);
        assert_eq!(refused.exit, UNFIT);
    }

    let recorded = record(NESTED_LOG, &[ALLOW])?;
    assert!(recorded.exit.success(), "{recorded:?}");
    assert_eq!(
        recorded.stderr.matches("nested paging").count(),
        1,
        "{recorded:?}"
    );
    let differs = replay(NESTED_LOG, &[ALLOW])?;
    assert_eq!(differs.exit, DIVERGED, "{differs:?}");
    let named = "the likely cause of the difference: nested paging";
    assert!(differs.stderr.contains(named), "{differs:?}");
    // The other host's paging is told, too.
    let other = replay(SHADOW_LOG, &[ALLOW])?;
    let told = "paging: here no (nested), there yes (shadow)";
    assert!(other.stderr.contains(told), "{other:?}");

    host.set_paging(Paging::Shadow)?;
    let refused = replay(NESTED_LOG, &[])?;
    assert_refused("a log of nested paging", &refused, "\"paging\" (nested)");
    testbed.succeed();
    Ok(())
}
