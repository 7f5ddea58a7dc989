//! `programs/clock.c`, which reads a guest's clock, and what it says.
//!
//! It is `/bin/clock` in `tiny.cpio`, where the word `ftvm.do=clock` runs it for
//! ever: a line every 50 ms. It runs on any machine: on a host it tells what the
//! guest should see.

use std::time::Duration;

use crate::compiler;
use crate::error::CompileError;

/// The program, a static executable.
///
/// # Errors
///
/// When it cannot be compiled.
pub fn program() -> Result<Vec<u8>, CompileError> {
    compiler::compile("clock", include_str!("programs/clock.c"))
}

/// A line of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockLine {
    /// The last value of the clock.
    pub last: Duration,
    /// The wall clock, read right behind it, since the Unix epoch.
    pub wall: Duration,
    /// The smallest step between two values up to here; none if there was none.
    pub step: Option<Duration>,
    /// Reads up to here that gave the value of the one before.
    pub same: u64,
    /// Values that were below their predecessor.
    pub backwards: u64,
}

impl ClockLine {
    /// Reads a line.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let mut parts = line.trim().strip_prefix("clock: ")?.split(", ");
        let (reads, _clock) = parts.next()?.split_once(" reads of ")?;
        reads.parse::<u64>().ok()?;
        let last = seconds(parts.next()?.strip_prefix("last ")?)?;
        let wall = seconds(parts.next()?.strip_prefix("wall ")?)?;
        let step = parts.next()?.strip_prefix("step ")?.parse().ok()?;
        let same = parts.next()?.strip_prefix("same ")?.parse().ok()?;
        let backwards = parts.next()?.strip_prefix("backwards ")?.parse().ok()?;
        parts.next().is_none().then_some(Self {
            last,
            wall,
            step: (step != u64::MAX).then_some(Duration::from_nanos(step)),
            same,
            backwards,
        })
    }
}

/// "12.000000345": always nine digits.
fn seconds(text: &str) -> Option<Duration> {
    let (seconds, nanos) = text.split_once('.')?;
    let whole = nanos.len() == 9;
    let time = Duration::new(seconds.parse().ok()?, nanos.parse().ok()?);
    whole.then_some(time)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn the_program_says_what_is_read() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("clock");
        std::fs::write(&path, program().expect("it compiles")).expect("written");
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, executable).expect("set");
        for clock in ["monotonic", "realtime"] {
            let output = Command::new(&path).args([clock, "1000", "3"]).output();
            let output = output.expect("it runs");
            assert!(output.status.success(), "{output:?}");
            let text = String::from_utf8(output.stdout).expect("text");
            let lines: Vec<ClockLine> = text.lines().filter_map(ClockLine::parse).collect();
            assert_eq!(lines.len(), 3, "{text}");
            assert!(lines.is_sorted_by(|a, b| a.last < b.last), "{text}");
            assert!(lines.iter().all(|line| line.step.is_some()), "{text}");
        }
        let refused = Command::new(&path).arg("sundial").output();
        assert_eq!(refused.expect("it runs").status.code(), Some(2));
    }

    #[test]
    fn lines_are_read_whole() {
        let line = "clock: 20 reads of monotonic, last 81.733514992, wall 1767225600.250013377, \
                    step 1117, same 3, backwards 2\r\n";
        let read = ClockLine::parse(line).expect("a whole line");
        assert_eq!(read.last, Duration::new(81, 733_514_992));
        assert_eq!(read.wall, Duration::new(1_767_225_600, 250_013_377));
        assert_eq!(read.step, Some(Duration::from_nanos(1117)));
        assert_eq!((read.same, read.backwards), (3, 2));
        for cut in [30, 40, 60, 80, 90, 100] {
            assert_eq!(ClockLine::parse(&line[..cut]), None, "{}", &line[..cut]);
        }
        let no_step = line.replace("1117", &u64::MAX.to_string());
        assert_eq!(ClockLine::parse(&no_step).expect("whole").step, None);
    }
}
