//! `ftvm selftest`: a host with shadow paging proves itself, and a pair; one with nested paging is honest.

use serde_json::Value;
use testbed::{Exit, Host, HostKind, HostProcess, LIMIT, Output, Paging, Result, Testbed};

/// As short as it can be: one turn of guests.
const SHORT: [&str; 2] = ["--minutes", "0"];
const KEPT: &str = "/tmp/selftest";
const PACKED: &str = "/tmp/selftest.tar";
const UNFIT: Exit = Exit::Code(2);
const DIFFERS: Exit = Exit::Code(4);

/// The command, with images of the host.
fn selftest<'a>(images: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
    let command = ["ftvm", "selftest", "--json", "--images", images];
    [&command, rest].concat()
}

/// The report among lines.
fn report(printed: &str) -> Value {
    let line = printed.lines().find(|line| line.starts_with('{'));
    let line = line.unwrap_or_else(|| panic!("no report: {printed}"));
    serde_json::from_str(line).expect("one JSON object")
}

/// The report of one that found nothing.
fn passed(output: &Output) -> Value {
    assert!(output.exit.success(), "{output:?}");
    let report = report(&output.stdout);
    let number = |part: &str, name: &str| report[part][name].as_u64().expect("a number");
    let registers_at_every_exit = number("total", "registers") >= number("total", "exits");
    let swapped = number("load", "pswpout") > 0 && number("load", "pswpin") > 0;
    assert!(
        report["verdict"] == "PASS"
            && number("total", "rounds") == number("total", "equal")
            && registers_at_every_exit
            && swapped
            && report["missing"].as_array().is_some_and(Vec::is_empty),
        "{report}"
    );
    report
}

/// Under nested paging something differs sooner or later: whatever comes out, it says so.
fn is_honest(nested: HostProcess) -> Result<()> {
    let lines = nested.lines().clone();
    let exit = nested.wait(LIMIT)?;
    let printed: Vec<String> = lines.try_iter().map(|line| line.text).collect();
    let report = report(&printed.join("\n"));
    assert_eq!(report["host"]["paging"], "nested");
    let rounds = report["rounds"].as_array().expect("rounds");
    let wrong = rounds.iter().filter(|round| round["outcome"] != "equal");
    let causes: Vec<&str> = wrong
        .map(|round| round["cause"].as_str().unwrap_or(""))
        .collect();
    let honest = match exit {
        Exit::Code(0) => report["verdict"] == "PASS" && causes.is_empty(),
        DIFFERS => {
            report["verdict"] == "FAIL" && causes.iter().all(|c| c.contains("nested paging"))
        }
        _ => false,
    };
    assert!(honest, "{exit:?}: {report}");
    Ok(())
}

/// Takes what one host has recorded to the other.
fn carry(testbed: &Testbed, from: &Host, to: &Host) -> Result<()> {
    let copy = testbed.logs().join("selftest.tar");
    from.check(&["tar", "cf", PACKED, "-C", KEPT, "."])?;
    from.get(PACKED, &copy)?;
    to.put(&copy, PACKED)?;
    to.check(&["mkdir", KEPT])?;
    to.check(&["tar", "xf", PACKED, "-C", KEPT])?;
    Ok(())
}

#[test]
fn hosts_prove_themselves_and_each_other() -> Result<()> {
    let testbed = Testbed::with_hosts("selftest", HostKind::Qemu)?;
    let [a, b] = testbed.start_hosts(["a", "b"])?;
    let images = a.image("");

    b.set_paging(Paging::Nested)?;
    let refused = b.run(&selftest(&images, &SHORT))?;
    assert_eq!(refused.exit, UNFIT, "{refused:?}");
    let verdict = report(&refused.stdout);
    let why = verdict["refused"].as_str().unwrap_or("");
    assert!(why.contains("--allow-nested-paging"), "{verdict}");
    // Beside each other: each keeps one processor busy.
    let allowed = [&SHORT[..], &["--allow-nested-paging"]].concat();
    let nested = b.spawn(&selftest(&images, &allowed))?;
    let record = [&SHORT[..], &["--record", KEPT]].concat();
    let here = passed(&a.run(&selftest(&images, &record))?);
    is_honest(nested)?;

    b.set_paging(Paging::Shadow)?;
    carry(&testbed, &a, &b)?;
    let there = passed(&b.run(&selftest(&images, &["--replay", KEPT]))?);
    assert_eq!(here["total"], there["total"], "all of it once more");
    assert_eq!(here["host"], there["recorded_on"]);
    testbed.succeed();
    Ok(())
}
