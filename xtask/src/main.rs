//! Developer commands, as `cargo xtask <command>`.

mod commands;
mod layout;
mod steps;

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
    /// Make the guest images and print their digests.
    Images(commands::images::Images),
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn"))
        .format_timestamp(None)
        .init();
    let result = match Cli::parse().command {
        Command::Images(command) => command.run(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
