//! `ftvm top`.

use clap::Args;

use super::ServiceArgs;
use super::guests::attach;
use crate::cli::outcome;
use crate::operator::top;

#[derive(Args)]
pub(in crate::cli) struct TopArgs {
    #[command(flatten)]
    service: ServiceArgs,
}

pub(in crate::cli) fn run(args: &TopArgs) -> anyhow::Result<()> {
    let for_consoles = args.service.client()?;
    let ended = outcome::leave_on_signals()?;
    let console = |vm: &_| {
        let attached = attach(&for_consoles, vm, &ended);
        attached.map_err(|error| format!("{error:#}"))
    };
    Ok(top::run(args.service.client()?, &ended, console)?)
}
