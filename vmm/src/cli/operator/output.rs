//! What is printed: in colours on a terminal, plain elsewhere.

use std::env;
use std::io::{self, IsTerminal, Write};

use clap::Args;
use ratatui::backend::IntoCrossterm;
use ratatui::crossterm::style::{Attribute, ContentStyle};
use ratatui::crossterm::terminal;
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use serde::Serialize;

use crate::cli::outcome::{NotDone, OrderStands};
use crate::operator::client::ClientError;

/// How it is told.
#[derive(Args)]
pub(super) struct OutputArgs {
    /// Print JSON, for programs.
    #[arg(long)]
    pub(super) json: bool,
}

/// Why a command did nothing, or could not tell, for programs.
#[derive(Serialize)]
struct FailureJson<'a> {
    /// `refused` or `unreachable` as the service answered or not; `failed` for everything else.
    outcome: &'a str,
    words: String,
}

impl OutputArgs {
    /// A command has come to this. Programs are told of a failure as well, but of an order's, which they know.
    pub(super) fn told(&self, result: anyhow::Result<()>) -> anyhow::Result<()> {
        let Err(error) = &result else {
            return result;
        };
        let is_told = error.is::<NotDone>() || error.is::<OrderStands>();
        if self.json && !is_told {
            let outcome = match error.downcast_ref() {
                Some(ClientError::Unreachable(_)) => "unreachable",
                Some(_) => "refused",
                None => "failed",
            };
            let words = format!("{error:#}");
            print_json(&FailureJson { outcome, words })?;
        }
        result
    }
}

/// How wide a table may be: as the terminal, or as it likes where there is none.
pub(super) fn width() -> usize {
    match io::stdout().is_terminal() {
        true => terminal::size().map_or(80, |(columns, _)| columns.into()),
        false => usize::MAX,
    }
}

/// Prints lines.
pub(super) fn print(lines: &[Line<'_>]) -> io::Result<()> {
    let no_colour = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    write(&text(lines, io::stdout().is_terminal() && !no_colour))
}

/// Prints a value as JSON, in a line.
pub(super) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(write(&format!("{}\n", serde_json::to_string(value)?))?)
}

/// Whoever reads it may have seen enough.
fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

fn text(lines: &[Line<'_>], colours: bool) -> String {
    let mut text = String::new();
    for line in lines {
        for span in &line.spans {
            match colours {
                true => {
                    let style = of_terminal(line.style.patch(span.style));
                    text.push_str(&style.apply(&span.content).to_string());
                }
                false => text.push_str(&span.content),
            }
        }
        text.push('\n');
    }
    text
}

fn of_terminal(style: Style) -> ContentStyle {
    let mut content = ContentStyle::new();
    content.foreground_color = style.fg.map(IntoCrossterm::into_crossterm);
    if style.add_modifier.contains(Modifier::BOLD) {
        content.attributes.set(Attribute::Bold);
    }
    content
}

#[cfg(test)]
mod tests {
    use ratatui::style::Stylize;
    use ratatui::text::Span;

    use super::*;

    #[test]
    fn colours_are_for_terminals() {
        let lines = [Line::from(vec![Span::raw("db  "), "Protected".green()])];
        assert_eq!(text(&lines, false), "db  Protected\n");
        // Where this process's own environment has NO_COLOR there are none in either.
        let coloured = text(&lines, true);
        assert!(coloured.starts_with("db  ") && coloured.contains("Protected"));
    }
}
