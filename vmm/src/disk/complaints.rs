//! Lines of the log that can come as often as a guest likes.

use std::fmt;
use std::time::{Duration, Instant};

/// The time in which only some lines are written.
const WINDOW: Duration = Duration::from_secs(10);

/// How many.
const MOST: u32 = 5;

/// Lets a few lines through, and counts the others.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    since: Option<Instant>,
    written: u32,
    left_out: u64,
}

/// The lines that were left out, for the end of the next one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LeftOut(u64);

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            count => write!(f, " (and {count} others like it before)"),
        }
    }
}

impl Complaints {
    /// Whether a line may be written `now`: with what is to be said of the others.
    pub(super) fn admit(&mut self, now: Instant) -> Option<LeftOut> {
        if self.since.is_none_or(|since| now >= since + WINDOW) {
            self.since = Some(now);
            self.written = 0;
        }
        if self.written == MOST {
            self.left_out += 1;
            return None;
        }
        self.written += 1;
        Some(LeftOut(std::mem::take(&mut self.left_out)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_counted() {
        let (mut complaints, start) = (Complaints::default(), Instant::now());
        let written = (0..1000).filter_map(|_| complaints.admit(start));
        assert_eq!(written.count(), MOST as usize);
        let next = complaints.admit(start + WINDOW).expect("a new window");
        assert_eq!(next.to_string(), " (and 995 others like it before)");
        assert_eq!(complaints.admit(start + WINDOW), Some(LeftOut(0)));
    }
}
