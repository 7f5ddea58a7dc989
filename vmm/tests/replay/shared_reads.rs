//! Reads of the disk that the log leaves to the replay.

use std::cell::Cell;
use std::rc::Rc;

use ftvm_vmm::devices::Output;
use ftvm_vmm::dice::Dice;
use ftvm_vmm::engine::{Difference, EngineError, Role};
use ftvm_vmm::fake_cpu::Script;
use ftvm_vmm::sources::Verification;
use logging_channel::entry::{DiskOutcome, Entry, Lsn, Payload, StatePart};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use crate::guest::{deeds, script};
use crate::world::{MemoryLog, Playback, Shared, SharedReads};
use crate::{Run, is_output, record_with, replayer, run};

/// The read that an entry leaves to the replay, and the entry's LSN.
fn shared_read((lsn, entry): (u64, &Entry)) -> Option<(u64, Lsn)> {
    match entry.payload {
        Payload::DiskDone {
            id,
            outcome: DiskOutcome::Shared { .. },
        } => Some((id, Lsn(lsn))),
        _ => None,
    }
}

/// The last request to the disk that is known to have been made when the log was this long.
fn requests_before(recorded: &Run, log: &[Entry]) -> u64 {
    let marked = log.iter().filter(|entry| is_output(entry)).count();
    let outputs = recorded.outputs.iter();
    let places = outputs.clone().enumerate();
    let in_log = places.filter(|(_, output)| output.marker().is_some());
    let until = in_log.take(marked).last().map_or(0, |(at, _)| at + 1);
    let ids = outputs.take(until).filter_map(|output| match output {
        Output::Disk(request) => Some(request.id),
        _ => None,
    });
    ids.max().unwrap_or_default()
}

/// A replay with this disk.
fn replay_with(script: &Script, dice: &mut Dice, log: Playback, disk: Shared) -> Run {
    run(script, dice, |memory, seen| Role {
        source: Box::new(replayer(log, memory).with_shared_disk(Box::new(disk))),
        gate: Box::new(seen),
    })
}

proptest! {
    /// What the disk holds for it is read there, and the rest is in the log; that another disk is there
    /// is found.
    #[test]
    fn a_backup_can_read_the_disk_itself(deeds in deeds(), seed: u64) {
        let (script, mut dice) = (script(&deeds), Dice(seed));
        let reads = SharedReads::default();
        let (recorded, log) = record_with(
            MemoryLog::default(),
            &script,
            &mut dice,
            Verification::Digests,
            Some(reads.clone()),
        );
        prop_assert!(recorded.ended.is_ok(), "{:?}", recorded.ended);
        let shared: Vec<(u64, Lsn)> = (1..).zip(&log).filter_map(shared_read).collect();
        prop_assert_eq!(&*reads.0.lock(), &shared);

        let disk = |differs| Shared { differs, most_ahead: Rc::default() };
        let playback = Playback::new(log.clone());
        let replayed = replay_with(&script, &mut dice, playback, disk(false));
        prop_assert!(replayed.ended.is_ok(), "{:?}", replayed.ended);
        prop_assert!(replayed.is_like(&recorded));
        prop_assert!(replayed.contents() == recorded.contents());

        match replay_with(&script, &mut dice, Playback::new(log), disk(true)).ended {
            Err(EngineError::Diverged(divergence)) => {
                let found = matches!(divergence.difference, Difference::SharedRead { .. });
                prop_assert!(found, "{}", divergence);
                prop_assert_eq!(divergence.lsn, shared[0].1);
            }
            ended => prop_assert!(ended.is_ok() && shared.is_empty(), "{:?}", ended),
        }
    }
}

/// It reads what was asked for since it came. What was asked for before is in the log: the disk may have
/// held it for another replay, which is gone.
#[test]
fn a_replay_that_joins_reads_the_disk_from_then_on() {
    let mut runner = TestRunner::deterministic();
    let (mut shared_since, mut logged_of_before) = (0, 0);
    for seed in 0..200 {
        let deeds = prop::collection::vec(deeds(), 3).new_tree(&mut runner);
        let deeds = deeds.expect("deeds").current().concat();
        let (script, mut dice) = (script(&deeds), Dice(seed));
        let log = MemoryLog {
            joined_after: Some(seed as usize % 60),
            ..MemoryLog::default()
        };
        let reads = Some(SharedReads::default());
        let (recorded, mut log) =
            record_with(log, &script, &mut dice, Verification::Digests, reads);
        assert!(recorded.ended.is_ok(), "{:?}", recorded.ended);
        let begin = |e: &Entry| matches!(e.payload, Payload::State(StatePart::Begin(_)));
        let protected = |e: &Entry| matches!(e.payload, Payload::Protected { .. });
        if !log.iter().any(protected) {
            continue;
        }
        let begin = log.iter().position(begin).expect("the state comes before");
        let before = requests_before(&recorded, &log[..begin]);
        log.drain(..begin);
        let asked_before = |entry: &Entry| match entry.payload {
            Payload::DiskDone { id, .. } => id <= before,
            _ => false,
        };
        let shared = |entry: &Entry| shared_read((0, entry)).is_some();
        let both = log
            .iter()
            .find(|entry| asked_before(entry) && shared(entry));
        assert!(both.is_none(), "{both:?} of {before} requests before");
        shared_since += log.iter().filter(|entry| shared(entry)).count();
        logged_of_before += log.iter().filter(|entry| asked_before(entry)).count();

        let disk = Shared {
            differs: false,
            most_ahead: Rc::default(),
        };
        let replayed = replay_with(&script, &mut dice, Playback::new(log), disk);
        assert!(replayed.ended.is_ok(), "{:?}", replayed.ended);
        assert!(replayed.registers == recorded.registers);
        assert!(replayed.contents() == recorded.contents());
    }
    assert!(shared_since > 0, "no read was left to the replay");
    assert!(logged_of_before > 0, "no request was under way");
}

/// A guest that has several reads under way tells the backup's disk of all of them.
#[test]
fn reads_that_come_next_are_known_ahead() {
    let mut runner = TestRunner::deterministic();
    let most_ahead = Rc::new(Cell::new(0));
    for seed in 0..64 {
        let deeds = deeds().new_tree(&mut runner).expect("deeds").current();
        let (script, mut dice) = (script(&deeds), Dice(seed));
        let (_, log) = record_with(
            MemoryLog::default(),
            &script,
            &mut dice,
            Verification::Digests,
            Some(SharedReads::default()),
        );
        let disk = Shared {
            differs: false,
            most_ahead: most_ahead.clone(),
        };
        let replayed = replay_with(&script, &mut dice, Playback::new(log), disk);
        assert!(replayed.ended.is_ok(), "{:?}", replayed.ended);
    }
    assert!(most_ahead.get() > 0, "no guest had two reads under way");
}
