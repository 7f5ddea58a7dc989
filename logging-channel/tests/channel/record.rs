//! A log in a file: whole, cut anywhere, damaged anywhere.

use std::fs;
use std::path::{Path, PathBuf};

use logging_channel::codec::PROTOCOL_VERSION;
use logging_channel::control::Control;
use logging_channel::entry::{Entry, Lsn};
use logging_channel::record::{
    Corruption, OpenError, ReadError, RecordReader, RecordWriter, WriteError,
};
use logging_channel::{Identity, IdentityError};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::logs::{frame, log, ticks};
use crate::peers::{host, identity};

/// Of the recordings.
const SEED: [u8; 32] = *b"as good a seed as any other one.";

/// What a reader makes of a file.
#[derive(Debug)]
enum Read {
    NotOpened(OpenError),
    Opened(Identity, Vec<Entry>, Option<ReadError>),
}

fn read(path: &Path) -> Read {
    let (identity, reader) = match RecordReader::open(path) {
        Ok(opened) => opened,
        Err(error) => return Read::NotOpened(error),
    };
    assert_eq!(reader.seed().bytes(), &SEED);
    assert_eq!(reader.host(), &host());
    let mut entries = Vec::new();
    for (n, item) in (1..).zip(reader) {
        match item {
            Ok((lsn, entry)) => {
                assert_eq!(lsn, Lsn(n));
                entries.push(entry);
            }
            Err(error) => return Read::Opened(identity, entries, Some(error)),
        }
    }
    Read::Opened(identity, entries, None)
}

/// Writes a log with a batch every `each` entries.
fn write(path: &Path, log: &[Entry], each: usize) {
    let mut writer =
        RecordWriter::create(path, &identity(), SEED.into(), &host()).expect("created");
    for entries in log.chunks(each) {
        for entry in entries {
            writer.append(entry).expect("appended");
        }
        writer.flush().expect("flushed");
    }
    assert_eq!(writer.finish().expect("finished"), Lsn(log.len() as u64));
}

fn scratch() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("guest.ftlog");
    (dir, path)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn what_is_written_is_read(log in log(100), each in 1usize..200) {
        let (_dir, path) = scratch();
        write(&path, &log, each);
        let Read::Opened(found, entries, None) = read(&path) else {
            panic!("{:?}", read(&path));
        };
        prop_assert_eq!(found, identity());
        prop_assert_eq!(entries, log);
    }
}

#[test]
fn large_logs_are_written_in_batches_by_themselves() {
    let (_dir, path) = scratch();
    let log: Vec<Entry> = (1..100).map(|n| frame(n, 60_000)).collect();
    write(&path, &log, usize::MAX);
    assert!(matches!(read(&path), Read::Opened(_, entries, None) if entries == log));
}

#[test]
fn a_file_cut_anywhere_gives_its_whole_batches_and_says_that_it_is_cut() {
    let (_dir, path) = scratch();
    let log = ticks(20);
    write(&path, &log, 5);
    let whole = fs::read(&path).expect("read");
    let mut most = 0;
    for len in 0..whole.len() {
        fs::write(&path, &whole[..len]).expect("written");
        match read(&path) {
            Read::NotOpened(OpenError::Cut { .. }) => assert_eq!(most, 0, "at {len}"),
            Read::Opened(_, entries, Some(ReadError::Cut { offset, last })) => {
                assert_eq!(entries, log[..entries.len()], "at {len}");
                assert_eq!(last, Lsn(entries.len() as u64));
                assert_eq!(entries.len() % 5, 0, "whole batches");
                assert!(offset as usize <= len);
                assert!(entries.len() >= most);
                most = entries.len();
            }
            other => panic!("cut at {len} of {}: {other:?}", whole.len()),
        }
    }
    assert_eq!(most, log.len(), "only the end mark is missing");
}

#[test]
fn any_flipped_bit_is_found_and_no_wrong_entry_is_given() {
    let (_dir, path) = scratch();
    let log = ticks(12);
    write(&path, &log, 4);
    let whole = fs::read(&path).expect("read");
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &bytes).expect("written");
        match read(&path) {
            Read::NotOpened(OpenError::NotALog { .. }) => assert!(bit < 64, "bit {bit}"),
            Read::NotOpened(OpenError::Corrupt { source, .. }) => {
                assert!(!source.to_string().contains("handshake"), "{source}");
            }
            Read::Opened(_, entries, Some(ReadError::Corrupt { offset, last, .. })) => {
                assert_eq!(entries, log[..entries.len()], "bit {bit}");
                assert_eq!(last, Lsn(entries.len() as u64));
                assert!(offset as usize <= bit / 8, "bit {bit} found at {offset}");
            }
            other => panic!("bit {bit}: {other:?}"),
        }
    }
}

#[test]
fn a_recording_that_was_not_finished_is_cut_after_what_it_had() {
    let (_dir, path) = scratch();
    let mut writer =
        RecordWriter::create(&path, &identity(), SEED.into(), &host()).expect("created");
    for entry in ticks(3) {
        writer.append(&entry).expect("appended");
    }
    drop(writer);
    assert!(matches!(
        read(&path),
        Read::Opened(_, entries, Some(ReadError::Cut { last: Lsn(3), .. })) if entries.len() == 3
    ));
}

#[test]
fn other_files_are_not_logs() {
    let (dir, path) = scratch();
    fs::write(&path, "GET / HTTP/1.1\r\n\r\n").expect("written");
    assert!(matches!(
        read(&path),
        Read::NotOpened(OpenError::NotALog { .. })
    ));
    assert!(matches!(
        read(&dir.path().join("missing")),
        Read::NotOpened(OpenError::Io { .. })
    ));
    assert!(matches!(
        read(dir.path()),
        Read::NotOpened(OpenError::Io { .. })
    ));
}

#[test]
fn another_version_is_named() {
    let (_dir, path) = scratch();
    write(&path, &ticks(1), 1);
    let mut bytes = fs::read(&path).expect("read");
    bytes[8] = PROTOCOL_VERSION as u8 + 1;
    let crc = crc32fast::hash(&bytes[..20]);
    bytes[20..24].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, &bytes).expect("written");
    match read(&path) {
        Read::NotOpened(error @ OpenError::OtherVersion { .. }) => {
            let ours = format!("version {PROTOCOL_VERSION}");
            assert!(error.to_string().contains(&ours), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_follows_or_contradicts_the_end_mark_is_corruption() {
    let (_dir, path) = scratch();
    write(&path, &ticks(4), 4);
    let whole = fs::read(&path).expect("read");
    let corruption = |bytes: &[u8]| {
        fs::write(&path, bytes).expect("written");
        match read(&path) {
            Read::Opened(_, _, Some(ReadError::Corrupt { source, .. })) => source,
            other => panic!("{other:?}"),
        }
    };
    let end = whole.len() - 28;
    assert!(matches!(
        corruption(&[&whole[..], b"x"].concat()),
        Corruption::AfterEnd
    ));
    let other = Control::Goodbye(Lsn(9)).encode();
    assert!(matches!(
        corruption(&[&whole[..end], &other].concat()),
        Corruption::OtherEnd(Lsn(9))
    ));
    let released = Control::Released(Lsn(1)).encode();
    assert!(matches!(
        corruption(&[&whole[..end], &released].concat()),
        Corruption::Misplaced
    ));
}

#[test]
fn what_cannot_be_written_is_said() {
    let (dir, path) = scratch();
    assert!(matches!(
        RecordWriter::create(dir.path(), &identity(), SEED.into(), &host()),
        Err(WriteError::Create { .. })
    ));
    let long = Identity {
        vm: "x".repeat(65),
        ..identity()
    };
    assert!(matches!(
        RecordWriter::create(&path, &long, SEED.into(), &host()),
        Err(WriteError::Identity(IdentityError::NameTooLong(65)))
    ));
    let mut writer =
        RecordWriter::create(&path, &identity(), SEED.into(), &host()).expect("created");
    assert!(matches!(
        writer.append(&frame(1, 1 << 17)),
        Err(WriteError::Entry(_))
    ));
}
