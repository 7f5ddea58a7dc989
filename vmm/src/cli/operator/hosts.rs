//! `ftvm host list|drain|undrain`.

use clap::Args;
use disk_server::arbiter::HostName;

#[derive(Args)]
pub(in crate::cli) struct ListArgs {}

#[derive(Args)]
pub(in crate::cli) struct DrainArgs {
    /// The host.
    host: HostName,
}

#[derive(Args)]
pub(in crate::cli) struct UndrainArgs {
    /// The host.
    host: HostName,
}

pub(in crate::cli) fn list(_: &ListArgs) -> anyhow::Result<()> {
    anyhow::bail!("not yet")
}

pub(in crate::cli) fn drain(args: &DrainArgs) -> anyhow::Result<()> {
    anyhow::bail!("{}: not yet", args.host)
}

pub(in crate::cli) fn undrain(args: &UndrainArgs) -> anyhow::Result<()> {
    anyhow::bail!("{}: not yet", args.host)
}
