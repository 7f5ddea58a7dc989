//! What an `ftvm` tells of a backup that joins its guest.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Told;

/// How far a join is: the event `joining`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct JoinProgress {
    /// How much of memory was gone through in this round.
    pub percent: f64,
    /// Bytes that were sent.
    pub bytes: u64,
    /// How fast.
    pub bytes_per_second: f64,
    /// How long the rest takes at that speed, if that is known.
    pub seconds_left: Option<f64>,
}

/// What a join took: the event `protected`. What is not told is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Joined {
    /// From the moment that the backup came to its protection.
    pub join_ms: Option<u64>,
    /// For how long the guest stood still at the end of the transfer.
    pub pause_ms: Option<u64>,
    /// Bytes that were sent.
    pub bytes: Option<u64>,
    /// How often memory was gone through.
    pub rounds: Option<u64>,
}

impl Told {
    /// How far the newest join was when it told last, if it has told of one after its first `seen`
    /// events.
    #[must_use]
    pub fn joining(&self, seen: usize) -> Option<JoinProgress> {
        let (_, event) = self.after(seen, "joining").last()?;
        JoinProgress::deserialize(event).ok()
    }

    /// What the first join took that was complete after its first `seen` events.
    #[must_use]
    pub fn joined(&self, seen: usize) -> Option<Joined> {
        let (_, event) = self.after(seen, "protected").next()?;
        Joined::deserialize(event).ok()
    }
}

impl fmt::Display for JoinProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "joining: {:.0} %, {} sent, {}/s",
            self.percent,
            Size(self.bytes as f64),
            Size(self.bytes_per_second)
        )?;
        match self.seconds_left {
            // It is not known before something was sent.
            Some(seconds) if self.bytes > 0 => write!(f, ", {seconds:.0} s left"),
            _ => Ok(()),
        }
    }
}

/// A number of bytes for people.
struct Size(f64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes >= 1e9 => write!(f, "{:.1} GB", bytes / 1e9),
            bytes if bytes >= 1e6 => write!(f, "{:.0} MB", bytes / 1e6),
            bytes => write!(f, "{:.0} kB", bytes / 1e3),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn progress_is_for_people() {
        let progress = JoinProgress {
            percent: 43.4,
            bytes: 12_300_000,
            bytes_per_second: 8_040_000.0,
            seconds_left: Some(2.2),
        };
        assert_eq!(
            progress.to_string(),
            "joining: 43 %, 12 MB sent, 8 MB/s, 2 s left"
        );
        let large = JoinProgress {
            bytes: 1_234_000_000,
            bytes_per_second: 900.0,
            seconds_left: None,
            ..progress
        };
        assert_eq!(large.to_string(), "joining: 43 %, 1.2 GB sent, 1 kB/s");
    }

    #[test]
    fn the_newest_join_counts() {
        let mut told = Told::default();
        let mut tell = |event| told.take(event, std::time::Instant::now());
        tell(json!({"event": "joining", "percent": 90, "bytes": 5}));
        tell(json!({"event": "join-cut", "reason": "silence"}));
        tell(json!({"event": "joining", "percent": 10, "bytes": 1}));
        tell(json!({"event": "protected", "epoch": 3, "join_ms": 7, "rounds": 2}));
        assert_eq!(told.joining(0).map(|now| now.percent), Some(10.0));
        assert_eq!(told.joining(3), None);
        let joined = told.joined(1).expect("told");
        assert_eq!((joined.join_ms, joined.rounds), (Some(7), Some(2)));
        assert_eq!((joined.pause_ms, joined.bytes), (None, None));
        assert_eq!(told.joined(4), None);
    }
}
