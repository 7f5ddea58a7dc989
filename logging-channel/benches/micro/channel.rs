//! The channel between two ends in this process.

use std::sync::Arc;
use std::time::Instant;

use criterion::{BatchSize, Criterion, Throughput};
use logging_channel::codec::HEADER_LEN;
use logging_channel::trial::{Turns, marker_bytes};

use crate::bare::Bare;
use crate::ends::{Ends, LONG};
use crate::entries::STRETCHES;

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
    let ping = [marker_bytes()];
    let mut bare = Bare::new(ping[0].len(), HEADER_LEN);
    let mut answer = [0; HEADER_LEN];
    group.bench_function("bare", |bencher| {
        bencher.iter(|| bare.exchange(&ping, &mut answer));
    });
    let ends = Ends::new();
    let sender = Arc::new(ends.sender.clone());
    let turns = Turns::of(&sender);
    let mut exits = 0;
    group.bench_function("ftvm", |bencher| {
        bencher.iter_custom(|iterations| {
            let since = Instant::now();
            let is_late = || since.elapsed() > LONG;
            let end = turns.run(&sender, exits, iterations, is_late);
            exits += iterations;
            end.expect("the last acknowledgement") - since
        });
    });
    group.finish();
}
