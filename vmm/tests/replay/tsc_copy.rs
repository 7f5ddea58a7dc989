//! The copy of the time stamp counter that a kernel reads.

use ftvm_vmm::dice::Dice;
use ftvm_vmm::engine::Role;
use ftvm_vmm::fake_cpu::Op;
use ftvm_vmm::ram::GuestRam;
use ftvm_vmm::sources::{Recorder, Verification};
use ftvm_vmm::tsc_cache;
use logging_channel::entry::{Entry, Payload};
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use crate::guest::{Deed, TSC_COPY, deeds, script};
use crate::world::{MemoryLog, Quiet};
use crate::{record, run};

fn copy(memory: &GuestRam) -> u64 {
    let at = GuestAddress(TSC_COPY + tsc_cache::VALUE);
    memory.read_obj(at).expect("in memory")
}

/// The time that an entry tells the guest.
fn time_of(entry: &Entry) -> Option<u64> {
    match entry.payload {
        Payload::Tsc(now) | Payload::Clock(now) | Payload::Tick(now) => Some(now),
        _ => None,
    }
}

proptest! {
    #[test]
    fn the_copy_is_the_last_time_in_the_log(deeds in deeds(), seed: u64) {
        let (recorded, log) = record(&script(&deeds), &mut Dice(seed), Verification::Digests);
        prop_assert!(recorded.ended.is_ok(), "{:?}", recorded.ended);
        let last = log.iter().rev().find_map(time_of).unwrap_or(0);
        prop_assert_eq!(copy(&recorded.memory), last);
    }
}

#[test]
fn a_guest_that_a_key_woke_is_told_the_time() {
    let script = script(&[Deed::Do(Op::Sti), Deed::Do(Op::Halt)]);
    let log = MemoryLog::default();
    let run = run(&script, &mut Dice(1), |memory, seen| {
        let world = Quiet::new(1000).with_key(b'k');
        let recorder = Recorder::new(world, log.clone(), Verification::Digests, memory.clone());
        Role {
            source: Box::new(recorder),
            gate: Box::new(seen),
        }
    });
    assert!(run.ended.is_ok(), "{:?}", run.ended);
    let log = log.entries.take();
    let key = |entry: &Entry| matches!(entry.payload, Payload::ConsoleInput(_));
    let at = log.iter().position(key).expect("a key");
    let now = time_of(&log[at + 1]).expect("the time behind it");
    assert_eq!(log[at + 1].point, log[at].point);
    assert_eq!(copy(&run.memory), now);
}
