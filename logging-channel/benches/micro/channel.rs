//! The channel between two ends in this process.

use std::sync::Arc;
use std::time::Instant;

use criterion::{BatchSize, Criterion, Throughput};
use crossbeam_channel::Receiver;
use logging_channel::codec::{BatchEncoder, HEADER_LEN};
use logging_channel::entry::Lsn;
use logging_channel::sender::{Permit, Sender};
use parking_lot::Mutex;

use crate::bare::Bare;
use crate::ends::{Ends, LONG};
use crate::entries::{STRETCHES, marker};

/// An iteration sends a stretch of a log, up to the acknowledgement of its last entry.
pub(crate) fn throughput(criterion: &mut Criterion) {
    for stretch in STRETCHES {
        let mut group = criterion.benchmark_group(format!("channel, {}", stretch.name));
        group.throughput(Throughput::Elements(stretch.count));
        let batches = stretch.batches();
        let mut bare = Bare::new(batches.iter().map(Vec::len).sum(), HEADER_LEN);
        let mut answer = [0; HEADER_LEN];
        group.bench_function("bare", |bencher| {
            bencher.iter(|| bare.exchange(&batches, &mut answer));
        });
        let ends = Ends::new();
        let mut exits = 0;
        group.bench_function("ftvm", |bencher| {
            let entries = || {
                let entries = stretch.entries(exits);
                exits += stretch.count;
                entries
            };
            bencher.iter_batched(entries, |all| ends.send(all), BatchSize::PerIteration);
        });
        group.finish();
    }
}

/// An iteration is an output's marker, from its append to where its output may leave: there the next one is
/// appended, as the thread that pings sends its next ping.
pub(crate) fn acknowledgement(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("channel, acknowledgement");
    let mut encoder = BatchEncoder::new(Lsn::FIRST);
    encoder.push(&marker(1)).expect("a valid entry");
    let ping = [encoder.take().expect("it has an entry").seal()];
    let mut bare = Bare::new(ping[0].len(), HEADER_LEN);
    let mut answer = [0; HEADER_LEN];
    group.bench_function("bare", |bencher| {
        bencher.iter(|| bare.exchange(&ping, &mut answer));
    });
    let ends = Ends::new();
    let sender = Arc::new(ends.sender.clone());
    let (turns, over) = Turns::of(&sender);
    group.bench_function("ftvm", |bencher| {
        bencher.iter_custom(|iterations| {
            let since = Instant::now();
            turns.begin(&sender, iterations);
            let end = over.recv_timeout(LONG);
            end.expect("the last acknowledgement") - since
        });
    });
    group.finish();
}

/// Markers that follow each other.
struct Turns(Mutex<Turn>);

#[derive(Default)]
struct Turn {
    /// The marker that is on its way.
    waits: Lsn,
    exits: u64,
    /// How many follow it.
    left: u64,
}

impl Turns {
    /// On this sender. When the last one is over is told.
    fn of(sender: &Arc<Sender>) -> (Arc<Self>, Receiver<Instant>) {
        let turns = Arc::new(Self(Mutex::default()));
        let (told, over) = crossbeam_channel::unbounded();
        // Who is called by the sender does not keep it.
        let (own, sender) = (turns.clone(), Arc::downgrade(sender));
        let release = sender.upgrade().expect("it is there");
        release.release_with(Box::new(move |permit: Permit| {
            let mut turn = own.0.lock();
            if turn.waits > permit.up_to || turn.waits == Lsn::default() {
                return None;
            }
            let released = turn.waits;
            match turn.left.checked_sub(1) {
                Some(left) => {
                    turn.left = left;
                    turn.append(&sender.upgrade().expect("its user waits for the last one"));
                }
                None => {
                    turn.waits = Lsn::default();
                    let _ = told.send(Instant::now());
                }
            }
            Some(released)
        }));
        (turns, over)
    }

    /// Begins the first of so many.
    fn begin(&self, sender: &Sender, turns: u64) {
        let mut turn = self.0.lock();
        turn.left = turns - 1;
        turn.append(sender);
    }
}

impl Turn {
    /// Appends the next marker, and sends it.
    fn append(&mut self, sender: &Sender) {
        self.exits += 1;
        self.waits = sender.append_and_flush(marker(self.exits));
    }
}
