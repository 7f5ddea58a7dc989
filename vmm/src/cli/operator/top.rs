//! `ftvm top`.

use clap::Args;

use super::ServiceArgs;
use super::guests::attach;
use crate::operator::top;

#[derive(Args)]
pub(in crate::cli) struct TopArgs {
    #[command(flatten)]
    service: ServiceArgs,
}

pub(in crate::cli) fn run(args: &TopArgs) -> anyhow::Result<()> {
    let for_consoles = args.service.client()?;
    let console = |vm: &_| attach(&for_consoles, vm).map_err(|error| format!("{error:#}"));
    Ok(top::run(args.service.client()?, console)?)
}
