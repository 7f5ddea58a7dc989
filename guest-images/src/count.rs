//! What counts in `tiny.cpio`, where the word `ftvm.do=count` has it serve: each line that a connection brings is
//! answered with its number, from 1.

/// What serves one connection.
pub(crate) const SCRIPT: &str = include_str!("init/count.sh");

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn lines_are_answered_with_their_numbers() {
        let mut shell = Command::new("sh")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut input = shell.stdin.take().expect("it is piped");
        input.write_all(b"\n\\ \nx\n").expect("the shell reads");
        drop(input);
        let output = shell.wait_with_output().expect("an end");
        assert_eq!(output.stdout, b"1\n2\n3\n");
    }
}
