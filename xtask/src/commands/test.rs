//! `cargo xtask test`

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use testbed::Layout;

use super::setup;
use crate::steps::Steps;

/// Arguments of `cargo xtask test`.
#[derive(Debug, Args)]
pub(crate) struct Test {
    /// Only tests whose name contains this; without the checks of format, lints and docs.
    filter: Option<String>,
}

impl Test {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let mut steps = Steps::new();
        setup::prepare_tests(&mut steps)?;
        let layout = Layout::find();
        if self.filter.is_none() {
            for (name, arguments, flags) in CHECKS {
                steps.step(name, || cargo(&layout, arguments, *flags))?;
            }
        }
        let mut tests = Command::new(env!("CARGO"));
        tests.current_dir(layout.root());
        if has_nextest() {
            tests.args(["nextest", "run", "--workspace"]);
            tests.args(&self.filter);
        } else {
            // Scenarios boot whole hosts: one at a time.
            tests.args(["test", "--workspace", "--no-fail-fast"]);
            tests.args(&self.filter);
            tests.args(["--", "--test-threads=1"]);
        }
        let status = tests.status().context("cannot start cargo")?;
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
}

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
            "--",
            "--deny",
            "warnings",
        ],
        None,
    ),
    (
        "lints of the feature",
        &[
            "clippy",
            "--quiet",
            "--package",
            "ftvm-vmm",
            "--features",
            "sabotage",
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

fn cargo(layout: &Layout, arguments: &[&str], flags: Option<(&str, &str)>) -> Result<()> {
    let status = Command::new(env!("CARGO"))
        .current_dir(layout.root())
        .args(arguments)
        .envs(flags)
        .status()
        .context("cannot start cargo")?;
    ensure!(
        status.success(),
        "`cargo {}` found something",
        arguments.join(" ")
    );
    Ok(())
}

/// Whether cargo-nextest is there; plain `cargo test` does the same without it, less readably.
fn has_nextest() -> bool {
    Command::new(env!("CARGO"))
        .args(["nextest", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
