//! `cargo xtask test`

use std::process::{Command, ExitCode, Stdio};
use std::thread;

use anyhow::{Context as _, Result};
use clap::Args;
use testbed::Layout;

use super::setup::{self, SABOTAGE};
use crate::needs::Needs;
use crate::steps::{Steps, succeed};

/// Arguments of `cargo xtask test`.
#[derive(Debug, Args)]
pub(crate) struct Test {
    /// Only tests whose name contains this; without the checks of format, lints and docs.
    filter: Option<String>,
}

impl Test {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let steps = Steps::new();
        let layout = Layout::find();
        setup::prepare_building(&steps, &layout, Needs::All)?;
        let nextest = has_nextest();
        // Two builds beside each other keep all processors busy: one alone waits for its longest crate.
        thread::scope(|scope| {
            let made = scope.spawn(|| {
                setup::build_and_make(&steps, &layout, Needs::All)?;
                setup::build_for_tests(&steps, &layout)
            });
            let built = self.check_and_build(&steps, &layout, nextest);
            made.join().expect("no panics").and(built)
        })?;
        let mut tests = cargo(&layout, if nextest { NEXTEST } else { TEST });
        tests.args(&self.filter);
        if nextest {
            // Scenarios wait for timeouts now and then, and so do others: one more than processors.
            let threads = thread::available_parallelism().map_or(1, usize::from) + 1;
            tests.args(["--test-threads", &threads.to_string()]);
        } else {
            // Scenarios boot whole hosts: one at a time.
            tests.args(["--no-fail-fast", "--", "--test-threads=1"]);
        }
        // That of an earlier run says nothing of this one.
        let _ = std::fs::remove_file(layout.root().join(REPORT));
        let status = tests.status().context("cannot start cargo")?;
        if nextest && !status.success() {
            tell_failures(&layout)?;
        }
        eprintln!(
            "tests took {:.0} s with set-up",
            steps.elapsed().as_secs_f64()
        );
        Ok(if status.success() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    fn check_and_build(&self, steps: &Steps, layout: &Layout, nextest: bool) -> Result<()> {
        if self.filter.is_none() {
            for (name, arguments, flags) in CHECKS {
                let mut check = cargo(layout, arguments);
                check.envs(*flags);
                steps.step(name, || succeed(&mut check))?;
            }
        }
        let mut build = cargo(layout, if nextest { NEXTEST } else { TEST });
        build.arg("--no-run");
        steps.step("building tests", || succeed(&mut build))
    }
}

/// All tests, with the switches that break ftvm on purpose: those are tested too.
const NEXTEST: &[&str] = &[
    "nextest",
    "run",
    "--cargo-quiet",
    "--workspace",
    "--features",
    SABOTAGE,
];
const TEST: &[&str] = &["test", "--workspace", "--features", SABOTAGE];

/// Name, arguments for cargo, and flags in the environment.
type Check = (
    &'static str,
    &'static [&'static str],
    Option<(&'static str, &'static str)>,
);

const CHECKS: &[Check] = &[
    ("format", &["fmt", "--all", "--check"], None),
    (
        "lints",
        &[
            "clippy",
            "--quiet",
            "--workspace",
            "--all-targets",
            "--features",
            SABOTAGE,
            "--",
            "--deny",
            "warnings",
        ],
        None,
    ),
    (
        "lints of what is delivered",
        &[
            "clippy",
            "--quiet",
            "--workspace",
            "--",
            "--deny",
            "warnings",
        ],
        None,
    ),
    (
        "docs",
        &["doc", "--quiet", "--workspace", "--no-deps"],
        Some(("RUSTDOCFLAGS", "--deny warnings")),
    ),
];

fn cargo(layout: &Layout, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(layout.root()).args(arguments);
    command
}

/// Says once more, behind hundreds of lines, what failed and with which words.
fn tell_failures(layout: &Layout) -> Result<()> {
    let path = layout.root().join(REPORT);
    let report = match std::fs::read_to_string(&path) {
        Ok(report) => report,
        // A build failed, or a signal ended the tests.
        Err(_) => return Ok(()),
    };
    let report = roxmltree::Document::parse(&report)
        .with_context(|| format!("{} is no report of tests", path.display()))?;
    for failure in report.descendants().filter(|it| it.has_tag_name("failure")) {
        // Where nextest found no words of its own, as after a time limit.
        let words = match failure.text() {
            Some(text) => text.split("stack backtrace:").next().unwrap_or_default(),
            None => failure.attribute("type").unwrap_or_default(),
        };
        let words: String = words.trim_end().chars().take(WORDS).collect();
        let name = failure.parent().and_then(|test| test.attribute("name"));
        eprintln!("{}: {words}", name.unwrap_or_default());
    }
    Ok(())
}

/// Where nextest leaves its report, as .config/nextest.toml says.
const REPORT: &str = "target/nextest/default/junit.xml";
/// As much of a failure's words is told, in characters.
const WORDS: usize = 500;

/// Whether cargo-nextest is there; plain `cargo test` does the same without it, less readably.
fn has_nextest() -> bool {
    Command::new(env!("CARGO"))
        .args(["nextest", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
