//! The commands in groups, as `ftvm --help` has them, and what a shell completes.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;

/// The commands by what they are for: each by the words that call it.
const GROUPS: [(&str, &[&str]); 7] = [
    (
        "Guests",
        &[
            "vm define",
            "vm undefine",
            "vm start",
            "vm stop",
            "vm status",
            "vm list",
            "vm console",
        ],
    ),
    (
        "Protection",
        &[
            "failover",
            "test-failover",
            "restart-backup",
            "migrate",
            "suspend-protection",
            "resume-protection",
        ],
    ),
    (
        "Hosts",
        &["host", "host list", "host drain", "host undrain"],
    ),
    ("Watching", &["top", "history", "notify", "report"]),
    ("Keys", &["key generate", "key show", "key sign"]),
    (
        "One guest on one host, by hand",
        &["primary", "backup", "run", "record", "replay"],
    ),
    (
        "This host",
        &[
            "check",
            "doctor",
            "selftest",
            "network-test",
            "probe-counter",
            "completions",
        ],
    ),
];

#[derive(Args)]
pub(super) struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

/// Prints what the shell is to source.
pub(super) fn completions(args: &CompletionsArgs, mut command: Command) -> io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "ftvm", &mut script);
    match io::stdout().write_all(&script) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

#[derive(Args)]
pub(super) struct ManPagesArgs {
    /// The directory they go to.
    directory: PathBuf,
}

/// Writes a manual page for the program and one for each of its commands.
pub(super) fn man_pages(args: &ManPagesArgs, command: Command) -> io::Result<()> {
    fs::create_dir_all(&args.directory)?;
    clap_mangen::generate_to(command.name("ftvm"), &args.directory)
}

/// The command with its subcommands in groups in its help.
pub(super) fn grouped(command: Command) -> Command {
    let table = table(&command);
    command.help_template(format!(
        "{{about}}\n\n{{usage-heading}} {{usage}}\n\n{table}\n`ftvm COMMAND --help` explains a command.\n\nOptions:\n{{options}}"
    ))
}

fn table(command: &Command) -> String {
    let widest = GROUPS
        .iter()
        .flat_map(|(_, names)| *names)
        .map(|name| name.len());
    let widest = widest.max().unwrap_or(0);
    let mut table = String::new();
    for (group, names) in GROUPS {
        table.push_str(&format!("{group}:\n"));
        for name in names {
            let about = find(command, name).and_then(Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            table.push_str(&format!(
                "  {name:<widest$}  {}\n",
                about.trim_end_matches('.')
            ));
        }
        table.push('\n');
    }
    table.truncate(table.trim_end().len());
    table + "\n"
}

/// The subcommand that these words call.
fn find<'a>(command: &'a Command, name: &str) -> Option<&'a Command> {
    name.split(' ')
        .try_fold(command, |command, word| command.find_subcommand(word))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    /// The words that call each command below this one.
    fn all(command: &Command, before: &str) -> Vec<String> {
        let shown = command
            .get_subcommands()
            .filter(|command| !command.is_hide_set());
        let below = shown.flat_map(|command| {
            let name = format!("{before}{}", command.get_name());
            let mut names = all(command, &format!("{name} "));
            if !command.is_subcommand_required_set() {
                names.push(name);
            }
            names
        });
        below.collect()
    }

    #[test]
    fn each_command_is_in_one_group_and_explained_in_one_line() {
        let command = Cli::command();
        let mut named: Vec<&str> = GROUPS
            .iter()
            .flat_map(|(_, names)| *names)
            .copied()
            .collect();
        named.sort_unstable();
        let mut all = all(&command, "");
        all.sort_unstable();
        assert_eq!(named, all);
        for line in table(&command).lines() {
            assert!(line.chars().count() <= 80, "too long: {line}");
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        grouped(Cli::command()).debug_assert();
    }
}
