//! Long work as steps that the user can follow.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Prints every step with the time that it took; a spinner turns meanwhile. Steps of several threads go on
/// beside each other.
#[derive(Debug)]
pub(crate) struct Steps {
    start: Instant,
    spinners: MultiProgress,
}

impl Steps {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            spinners: MultiProgress::new(),
        }
    }

    /// Runs one step.
    pub(crate) fn step<T>(&self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})");
        let spinner = ProgressBar::new_spinner()
            .with_message(name.to_owned())
            .with_style(style.expect("a valid template"));
        let spinner = self.spinners.add(spinner);
        spinner.enable_steady_tick(Duration::from_millis(200));
        if spinner.is_hidden() {
            eprintln!("… {name}");
        }
        let start = Instant::now();
        let result = work();
        spinner.finish_and_clear();
        let took = start.elapsed().as_secs_f64();
        let mark = if result.is_ok() { "✓" } else { "✗" };
        self.spinners
            .suspend(|| eprintln!("{mark} {name} ({took:.1} s)"));
        result
    }

    /// Time since the first step began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

/// Runs a program, which must succeed.
pub(crate) fn succeed(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    ensure!(status.success(), "{command:?} failed");
    Ok(())
}
