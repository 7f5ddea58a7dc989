//! `cargo xtask matrix`

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use guest_images::files::write_atomically;
use testbed::Layout;
use testbed::matrix::{Case, Row};

use super::{setup, simulate};
use crate::live_line::LiveLine;
use crate::steps::Steps;

/// Arguments of `cargo xtask matrix`.
#[derive(Debug, Args)]
pub(crate) struct Matrix {
    /// Silence after which a host takes the other for lost, in milliseconds. To be raised if the
    /// machine has other work to do meanwhile.
    #[arg(long, value_name = "MS", default_value_t = 500)]
    heartbeat_timeout: u64,
    /// Only these, by their numbers from 1. What others made before stays in the documentation.
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..=Case::ALL.len() as u64))]
    only: Vec<u64>,
    /// Leave the documentation as it is.
    #[arg(long)]
    dry_run: bool,
}

impl Matrix {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let layout = Layout::find();
        let steps = Steps::new();
        setup::prepare(&steps)?;
        let timeout = Duration::from_millis(self.heartbeat_timeout);
        let mut matrix = steps.step("hosts a, b and c, a guest with a backup", || {
            Ok(testbed::matrix::Matrix::start("matrix", timeout)?)
        })?;
        let numbers = 1..=Case::ALL.len() as u64;
        let wanted = numbers.zip(&Case::ALL);
        let wanted =
            wanted.filter(|(number, _)| self.only.is_empty() || self.only.contains(number));
        let line = LiveLine::new();
        let mut rows = Vec::new();
        for (number, case) in wanted {
            let row = matrix.go_through(case)?;
            line.print(&format!("{number}: {row}"));
            rows.push(row);
        }
        let passed = rows.iter().all(Row::passed);
        matrix.end(passed)?;
        if passed && !self.dry_run {
            let path = layout.root().join("docs/matrix/hosts.tsv");
            let before = std::fs::read_to_string(&path).unwrap_or_default();
            write_atomically(&path, lines(&before, &rows).as_bytes())
                .with_context(|| format!("cannot write {}", path.display()))?;
            let status = simulate::matrix(&layout, Some("docs")).status();
            let status = status.context("cannot start cargo")?;
            ensure!(status.success(), "the simulator's matrix failed");
        }
        println!("{}", if passed { "PASS" } else { "FAIL" });
        Ok(match passed {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }
}

/// What real hosts made of each case, in a line each: these `rows`, and what was there `before` of others.
fn lines(before: &str, rows: &[Row]) -> String {
    let line = |case: &Case| {
        let new = rows.iter().find(|row| row.name == case.name);
        let new = new.map(|row| format!("{}\t{}", row.name, row.cells().join("\t")));
        let old = |line: &&str| line.split('\t').next() == Some(case.name);
        new.or_else(|| before.lines().find(old).map(str::to_owned))
    };
    let lines = Case::ALL.iter().filter_map(line);
    lines.map(|line| line + "\n").collect()
}
