//! `ftvm host list|drain|undrain`.

use clap::Args;
use disk_server::arbiter::HostName;
use disk_server::fleet::HostVerb;
use serde_json::json;

use super::ServiceArgs;
use super::order::{self, OrderArgs};
use super::output::{self, OutputArgs};
use crate::operator::json::{self, HostJson};
use crate::operator::view;

#[derive(Args)]
pub(in crate::cli) struct ListArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    service: ServiceArgs,
}

#[derive(Args)]
pub(in crate::cli) struct DrainArgs {
    /// The host. If not given, this one, in its own name: with the key of /etc/ftvm/host.toml, until `ftvm host undrain`
    /// here. It does not wait for backups that no other host can have.
    host: Option<HostName>,
    #[command(flatten)]
    order: OrderArgs,
}

#[derive(Args)]
pub(in crate::cli) struct UndrainArgs {
    /// The host. If not given, this one, in its own name: an operator's drain stays.
    host: Option<HostName>,
    #[command(flatten)]
    order: OrderArgs,
}

pub(in crate::cli) fn list(args: &ListArgs) -> anyhow::Result<()> {
    args.output.told(all(args))
}

fn all(args: &ListArgs) -> anyhow::Result<()> {
    let client = args.service.client()?;
    let hosts = client.hosts(&client.list()?)?;
    match args.output.json {
        true => {
            let hosts: Vec<HostJson<'_>> = hosts.iter().map(json::host).collect();
            output::print_json(&json!({ "hosts": hosts }))
        }
        false => Ok(output::print(&view::hosts(&hosts, output::width()))?),
    }
}

pub(in crate::cli) fn drain(args: &DrainArgs) -> anyhow::Result<()> {
    order::host(&args.order, args.host.as_ref(), HostVerb::Drain, "drain")
}

pub(in crate::cli) fn undrain(args: &UndrainArgs) -> anyhow::Result<()> {
    order::host(
        &args.order,
        args.host.as_ref(),
        HostVerb::Undrain,
        "undrain",
    )
}
