//! A guest that makes no exit and has no input, as kernels are early in their boot.

use std::sync::Arc;
use std::time::Duration;

use ftvm_vmm::dice::Dice;
use ftvm_vmm::engine::Role;
use ftvm_vmm::fake_cpu::Op;
use ftvm_vmm::sources::{Pace, Recorder, StateKeeper, Verification};
use logging_channel::entry::Payload;

use crate::guest::{Deed, out, script};
use crate::world::{MemoryLog, Playback, Quiet};
use crate::{PACE, baseline, record_in, replay, run};

/// Its replay takes it for lost after a while without an exit: the log promises that there are some.
#[test]
fn the_log_has_a_stop_every_second() {
    let script = script(&[Deed::Do(Op::Compute(100_000))]);
    let log = MemoryLog::default();
    let mut dice = Dice(1);
    let recorded = record_in(Quiet::new(5_000_000), log.clone(), &script, &mut dice);
    let ended = recorded.ended.as_ref().expect("it ends");
    let log = log.entries.take();
    // About 6,000 times the host stopped it, for 5 ms and more.
    assert!(ended.exits > 20, "{} exits in 30 s", ended.exits);
    let replayed = replay(&script, &mut dice, Playback::with_state(log));
    assert!(replayed.ended.is_ok(), "{:?}", replayed.ended);
    assert!(replayed.is_like(&recorded));
}

/// A look at the clock is a call of the system where it is none of the fast ones.
#[test]
fn an_exit_with_nothing_to_do_takes_one_look_at_the_clock() {
    let script = script(&vec![Deed::Do(out(0x80, 1, 0)); 1000]);
    let world = Quiet::new(1000);
    let log = MemoryLog::default();
    let recorded = run(&script, &mut Dice(1), |memory, seen| {
        let recorder = Recorder::new(
            world.clone(),
            log.clone(),
            Verification::Digests,
            memory.clone(),
        );
        let pace = Pace {
            digest_interval: Duration::from_secs(3600),
            ..PACE
        };
        let keeper = StateKeeper::new(baseline(memory), pace, Arc::default());
        Role {
            source: Box::new(recorder.with_keeper(keeper)),
            gate: Box::new(seen),
        }
    });
    let exits = recorded.ended.expect("it ends").exits;
    let told = log.entries.take().into_iter().filter(|entry| {
        matches!(
            entry.payload,
            Payload::Tsc(_) | Payload::Clock(_) | Payload::WallClock(_)
        )
    });
    let told = told.count() as u64;
    let looks = world.looks.get();
    assert!(exits > 1000);
    assert!(
        looks <= exits + told + world.stops.get(),
        "{looks} looks at {exits} exits that told the guest the time {told} times"
    );
}
