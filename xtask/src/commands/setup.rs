//! `cargo xtask setup`

use std::process::{Command, ExitCode};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use testbed::{HostKind, Layout, PROGRAMS_VARIABLE, prepare_hosts};

use super::images::{self, Disk};
use crate::packages;
use crate::steps::Steps;

/// Workspace packages with programs that hosts run, and the program's name.
const PROGRAMS: [(&str, &str); 3] = [
    ("testbed", "host-agent"),
    ("ftvm-vmm", "ftvm"),
    ("disk-server", "disk-server"),
];

/// What builds the `ftvm` that can be told to break itself.
const SABOTAGED: [&str; 6] = [
    "--package",
    "ftvm-vmm",
    "--features",
    "sabotage",
    "--bin",
    testbed::SABOTAGED_FTVM,
];

/// Arguments of `cargo xtask setup`.
#[derive(Debug, Args)]
pub(crate) struct Setup {}

impl Setup {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let mut steps = Steps::new();
        prepare_tests(&mut steps)?;
        eprintln!("ready after {:.1} s", steps.elapsed().as_secs_f64());
        Ok(ExitCode::SUCCESS)
    }
}

/// Makes everything that scenarios need. Quick when it is there.
pub(crate) fn prepare_tests(steps: &mut Steps) -> Result<()> {
    prepare(steps)?;
    if programs_are_ours() {
        // By itself: a feature is that of every program that is built with it.
        let layout = Layout::find();
        steps.step("ftvm for scenarios that break it", || {
            cargo_build(&layout, &SABOTAGED)
        })?;
    }
    Ok(())
}

/// Programs from an unusual place are as they are there.
fn programs_are_ours() -> bool {
    std::env::var_os(PROGRAMS_VARIABLE).is_none()
}

/// Makes everything that the demo needs. Quick when it is there.
pub(crate) fn prepare(steps: &mut Steps) -> Result<()> {
    prepare_for(steps, Disk::Made)
}

/// As [`prepare`], with or without the guest's disk image.
pub(crate) fn prepare_for(steps: &mut Steps, disk: Disk) -> Result<()> {
    let layout = Layout::find();
    let missing = packages::missing()?;
    if !missing.is_empty() {
        steps.step(&format!("installing {}", missing.join(", ")), || {
            packages::install(&missing)
        })?;
    }
    // Images are mostly downloaded, and programs are compiled.
    thread::scope(|scope| {
        let made = scope.spawn(|| images::make_all(&layout, disk));
        if programs_are_ours() {
            steps.step("programs", || build(&layout))?;
        }
        steps.step("images", || made.join().expect("no panics"))
    })?;
    if HostKind::choose(&layout) == HostKind::Qemu {
        steps.step("hosts", || Ok(prepare_hosts(&layout)?))?;
    }
    Ok(())
}

pub(crate) fn build(layout: &Layout) -> Result<()> {
    let mut released = Vec::new();
    for (package, program) in PROGRAMS {
        released.extend(["--package", package, "--bin", program]);
    }
    cargo_build(layout, &released)
}

fn cargo_build(layout: &Layout, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(env!("CARGO"));
    command
        .current_dir(layout.root())
        .args(["build", "--quiet", "--release"])
        .args(arguments);
    let status = command.status().context("cannot start cargo")?;
    ensure!(status.success(), "the build failed");
    Ok(())
}
