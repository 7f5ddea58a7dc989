//! `ftvm notify`.

use std::path::PathBuf;

use clap::Args;

use super::ServiceArgs;
use crate::cli::outcome;
use crate::operator::notify::{Notifier, TIME_LIMIT, Told};

#[derive(Args)]
pub(in crate::cli) struct NotifyArgs {
    /// File for the number and time of the transition that was told last. Without it transitions are told from now on.
    #[arg(long, value_name = "FILE", default_value = "/var/lib/ftvm-notify/told")]
    told: PathBuf,
    #[command(flatten)]
    service: ServiceArgs,
    /// The program, and its arguments. No shell is between.
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true)]
    command: Vec<String>,
}

pub(in crate::cli) fn notify(args: &NotifyArgs) -> anyhow::Result<()> {
    let client = args.service.client()?;
    let cancel = outcome::leave_on_signals()?;
    let mut told = Told::open(&args.told)?;
    let notifier = Notifier {
        client: &client,
        command: &args.command,
        time_limit: TIME_LIMIT,
        cancel: &cancel,
    };
    Ok(notifier.follow(&mut told)?)
}
