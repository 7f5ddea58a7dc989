//! Developer commands, as `cargo xtask <command>`.

mod commands;
mod live_line;
mod needs;
mod packages;
mod steps;
mod terminal;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Developer commands of ftvm.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure what protection costs: under QEMU, under ftvm alone, recording, and replicated.
    Bench(commands::bench::Bench),
    /// Replicate a guest, kill the primary's host under load, and see that nothing is lost.
    Demo(commands::demo::Demo),
    /// Say whether this machine's /dev/kvm can run guests, and why not.
    Doctor(commands::doctor::Doctor),
    /// Do all that is done at random for a long time: failovers, soak, fuzzing, properties.
    Endure(commands::endure::Endure),
    /// Go through the cuts and crashes that a person asks about first on real hosts, and write what became
    /// of the guest into the documentation, beside what the simulator makes of all of them.
    Matrix(commands::matrix::Matrix),
    /// Make the Debian packages.
    Package(commands::package::Package),
    /// Make the pictures of what operators see, and put them into the documentation.
    Pictures(commands::pictures::Pictures),
    /// Install what is missing, build everything, make the images.
    Setup(commands::setup::Setup),
    /// Try the protocol of the hosts in simulated schedules of faults, each of a seed.
    Simulate(commands::simulate::Simulate),
    /// Set up, check format, lints and docs, and run all tests.
    Test(commands::test::Test),
    /// Make the guest images and print their digests.
    Images(commands::images::Images),
    /// Boot a host and run a command in it, or keep it up.
    Host(commands::host::Host),
    /// Run a command in a host that was started with `host --keep`.
    Exec(commands::exec::Exec),
    /// End hosts that were started with `host --keep`.
    Stop(commands::stop::Stop),
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn"))
        .format_timestamp(None)
        .init();
    let result = match Cli::parse().command {
        Command::Bench(command) => command.run(),
        Command::Demo(command) => command.run(),
        Command::Doctor(command) => command.run(),
        Command::Endure(command) => command.run(),
        Command::Matrix(command) => command.run(),
        Command::Package(command) => command.run(),
        Command::Pictures(command) => command.run(),
        Command::Setup(command) => command.run(),
        Command::Simulate(command) => command.run(),
        Command::Test(command) => command.run(),
        Command::Images(command) => command.run(),
        Command::Host(command) => command.run(),
        Command::Exec(command) => command.run(),
        Command::Stop(command) => command.run(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
