//! Damage to state transfers, which no digest finds afterwards: both sides take what a transfer
//! left as what they agree on.

use ftvm_vmm::dice::Dice;
use ftvm_vmm::engine::{Difference, EngineError};
use ftvm_vmm::sources::Verification;
use logging_channel::entry::{Entry, Payload, StatePart};
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;

use crate::guest::{deeds, script};
use crate::world::Playback;
use crate::{record, replay};

/// Where a delta has its last block of pages, if it has one; its commit comes next.
fn blocks(log: &[Entry]) -> Vec<usize> {
    let is_block = |entry: &Entry| matches!(entry.payload, Payload::State(StatePart::Pages(_)));
    let is_end = |entry: &Entry| matches!(entry.payload, Payload::State(StatePart::Commit(_)));
    let pairs = log.windows(2).enumerate();
    let ends = pairs.filter(|(_, pair)| is_block(&pair[0]) && is_end(&pair[1]));
    ends.map(|(at, _)| at).collect()
}

fn flip_a_bit(entry: &mut Entry, dice: &mut Dice) {
    if let Payload::State(StatePart::Pages(bytes) | StatePart::Commit(bytes)) = &mut entry.payload {
        let at = dice.roll(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << dice.roll(8);
    }
}

/// Everything that can happen to the delta with its block at `at`.
fn damages(log: &[Entry], at: usize, dice: &mut Dice) -> Vec<(&'static str, Vec<Entry>)> {
    let mut damaged = |what, damage: &mut dyn FnMut(&mut Vec<Entry>, &mut Dice)| {
        let mut log = log.to_vec();
        damage(&mut log, dice);
        (what, log)
    };
    vec![
        damaged("a block lost", &mut |log, _| {
            log.remove(at);
        }),
        damaged("a block twice", &mut |log, _| {
            log.insert(at, log[at].clone());
        }),
        damaged("another block", &mut |log, dice| {
            flip_a_bit(&mut log[at], dice);
        }),
        damaged("another end", &mut |log, dice| {
            flip_a_bit(&mut log[at + 1], dice);
        }),
    ]
}

#[test]
fn a_damaged_delta_is_not_taken_over() {
    let mut runner = TestRunner::deterministic();
    let mut found = 0;
    for seed in 0..64 {
        let deeds = deeds().new_tree(&mut runner).expect("deeds").current();
        let (script, mut dice) = (script(&deeds), Dice(seed));
        let (recorded, log) = record(&script, &mut dice, Verification::Digests);
        assert!(recorded.ended.is_ok(), "{:?}", recorded.ended);
        for at in blocks(&log) {
            for (what, damaged) in damages(&log, at, &mut dice) {
                let replayed = replay(&script, &mut dice, Playback::new(damaged));
                let Err(EngineError::Diverged(divergence)) = replayed.ended else {
                    panic!(
                        "seed {seed}, entry {}: {what}: {:?}",
                        at + 1,
                        replayed.ended
                    );
                };
                let is_transfer = matches!(divergence.difference, Difference::Transfer(_));
                found += u32::from(is_transfer);
            }
        }
    }
    assert!(found > 0, "no guest was stopped where a delta has pages");
}
