//! What is measured, one after the other, and what the side that listens says of it.

use std::time::Duration;

use logging_channel::Settings;
use logging_channel::heartbeat::Arrivals;
use logging_channel::times::TimeFigures;
use logging_channel::trial::{FRAMES, LARGE_FRAMES, SMALL, Stretch};
use serde::{Deserialize, Serialize};

use super::pressed::Pressed;

/// A part of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Outputs, one after the other, each waiting for its acknowledgement.
    Acknowledgements,
    /// The same bytes over bare TCP.
    BareAnswers,
    /// Bytes over bare TCP, as many as it takes.
    BareStream,
    /// A log of frames of 64 KiB.
    LargeFrames,
    /// A log of frames of 1448 bytes.
    Frames,
    /// A log of time stamps.
    Small,
}

impl Stage {
    /// In their order. Before the network is full, it is measured how long it takes.
    pub const ALL: [Self; 6] = [
        Self::Acknowledgements,
        Self::BareAnswers,
        Self::BareStream,
        Self::LargeFrames,
        Self::Frames,
        Self::Small,
    ];

    /// In words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Acknowledgements => "acknowledgement of an output",
            Self::BareAnswers => "bare TCP, the same bytes",
            Self::BareStream => "bare TCP",
            Self::LargeFrames => "frames of 64 KiB",
            Self::Frames => "frames of 1448 bytes",
            Self::Small => "time stamps",
        }
    }

    /// How long it takes, where all take this long. What has a longest time to tell gets more of it.
    pub(super) fn time(self, all: Duration) -> Duration {
        match self {
            Self::Acknowledgements | Self::BareAnswers => all / 5,
            _ => all * 3 / 20,
        }
    }

    /// What is logged; `None` where it is not as much as the channel takes.
    pub(super) fn stretch(self) -> Option<Stretch> {
        match self {
            Self::LargeFrames => Some(LARGE_FRAMES),
            Self::Frames => Some(FRAMES),
            Self::Small => Some(SMALL),
            _ => None,
        }
    }
}

/// Bytes of a write over bare TCP: of a batch.
pub(super) fn piece() -> usize {
    Settings::default().batch_bytes
}

/// A word of the side that listens, in the log.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Word {
    /// This stage begins.
    Begins(Stage),
    /// It has ended.
    Ended(Ran),
    /// All have, and so came the heartbeats of the side that connects.
    Over(Heartbeats),
}

/// How a stage went, as the side says that sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Ran {
    pub(super) stage: Stage,
    /// From the first byte to the last one's acknowledgement.
    pub(super) seconds: f64,
    /// Bytes of batches, or over bare TCP.
    pub(super) bytes: u64,
    pub(super) entries: u64,
    /// Where one is waited for before the next.
    pub(super) times: Option<TimesTold>,
    pub(super) pressed: Option<Pressed>,
}

impl Ran {
    pub(super) fn gbit_per_s(&self) -> f64 {
        self.bytes as f64 * 8.0 / 1e9 / self.seconds
    }

    pub(super) fn entries_per_s(&self) -> f64 {
        self.entries as f64 / self.seconds
    }
}

/// How long something took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct TimesTold {
    /// How often it was measured.
    pub(super) count: u64,
    /// Median, in microseconds.
    pub(super) p50_us: u64,
    /// 99th percentile, in microseconds.
    pub(super) p99_us: u64,
    /// Longest, in microseconds.
    pub(super) max_us: u64,
}

impl TimesTold {
    pub(super) fn new(figures: TimeFigures, count: u64) -> Self {
        Self {
            count,
            p50_us: micros(figures.p50),
            p99_us: micros(figures.p99),
            max_us: micros(figures.max),
        }
    }
}

/// How the other side's heartbeats came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Heartbeats {
    /// How many came.
    pub(super) heard: u64,
    /// How many did not, or came after a later one.
    pub(super) lost: u64,
    /// By how much round trips differ from the one before, in the mean, in microseconds; `None` if there were none.
    pub(super) jitter_us: Option<u64>,
}

impl From<Arrivals> for Heartbeats {
    fn from(arrivals: Arrivals) -> Self {
        Self {
            heard: arrivals.heard,
            lost: arrivals.missed,
            jitter_us: arrivals.jitter().map(micros),
        }
    }
}

pub(super) fn micros(time: Duration) -> u64 {
    time.as_micros().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stages_take_the_time_that_there_is() {
        let all = Duration::from_secs(20);
        let sum: Duration = Stage::ALL.iter().map(|stage| stage.time(all)).sum();
        assert_eq!(sum, all);
    }
}
