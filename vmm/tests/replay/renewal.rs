//! The whole state beside a log: for who follows that it is nothing, and who begins with it is the guest.

use ftvm_vmm::engine::EngineError;
use ftvm_vmm::fake_cpu::NoticedAt;
use logging_channel::entry::{Entry, Payload, StatePart};
use proptest::prelude::*;

use super::*;
use crate::guest::{engine_of, processor};
use crate::shadow_pages::{first_difference, replay_with, writers};

fn is_begin(entry: &Entry) -> bool {
    matches!(entry.payload, Payload::Renewal(StatePart::Begin(_)))
}

fn is_commit(entry: &Entry) -> bool {
    matches!(entry.payload, Payload::Renewal(StatePart::Commit(_)))
}

/// A run, its log, and what its guest noticed of the hypervisor.
fn record_renewed(
    script: &Script,
    dice: &mut Dice,
    after: usize,
) -> (Run, Vec<Entry>, Vec<NoticedAt>) {
    let log = MemoryLog {
        renewal_wanted_after: Some(after),
        ..MemoryLog::default()
    };
    let (memory, seen) = (memory(), Seen::default());
    let cpu = processor(script, &memory, dice);
    let noticed = cpu.noticed();
    let world = MadeUpWorld::new(dice.roll(u64::MAX), 0).with_disk_of(&seen);
    let recorder = Recorder::new(world, log.clone(), Verification::Digests, memory.clone());
    let keeper = StateKeeper::new(baseline(&memory), PACE, Arc::default());
    let role = Role {
        source: Box::new(recorder.with_keeper(keeper)),
        gate: Box::new(seen.clone()),
    };
    let run = finish(engine_of(cpu, &memory, role), memory, &seen);
    (run, log.entries.take(), noticed.take())
}

proptest! {
    #[test]
    fn who_follows_the_log_passes_over_it_and_who_begins_with_it_is_the_guest(
        script in writers(),
        seed: u64,
        after in 1usize..60,
    ) {
        let mut dice = Dice(seed);
        let (recorded, mut log, noticed) = record_renewed(&script, &mut dice, after);
        prop_assert!(recorded.ended.is_ok(), "{:?}", recorded.ended);
        prop_assume!(log.iter().any(is_commit));

        let playback = Playback::with_state(log.clone());
        let repaired = playback.repaired.clone();
        let (follower, own) = replay_with(&script, &mut dice, |memory| {
            Box::new(replayer(playback, memory))
        });
        prop_assert!(follower.ended.is_ok(), "{:?}", follower.ended);
        prop_assert!(follower.is_like(&recorded));
        prop_assert!(follower.contents() == recorded.contents());
        prop_assert_eq!(repaired.get(), 0, "it followed");
        prop_assert_eq!(first_difference(&noticed, &own), None);

        let begin = log.iter().position(is_begin).expect("the state comes before");
        log.drain(..begin);
        let playback = Playback::with_state(log);
        let repaired = playback.repaired.clone();
        let (begun, own) = replay_with(&script, &mut dice, |memory| {
            Box::new(replayer(playback, memory))
        });
        prop_assert!(begun.ended.is_ok(), "{:?}", begun.ended);
        prop_assert!(begun.registers == recorded.registers);
        prop_assert!(begun.contents() == recorded.contents());
        prop_assert_eq!(repaired.get(), 1);
        prop_assert!(noticed.ends_with(&own), "{:?}", first_difference(&noticed, &own));
    }

    /// All or nothing: while it comes, what was there before is as good as ever.
    #[test]
    fn one_that_is_cut_leaves_the_log_before_it(
        script in writers(),
        seed: u64,
        after in 1usize..60,
        cut: prop::sample::Index,
    ) {
        let mut dice = Dice(seed);
        let (_, mut log, _) = record_renewed(&script, &mut dice, after);
        let Some(commit) = log.iter().position(is_commit) else {
            return Err(TestCaseError::reject("it ended within"));
        };
        let begin = log.iter().position(is_begin).expect("the state comes before");
        log.truncate(begin + cut.index(commit - begin) + 1);
        let replayed = replay(&script, &mut dice, Playback::with_state(log));
        match replayed.ended {
            Err(EngineError::Source(reason)) => prop_assert!(reason.contains("end"), "{reason}"),
            other => prop_assert!(false, "{other:?}"),
        }
    }

    /// What is damaged in it does not become a guest.
    #[test]
    fn a_damaged_one_is_found(
        script in writers(),
        seed: u64,
        after in 1usize..60,
        which: prop::sample::Index,
        bit: prop::sample::Index,
    ) {
        let mut dice = Dice(seed);
        let (recorded, mut log, _) = record_renewed(&script, &mut dice, after);
        let Some(commit) = log.iter().position(is_commit) else {
            return Err(TestCaseError::reject("it ended within"));
        };
        let begin = log.iter().position(is_begin).expect("the state comes before");
        let mut parts: Vec<&mut Vec<u8>> = log[begin..=commit]
            .iter_mut()
            .filter_map(|entry| match &mut entry.payload {
                Payload::Renewal(
                    StatePart::Pages(bytes) | StatePart::Rest(bytes) | StatePart::Commit(bytes),
                ) => Some(bytes),
                _ => None,
            })
            .collect();
        let part = which.index(parts.len());
        let at = bit.index(parts[part].len() * 8);
        parts[part][at / 8] ^= 1 << (at % 8);
        log.drain(..begin);
        let replayed = replay(&script, &mut dice, Playback::new(log));
        // A bit of what LZ4 leaves open makes no difference.
        if replayed.ended.is_ok() {
            prop_assert!(replayed.registers == recorded.registers);
            prop_assert!(replayed.contents() == recorded.contents());
        }
    }
}
