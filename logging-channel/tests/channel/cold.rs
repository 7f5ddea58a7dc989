//! A cold backup: what it keeps, when it acknowledges that, and what comes of it when it is replayed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use logging_channel::Keep;
use logging_channel::entry::{Entry, ExecutionPoint, Lsn, Payload, StatePart};
use logging_channel::memory::{PAGE, PutPage, TakeBlocks, TakeMemory, next_transfer};
use logging_channel::receiver::{Next, Peek, Receiver, SpoolError};
use logging_channel::sender::{Commit, Finish};
use logging_channel::session::ConnectError;
use logging_channel::{LossReason, Settings};
use parking_lot::Mutex;
use tempfile::TempDir;

use crate::peers::{LONG, Pair, connect, eventually, identity, localhost, pair, patient, take};

fn cold(directory: &Path, durable: bool) -> Settings {
    Settings {
        keep: Some(Keep {
            directory: directory.to_owned(),
            durable,
            most_replay: Duration::from_secs(600),
            most_log: 20_000,
            read_block,
        }),
        ..patient()
    }
}

fn entry(exits: u64, payload: Payload) -> Entry {
    Entry {
        point: ExecutionPoint::at_exit(exits),
        check: None,
        payload,
    }
}

/// Pages of memory, by the last byte of their numbers, and what fills each.
type Pages = BTreeMap<u8, u8>;

fn block(pages: &[(u8, u8)]) -> Vec<u8> {
    pages
        .iter()
        .flat_map(|&(page, fill)| [page, fill])
        .collect()
}

fn read_block(block: &[u8], put: PutPage<'_>) -> Result<(), String> {
    let (pages, _) = block.as_chunks::<2>();
    let mut pages = pages.iter();
    pages.try_for_each(|[page, fill]| put((*page).into(), &[*fill; PAGE]))
}

/// Memory that came, of each transfer.
#[derive(Default)]
struct Memory(Mutex<BTreeMap<u32, Pages>>);

impl Memory {
    fn new() -> Arc<Self> {
        Arc::default()
    }

    fn put(&self, transfer: u32) -> impl FnMut(u64, &[u8; PAGE]) -> Result<(), String> {
        move |page, content| {
            let mut memory = self.0.lock();
            let pages = memory.entry(transfer).or_default();
            pages.insert(page as u8, content[0]);
            Ok(())
        }
    }
}

impl TakeBlocks for Memory {
    fn take(&self, transfer: u32, block: &[u8]) -> Result<(), String> {
        read_block(block, &mut self.put(transfer))
    }

    fn ended(&self, _: String) {}
}

impl TakeMemory for Memory {
    fn take_all(
        &self,
        transfer: u32,
        read: &dyn Fn(PutPage<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        read(&mut self.put(transfer))
    }
}

const PROTECTED: Payload = Payload::Protected {
    clock: 1,
    wall_clock: 1,
};

/// Entries that make the log long.
fn frames(from: u64, count: u64) -> Vec<Entry> {
    (from..from + count)
        .map(|exit| entry(exit, Payload::NetRx(vec![exit as u8; 1000])))
        .collect()
}

fn append(pair: &Pair, entries: impl IntoIterator<Item = Entry>) {
    for entry in entries {
        pair.sender.append(entry);
    }
    pair.sender.flush();
}

fn kept(receiver: &Receiver) -> logging_channel::receiver::Kept {
    let kept = receiver.handle().kept(Duration::ZERO);
    kept.expect("it is cold")
}

fn files(directory: &Path, kind: &str) -> usize {
    let files = fs::read_dir(directory).expect("a directory");
    let names = files.map(|file| file.expect("a file").file_name());
    names
        .filter(|name| name.to_string_lossy().starts_with(kind))
        .count()
}

fn segments(directory: &Path) -> usize {
    files(directory, "ftvm-log-")
}

#[test]
fn what_is_kept_counts_as_executed_and_is_replayed_when_that_begins() {
    let directory = TempDir::new().expect("a directory");
    let mut pair = pair(&patient(), &cold(directory.path(), false));
    append(&pair, frames(1, 5));
    append(&pair, [entry(6, PROTECTED)]);
    let sender = pair.sender.clone();
    eventually("all is kept", || sender.executed() == Lsn(6));
    assert_eq!(pair.receiver.peek(Duration::ZERO), Peek::TimedOut);
    assert!(pair.receiver.is_cold());
    let is_protecting = kept(&pair.receiver).is_protecting;
    assert!(is_protecting);

    pair.receiver.begin_replay(Memory::new()).expect("readable");
    let before = Instant::now();
    assert_eq!(take(&mut pair.receiver, 0, 5), frames(1, 5));
    assert!(pair.receiver.arrived().expect("it came") <= before);
    // It has turned hot, and goes on with what comes.
    append(&pair, frames(7, 3));
    take(&mut pair.receiver, 5, 1);
    assert_eq!(take(&mut pair.receiver, 6, 3), frames(7, 3));
    eventually("it has caught up", || {
        let _ = pair.receiver.peek(Duration::ZERO);
        !pair.receiver.is_cold()
    });
    pair.receiver.executed(Lsn(9));
    eventually("what it executes counts", || sender.executed() == Lsn(9));
    drop(pair.sender);
    drop(sender);
    assert!(matches!(pair.receiver.next(LONG), Next::Ended(_)));
}

#[test]
fn a_replay_begins_with_the_last_state_that_is_complete() {
    let directory = TempDir::new().expect("a directory");
    let mut pair = pair(&patient(), &cold(directory.path(), true));
    let part = |exit, part| entry(exit, Payload::State(part));
    append(&pair, [part(1, StatePart::Begin(1))]);
    append(
        &pair,
        [part(2, StatePart::Commit(vec![1])), entry(2, PROTECTED)],
    );
    append(&pair, frames(3, 30));
    // The log is longer than it should be.
    eventually("it asks", || pair.sender.renewal_wanted());
    assert!(!pair.sender.renewal_wanted(), "once");
    let renewal = |exit, part| entry(exit, Payload::Renewal(part));
    let mut streams = pair.sender.memory_streams().expect("room");
    let transfer = next_transfer(2, true);
    streams[0]
        .send(transfer, &block(&[(1, 1), (2, 2)]))
        .expect("sent");
    append(&pair, frames(33, 1));
    append(
        &pair,
        [
            renewal(34, StatePart::Begin(transfer)),
            renewal(34, StatePart::Memory(2)),
            renewal(34, StatePart::Commit(vec![3])),
        ],
    );
    append(&pair, [part(35, StatePart::Commit(vec![2]))]); // a delta's
    append(&pair, frames(36, 1));
    // A part of its memory is on its way: what is kept counts as ever.
    eventually("all is kept", || pair.sender.acked() == Lsn(39));
    eventually("that counts", || pair.sender.executed() == Lsn(39));
    assert!(kept(&pair.receiver).generation.log_bytes > 30_000);
    assert_eq!(segments(directory.path()), 2);

    streams[0].send(transfer, &block(&[(2, 3)])).expect("sent");
    eventually("it takes the old one's place", || {
        segments(directory.path()) == 1
    });
    let now = kept(&pair.receiver);
    assert!(now.generation.log_bytes < 3000, "{now:?}");
    assert!(
        now.generation.state_bytes > 2 * PAGE as u64 && now.is_protecting,
        "{now:?}"
    );

    drop((pair.sender, streams));
    eventually("all is over", || kept(&pair.receiver).is_over);
    let memory = Memory::new();
    pair.receiver
        .begin_replay(memory.clone())
        .expect("readable");
    let replayed = take(&mut pair.receiver, 34, 5);
    assert_eq!(replayed[0], renewal(34, StatePart::Begin(transfer)));
    assert_eq!(replayed[4], frames(36, 1)[0]);
    let pages = BTreeMap::from([(1, 1), (2, 3)]);
    eventually("its memory comes", || {
        *memory.0.lock() == BTreeMap::from([(transfer, pages.clone())])
    });
    assert!(matches!(
        pair.receiver.next(LONG),
        Next::Ended(LossReason::Closed)
    ));
    drop(pair.receiver);
    eventually("it is of no use any more", || {
        segments(directory.path()) == 0
    });
}

/// All or nothing.
#[test]
fn a_state_that_does_not_come_to_its_end_leaves_the_one_before() {
    let directory = TempDir::new().expect("a directory");
    let mut pair = pair(&patient(), &cold(directory.path(), false));
    let renewal = |part| entry(2, Payload::Renewal(part));
    let log = [
        entry(1, PROTECTED),
        renewal(StatePart::Begin(1)),
        renewal(StatePart::Memory(2)),
        renewal(StatePart::Commit(vec![1])),
        entry(3, Payload::Tick(1)),
    ];
    let mut streams = pair.sender.memory_streams().expect("room");
    streams[0].send(1, &block(&[(1, 1)])).expect("sent");
    append(&pair, log.clone());
    eventually("all is kept", || pair.sender.executed() == Lsn(5));
    let memory = Memory::new();
    pair.receiver
        .begin_replay(memory.clone())
        .expect("readable");
    assert_eq!(take(&mut pair.receiver, 0, 5), log);
    // Who follows the log through it has no use for the rest, and does not wait for it.
    for _ in 0..100 {
        streams[0].send(1, &block(&[(2, 2)])).expect("sent");
    }
    streams[0].send(2, &block(&[(3, 3)])).expect("sent");
    let repair = BTreeMap::from([(2, BTreeMap::from([(3, 3)]))]);
    eventually("what comes later is taken", || *memory.0.lock() == repair);
}

/// A guest that goes on writing has its pages sent again and again, and no more is kept of them.
#[test]
fn memory_takes_no_more_room_than_the_guest_has() {
    let directory = TempDir::new().expect("a directory");
    let pair = pair(&patient(), &cold(directory.path(), false));
    let mut streams = pair.sender.memory_streams().expect("room");
    for round in 0..200 {
        let pages: Vec<(u8, u8)> = (0..16).map(|page| (page, round)).collect();
        streams[0].send(2, &block(&pages)).expect("sent");
    }
    let part = |exit, part| entry(exit, Payload::State(part));
    let log = [
        part(1, StatePart::Begin(2)),
        part(1, StatePart::Memory(200)),
        part(1, StatePart::Commit(vec![1])),
    ];
    append(&pair, log);
    eventually("all is kept", || pair.sender.executed() == Lsn(3));
    let path = directory.path().join("ftvm-memory-2");
    assert_eq!(fs::metadata(path).expect("kept").len(), 16 * PAGE as u64);
}

/// The replay begins behind what the log said of the guest's clocks.
#[test]
fn the_clocks_of_the_log_before_the_state_are_known() {
    let directory = TempDir::new().expect("a directory");
    let pair = pair(&patient(), &cold(directory.path(), false));
    let renewal = |part| entry(5, Payload::Renewal(part));
    let log = [
        entry(1, PROTECTED),
        entry(2, Payload::WallClock(77)),
        entry(3, Payload::Clock(8)),
        entry(4, Payload::Tick(9)),
        renewal(StatePart::Begin(1)),
        renewal(StatePart::Commit(vec![1])),
    ];
    append(&pair, log);
    eventually("all is kept", || pair.sender.executed() == Lsn(6));
    let now = kept(&pair.receiver);
    assert_eq!(now.generation.log_bytes, 0, "{now:?}");
    let clocks: Vec<Payload> = now.clocks.into_iter().map(|(_, payload)| payload).collect();
    assert_eq!(
        clocks,
        [PROTECTED, Payload::Tick(9), Payload::WallClock(77)]
    );
}

#[test]
fn one_that_keeps_on_the_disk_acknowledges_all_and_ends_in_order() {
    let directory = TempDir::new().expect("a directory");
    let Pair {
        sender, receiver, ..
    } = pair(&patient(), &cold(directory.path(), true));
    let mut last = Lsn(0);
    for entry in frames(1, 300) {
        last = sender.append(entry);
    }
    sender.flush();
    assert_eq!(sender.wait_committed(last, LONG), Commit::Committed);
    assert!(kept(&receiver).generation.log_bytes > 300_000);
    assert_eq!(sender.finish(LONG), Finish::Orderly);
    eventually("its end is known", || {
        receiver.lost() == Some(LossReason::Orderly) && kept(&receiver).is_over
    });
}

#[test]
fn how_long_the_replay_takes_is_what_the_guest_used_since_the_state() {
    let directory = TempDir::new().expect("a directory");
    let pair = pair(&patient(), &cold(directory.path(), false));
    let used = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(5000));
    let meter = used.clone();
    let millis = move || meter.load(std::sync::atomic::Ordering::Relaxed);
    pair.sender
        .meter_with(move || Duration::from_millis(millis()));
    let part = |exit, part| entry(exit, Payload::State(part));
    append(
        &pair,
        [
            part(1, StatePart::Begin(1)),
            part(2, StatePart::Commit(vec![1])),
        ],
    );
    // What is used is told behind the batch.
    append(&pair, [part(3, StatePart::Begin(1))]);
    append(&pair, [part(4, StatePart::Commit(vec![1]))]);
    eventually("all is kept", || pair.sender.executed() == Lsn(4));
    used.store(8500, std::sync::atomic::Ordering::Relaxed);
    append(&pair, frames(5, 1));
    eventually("the first is kept", || pair.sender.executed() == Lsn(5));
    append(&pair, frames(6, 1));
    eventually("all is kept", || pair.sender.executed() == Lsn(6));
    let replay = kept(&pair.receiver).replay;
    let expected = Duration::from_millis(3500)..Duration::from_millis(3600);
    assert!(expected.contains(&replay), "{replay:?}");
}

#[test]
fn a_directory_has_one_user_and_what_is_left_there_goes() {
    let directory = TempDir::new().expect("a directory");
    for (name, goes) in [
        ("ftvm-log-17", true),
        ("ftvm-log-x", false),
        ("notes", false),
    ] {
        let path = directory.path().join(name);
        fs::write(&path, "old").expect("written");
        let pair = pair(&patient(), &cold(directory.path(), false));
        let refused = connect(localhost(), &identity(), &cold(directory.path(), false));
        match refused {
            Err(ConnectError::Keep(error @ SpoolError::InUse { .. })) => {
                assert!(
                    error.to_string().contains("a directory of its own"),
                    "{error}"
                );
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(!path.exists(), goes, "{name}");
        drop(pair);
        let lock = fs::File::open(directory.path().join("lock")).expect("there");
        eventually("it is free", || lock.try_lock().is_ok());
    }
}

#[test]
fn what_was_damaged_meanwhile_is_told() {
    let directory = TempDir::new().expect("a directory");
    let mut pair = pair(&patient(), &cold(directory.path(), false));
    append(&pair, frames(1, 10));
    eventually("all is kept", || pair.sender.executed() == Lsn(10));
    let path = directory.path().join("ftvm-log-0");
    let mut bytes = fs::read(&path).expect("kept");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&path, bytes).expect("written");
    pair.receiver.begin_replay(Memory::new()).expect("it opens");
    match pair.receiver.next(LONG) {
        Next::Damaged(how) => {
            assert!(
                how.contains("ftvm-log-0") && how.contains("checksum"),
                "{how}"
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(kept(&pair.receiver).failure.is_some());
}

/// A full disk, or one that is gone.
#[test]
fn one_that_cannot_keep_the_log_gives_the_session_up() {
    let directory = TempDir::new().expect("a directory");
    let pair = pair(&patient(), &cold(directory.path(), false));
    append(&pair, frames(1, 1));
    eventually("all is kept", || pair.sender.executed() == Lsn(1));
    // The next segment has no place.
    fs::create_dir(directory.path().join("ftvm-log-1")).expect("made");
    append(&pair, [entry(2, Payload::State(StatePart::Begin(1)))]);
    eventually("it gives up", || {
        pair.sender.lost() == Some(LossReason::Closed)
    });
    match pair.receiver.lost() {
        Some(reason @ LossReason::NotKept(_)) => {
            let text = reason.to_string();
            assert!(
                text.contains("cannot keep the log") && text.contains("ftvm-log-1"),
                "{text}"
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(kept(&pair.receiver).failure.is_some());
}

/// A state whose memory comes beside the log is complete when that is there.
#[test]
fn memory_beside_the_log_is_kept_with_its_state() {
    let directory = TempDir::new().expect("a directory");
    let mut pair = pair(&patient(), &cold(directory.path(), true));
    let part = |exit, part| entry(exit, Payload::State(part));
    let mut streams = pair.sender.memory_streams().expect("room");
    append(&pair, [part(1, StatePart::Begin(4))]);
    append(
        &pair,
        [
            part(1, StatePart::Memory(20)),
            part(2, StatePart::Commit(vec![1])),
        ],
    );
    let sent: Pages = (0..20).map(|n| (n * 3, n + 1)).collect();
    let all = streams.len();
    for (n, (page, fill)) in sent.iter().enumerate() {
        assert!(pair.sender.executed() <= Lsn(1), "its memory is not there");
        let block = block(&[(*page, *fill)]);
        streams[n % all].send(4, &block).expect("sent");
    }
    append(&pair, [entry(2, PROTECTED)]);
    eventually("all is kept", || pair.sender.executed() == Lsn(4));
    assert!(kept(&pair.receiver).generation.state_bytes > 20 * PAGE as u64);
    drop((pair.sender, streams));
    eventually("all is over", || kept(&pair.receiver).is_over);

    let memory = Memory::new();
    pair.receiver
        .begin_replay(memory.clone())
        .expect("readable");
    take(&mut pair.receiver, 0, 4);
    let all = BTreeMap::from([(4, sent)]);
    eventually("its memory comes", || *memory.0.lock() == all);
}

/// Then it is no state.
#[test]
fn memory_that_does_not_come_leaves_no_state() {
    let directory = TempDir::new().expect("a directory");
    let pair = pair(&patient(), &cold(directory.path(), false));
    let part = |exit, part| entry(exit, Payload::State(part));
    let mut streams = pair.sender.memory_streams().expect("room");
    append(&pair, [part(1, StatePart::Begin(1))]);
    streams[0].send(1, &block(&[(1, 1)])).expect("sent");
    append(&pair, [part(1, StatePart::Memory(2))]);
    append(&pair, [part(2, StatePart::Commit(vec![1]))]);
    drop((pair.sender, streams));
    eventually("all is over", || kept(&pair.receiver).is_over);
    let now = kept(&pair.receiver);
    assert!(
        !now.is_protecting && now.generation.state_bytes == 0,
        "{now:?}"
    );
}
