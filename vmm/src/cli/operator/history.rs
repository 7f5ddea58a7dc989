//! `ftvm history`.

use clap::Args;
use disk_server::arbiter::VmName;
use ratatui::text::Line;

use super::ServiceArgs;
use super::output::{self, OutputArgs};
use crate::operator::{json, view};

#[derive(Args)]
pub(in crate::cli) struct HistoryArgs {
    /// Of this guest alone. If not given, of all guests and hosts.
    vm: Option<VmName>,
    /// The latest N entries.
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    service: ServiceArgs,
}

pub(in crate::cli) fn history(args: &HistoryArgs) -> anyhow::Result<()> {
    args.output.told(latest(args))
}

fn latest(args: &HistoryArgs) -> anyhow::Result<()> {
    let client = args.service.client()?;
    let mut left = args.limit;
    let mut entries = client.history(args.vm.as_ref(), |_| {
        let wanted = left > 0;
        left = left.saturating_sub(1);
        wanted
    })?;
    // The latest is what one sees first on a terminal.
    entries.reverse();
    if args.output.json {
        return entries
            .iter()
            .try_for_each(|entry| output::print_json(&json::entry(entry)));
    }
    let lines: Vec<Line<'_>> = entries.iter().map(view::entry).collect();
    Ok(output::print(&lines)?)
}
