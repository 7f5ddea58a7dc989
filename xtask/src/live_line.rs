//! How a failover goes, in one line that changes.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use testbed::failover::{State, Status, Watcher};

/// How often the line changes.
const REFRESH: Duration = Duration::from_millis(100);
/// How often a line is printed where it cannot change.
const PLAIN: Duration = Duration::from_secs(2);

/// The line. Where standard error is no terminal, it prints one every two
/// seconds, and whenever the state changes.
#[derive(Debug)]
pub(crate) struct LiveLine {
    bar: ProgressBar,
    shown: Option<(Instant, State)>,
}

impl LiveLine {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::new_spinner().with_style(
            ProgressStyle::with_template("{spinner} {wide_msg}").expect("a valid template"),
        );
        Self { bar, shown: None }
    }

    /// Shows a line of somebody who has one every few seconds.
    pub(crate) fn show(&mut self, line: &str) {
        if self.bar.is_hidden() {
            eprintln!("{line}");
        } else {
            self.bar.set_message(line.to_owned());
            self.bar.tick();
        }
    }

    /// Prints a line that stays.
    pub(crate) fn print(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }
}

impl Watcher for LiveLine {
    fn status(&mut self, status: &Status) {
        let plain = self.bar.is_hidden();
        let pause = if plain { PLAIN } else { REFRESH };
        if let Some((at, state)) = &self.shown
            && at.elapsed() < pause
            && *state == status.state
        {
            return;
        }
        self.shown = Some((Instant::now(), status.state.clone()));
        self.show(&format!("{}: {status}", status.run));
    }
}

impl Drop for LiveLine {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
