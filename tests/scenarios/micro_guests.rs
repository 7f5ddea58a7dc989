//! Micro-guests, one for each hard spot: what they compute depends on the very instruction that each
//! interrupt hit, and their replay does not differ. The one with an instruction that nothing traps
//! differs, and is found to.

use guest_images::MicroGuest;
use guest_images::micro::{DETERMINISTIC, UNTRAPPED};
use testbed::{Exit, Host, HostKind, LIMIT, Result, Testbed};

/// Variable: how often each guest is recorded and replayed. Once, unless it is set.
const ROUNDS_VARIABLE: &str = "FTVM_ROUNDS";
const LOG: &str = "/tmp/micro.log";
const RECORDED_CONSOLE: &str = "/tmp/micro.recorded";
const REPLAYED_CONSOLE: &str = "/tmp/micro.replayed";
/// They use memory up to 48 MiB, and all of it is copied, hashed and compared.
const MEMORY_MIB: &str = "64";
const ALL_PAGES: &str = " 16384 pages of memory";
/// Exit status of a replay that differs from its log.
const DIVERGED: Exit = Exit::Code(4);

/// What a replay is to find.
#[derive(Clone, Copy, PartialEq)]
enum Expected {
    NoDifference,
    Difference,
}

/// One guest, recorded and replayed.
struct Trial {
    guest: MicroGuest,
    /// Words on its command line.
    words: &'static str,
    expected: Expected,
}

/// A guest that computes without exits is stopped for each of so many ticks.
const QUIET: &str = "micro.quiet=40";

fn trials() -> impl Iterator<Item = Trial> {
    let replayed = |guest, words| Trial {
        guest,
        words,
        expected: Expected::NoDifference,
    };
    let quiet = DETERMINISTIC
        .into_iter()
        .filter(|guest| guest.can_be_quiet)
        .map(move |guest| replayed(guest, QUIET));
    let untrapped = Trial {
        guest: UNTRAPPED,
        words: "",
        expected: Expected::Difference,
    };
    DETERMINISTIC
        .into_iter()
        .map(move |guest| replayed(guest, ""))
        .chain(quiet)
        .chain([untrapped])
}

/// How `ftvm` ended, and all that it printed.
struct Ran {
    exit: Exit,
    printed: String,
}

fn ftvm(host: &Host, argv: &[&str]) -> Result<Ran> {
    let process = host.spawn(&[&["ftvm"], argv].concat())?;
    let lines = process.lines().clone();
    let exit = process.wait(LIMIT)?;
    let printed: Vec<String> = lines.try_iter().map(|line| line.text).collect();
    Ok(Ran {
        exit,
        printed: printed.join("\n"),
    })
}

/// The guest's words, of which there is one line.
fn take_console(host: &Host, path: &str) -> Result<String> {
    let console = host.run(&["cat", path])?.stdout;
    host.check(&["rm", "-f", path])?;
    Ok(console.trim().to_owned())
}

/// Records and replays a guest. Gives what is wrong, if something is.
fn try_guest(host: &Host, trial: &Trial) -> Result<Option<String>> {
    let guest = trial.guest;
    let image = host.image(&guest.image());
    let kernel = ["--kernel", &image, "--append", trial.words];
    let kernel = [&kernel[..], &["--memory", MEMORY_MIB, "--console-log"]].concat();
    let record = [
        &["record", "--verify", "--log", LOG][..],
        &kernel,
        &[RECORDED_CONSOLE],
    ];
    let recorded = ftvm(host, &record.concat())?;
    let console = take_console(host, RECORDED_CONSOLE)?;
    if !recorded.exit.success() {
        return Ok(Some(format!("the recording: {}", recorded.printed)));
    }
    if !console.starts_with(&format!("micro {}: ok ", guest.name)) {
        return Ok(Some(format!("the guest says `{console}`")));
    }

    let replay = [&["replay"][..], &kernel, &[REPLAYED_CONSOLE, LOG]];
    let replayed = ftvm(host, &replay.concat())?;
    let console_again = take_console(host, REPLAYED_CONSOLE)?;
    let printed = &replayed.printed;
    let as_expected = match trial.expected {
        Expected::NoDifference => {
            replayed.exit.success()
                && printed.contains("no difference: ")
                && printed.contains(ALL_PAGES)
                && console_again == console
        }
        Expected::Difference => replayed.exit == DIVERGED && printed.contains("diverged"),
    };
    Ok((!as_expected).then(|| {
        format!(
            "the replay ({:?}): {printed}\n  the guest said `{console}`, now `{console_again}`",
            replayed.exit
        )
    }))
}

#[test]
fn micro_guests_are_replayed_without_a_difference() -> Result<()> {
    let rounds = std::env::var(ROUNDS_VARIABLE).map_or(1, |rounds| {
        rounds.parse().expect("FTVM_ROUNDS is a number of rounds")
    });
    let testbed = Testbed::new("micro-guests")?;
    let host = testbed.start_host("a")?;
    let mut failures = Vec::new();
    for trial in trials() {
        for round in 1..=rounds {
            let wrong = match try_guest(&host, &trial) {
                Ok(wrong) => wrong,
                Err(error) if host.is_alive() => Some(error.to_string()),
                Err(error) => return Err(error),
            };
            let Trial { guest, words, .. } = &trial;
            failures
                .extend(wrong.map(|what| format!("{} {words}, round {round}: {what}", guest.name)));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    testbed.succeed();
    Ok(())
}

#[test]
fn the_doctor_finds_x87_pointers_that_are_not_kept() -> Result<()> {
    // QEMU's emulator saves none; a real processor may.
    let testbed = Testbed::with_hosts("x87-pointers", HostKind::Qemu)?;
    let host = testbed.start_host("a")?;
    assert!(!host.passes("x87_pointers")?);
    testbed.succeed();
    Ok(())
}
