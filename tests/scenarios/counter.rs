//! Places between two exits, named by a count of instructions or branches.

use testbed::{Result, Testbed};

/// Variable: how many interrupts are recorded and replayed.
const INTERRUPTS_VARIABLE: &str = "FTVM_INTERRUPTS";

#[test]
fn interrupts_after_any_number_of_instructions_replay() -> Result<()> {
    let interrupts = std::env::var(INTERRUPTS_VARIABLE).unwrap_or_else(|_| "500".into());
    let testbed = Testbed::new("counter")?;
    let host = testbed.start_host("a")?;
    let output = host.check(&["ftvm", "probe-counter", "--interrupts", &interrupts])?;

    // A host that has none, as emulated ones, is told why.
    let found = output.strip_prefix("performance counter: ");
    let found = found.expect("it begins with what was found");
    let expected = if host.passes("counter")? {
        "conditional branches as on "
    } else {
        "none: "
    };
    assert!(found.starts_with(expected), "`{expected}`: {output}");
    let (_, found) = output
        .split_once("instructions: no difference: ")
        .expect("a replay without a difference");
    let mut numbers = found
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse::<u64>().ok());
    let (at_stops, at_windows) = (numbers.next(), numbers.next());
    let (at_stops, at_windows) = at_stops.zip(at_windows).expect("how many came where");
    assert_eq!((at_stops + at_windows).to_string(), interrupts, "{output}");
    assert!(at_stops > 0 && at_windows > 0, "{output}");

    // Named by branches, and found by a counter that stops the guest late.
    assert!(output.contains("stops late: no difference: "), "{output}");

    // Found, named, and survived.
    for (fault, told) in [
        ("Overruns(1) at the replayer", "counter overrun"),
        ("Disappears(30) at the replayer", "taken away"),
        ("Disappears(30) at the recorder", "taken away"),
        ("Disappears(0) at the replayer", "taken away"),
        ("Disappears(0) at the recorder", "taken away"),
        ("CountsHost(10) at the recorder", "counts more"),
        ("LosesCounts(10) at the recorder", "loses counts"),
    ] {
        let line = output.lines().find(|line| line.contains(fault));
        let line = line.unwrap_or_else(|| panic!("{fault}: {output}"));
        assert!(line.contains("survived") && line.contains(told), "{line}");
    }
    testbed.succeed();
    Ok(())
}
