//! What comes between two parts of a digest: a delta, the whole state, the end of the log.

use std::sync::Arc;

use ftvm_vmm::dice::Dice;
use ftvm_vmm::engine::{Difference, Divergence, EngineError, Interruption, Role, Step};
use ftvm_vmm::fake_cpu::{Op, Script};
use ftvm_vmm::ram::GuestRam;
use ftvm_vmm::sources::{Head, LogSink, LogSource, Recorder, Replayer, Verification};
use ftvm_vmm::state::SendBlocks;
use logging_channel::entry::{Entry, Lsn, Payload, StateDigest, StatePart};
use vm_memory::{Bytes, GuestAddress};

use crate::world::{MemoryLog, Playback, Quiet};
use crate::{Run, follower, record_in, replay, replayer, run};

const PAGES: u64 = (1 << 20) / 4096;

/// Guest time from one look at the clock to the next, in nanoseconds: a part of a digest is due at every
/// exit or two, however long the one before took.
const STEP: u64 = 50_000_000;

/// A guest that writes to more of its memory between two exits than a part of a digest is of.
fn writer() -> Script {
    let store = |n: u64| Op::Store {
        address: n % PAGES * 4096 + 8,
        value: n as u16,
    };
    let exit = Op::In {
        port: 0x80,
        size: 1,
    };
    let turn = |turn: u64| {
        let mut ops: Vec<Op> = (turn * 100..(turn + 1) * 100).map(store).collect();
        ops.insert(50, Op::Compute(200));
        ops.push(exit.clone());
        ops
    };
    Script {
        main: (1..100).flat_map(turn).collect(),
        ..Script::default()
    }
}

fn digest_of(entry: &Entry) -> Option<&StateDigest> {
    match &entry.payload {
        Payload::Digest(digest) => Some(digest),
        _ => None,
    }
}

fn is_commit(entry: &Entry) -> bool {
    matches!(entry.payload, Payload::State(StatePart::Commit(_)))
}

/// Whether the last digest in the log has more parts to come.
fn is_midway(log: &[Entry]) -> bool {
    let last = log.iter().rev().find_map(digest_of);
    last.is_some_and(|part| part.last.is_none())
}

/// A log that may ask for the whole state, once, between two parts of a digest.
#[derive(Clone)]
struct MidwayLog {
    log: MemoryLog,
    asks: bool,
}

impl LogSink for MidwayLog {
    fn append(&mut self, entry: Entry) -> Step<Lsn> {
        self.log.append(entry)
    }

    fn state_wanted(&mut self) -> Option<Lsn> {
        let entries = self.log.entries.borrow();
        let wanted = self.asks && is_midway(&entries);
        self.asks &= !wanted;
        wanted.then_some(Lsn(entries.len() as u64))
    }

    fn memory_streams(&mut self) -> Vec<Box<dyn SendBlocks>> {
        self.log.memory_streams()
    }
}

fn record(asks: bool) -> (Run, Vec<Entry>) {
    let log = MidwayLog {
        log: MemoryLog::default(),
        asks,
    };
    let recorded = record_in(
        Quiet::new(STEP).with_nudges(),
        log.clone(),
        &writer(),
        &mut Dice(31),
    );
    assert!(recorded.ended.is_ok(), "{:?}", recorded.ended);
    (recorded, log.log.entries.take())
}

/// Where transfers end between two parts of a digest, without another one before the second part; and
/// that part.
fn interrupted(log: &[Entry]) -> Vec<(usize, &StateDigest)> {
    let commits = (0..log.len()).filter(|at| is_commit(&log[*at]) && is_midway(&log[..*at]));
    let parts = commits.filter_map(|at| {
        let mut rest = log[at + 1..].iter();
        let next = rest.find(|entry| is_commit(entry) || digest_of(entry).is_some())?;
        Some((at, digest_of(next)?))
    });
    parts.collect()
}

/// A log, and a fault of the hardware that changes a bit of a page when `entries` of it were taken.
struct Fault {
    log: Playback,
    memory: GuestRam,
    entries: usize,
    page: u64,
}

impl LogSource for Fault {
    fn head(&mut self) -> Step<Head<'_>> {
        self.log.head()
    }

    fn advance(&mut self) {
        self.log.advance();
        self.entries = self.entries.wrapping_sub(1);
        if self.entries == 0 {
            // Where the guest neither reads nor writes.
            let at = GuestAddress(self.page * 4096 + 0x800);
            let byte: u8 = self.memory.read_obj(at).expect("in memory");
            let changed = self.memory.write_obj(byte ^ 1, at);
            changed.expect("it was read");
        }
    }

    fn differs(&mut self, divergence: &Divergence) -> bool {
        self.log.differs(divergence)
    }

    fn after_end(&mut self) -> Interruption {
        self.log.after_end()
    }
}

/// The replay of `log` with a change of `page` after so many entries finds that.
fn finds(log: &[Entry], entries: usize, page: u64) {
    let replayed = run(&writer(), &mut Dice(32), |memory, seen| {
        let follower = follower(memory);
        let playback = Playback::with_state(log.to_vec());
        let fault = Fault {
            log: playback.giving_memory_to(follower.memory_taker()),
            memory: memory.clone(),
            entries,
            page,
        };
        let replayer = Replayer::new(fault, memory.clone(), Arc::default());
        Role {
            source: Box::new(replayer.with_state(follower)),
            gate: Box::new(seen),
        }
    });
    match replayed.ended {
        Err(EngineError::Diverged(divergence)) => match divergence.difference {
            Difference::State(difference) => assert_eq!(difference.pages, [page]),
            other => panic!("page {page} after entry {entries}: {other:?}"),
        },
        other => panic!("page {page} after entry {entries}: {other:?}"),
    }
}

/// It replays to the same end, and a page that changes between the two parts is found by the second.
fn goes_on_where_it_was(recorded: &Run, log: &[Entry]) {
    let interrupted = interrupted(log);
    assert!(!interrupted.is_empty(), "no transfer within a digest");
    let replayed = replay(&writer(), &mut Dice(33), Playback::with_state(log.to_vec()));
    assert!(replayed.ended.is_ok(), "{:?}", replayed.ended);
    assert!(replayed.is_like(recorded));
    assert!(replayed.contents() == recorded.contents());
    for (at, part) in interrupted.into_iter().take(8) {
        assert_ne!(part.range.start, 0, "the digest goes on");
        for page in [part.range.start, part.range.end - 1] {
            finds(log, at + 1, page);
        }
    }
}

#[test]
fn a_digest_goes_on_after_a_delta() {
    let (recorded, log) = record(false);
    goes_on_where_it_was(&recorded, &log);
}

#[test]
fn a_digest_goes_on_after_a_transfer_of_the_whole_state() {
    let (recorded, log) = record(true);
    let begin = |entry: &Entry| matches!(entry.payload, Payload::State(StatePart::Begin(_)));
    let begin = log.iter().position(begin).expect("it was asked for");
    assert!(is_midway(&log[..begin]));
    let first = log[begin..].iter().position(is_commit).expect("its end") + begin;
    assert!(interrupted(&log).iter().any(|(at, _)| *at == first));
    goes_on_where_it_was(&recorded, &log);
    let (at, part) = *interrupted(&log)
        .iter()
        .find(|(at, _)| *at == first)
        .expect("it was found");
    finds(&log, at + 1, part.range.start);
}

/// The survivor has the memory of the log's end, whatever the digest came to, and a difference that the
/// last part shows is found before that.
#[test]
fn the_log_ends_within_a_digest() {
    let (_, mut log) = record(false);
    let mut parts = log.iter().enumerate().filter(|(_, entry)| {
        let part = digest_of(entry);
        part.is_some_and(|part| part.last.is_none() && part.range.start > 0)
    });
    let (last, entry) = parts.next_back().expect("a digest of three parts");
    let page = digest_of(entry).expect("a part").range.start;
    log.truncate(last + 1);
    finds(&log, last, page);

    let continued = MemoryLog::default();
    continued.entries.borrow_mut().clone_from(&log);
    let survivor = run(&writer(), &mut Dice(34), |memory, seen| {
        let (new_log, new_memory, new_seen) = (continued.clone(), memory.clone(), seen.clone());
        let playback = Playback::followed_by(log, move || {
            let world = Quiet::new(STEP);
            let verification = Verification::EveryExit;
            Role {
                source: Box::new(Recorder::new(world, new_log, verification, new_memory)),
                gate: Box::new(new_seen),
            }
        });
        Role {
            source: Box::new(replayer(playback, memory)),
            gate: Box::new(seen),
        }
    });
    assert!(survivor.ended.is_ok(), "{:?}", survivor.ended);
    let again = replay(
        &writer(),
        &mut Dice(35),
        Playback::new(continued.entries.take()),
    );
    assert!(again.ended.is_ok(), "{:?}", again.ended);
    assert!(again.is_like(&survivor));
    assert!(again.contents() == survivor.contents());
}
