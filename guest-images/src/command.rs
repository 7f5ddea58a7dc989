//! Programs of this machine that images are made with.

use std::process::{Command, Stdio};

use crate::error::CommandError;

/// How much of a command line is told, in characters.
const TOLD: usize = 300;

/// Runs a program to its end, and gives what it prints to standard output.
pub(crate) fn run(command: &mut Command) -> Result<String, CommandError> {
    let mut line = format!("{command:?}");
    if let Some((end, _)) = line.char_indices().nth(TOLD) {
        line.truncate(end);
        line.push('…');
    }
    // Where a Debian user who is not root, or a minimal root, has no sbin in its path.
    let path = std::env::var("PATH").unwrap_or_default();
    let output = command
        .env("LC_ALL", "C.UTF-8")
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .env("TZ", "UTC")
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Ok(output) => Err(CommandError::Failed {
            command: line,
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        }),
        Err(source) => Err(CommandError::Start {
            command: line,
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_says_is_told_and_what_to_do_if_there_is_none() {
        let echo = run(Command::new("echo").arg("a")).expect("it runs");
        assert_eq!(echo, "a\n");
        let failed = run(Command::new("sh").args(["-c", "echo no >&2; exit 3"]));
        let failed = failed.expect_err("it fails").to_string();
        assert!(
            failed.contains("exit 3") && failed.ends_with(": no"),
            "{failed}"
        );
        let missing = run(Command::new("/nonexistent").arg("ä".repeat(TOLD)));
        let missing = missing.expect_err("there is none").to_string();
        assert!(missing.contains("…`: `cargo xtask setup`"), "{missing}");
    }
}
