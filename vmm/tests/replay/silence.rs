//! A guest that makes no exit and has no input, as kernels are early in their boot.

use std::cell::Cell;

use ftvm_vmm::devices::{Appetite, ClockNeed, Input};
use ftvm_vmm::dice::Dice;
use ftvm_vmm::engine::{Interruption, Role, Step};
use ftvm_vmm::fake_cpu::Op;
use ftvm_vmm::sources::{OutsideWorld, Recorder, StateKeeper, Verification};

use crate::guest::{Deed, script};
use crate::world::{MemoryLog, Playback};
use crate::{PACE, baseline, replay, run};

/// A world in which nothing happens, but that time passes.
struct Silence(Cell<u64>);

impl OutsideWorld for Silence {
    fn clock(&self, _: ClockNeed) -> u64 {
        self.0.set(self.0.get() + 5_000_000);
        self.0.get()
    }

    fn poll(&self, _: &Appetite) -> Step<Option<Input>> {
        Ok(None)
    }

    fn is_ready(&self, _: &Appetite) -> bool {
        false
    }

    fn wait(&self, _: &Appetite) -> Step<Input> {
        Err(Interruption::Stop)
    }
}

/// Its replay takes it for lost after a while without an exit: the log promises that there are some.
#[test]
fn the_log_has_a_stop_every_second() {
    let script = script(&[Deed::Do(Op::Compute(100_000))]);
    let log = MemoryLog::default();
    let mut dice = Dice(1);
    let recorded = run(&script, &mut dice, |memory, seen| {
        let world = Silence(Cell::new(0));
        let recorder = Recorder::new(world, log.clone(), Verification::Digests, memory.clone());
        let keeper = StateKeeper::new(baseline(memory), PACE, std::sync::Arc::default());
        Role {
            source: Box::new(recorder.with_keeper(keeper)),
            gate: Box::new(seen),
        }
    });
    let ended = recorded.ended.as_ref().expect("it ends");
    let log = log.entries.take();
    // About 6,000 times the host stopped it, for 5 ms and more.
    assert!(ended.exits > 20, "{} exits in 30 s", ended.exits);
    let replayed = replay(&script, &mut dice, Playback::with_state(log));
    assert!(replayed.ended.is_ok(), "{:?}", replayed.ended);
    assert!(replayed.is_like(&recorded));
}
