//! Entries as bytes: what is written is read back, and nothing else is.

use logging_channel::codec::{
    Batch, BatchEncoder, DecodeError, EncodeError, EntryError, HEADER_LEN, Kind, LogOrder,
    MAX_BATCH_ENTRIES, MAX_BODY, MAX_FRAME, MAX_HASHES, MAX_PAGE_DIGESTS, MAX_STATE_PART,
    OrderError,
};
use logging_channel::entry::{
    DiskOutcome, ExecutionPoint, Lsn, PageDigest, Payload, Registers, StateDigest, StatePart,
};
use proptest::prelude::*;

use crate::logs::{at, batches, frame, log, ticks};

/// A batch with a right header around any body, as a hostile peer would send it.
fn batch_around(body: &[u8], count: u32) -> Vec<u8> {
    let mut out = b"FTVB".to_vec();
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(&1u64.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(body).to_le_bytes());
    let crc = crc32fast::hash(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(body);
    out
}

fn entry_error(body: &[u8]) -> EntryError {
    match Batch::decode(&batch_around(body, 1)) {
        Err(DecodeError::Entry { source, .. }) => source,
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn every_log_survives_in_batches_of_any_size(log in log(60), each in 1usize..70) {
        let mut order = LogOrder::default();
        let mut read = Vec::new();
        for bytes in batches(&log, each) {
            let (batch, len) = Batch::decode(&bytes).expect("decodes");
            prop_assert_eq!(len, bytes.len());
            order.admit(&batch).expect("in order");
            read.extend(batch.entries);
        }
        prop_assert_eq!(order.last(), Lsn(log.len() as u64));
        prop_assert_eq!(read, log);
    }

    #[test]
    fn any_flipped_bit_is_found(log in log(20), bit: prop::sample::Index) {
        for mut bytes in batches(&log, 20) {
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Batch::decode(&bytes).is_err());
        }
    }

    #[test]
    fn any_prefix_is_incomplete(log in log(20), cut: prop::sample::Index) {
        for bytes in batches(&log, 20) {
            let cut = cut.index(bytes.len());
            let decoded = Batch::decode(&bytes[..cut]);
            let incomplete =
                matches!(decoded, Err(DecodeError::Incomplete { have, .. }) if have == cut);
            prop_assert!(incomplete, "{:?}", decoded);
        }
    }

    #[test]
    fn any_bytes_end_in_an_error(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(Batch::decode(&bytes).is_err());
    }

    /// The checksums are right, so that the entries' own decoding meets the random bytes.
    #[test]
    fn any_body_ends_in_entries_or_an_error(
        body in prop::collection::vec(any::<u8>(), 1..2000),
        count in 1u32..100,
    ) {
        if let Ok((batch, _)) = Batch::decode(&batch_around(&body, count)) {
            prop_assert_eq!(batch.entries.len(), count as usize);
        }
    }

    /// A body that starts out as a real one goes deeper into the decoder than noise does.
    #[test]
    fn any_mutated_body_ends_in_entries_or_an_error(
        log in log(20),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        for bytes in batches(&log, 20) {
            let mut body = bytes[HEADER_LEN..].to_vec();
            let count = u32::from_le_bytes(bytes[16..20].try_into().expect("four bytes"));
            for (at, byte) in &changes {
                let at = at.index(body.len());
                body[at] = *byte;
            }
            let _ = Batch::decode(&batch_around(&body, count));
        }
    }
}

/// Of every field of these entries: what a read found, a request's number, how it went, and the
/// checksum by which a backup that reads the disk itself knows that it found the same.
#[test]
fn damage_to_what_the_log_says_of_the_disk_is_found() {
    let data = (0..600u32).map(|n| (n % 251) as u8).collect();
    let outcomes = [
        DiskOutcome::Done,
        DiskOutcome::Shared { crc: 0x89ab_cdef },
        DiskOutcome::Failed,
        DiskOutcome::Unsupported,
    ];
    let done = |(id, outcome)| at(5, Payload::DiskDone { id, outcome });
    let mut log = vec![at(5, Payload::DiskData(data))];
    log.extend((300..).zip(outcomes).map(done));
    for entry in log {
        let [good]: [Vec<u8>; 1] = batches(std::slice::from_ref(&entry), 1)
            .try_into()
            .expect("one batch");
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Batch::decode(&bytes).is_err(), "bit {bit} of {entry:?}");
        }
        // Behind the batch's checksum every bit counts as well: with one flipped it is another
        // entry, or none.
        let body = &good[HEADER_LEN..];
        for bit in 0..body.len() * 8 {
            let mut body = body.to_vec();
            body[bit / 8] ^= 1 << (bit % 8);
            if let Ok((batch, _)) = Batch::decode(&batch_around(&body, 1)) {
                assert_ne!(batch.entries, std::slice::from_ref(&entry), "bit {bit}");
            }
        }
    }
}

#[test]
fn hostile_lengths_are_refused_before_room_is_made_for_them() {
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    let with_length = |kind: Kind| [&[kind.number()], &huge[..]].concat();
    let disk = [&[0, Kind::DiskData.number()], &huge[..]].concat();
    assert!(matches!(entry_error(&disk), EntryError::TooLong(u64::MAX)));
    assert!(matches!(
        entry_error(&with_length(Kind::NetRx)),
        EntryError::TooLong(u64::MAX)
    ));
    let hashes = [&[Kind::MemoryHashes.number(), 0], &huge[..]].concat();
    assert!(matches!(
        entry_error(&hashes),
        EntryError::TooManyHashes(u64::MAX)
    ));
    // Within the limit, but beyond the bytes that are there.
    assert!(matches!(
        entry_error(&[Kind::MemoryHashes.number(), 0, 0x80, 0x20, 1, 2, 3]),
        EntryError::Field(_)
    ));
    assert!(matches!(
        entry_error(&[Kind::NetRx.number(), 0x80, 0x80, 0x04, 1]),
        EntryError::Field(_)
    ));
}

#[test]
fn impossible_headers_are_refused_before_their_body_is_read() {
    let check = |body_len: u32, first: u64, count: u32| {
        let mut out = b"FTVB".to_vec();
        out.extend_from_slice(&body_len.to_le_bytes());
        out.extend_from_slice(&first.to_le_bytes());
        out.extend_from_slice(&count.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        assert!(
            matches!(Batch::decode(&out), Err(DecodeError::Bounds { .. })),
            "{body_len} bytes, {count} entries from {first}"
        );
    };
    check(MAX_BODY as u32 + 1, 1, 1);
    check(u32::MAX, 1, 1);
    check(10, 1, 0);
    check(10, 1, 11);
    check(MAX_BODY as u32, 1, MAX_BATCH_ENTRIES as u32 + 1);
    check(10, 0, 1);
    check(10, u64::MAX, 1);
}

#[test]
fn unknown_numbers_are_named() {
    assert_eq!(entry_error(&[0, 0]), EntryError::UnknownKind(0));
    let twice = Kind::Progress.number();
    assert_eq!(entry_error(&[0, twice]), EntryError::UnknownKind(twice));
    assert_eq!(entry_error(&[0, 99]), EntryError::UnknownKind(99));
    assert_eq!(
        entry_error(&[0, Kind::DiskDone.number(), 2, 9]),
        EntryError::UnknownOutcome(9)
    );
    assert_eq!(
        entry_error(&[Kind::State.number(), 5]),
        EntryError::UnknownPart(5)
    );
    assert_eq!(
        entry_error(&[Kind::Digest.number(), 0, 0, 0, 2]),
        EntryError::UnknownPart(2)
    );
    assert_eq!(
        entry_error(&[Kind::Digest.number(), 0, 9, 2, 1, 0, 0, 0, 0, 0]),
        EntryError::UnorderedPages
    );
    assert_eq!(
        entry_error(&[Kind::Digest.number(), 3, 1, 1, 1]),
        EntryError::UnorderedPages,
        "not covered"
    );
    assert_eq!(entry_error(&[0xc9]), EntryError::ReservedStep(0xc9));
    assert_eq!(
        entry_error(&[Kind::Output.number(), 9]),
        EntryError::UnknownChannel(9)
    );
    assert_eq!(
        entry_error(&[Kind::Shutdown.number(), 0]),
        EntryError::UnknownReason(0)
    );
    assert_eq!(
        entry_error(&[Kind::Registers.number(), 0x80, 0x80, 0x20]),
        EntryError::UnknownRegister(1 << 19)
    );
    let trailing = batch_around(&[Kind::Progress.number(), 0, 0], 1);
    assert_eq!(Batch::decode(&trailing), Err(DecodeError::Trailing(2)));
}

#[test]
fn limits_hold_for_writers_too_and_a_refused_entry_leaves_the_batch_as_it_was() {
    let mut encoder = BatchEncoder::new(Lsn::FIRST);
    assert_eq!(encoder.push(&at(5, Payload::Progress)), Ok(Lsn(1)));
    assert!(matches!(
        encoder.push(&frame(6, MAX_FRAME + 1)),
        Err(EncodeError::TooLong {
            kind: Kind::NetRx,
            ..
        })
    ));
    let data = Payload::DiskData(vec![0; MAX_FRAME + 1]);
    assert!(matches!(
        encoder.push(&at(6, data)),
        Err(EncodeError::TooLong {
            kind: Kind::DiskData,
            ..
        })
    ));
    let hashes = Payload::MemoryHashes {
        first_page: 0,
        hashes: vec![0; MAX_HASHES + 1],
    };
    assert!(matches!(
        encoder.push(&at(6, hashes)),
        Err(EncodeError::TooManyHashes { .. })
    ));
    let part = Payload::State(StatePart::Pages(vec![0; MAX_STATE_PART + 1]));
    assert!(matches!(
        encoder.push(&at(6, part)),
        Err(EncodeError::TooLong {
            kind: Kind::State,
            ..
        })
    ));
    let pages = |numbers: &[u64]| {
        let digest = |&page: &u64| PageDigest { page, digest: 7 };
        Payload::Digest(Box::new(StateDigest {
            range: 3..u64::MAX,
            pages: numbers.iter().map(digest).collect(),
            last: None,
        }))
    };
    assert_eq!(
        encoder.push(&at(6, pages(&[3, 3]))),
        Err(EncodeError::UnorderedPages)
    );
    assert_eq!(
        encoder.push(&at(6, pages(&[2, 3]))),
        Err(EncodeError::UnorderedPages),
        "one that is not covered"
    );
    let many: Vec<u64> = (3..=3 + MAX_PAGE_DIGESTS as u64).collect();
    assert!(matches!(
        encoder.push(&at(6, pages(&many))),
        Err(EncodeError::LargeDigest { .. })
    ));
    assert_eq!(
        encoder.push(&at(4, Payload::Progress)),
        Err(EncodeError::ExitsDecreased { last: 5, found: 4 })
    );
    assert_eq!(encoder.push(&at(5, Payload::Tsc(7))), Ok(Lsn(2)));
    let bytes = encoder.take().expect("two entries").seal();
    let (batch, _) = Batch::decode(&bytes).expect("decodes");
    assert_eq!(
        batch.entries,
        [at(5, Payload::Progress), at(5, Payload::Tsc(7))]
    );
}

#[test]
fn the_largest_entries_fit_and_a_full_batch_says_so() {
    let mut encoder = BatchEncoder::new(Lsn::FIRST);
    let mut count = 0;
    while !encoder.is_full() {
        count += 1;
        encoder.push(&frame(count, MAX_FRAME)).expect("fits");
    }
    assert_eq!(
        encoder.push(&frame(count + 1, 1)),
        Err(EncodeError::BatchFull)
    );
    let bytes = encoder.take().expect("entries").seal();
    assert!(bytes.len() <= HEADER_LEN + MAX_BODY);
    let (batch, _) = Batch::decode(&bytes).expect("decodes");
    assert_eq!(batch.last(), Lsn(count));
}

#[test]
fn a_batch_of_tiny_entries_is_full_by_count() {
    let mut encoder = BatchEncoder::new(Lsn::FIRST);
    while !encoder.is_full() {
        encoder.push(&at(1, Payload::Progress)).expect("fits");
    }
    let bytes = encoder.take().expect("entries").seal();
    let (batch, _) = Batch::decode(&bytes).expect("decodes");
    assert_eq!(batch.entries.len(), MAX_BATCH_ENTRIES);
}

#[test]
fn missing_repeated_and_backward_entries_are_out_of_order() {
    let log = ticks(6);
    let decoded: Vec<Batch> = batches(&log, 2)
        .iter()
        .map(|bytes| Batch::decode(bytes).expect("decodes").0)
        .collect();
    let mut order = LogOrder::default();
    order.admit(&decoded[0]).expect("the first");
    let wrong = |found| OrderError::Lsn {
        expected: Lsn(3),
        found,
    };
    assert_eq!(order.admit(&decoded[2]), Err(wrong(Lsn(5))));
    assert_eq!(order.admit(&decoded[0]), Err(wrong(Lsn(1))));
    let mut back = decoded[1].clone();
    back.entries[0].point = ExecutionPoint::at_exit(1);
    assert_eq!(
        order.admit(&back),
        Err(OrderError::Exits {
            lsn: Lsn(3),
            last: 2,
            found: 1
        })
    );
}

/// The sizes that the format was made for. A change that makes common entries larger is noticed.
#[test]
fn common_entries_are_small() {
    let size = |log: &[_]| {
        let bytes: usize = batches(log, log.len()).iter().map(Vec::len).sum();
        (bytes - HEADER_LEN) as f64 / log.len() as f64
    };
    let tsc = size(&ticks(1000));
    assert!(tsc <= 4.1, "{tsc} bytes a time stamp counter read");

    let registers: Vec<_> = (1..1000u64)
        .map(|n| {
            let mut registers = Registers {
                rip: 0xffff_ffff_8123_4567 + n % 7,
                cr3: 0x1234_5000,
                ..Registers::default()
            };
            registers.gpr[0] = n;
            registers.gpr[4] = 0xffff_c900_0001_0000 - 8 * (n % 3);
            at(n, Payload::Registers(Box::new(registers)))
        })
        .collect();
    let registers = size(&registers);
    assert!(registers <= 9.0, "{registers} bytes a register snapshot");
}
