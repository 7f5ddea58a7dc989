//! What is logged.

use logging_channel::Settings;
use logging_channel::codec::BatchEncoder;
use logging_channel::entry::{Entry, Lsn};
use logging_channel::trial::{self, FRAMES, LARGE_FRAMES, SMALL};

/// A part of a log that is the same thing again and again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stretch {
    /// Of the group of benchmarks.
    pub(crate) name: &'static str,
    /// How many.
    pub(crate) count: u64,
    /// What.
    of: trial::Stretch,
}

/// Eight MiB of each kind of frames, which is more than any buffer on the way holds, and as many small
/// entries as take about as long.
pub(crate) const STRETCHES: [Stretch; 3] = [
    Stretch {
        name: "frames of 1448 bytes",
        count: 5793,
        of: FRAMES,
    },
    Stretch {
        name: "frames of 64 KiB",
        count: 128,
        of: LARGE_FRAMES,
    },
    Stretch {
        name: "small entries",
        count: 100_000,
        of: SMALL,
    },
];

impl Stretch {
    /// Its entries, at the exits behind `exits`, and an output's marker: what nobody waits for is
    /// acknowledged some milliseconds later.
    pub(crate) fn entries(&self, exits: u64) -> Vec<Entry> {
        let last = exits + self.count;
        let all = (exits + 1..=last).map(|exit| self.of.entry(exit));
        all.chain([trial::marker(last)]).collect()
    }

    /// The same as they are sent: in batches as large as the channel makes them.
    pub(crate) fn batches(&self) -> Vec<Vec<u8>> {
        let limit = Settings::default().batch_bytes;
        let mut encoder = BatchEncoder::new(Lsn::FIRST);
        let mut batches = Vec::new();
        for entry in self.entries(0) {
            encoder.push(&entry).expect("a valid entry");
            if encoder.len() >= limit {
                batches.extend(encoder.take());
            }
        }
        batches.extend(encoder.take());
        batches.into_iter().map(|batch| batch.seal()).collect()
    }
}
