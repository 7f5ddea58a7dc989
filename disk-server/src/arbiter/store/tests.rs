//! The store against damage, loss of power, and disks that fail.

use std::fs::{self, File};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::arbiter::{Claimant, Next, STOPPED};
use crate::state::{Damage, Unusable};

fn open_in(directory: &Path) -> Result<EpochStore, OpenStateError> {
    EpochStore::open(&StateDirectory::open(directory)?)
}

fn vm(n: usize) -> VmName {
    format!("vm{n}").parse().unwrap()
}

fn try_claim(
    store: &EpochStore,
    vm: &VmName,
    expected: u64,
    who: &str,
) -> Result<Answer, StoreError> {
    let holder = || store.read(vm).holder.unwrap();
    let (claimant, next) = match who {
        STOPPED => (holder(), Next::Stopped),
        who => (who.parse().unwrap(), Next::Start),
    };
    let request = ClaimRequest {
        expected,
        claimant,
        next,
    };
    store.claim(vm, &request)
}

fn claim(store: &EpochStore, vm: &VmName, expected: u64, who: &str) -> Answer {
    try_claim(store, vm, expected, who).unwrap()
}

#[test]
fn records_survive_closing() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("a/b");
    let store = open_in(&state).unwrap();
    let number = store.server_number();
    assert_eq!(store.read(&vm(1)), Record::default());
    assert_eq!(claim(&store, &vm(1), 0, "a"), Answer::Won { epoch: 1 });
    assert!(matches!(
        claim(&store, &vm(1), 0, "b"),
        Answer::Lost { epoch: 1, .. }
    ));
    let holder: Claimant = "a".parse().unwrap();
    let takes_a_backup = ClaimRequest {
        expected: 1,
        claimant: holder.clone(),
        next: Next::With("b".parse().unwrap()),
    };
    let won = Ok(Answer::Won { epoch: 2 });
    assert_eq!(store.claim(&vm(1), &takes_a_backup).map_err(|_| ()), won);
    let acknowledged = store.acknowledge(&vm(1), 2, &holder).unwrap();
    assert!(acknowledged.acknowledged);
    drop(store);
    let store = open_in(&state).unwrap();
    assert_eq!(store.server_number(), number);
    assert_eq!(store.read(&vm(1)), acknowledged);
    assert_eq!(store.claim(&vm(1), &takes_a_backup).map_err(|_| ()), won);
    assert_eq!(store.read(&vm(1)), acknowledged);
}

#[test]
fn no_epoch_of_a_forgotten_machine_is_given_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_in(directory.path()).unwrap();
    let forget = |store: &EpochStore, n| store.forget(&vm(n)).unwrap();
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
    let store = open_in(directory.path()).unwrap();
    assert_eq!(store.list(None, 9), []);
    for n in [1, 2, 3] {
        // Hosts of the old one that wake up, or of the new one that have not asked.
        for old in 0..6 {
            let lost = Answer::Lost {
                epoch: 6,
                holder: None,
            };
            assert_eq!(claim(&store, &vm(n), old, "a"), lost);
        }
        let unclaimed = Record {
            epoch: 6,
            ..Record::default()
        };
        assert_eq!(store.read(&vm(n)), unclaimed);
        assert_eq!(claim(&store, &vm(n), 6, "c"), Answer::Won { epoch: 7 });
    }
}

#[test]
fn a_second_server_is_locked_out() {
    let directory = tempfile::tempdir().unwrap();
    let _first = open_in(directory.path()).unwrap();
    let second = open_in(directory.path());
    assert!(
        matches!(second, Err(OpenStateError::Locked { .. })),
        "{second:?}"
    );
}

#[test]
fn the_state_of_another_version_is_not_called_damaged() {
    let directory = tempfile::tempdir().unwrap();
    drop(open_in(directory.path()).unwrap());
    let later = format!(
        "ftvm-arbiter 3 {:016x}\n",
        xxhash_rust::xxh64::xxh64(b"", 3)
    );
    fs::write(directory.path().join(STATE_FILE), later).unwrap();
    let error = open_in(directory.path()).unwrap_err();
    assert!(
        matches!(error, OpenStateError::Later { found: 3, .. }),
        "{error:?}"
    );
    // What servers before the first release left, beside whatever.
    File::create(directory.path().join("arbiter.redb")).unwrap();
    let error = open_in(directory.path()).unwrap_err();
    assert!(matches!(error, OpenStateError::Earlier { .. }), "{error:?}");
    assert!(error.to_string().contains("arbiter.redb"), "{error}");
}

/// A state directory with some history, its records, and the bytes of its file.
fn history(directory: &Path) -> (Vec<(VmName, Record)>, Vec<u8>) {
    let store = open_in(directory).unwrap();
    for epoch in 0..6 {
        for n in 0..4 {
            claim(&store, &vm(n), epoch, &format!("host{n}-{epoch}"));
        }
    }
    let records = store.list(None, usize::MAX);
    (records, fs::read(directory.join(STATE_FILE)).unwrap())
}

fn is_refused(bytes: &[u8]) -> bool {
    matches!(format::decode(bytes), Err(Unusable::Damaged(_)))
}

#[test]
fn every_change_of_the_file_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let (_, bytes) = history(directory.path());
    assert!(format::decode(&bytes).is_ok());
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(is_refused(&flipped), "bit {bit}");
    }
    for length in 0..bytes.len() {
        assert!(is_refused(&bytes[..length]), "{length} bytes");
    }
    for more in [&b"\0"[..], b"\n", b" ", b"{}"] {
        assert!(is_refused(&[&bytes, more].concat()), "{more:?} behind it");
    }
}

#[test]
fn a_damaged_file_is_left_alone_and_an_endless_one_is_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let (records, bytes) = history(directory.path());
    let path = directory.path().join(STATE_FILE);
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let error = open_in(directory.path()).unwrap_err();
    assert!(matches!(error, OpenStateError::Corrupt { .. }), "{error:?}");
    assert!(fs::read(&path).unwrap() == bytes[..bytes.len() - 1]);
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(1 << 40).unwrap();
    let error = open_in(directory.path()).unwrap_err();
    let oversize = |source: &Damage| matches!(source, Damage::Oversize);
    assert!(
        matches!(&error, OpenStateError::Corrupt { source, .. } if oversize(source)),
        "{error:?}"
    );
    fs::write(&path, &bytes).unwrap();
    let store = open_in(directory.path()).unwrap();
    assert_eq!(store.list(None, usize::MAX), records);
}

#[test]
fn a_full_store_fits_a_file() {
    let mut state = State {
        server: ServerNumber(u64::MAX),
        floor: super::super::MAX_EPOCH,
        records: BTreeMap::new(),
    };
    for n in 0..MAX_VMS {
        // The longest names, of characters that JSON escapes.
        let name = format!("{n:05}{}", "\"".repeat(VmName::MAX_LEN - 5));
        let host: Claimant = "\\".repeat(Claimant::MAX_LEN).parse().unwrap();
        let record = Record {
            backup: Some(host.clone()),
            ..Record::held(super::super::MAX_EPOCH, host)
        };
        state.records.insert(name.parse().unwrap(), record);
    }
    assert_eq!(format::decode(&format::encode(&state)).unwrap(), state);
}

/// A directory of which the power can go, and of which every step can fail.
#[derive(Debug, Default, Clone)]
struct FakeFolder(Arc<Mutex<Disk>>);

#[derive(Debug, Default)]
struct Disk {
    /// The state file as it is seen.
    seen: Option<Vec<u8>>,
    /// What it may be once the power went.
    after_loss: Vec<Option<Vec<u8>>>,
    new: Option<Vec<u8>>,
    /// `after_loss`, after every step.
    moments: Vec<Vec<Option<Vec<u8>>>>,
    /// Steps until one fails, and whether it has done its work by then.
    failure: Option<(usize, bool)>,
}

impl FakeFolder {
    fn with<T>(&self, act: impl FnOnce(&mut Disk) -> T) -> T {
        act(&mut self.0.lock())
    }

    fn step(&self, act: impl FnOnce(&mut Disk)) -> io::Result<()> {
        self.with(|disk| {
            let failure = match &mut disk.failure {
                Some((0, works)) => Some(*works),
                Some((left, _)) => {
                    *left -= 1;
                    None
                }
                None => None,
            };
            if failure.is_some() {
                disk.failure = None;
            }
            if failure != Some(false) {
                act(disk);
            }
            disk.moments.push(disk.after_loss.clone());
            match failure {
                None => Ok(()),
                Some(_) => Err(io::Error::other("failed")),
            }
        })
    }
}

impl Folder for FakeFolder {
    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.with(|disk| disk.seen.clone()))
    }

    fn write_new(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.step(|disk| disk.new = Some(bytes.to_vec()))
    }

    fn rename_new(&mut self) -> io::Result<()> {
        self.step(|disk| {
            disk.seen = disk.new.take();
            disk.after_loss.push(disk.seen.clone());
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.step(|disk| disk.after_loss = vec![disk.seen.clone()])
    }
}

fn open(folder: &FakeFolder) -> Result<EpochStore, OpenStateError> {
    EpochStore::load(Box::new(folder.clone()), Path::new("state"))
}

/// The epochs that a machine may be in once the power went.
fn epochs_after_loss(contents: &[Option<Vec<u8>>]) -> Vec<u64> {
    let epoch = |bytes: &Option<Vec<u8>>| {
        let bytes = bytes.as_deref().expect("the file never goes away");
        format::decode(bytes).unwrap().record(&vm(0)).epoch
    };
    contents.iter().map(epoch).collect()
}

#[test]
fn loss_of_power_at_any_step_loses_no_answered_decision() {
    let folder = FakeFolder::default();
    let store = open(&folder).unwrap();
    let mut begun = folder.with(|disk| std::mem::take(&mut disk.moments).len());
    assert!(begun > 0);
    for epoch in 0..8 {
        assert_eq!(
            claim(&store, &vm(0), epoch, "a"),
            Answer::Won { epoch: epoch + 1 }
        );
        folder.with(|disk| {
            begun += disk.moments.len();
            for moment in disk.moments.drain(..) {
                for found in epochs_after_loss(&moment) {
                    assert!(found == epoch || found == epoch + 1, "{found} in {epoch}");
                }
            }
            assert_eq!(epochs_after_loss(&disk.after_loss), [epoch + 1]);
        });
    }
    assert!(begun > 8);
}

#[test]
fn a_decision_that_could_not_be_stored_does_not_count_until_it_is_made_again() {
    for (step, works) in (0..3).flat_map(|step| [(step, false), (step, true)]) {
        let folder = FakeFolder::default();
        let store = open(&folder).unwrap();
        claim(&store, &vm(0), 0, "a");
        folder.with(|disk| disk.failure = Some((step, works)));
        let failed = try_claim(&store, &vm(0), 1, "b");
        assert!(matches!(failed, Err(StoreError::Storage(_))), "{failed:?}");
        assert_eq!(store.read(&vm(0)).epoch, 1, "step {step}");
        // Whoever comes next wins, and the first one hears of it.
        assert_eq!(claim(&store, &vm(0), 1, "c"), Answer::Won { epoch: 2 });
        assert!(matches!(
            claim(&store, &vm(0), 1, "b"),
            Answer::Lost { epoch: 2, .. }
        ));
        let lost = folder.with(|disk| std::mem::take(&mut disk.after_loss));
        for bytes in lost {
            let holder = format::decode(&bytes.unwrap())
                .unwrap()
                .record(&vm(0))
                .holder;
            assert_eq!(holder.unwrap().as_str(), "c");
        }
        folder.with(|disk| disk.failure = None);
        assert_eq!(open(&folder).unwrap().read(&vm(0)), store.read(&vm(0)));
    }
}

#[test]
fn nothing_is_answered_from_a_state_that_may_not_stay() {
    let folder = FakeFolder::default();
    let store = open(&folder).unwrap();
    claim(&store, &vm(0), 0, "a");
    // The process dies between the new name and its safety.
    folder.with(|disk| disk.failure = Some((2, false)));
    try_claim(&store, &vm(0), 1, "b").unwrap_err();
    drop(store);
    folder.with(|disk| disk.failure = Some((0, false)));
    let opened = open(&folder);
    assert!(
        matches!(opened, Err(OpenStateError::Access { .. })),
        "{opened:?}"
    );
    let store = open(&folder).unwrap();
    assert_eq!(claim(&store, &vm(0), 1, "b"), Answer::Won { epoch: 2 });
    folder.with(|disk| assert_eq!(epochs_after_loss(&disk.after_loss), [2]));
}

fn record() -> impl Strategy<Value = Record> {
    let name = || "[!-~]{1,128}".prop_map(|name| name.parse().unwrap());
    let backup = prop::option::of(name());
    let record = (1..=super::super::MAX_EPOCH, name(), backup, any::<bool>());
    record.prop_map(|(epoch, holder, backup, acknowledged)| Record {
        acknowledged: acknowledged && backup.is_some(),
        backup,
        ..Record::held(epoch, holder)
    })
}

/// What the first releases wrote.
#[test]
fn a_state_without_backups_is_read() {
    let body = "{\"server\":\"5f21c07d9be3a846\",\"floor\":7,\
                \"records\":{\"db\":{\"epoch\":3,\"holder\":\"hostA/1f0c\"}}}\n";
    let hash = xxhash_rust::xxh64::xxh64(body.as_bytes(), 1);
    let state = format::decode(format!("ftvm-arbiter 1 {hash:016x}\n{body}").as_bytes()).unwrap();
    let record = Record::held(3, "hostA/1f0c".parse().unwrap());
    assert_eq!(state.record(&"db".parse().unwrap()), record);
}

proptest! {
    #[test]
    fn whatever_was_written_is_read_again(
        server: u64,
        floor in 0..=super::super::MAX_EPOCH,
        records in prop::collection::btree_map("[!-~]{1,64}", record(), 0..9),
    ) {
        let records = records.into_iter().map(|(vm, record)| (vm.parse().unwrap(), record));
        let state = State { server: ServerNumber(server), floor, records: records.collect() };
        prop_assert_eq!(format::decode(&format::encode(&state)).unwrap(), state);
    }
}
