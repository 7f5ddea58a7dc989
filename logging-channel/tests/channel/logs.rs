//! Logs for tests: random ones, and entries made by hand.

use logging_channel::codec::{BatchEncoder, MAX_BODY};
use logging_channel::entry::{
    CountedStop, DiskOutcome, Entry, ExecutionPoint, Landmark, Lsn, OutputChannel, OutputMarker,
    PageDigest, PartDigests, Payload, Registers, ShutdownReason, StateDigest, StatePart,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

pub(crate) fn payload() -> impl Strategy<Value = Payload> {
    let channel = prop_oneof![
        Just(OutputChannel::Net),
        Just(OutputChannel::Console),
        Just(OutputChannel::Disk),
    ];
    let outcome = prop_oneof![
        Just(DiskOutcome::Done),
        any::<u32>().prop_map(|crc| DiskOutcome::Shared { crc }),
        Just(DiskOutcome::Failed),
        Just(DiskOutcome::Unsupported),
    ];
    let reason = prop_oneof![
        Just(ShutdownReason::PowerOff),
        Just(ShutdownReason::Reset),
        Just(ShutdownReason::TripleFault),
        Just(ShutdownReason::Stopped),
    ];
    prop_oneof![
        any::<u64>().prop_map(Payload::Tsc),
        any::<u64>().prop_map(Payload::Clock),
        any::<u64>().prop_map(Payload::WallClock),
        any::<u64>().prop_map(Payload::Tick),
        vec(any::<u8>(), 0..200).prop_map(Payload::NetRx),
        vec(any::<u8>(), 0..20).prop_map(Payload::ConsoleInput),
        any::<u8>().prop_map(Payload::Interrupt),
        (channel, any::<u32>(), any::<u32>())
            .prop_map(|(channel, len, hash)| Payload::Output(OutputMarker { channel, len, hash })),
        Just(Payload::Progress),
        (any::<u64>(), any::<u64>())
            .prop_map(|(clock, wall_clock)| Payload::Protected { clock, wall_clock }),
        registers().prop_map(|registers| Payload::Registers(Box::new(registers))),
        (any::<u64>(), vec(any::<u64>(), 0..40))
            .prop_map(|(first_page, hashes)| Payload::MemoryHashes { first_page, hashes }),
        reason.prop_map(Payload::Shutdown),
        any::<u32>().prop_map(|transfer| Payload::State(StatePart::Begin(transfer))),
        any::<u64>().prop_map(|blocks| Payload::State(StatePart::Memory(blocks))),
        any::<u32>().prop_map(|transfer| Payload::Renewal(StatePart::Begin(transfer))),
        vec(any::<u8>(), 0..200).prop_map(|data| Payload::Renewal(StatePart::Commit(data))),
        vec(any::<u8>(), 0..200).prop_map(|data| Payload::State(StatePart::Pages(data))),
        vec(any::<u8>(), 0..200).prop_map(|data| Payload::State(StatePart::Rest(data))),
        vec(any::<u8>(), 0..200).prop_map(|data| Payload::State(StatePart::Commit(data))),
        digest().prop_map(|digest| Payload::Digest(Box::new(digest))),
        (any::<u64>(), registers()).prop_map(|(count, registers)| Payload::Counted(Box::new(
            CountedStop { count, registers }
        ))),
        vec(any::<u8>(), 0..200).prop_map(Payload::DiskData),
        (any::<u64>(), outcome).prop_map(|(id, outcome)| Payload::DiskDone { id, outcome }),
    ]
}

fn registers() -> impl Strategy<Value = Registers> {
    // Mostly neighbours of each other, as real registers are.
    let register = prop_oneof![3 => Just(0x1000u64), 2 => 0x1000u64..0x1100, 1 => any::<u64>()];
    (vec(register, 16), any::<u64>(), any::<u64>(), any::<u64>()).prop_map(
        |(gpr, rip, rflags, cr3)| Registers {
            gpr: gpr.try_into().expect("sixteen of them"),
            rip,
            rflags,
            cr3,
        },
    )
}

fn digest() -> impl Strategy<Value = StateDigest> {
    let pages = btree_map(0..u64::MAX, any::<u32>(), 0..40);
    let last = option::of((registers(), vec(any::<u32>(), 0..20)));
    let more = (0..1000u64, 1..1000u64);
    (pages, more, last).prop_map(|(pages, (before, behind), last)| StateDigest {
        range: pages.keys().next().unwrap_or(&7).saturating_sub(before)
            ..pages.keys().last().unwrap_or(&7).saturating_add(behind),
        pages: pages
            .into_iter()
            .map(|(page, digest)| PageDigest { page, digest })
            .collect(),
        last: last.map(|(registers, parts)| PartDigests { registers, parts }),
    })
}

/// A log of up to `len` entries in execution order.
pub(crate) fn log(len: usize) -> impl Strategy<Value = Vec<Entry>> {
    let step = prop_oneof![3 => Just(0u64), 3 => Just(1), 2 => 2u64..1000, 1 => 0..1u64 << 50];
    let landmark = option::of(any::<u64>().prop_map(|rip| Landmark { rip }));
    vec(
        (step, landmark, option::of(any::<u32>()), payload()),
        0..len,
    )
    .prop_map(|parts| {
        let mut exits = 0;
        let entry = |(step, landmark, check, payload)| {
            exits += step;
            Entry {
                point: ExecutionPoint { exits, landmark },
                check,
                payload,
            }
        };
        parts.into_iter().map(entry).collect()
    })
}

/// The log as batches of at most `each` entries.
pub(crate) fn batches(log: &[Entry], each: usize) -> Vec<Vec<u8>> {
    let mut encoder = BatchEncoder::new(Lsn::FIRST);
    let mut batches = Vec::new();
    for entries in log.chunks(each) {
        for entry in entries {
            if encoder.is_full() {
                batches.extend(encoder.take().map(|batch| batch.seal()));
            }
            encoder.push(entry).expect("a valid entry");
        }
        assert!(encoder.len() <= MAX_BODY);
        batches.extend(encoder.take().map(|batch| batch.seal()));
    }
    batches
}

pub(crate) fn at(exits: u64, payload: Payload) -> Entry {
    Entry {
        point: ExecutionPoint::at_exit(exits),
        check: None,
        payload,
    }
}

pub(crate) fn frame(exits: u64, len: usize) -> Entry {
    at(exits, Payload::NetRx(vec![exits as u8; len]))
}

/// `count` small entries.
pub(crate) fn ticks(count: u64) -> Vec<Entry> {
    (1..=count)
        .map(|n| at(n, Payload::Tsc(1_000_000 + n * 60_000)))
        .collect()
}
