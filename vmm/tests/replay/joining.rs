//! A replay that begins while the guest runs: it knows nothing before.

use logging_channel::entry::{Entry, Payload, StatePart};
use proptest::prelude::*;

use super::*;

fn is_begin(entry: &Entry) -> bool {
    matches!(entry.payload, Payload::State(StatePart::Begin(_)))
}

fn is_protected(entry: &Entry) -> bool {
    matches!(entry.payload, Payload::Protected { .. })
}

proptest! {
    /// It gets nothing of the log before the transfer of the whole state, and is the guest from there on:
    /// in its registers, its memory, and all that leaves it once it is protected.
    #[test]
    fn a_replay_that_joins_is_the_guest(
        deeds in prop::collection::vec(deeds(), 3).prop_map(|d| d.concat()),
        seed: u64,
        after in 0usize..60,
    ) {
        let (script, mut dice) = (script(&deeds), Dice(seed));
        let log = MemoryLog { joined_after: Some(after), ..MemoryLog::default() };
        let (recorded, mut log) = record_to(log, &script, &mut dice, Verification::Digests);
        prop_assert!(recorded.ended.is_ok(), "{:?}", recorded.ended);
        prop_assume!(log.iter().any(is_protected));
        let begin = log.iter().position(is_begin).expect("the state comes before");
        let before = log[..begin].iter().filter(|entry| is_output(entry)).count();
        log.drain(..begin);
        let protected = log.iter().position(is_protected).expect("it was found");
        let unseen = log[..protected].iter().filter(|entry| is_output(entry)).count();

        let playback = Playback::new(log);
        let taken_over = playback.repaired.clone();
        let replayed = replay(&script, &mut dice, playback);
        prop_assert!(replayed.ended.is_ok(), "{:?}", replayed.ended);
        prop_assert_eq!(taken_over.get(), 1);
        prop_assert!(replayed.registers == recorded.registers);
        prop_assert!(replayed.contents() == recorded.contents());
        // Those that are in the log: what the card is told of its offloads is not.
        let logged = |run: &Run| -> Vec<Output> {
            let outputs = run.outputs.iter().filter(|output| output.marker().is_some());
            outputs.cloned().collect()
        };
        let (own, recorded) = (logged(&replayed), logged(&recorded));
        let protected = &recorded[before + unseen..];
        prop_assert!(own.ends_with(protected), "{own:?} and {protected:?}");
    }

    /// One that the log leaves before it has taken the state over does not run the guest.
    #[test]
    fn a_join_that_is_cut_runs_nothing(
        deeds in prop::collection::vec(deeds(), 3).prop_map(|d| d.concat()),
        seed: u64,
        after in 0usize..60,
        cut: prop::sample::Index,
    ) {
        let (script, mut dice) = (script(&deeds), Dice(seed));
        let log = MemoryLog { joined_after: Some(after), ..MemoryLog::default() };
        let (_, mut log) = record_to(log, &script, &mut dice, Verification::Digests);
        let Some(begin) = log.iter().position(is_begin) else {
            return Err(TestCaseError::reject("it ended before"));
        };
        log.drain(..begin);
        let commit = |e: &Entry| matches!(e.payload, Payload::State(StatePart::Commit(_)));
        let Some(commit) = log.iter().position(commit) else {
            return Err(TestCaseError::reject("it ended within"));
        };
        log.truncate(cut.index(commit) + 1);
        let replayed = replay(&script, &mut dice, Playback::new(log));
        prop_assert!(replayed.ended.is_err());
        prop_assert!(replayed.outputs.is_empty());
    }
}
