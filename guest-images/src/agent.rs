//! The agent in a guest: runs commands for a client, so that a benchmark can make the guest work.
//!
//! It listens where the kernel's command line has [`WORD`], in `load.cpio` and `debian.raw`. A
//! connection is one command: a line, then what the command prints, then [`STATUS`] and its exit
//! status.

/// The word of the kernel's command line that starts it.
pub const WORD: &str = "ftvm.agent";

/// Its TCP port.
pub const PORT: u16 = 7077;

/// What the last line begins with; the exit status follows.
pub const STATUS: &str = "agent-status ";

/// What runs one command.
pub(crate) const SCRIPT: &str = include_str!("init/agent.sh");
/// What listens, in an initramfs.
pub(crate) const SERVER: &str = include_str!("init/agent-server.sh");

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    /// What the script answers to a line.
    fn answer(line: &str) -> String {
        let mut shell = Command::new("sh")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut input = shell.stdin.take().expect("it is piped");
        writeln!(input, "{line}").expect("the shell reads");
        let output = shell.wait_with_output().expect("an end");
        String::from_utf8(output.stdout).expect("text")
    }

    #[test]
    fn a_command_gives_its_output_and_its_status() {
        let ok = answer("printf 'a\\tb\\n'; echo \"$((1 + 1))\" >&2");
        assert_eq!(ok, format!("a\tb\n2\n{STATUS}0\n"));
        assert_eq!(answer("exit 3"), format!("{STATUS}3\n"));
        // A command that reads does not wait for the client.
        assert_eq!(answer("cat"), format!("{STATUS}0\n"));
    }

    #[test]
    fn scripts_and_constants_agree() {
        assert!(SERVER.contains(&format!("-p {PORT} ")) && SERVER.contains(WORD));
        assert!(SCRIPT.contains(STATUS));
    }
}
