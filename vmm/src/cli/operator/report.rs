//! `ftvm report`.

use std::path::{Path, PathBuf};

use clap::Args;
use disk_server::arbiter::VmName;
use ratatui::text::Line;

use super::{ServiceArgs, now_ms, output};
use crate::doctor::{Effort, examine};
use crate::host::CONFIG_FILE;
use crate::operator::words;
use crate::report::{Sources, collect, write};

#[derive(Args)]
pub(in crate::cli) struct ReportArgs {
    /// The guest.
    vm: VmName,
    #[command(flatten)]
    service: ServiceArgs,
}

pub(in crate::cli) fn report(args: &ReportArgs) -> anyhow::Result<()> {
    let vm = &args.vm;
    let time = words::time(now_ms()).replace(['-', ':'], "");
    let path = PathBuf::from(format!("ftvm-report-{vm}-{time}.tar"));
    let report = collect(
        vm,
        &Sources {
            service: args.service.client().map_err(|error| format!("{error:#}")),
            config: Path::new(CONFIG_FILE),
            doctor: &|| examine(Effort::All).to_json(),
        },
    );
    write(&path, vm.as_str(), &report)?;
    let papers = report.papers.iter();
    let mut lines: Vec<Line<'_>> = papers
        .map(|paper| Line::raw(format!("{:<24} {:>9} bytes", paper.name, paper.text.len())))
        .collect();
    let missing = report.missing.iter();
    lines.extend(
        missing
            .map(|missing| Line::raw(format!("{:<24} not there: {}", missing.name, missing.why))),
    );
    lines.push(Line::raw(format!(
        "{}: no keys, and nothing of the guest's disk and console. In it are kernels' command lines, names, addresses, and \
         the registers where a copy differed",
        path.display()
    )));
    Ok(output::print(&lines)?)
}
