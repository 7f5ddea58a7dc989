//! Encoding and checking, beside a copy of the same bytes.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use logging_channel::codec::{Batch, BatchEncoder};
use logging_channel::entry::{ExecutionPoint, Lsn};

use crate::entries::STRETCHES;

/// An iteration is a batch, from its entries to the bytes that are sent, or back.
pub(crate) fn codec(criterion: &mut Criterion) {
    for stretch in STRETCHES {
        let bytes = stretch.batches().swap_remove(0);
        let (mut batch, _) = Batch::decode(&bytes).expect("it was encoded");
        // So that they can follow themselves.
        for entry in &mut batch.entries {
            entry.point = ExecutionPoint::default();
        }
        let mut group = criterion.benchmark_group(format!("codec, {}", stretch.name));
        group.throughput(Throughput::Elements(batch.entries.len() as u64));
        let mut copy = vec![0; bytes.len()];
        group.bench_function("memcpy", |bencher| {
            bencher.iter(|| black_box(&mut copy).copy_from_slice(black_box(&bytes)));
        });
        let mut encoder = BatchEncoder::new(Lsn::FIRST);
        group.bench_function("encode", |bencher| {
            bencher.iter(|| {
                for entry in &batch.entries {
                    encoder.push(entry).expect("a valid entry");
                }
                encoder.take().expect("it has entries").seal()
            });
        });
        group.bench_function("decode", |bencher| {
            // And what they take is free again, as where a replay has used them.
            bencher.iter(|| Batch::decode(black_box(&bytes)).expect("it was encoded"));
        });
        group.finish();
    }
}
