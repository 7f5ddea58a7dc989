//! `cargo xtask setup`

use std::process::{Command, ExitCode};
use std::thread;

use anyhow::Result;
use clap::Args;
use testbed::{HostKind, Layout, PROGRAMS_VARIABLE, prepare_hosts};

use super::{images, package};
use crate::needs::Needs;
use crate::packages;
use crate::steps::{Steps, succeed};

/// What is delivered, as users build it.
const DELIVERED: [&str; 9] = [
    "--release",
    "--package",
    "ftvm-vmm",
    "--bin",
    "ftvm",
    "--package",
    "disk-server",
    "--bin",
    "disk-server",
];

/// What runs in hosts for us.
const HOST_AGENT: [&str; 4] = ["--package", "testbed", "--bin", testbed::HOST_AGENT];

/// The `ftvm` that can be told to break itself, and the next version of it and of the disk server: one build, which
/// takes as long as that of what is delivered. Optimised, or its scenarios take twice as long; with the
/// packages that the delivered ones are built with, or those are compiled again.
const FOR_TESTS: [&str; 15] = [
    "--release",
    "--package",
    "ftvm-vmm",
    "--package",
    "disk-server",
    "--features",
    SABOTAGE,
    "--features",
    "ftvm-vmm/next-protocol",
    "--features",
    "disk-server/next-protocol",
    "--bin",
    testbed::SABOTAGED_FTVM,
    "--bin",
    testbed::NEXT_DISK_SERVER,
];

/// The feature that all tests are built with.
pub(super) const SABOTAGE: &str = "ftvm-vmm/sabotage";

/// Arguments of `cargo xtask setup`.
#[derive(Debug, Args)]
pub(crate) struct Setup {}

impl Setup {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let steps = Steps::new();
        prepare(&steps)?;
        let layout = Layout::find();
        build_for_tests(&steps, &layout)?;
        eprintln!("ready after {:.1} s", steps.elapsed().as_secs_f64());
        Ok(ExitCode::SUCCESS)
    }
}

/// Makes everything. Quick when it is there.
pub(crate) fn prepare(steps: &Steps) -> Result<()> {
    prepare_for(steps, Needs::All)
}

/// As [`prepare`], only what is needed.
pub(crate) fn prepare_for(steps: &Steps, needs: Needs) -> Result<()> {
    let layout = Layout::find();
    prepare_building(steps, &layout, needs)?;
    build_and_make(steps, &layout, needs)
}

/// What goes before everything else: packages, and the program for hosts that is built as tests are.
pub(super) fn prepare_building(steps: &Steps, layout: &Layout, needs: Needs) -> Result<()> {
    packages::provide(steps, needs)?;
    steps.step("host agent", || cargo_build(layout, &HOST_AGENT))
}

/// Makes programs, images and hosts, without the lock that cargo has for builds of tests.
pub(super) fn build_and_make(steps: &Steps, layout: &Layout, needs: Needs) -> Result<()> {
    // Images are mostly downloaded, and programs are compiled.
    thread::scope(|scope| {
        let made = scope.spawn(|| images::make_needed(layout, needs));
        steps.step("programs", || build(layout))?;
        if needs.has_debian_hosts() {
            package::make_for_tests(steps, layout)?;
        }
        steps.step("images", || made.join().expect("no panics"))
    })?;
    if HostKind::choose(layout) == HostKind::Qemu {
        steps.step("hosts", || Ok(prepare_hosts(layout)?))?;
    }
    Ok(())
}

/// Builds what is delivered. Programs from an unusual place are as they are there.
pub(crate) fn build(layout: &Layout) -> Result<()> {
    if std::env::var_os(PROGRAMS_VARIABLE).is_some() {
        return Ok(());
    }
    cargo_build(layout, &DELIVERED)
}

/// Builds the programs that only scenarios have, by themselves: a feature is that of every program that is built
/// with it.
pub(super) fn build_for_tests(steps: &Steps, layout: &Layout) -> Result<()> {
    if std::env::var_os(PROGRAMS_VARIABLE).is_some() {
        return Ok(());
    }
    steps.step("programs for scenarios", || cargo_build(layout, &FOR_TESTS))
}

fn cargo_build(layout: &Layout, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(env!("CARGO"));
    command
        .current_dir(layout.root())
        .args(["build", "--quiet"])
        .args(arguments);
    succeed(&mut command)
}
