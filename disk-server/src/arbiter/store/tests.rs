//! The store against damage and loss of power.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use redb::StorageBackend;

use super::opening::write_format;
use super::*;

fn vm(n: usize) -> VmName {
    format!("vm{n}").parse().unwrap()
}

fn claim(store: &EpochStore, vm: &VmName, expected: u64, who: &str) -> Answer {
    let request = ClaimRequest {
        expected,
        claimant: who.parse().unwrap(),
    };
    let (answer, new) = store.claim(vm, &request).unwrap();
    if new {
        store.settle().unwrap();
    }
    answer
}

#[test]
fn records_survive_closing() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("a/b");
    let store = EpochStore::open(&state).unwrap();
    assert_eq!(store.read(&vm(1)).unwrap(), Record::default());
    assert_eq!(claim(&store, &vm(1), 0, "a"), Answer::Won { epoch: 1 });
    assert!(matches!(
        claim(&store, &vm(1), 0, "b"),
        Answer::Lost { epoch: 1, .. }
    ));
    assert_eq!(claim(&store, &vm(1), 1, "b"), Answer::Won { epoch: 2 });
    drop(store);
    let store = EpochStore::open(&state).unwrap();
    let record = store.read(&vm(1)).unwrap();
    assert_eq!(record.epoch, 2);
    assert_eq!(record.holder.unwrap().as_str(), "b");
    assert_eq!(claim(&store, &vm(1), 1, "b"), Answer::Won { epoch: 2 });
}

#[test]
fn no_epoch_of_a_forgotten_machine_is_given_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = EpochStore::open(directory.path()).unwrap();
    let forget = |store: &EpochStore, n| {
        let forgotten = store.forget(&vm(n), "stopped").unwrap();
        store.settle().unwrap();
        forgotten
    };
    for epoch in 0..5 {
        claim(&store, &vm(1), epoch, "a");
    }
    claim(&store, &vm(2), 0, "b");
    claim(&store, &vm(2), 1, "stopped");
    assert!(matches!(
        forget(&store, 1),
        Forgotten::Held(Record { epoch: 5, .. })
    ));
    assert_eq!(
        claim(&store, &vm(1), 5, "stopped"),
        Answer::Won { epoch: 6 }
    );
    assert_eq!(forget(&store, 1), Forgotten::Done);
    assert_eq!(forget(&store, 1), Forgotten::Unknown);
    // One of a lower epoch does not lower it.
    assert_eq!(forget(&store, 2), Forgotten::Done);
    drop(store);
    let store = EpochStore::open(directory.path()).unwrap();
    assert_eq!(store.list(None, 9).unwrap(), []);
    for n in [1, 2, 3] {
        // Hosts of the old one that wake up, or of the new one that have not asked.
        for old in 0..6 {
            let lost = Answer::Lost {
                epoch: 6,
                holder: None,
            };
            assert_eq!(claim(&store, &vm(n), old, "a"), lost);
        }
        assert_eq!(store.read(&vm(n)).unwrap(), unclaimed(6));
        assert_eq!(claim(&store, &vm(n), 6, "c"), Answer::Won { epoch: 7 });
    }
}

#[test]
fn a_second_server_is_locked_out() {
    let directory = tempfile::tempdir().unwrap();
    let _first = EpochStore::open(directory.path()).unwrap();
    let second = EpochStore::open(directory.path());
    assert!(
        matches!(second, Err(OpenError::Locked { .. })),
        "{second:?}"
    );
}

#[test]
fn a_foreign_database_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(STATE_FILE);
    drop(Database::create(&path).unwrap());
    let error = EpochStore::open(directory.path()).unwrap_err();
    assert!(
        matches!(
            error,
            OpenError::Corrupt {
                source: Damage::Format { found: None },
                ..
            }
        ),
        "{error:?}"
    );
}

/// A state directory with some history, its records, and the bytes of its file.
fn history(directory: &Path) -> (Vec<(VmName, Record)>, Vec<u8>) {
    let store = EpochStore::open(directory).unwrap();
    for epoch in 0..6 {
        for n in 0..4 {
            claim(&store, &vm(n), epoch, &format!("host{n}-{epoch}"));
        }
    }
    let records = store.list(None, usize::MAX).unwrap();
    drop(store);
    (records, fs::read(directory.join(STATE_FILE)).unwrap())
}

/// What opens from these bytes: the records, or why there are none.
fn open_bytes(bytes: &[u8]) -> Result<Vec<(VmName, Record)>, OpenError> {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(STATE_FILE), bytes).unwrap();
    let store = EpochStore::open(directory.path())?;
    Ok(store.list(None, usize::MAX).unwrap())
}

#[test]
fn a_truncated_file_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (_, bytes) = history(directory.path());
    for length in [0, 1, 8, 9, 64, 320, 512, 4095, 4096, 8192, bytes.len() / 2] {
        let error = open_bytes(&bytes[..length]).unwrap_err();
        assert!(
            matches!(error, OpenError::Corrupt { .. }),
            "{length}: {error:?}"
        );
    }
}

#[test]
fn an_endless_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (_, bytes) = history(directory.path());
    let path = directory.path().join(STATE_FILE);
    fs::write(&path, bytes).unwrap();
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    let error = EpochStore::open(directory.path()).unwrap_err();
    assert!(
        matches!(
            error,
            OpenError::Corrupt {
                source: Damage::Oversize,
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn no_flipped_bit_of_the_header_loses_a_decision() {
    let directory = tempfile::tempdir().unwrap();
    let (records, bytes) = history(directory.path());
    let mut refused = 0;
    for bit in 0..320 * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match open_bytes(&flipped) {
            Ok(found) => assert_eq!(found, records, "bit {bit}"),
            Err(OpenError::Corrupt { .. }) => refused += 1,
            Err(other) => panic!("bit {bit}: {other:?}"),
        }
    }
    assert!(refused > 0, "the header is not where this test thinks");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_damage_loses_a_decision(places in prop::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 1..8)) {
        let directory = tempfile::tempdir().unwrap();
        let (records, mut bytes) = history(directory.path());
        // Behind the header: several places there at once can name an older commit, and no
        // store without a second file could tell.
        let header = 4096;
        for (place, change) in places {
            let at = header + place.index(bytes.len() - header);
            bytes[at] ^= change;
        }
        match open_bytes(&bytes) {
            Ok(found) => prop_assert_eq!(found, records),
            Err(OpenError::Corrupt { .. }) => {}
            Err(other) => return Err(TestCaseError::fail(format!("{other:?}"))),
        }
    }
}

/// A disk that keeps what was written and what was synced apart, and can lose power.
#[derive(Debug, Default, Clone)]
struct Disk(Arc<Mutex<DiskState>>);

#[derive(Debug, Default)]
struct DiskState {
    /// What reads see.
    cached: Vec<u8>,
    /// What survives for certain.
    synced: Vec<u8>,
    /// What was done since the last sync, and may survive or not.
    pending: Vec<Change>,
    /// Every moment at which the power could have gone: synced bytes and pending changes.
    moments: Vec<(Vec<u8>, Vec<Change>)>,
}

#[derive(Debug, Clone)]
enum Change {
    Length(u64),
    Write(u64, Vec<u8>),
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Length(length) => bytes.resize(usize::try_from(*length).unwrap(), 0),
        Change::Write(offset, data) => {
            let offset = usize::try_from(*offset).unwrap();
            let end = offset + data.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[offset..end].copy_from_slice(data);
        }
    }
}

impl DiskState {
    fn change(&mut self, change: Change) {
        apply(&mut self.cached, &change);
        self.pending.push(change);
        self.moments
            .push((self.synced.clone(), self.pending.clone()));
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().cached.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.0.lock().unwrap().cached[offset..offset + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().unwrap().change(Change::Length(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        disk.synced = disk.cached.clone();
        disk.pending.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        disk.change(Change::Write(offset, data.to_vec()));
        Ok(())
    }
}

#[test]
fn loss_of_power_at_any_write_loses_no_answered_decision() {
    let disk = Disk::default();
    let database = Database::builder()
        .create_with_backend(disk.clone())
        .unwrap();
    write_format(&database).unwrap();
    let store = EpochStore {
        database,
        _lock: None,
    };
    // For each epoch, how many moments had passed when it was answered.
    let mut answered: BTreeMap<u64, usize> = BTreeMap::new();
    let beginning = disk.0.lock().unwrap().moments.len();
    for epoch in 0..8 {
        let request = ClaimRequest {
            expected: epoch,
            claimant: format!("host{epoch}").parse().unwrap(),
        };
        store.claim(&vm(0), &request).unwrap();
        answered.insert(epoch + 1, disk.0.lock().unwrap().moments.len());
        store.settle().unwrap();
    }
    let moments = std::mem::take(&mut disk.0.lock().unwrap().moments);
    drop(store);

    let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
    for (moment, (synced, pending)) in moments.iter().enumerate().skip(beginning) {
        let must_have = answered
            .iter()
            .filter(|(_, at)| **at <= moment)
            .map(|(epoch, _)| *epoch)
            .max()
            .unwrap_or(0);
        for _ in 0..4 {
            let mut bytes = synced.clone();
            for change in pending {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                if random >> 63 == 0 || matches!(change, Change::Length(_)) {
                    apply(&mut bytes, change);
                }
            }
            let records =
                open_bytes(&bytes).unwrap_or_else(|error| panic!("moment {moment}: {error:?}"));
            let epoch = records.first().map_or(0, |(_, record)| record.epoch);
            assert!(
                epoch == must_have || epoch == must_have + 1,
                "moment {moment}: epoch {epoch}, answered {must_have}"
            );
        }
    }
}
