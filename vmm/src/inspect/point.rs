//! Places in a replay, as a user names them.

use std::fmt;
use std::str::FromStr;

use logging_channel::entry::Lsn;

/// A place in a replay where the guest is about to run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The exit with this ordinal, with the inputs that belong to it; or the next one, where the
    /// replay takes a state over in place of getting there. 0 is the start.
    Exit(u64),
    /// Where this log entry was used: the exit that it belongs to.
    Entry(Lsn),
    /// The guest's end.
    End,
}

impl Point {
    /// Whether a guest that is about to run on at exit `exits`, with `next` as the log's next
    /// entry, is at this point or past it.
    #[must_use]
    pub fn is_reached(self, exits: u64, next: Lsn) -> bool {
        match self {
            Self::Exit(ordinal) => exits >= ordinal,
            Self::Entry(lsn) => next > lsn,
            Self::End => false,
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(ordinal) => write!(f, "exit {ordinal}"),
            Self::Entry(lsn) => write!(f, "log entry {lsn}"),
            Self::End => f.write_str("the end"),
        }
    }
}

/// A word that names no point.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a point: give an exit's ordinal (1234), a log entry (lsn:567), or `end`")]
pub struct BadPoint;

impl FromStr for Point {
    type Err = BadPoint;

    fn from_str(word: &str) -> Result<Self, BadPoint> {
        // Alone, `parse` would take a sign.
        let number = |digits: &str| match digits.parse() {
            Ok(number) if digits.starts_with(|c: char| c.is_ascii_digit()) => Ok(number),
            _ => Err(BadPoint),
        };
        match word.strip_prefix("lsn:") {
            Some(digits) => number(digits).map(|lsn| Self::Entry(Lsn(lsn))),
            None if word == "end" => Ok(Self::End),
            None => number(word).map(Self::Exit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_read() {
        assert_eq!("0".parse(), Ok(Point::Exit(0)));
        assert_eq!("1234".parse(), Ok(Point::Exit(1234)));
        assert_eq!("lsn:567".parse(), Ok(Point::Entry(Lsn(567))));
        assert_eq!("end".parse(), Ok(Point::End));
        for word in [
            "", "-1", "+1", "lsn:+1", "1x", "lsn:", "lsn:x", "lsn: 1", "End", "0x10",
        ] {
            assert_eq!(word.parse::<Point>(), Err(BadPoint), "{word}");
        }
    }

    #[test]
    fn points_are_reached_once_all_before_them_is_done() {
        let next = Lsn(8);
        assert!(!Point::Exit(4).is_reached(3, next));
        assert!(Point::Exit(4).is_reached(4, next));
        assert!(Point::Exit(4).is_reached(5, next), "a state was taken over");
        assert!(Point::Entry(Lsn(7)).is_reached(3, next));
        assert!(!Point::Entry(Lsn(8)).is_reached(3, next), "it is the next");
        assert!(!Point::End.is_reached(u64::MAX, Lsn(u64::MAX)));
    }
}
