//! What is logged.

use logging_channel::Settings;
use logging_channel::codec::BatchEncoder;
use logging_channel::entry::{Entry, ExecutionPoint, Lsn, OutputChannel, OutputMarker, Payload};

/// A stretch of a log that is the same thing again and again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stretch {
    /// Of the group of benchmarks.
    pub(crate) name: &'static str,
    /// How many.
    pub(crate) count: u64,
    /// What.
    payload: fn(u64) -> Payload,
}

/// Eight MiB of each kind of frames, which is more than any buffer on the way holds, and as many small
/// entries as take about as long.
pub(crate) const STRETCHES: [Stretch; 3] = [
    Stretch {
        name: "frames of 1448 bytes",
        count: 5793,
        payload: |_| Payload::NetRx(vec![0xa5; 1448]),
    },
    Stretch {
        name: "frames of 64 KiB",
        count: 128,
        payload: |_| Payload::NetRx(vec![0xa5; 64 * 1024]),
    },
    Stretch {
        name: "small entries",
        count: 100_000,
        payload: |n| Payload::Tsc(n * 60_000),
    },
];

impl Stretch {
    /// Its entries, at the exits behind `exits`.
    pub(crate) fn entries(&self, exits: u64) -> Vec<Entry> {
        let all = exits + 1..=exits + self.count;
        all.map(|exit| entry(exit, (self.payload)(exit))).collect()
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

/// What an output waits for.
pub(crate) fn marker(exit: u64) -> Entry {
    let marker = OutputMarker {
        channel: OutputChannel::Net,
        len: 66,
        hash: exit as u32,
    };
    entry(exit, Payload::Output(marker))
}

/// As most entries, it has a digest of the registers.
fn entry(exit: u64, payload: Payload) -> Entry {
    Entry {
        point: ExecutionPoint::at_exit(exit),
        check: Some(exit as u32),
        payload,
    }
}
