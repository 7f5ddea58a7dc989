//! Recording and replay of random guests with random inputs, without a hypervisor.

mod apic;
mod counted;
mod counter_faults;
mod debugger;
mod digests;
mod guest;
mod handover;
mod joining;
mod midway;
mod mutation;
mod renewal;
mod shadow_pages;
mod shared_reads;
mod silence;
mod spacing;
mod stops;
mod transfer;
mod tsc_copy;
mod whole;
mod windows;
mod world;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ftvm_vmm::cpu::{GuestCpu, Registers};
use ftvm_vmm::devices::Output;
use ftvm_vmm::dice::Dice;
use ftvm_vmm::engine::tally::ExitTally;
use ftvm_vmm::engine::{Difference, Ended, Engine, EngineError, Role};
use ftvm_vmm::fake_cpu::{Op, Script};
use ftvm_vmm::ram::GuestRam;
use ftvm_vmm::sources::{
    LogSink, LogSource, OutsideWorld, Pace, Recorder, Replayer, StateFollower, StateKeeper,
    TransferPace, Verification, Watchdog,
};
use ftvm_vmm::state::Baseline;
use logging_channel::entry::{Entry, ExecutionPoint, Payload, ShutdownReason, StatePart};
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use crate::guest::{deeds, engine, memory, script};
use crate::mutation::mutate;
use crate::world::{MadeUpWorld, MemoryLog, Playback, Seen, SharedReads};

/// What one run left behind.
struct Run {
    ended: Result<Ended, EngineError>,
    registers: Registers,
    outputs: Vec<Output>,
    memory: GuestRam,
    exits: ExitTally,
}

impl Run {
    fn contents(&self) -> Vec<u8> {
        let mut bytes = vec![0; 1 << 20];
        let read = self.memory.read_slice(&mut bytes, GuestAddress(0));
        read.expect("the guest has 1 MiB");
        bytes
    }

    fn is_like(&self, other: &Run) -> bool {
        self.registers == other.registers && self.outputs == other.outputs
    }
}

fn run(script: &Script, kicks: &mut Dice, role: impl FnOnce(&GuestRam, Seen) -> Role) -> Run {
    let memory = memory();
    let seen = Seen::default();
    let engine = engine(script, &memory, kicks, role(&memory, seen.clone()));
    finish(engine, memory, &seen)
}

/// Records the script in this world, with digests and deltas of its state.
fn record_in(
    world: impl OutsideWorld + 'static,
    log: impl LogSink + 'static,
    script: &Script,
    kicks: &mut Dice,
) -> Run {
    run(script, kicks, |memory, seen| {
        let recorder = Recorder::new(world, log, Verification::Digests, memory.clone());
        let keeper = StateKeeper::new(baseline(memory), PACE, Arc::default());
        Role {
            source: Box::new(recorder.with_keeper(keeper)),
            gate: Box::new(seen),
        }
    })
}

fn finish<C: GuestCpu>(engine: Engine<C>, memory: GuestRam, seen: &Seen) -> Run {
    let exits = ExitTally::default();
    let mut engine = engine.with_tally(exits.clone());
    let ended = engine.run();
    let registers = engine
        .cpu()
        .registers()
        .expect("a fake processor has them")
        .compared();
    let outputs = seen.outputs.take();
    Run {
        ended,
        registers,
        outputs,
        memory,
        exits,
    }
}

fn record(script: &Script, dice: &mut Dice, verification: Verification) -> (Run, Vec<Entry>) {
    record_to(MemoryLog::default(), script, dice, verification)
}

fn record_to(
    log: MemoryLog,
    script: &Script,
    dice: &mut Dice,
    verification: Verification,
) -> (Run, Vec<Entry>) {
    record_with(log, script, dice, verification, None)
}

fn record_with(
    log: MemoryLog,
    script: &Script,
    dice: &mut Dice,
    verification: Verification,
    reads: Option<SharedReads>,
) -> (Run, Vec<Entry>) {
    let world = MadeUpWorld::new(dice.roll(u64::MAX), 0);
    let run = run(script, dice, |memory, seen| {
        let world = world.with_disk_of(&seen);
        let mut recorder = Recorder::new(world, log.clone(), verification, memory.clone());
        if let Some(reads) = reads {
            recorder = recorder.with_shared_reads(Box::new(reads));
        }
        let keeper = StateKeeper::new(baseline(memory), PACE, Arc::default());
        Role {
            source: Box::new(recorder.with_keeper(keeper)),
            gate: Box::new(seen),
        }
    });
    (run, log.entries.take())
}

/// Digests are frequent and transfers swift, so that short runs have some.
const PACE: Pace = Pace {
    latency: Duration::from_millis(1),
    digest_interval: Duration::from_micros(300),
    digest_slice: Duration::ZERO,
    longest_stop: Duration::ZERO,
    transfer: TransferPace::DEFAULT,
};

fn baseline(memory: &GuestRam) -> Baseline {
    Baseline::new(memory.clone()).expect("a megabyte")
}

fn replayer(log: Playback, memory: &GuestRam) -> Replayer<Playback> {
    let follower = follower(memory);
    let log = log.giving_memory_to(follower.memory_taker());
    Replayer::new(log, memory.clone(), Arc::default()).with_state(follower)
}

fn follower(memory: &GuestRam) -> StateFollower {
    StateFollower::new(baseline(memory), Arc::default())
}

/// Of a log in which memory of a transfer of the whole state does not come.
fn replayer_of<L: LogSource>(log: L, memory: &GuestRam) -> Replayer<L> {
    Replayer::new(log, memory.clone(), Arc::default()).with_state(follower(memory))
}

fn replay(script: &Script, dice: &mut Dice, log: Playback) -> Run {
    run(script, dice, |memory, seen| Role {
        source: Box::new(replayer(log, memory)),
        gate: Box::new(seen),
    })
}

fn verification() -> impl Strategy<Value = Verification> {
    prop_oneof![Just(Verification::Digests), Just(Verification::EveryExit)]
}

proptest! {
    #[test]
    fn a_replay_is_the_recorded_run(deeds in deeds(), seed: u64, verification in verification()) {
        let (script, mut dice) = (script(&deeds), Dice(seed));
        let (recorded, log) = record(&script, &mut dice, verification);
        prop_assert!(recorded.ended.is_ok(), "{:?}", recorded.ended);
        let replayed = replay(&script, &mut dice, Playback::new(log));
        match (&replayed.ended, &recorded.ended) {
            (Ok(a), Ok(b)) => prop_assert_eq!(a, b),
            (other, _) => prop_assert!(false, "{other:?}"),
        }
        prop_assert!(replayed.is_like(&recorded));
        prop_assert!(replayed.contents() == recorded.contents());
    }

    #[test]
    fn damage_is_found_or_harmless(deeds in deeds(), seed: u64, verification in verification()) {
        let (script, mut dice) = (script(&deeds), Dice(seed));
        let (recorded, log) = record(&script, &mut dice, verification);
        for _ in 0..16 {
            let mut damaged = log.clone();
            let damage = mutate(&mut damaged, &mut dice);
            let replayed = replay(&script, &mut dice, Playback::new(damaged));
            if replayed.ended.is_ok() {
                prop_assert!(replayed.is_like(&recorded), "{damage} unnoticed");
                if verification == Verification::EveryExit {
                    prop_assert!(replayed.contents() == recorded.contents(), "{damage} unnoticed");
                }
            }
        }
    }

    /// A log with a transfer of the whole state in it, which may be taken in place of all that
    /// comes before: then damage before it does not matter.
    #[test]
    fn a_replay_that_differs_is_repaired(
        deeds in prop::collection::vec(deeds(), 3).prop_map(|d| d.concat()),
        seed: u64,
        after in 0usize..60,
    ) {
        let (script, mut dice) = (script(&deeds), Dice(seed));
        let log = MemoryLog { state_wanted_after: Some(after), ..MemoryLog::default() };
        let (recorded, log) = record_to(log, &script, &mut dice, Verification::Digests);
        prop_assert!(recorded.ended.is_ok(), "{:?}", recorded.ended);
        let begin = log.iter().position(|e| matches!(e.payload, Payload::State(StatePart::Begin(_))));
        let commit = |e: &Entry| matches!(e.payload, Payload::State(StatePart::Commit(_)));
        let complete = begin.is_some_and(|begin| log[begin..].iter().any(commit));
        prop_assume!(complete);
        let begin = begin.expect("it was found");

        let playback = Playback::with_state(log.clone());
        let repaired = playback.repaired.clone();
        let replayed = replay(&script, &mut dice, playback);
        prop_assert!(replayed.ended.is_ok(), "{:?}", replayed.ended);
        prop_assert!(replayed.contents() == recorded.contents());
        prop_assert_eq!(repaired.get(), 1, "taken as soon as it is there");

        for _ in 0..8 {
            let mut damaged = log.clone();
            let mut before: Vec<Entry> = damaged.drain(..begin).collect();
            if before.is_empty() {
                continue;
            }
            let damage = mutate(&mut before, &mut dice);
            if before.iter().any(is_end) {
                continue; // nothing comes after the guest's end
            }
            before.append(&mut damaged);
            let replayed = replay(&script, &mut dice, Playback::with_state(before));
            prop_assert!(replayed.ended.is_ok(), "{damage}: {:?}", replayed.ended);
            prop_assert!(replayed.registers == recorded.registers, "{damage}");
            prop_assert!(replayed.contents() == recorded.contents(), "{damage}");
        }
    }

    #[test]
    fn a_cut_log_goes_on_live(deeds in deeds(), seed: u64, cut: prop::sample::Index) {
        let (script, mut dice) = (script(&deeds), Dice(seed));
        let (recorded, mut log) = record(&script, &mut dice, Verification::Digests);
        let whole = log.clone();
        log.truncate(cut.index(log.len()));
        // A state transfer that is not complete has no effect.
        while log.last().is_some_and(is_incomplete) {
            log.pop();
        }
        let kept = log.len();

        // The survivor logs on from the cut, and its log replays in its turn.
        let continued = MemoryLog::default();
        continued.entries.borrow_mut().clone_from(&log);
        let world = MadeUpWorld::new(dice.roll(u64::MAX), last_time(&log));
        let unfinished = Rc::new(Cell::new(Vec::new()));
        let again = Cell::default();
        let survivor = run(&script, &mut dice, |memory, seen| {
            let (new_log, new_memory, new_seen) = (continued.clone(), memory.clone(), seen.clone());
            let done: Vec<u64> = log.iter().filter_map(completed).collect();
            let unfinished = unfinished.clone();
            again.set(seen.again.clone());
            let playback = Playback::followed_by(log, move || {
                let asked = new_seen.asked.take().into_iter();
                unfinished.set(asked.filter(|r| !done.contains(&r.id)).collect());
                let world = world.with_disk_of(&new_seen);
                Role {
                    source: Box::new(Recorder::new(world, new_log, Verification::Digests, new_memory)),
                    gate: Box::new(new_seen),
                }
            });
            Role {
                source: Box::new(replayer(playback, memory)),
                gate: Box::new(seen),
            }
        });
        let reason = survivor.ended.as_ref().map(|ended| ended.reason);
        prop_assert!(matches!(reason, Ok(ShutdownReason::PowerOff)), "{:?}", survivor.ended);
        let outputs_before = whole[..kept].iter().filter(|e| is_output(e)).count();
        prop_assert!(survivor.outputs[..outputs_before] == recorded.outputs[..outputs_before]);

        prop_assert_eq!(again.take().take(), unfinished.take(), "issued again");

        let again = replay(&script, &mut dice, Playback::new(continued.entries.take()));
        prop_assert!(again.ended.is_ok(), "{:?}", again.ended);
        prop_assert!(again.is_like(&survivor));
    }

    #[test]
    fn a_cut_log_is_reported(deeds in deeds(), seed: u64, cut: prop::sample::Index) {
        let (script, mut dice) = (script(&deeds), Dice(seed));
        let (_, mut log) = record(&script, &mut dice, Verification::Digests);
        log.truncate(cut.index(log.len()));
        let replayed = replay(&script, &mut dice, Playback::new(log));
        prop_assert!(matches!(replayed.ended, Err(EngineError::Source(_))), "{:?}", replayed.ended);
    }
}

/// A guest that runs on and on, where the log has an exit to come.
#[test]
fn a_replay_that_does_not_arrive_is_reported() {
    let script = Script {
        main: vec![Op::Compute(u32::MAX)],
        ..Script::default()
    };
    let entry = Entry {
        point: ExecutionPoint::at_exit(1),
        check: None,
        payload: Payload::Tick(1),
    };
    let stuck = run(&script, &mut Dice(7), |memory, seen| {
        let watchdog = Watchdog::start(Duration::from_secs(3600)).expect("a thread");
        let replayer = replayer(Playback::new(vec![entry]), memory)
            .with_watchdog(watchdog)
            .with_patience(Duration::from_millis(1));
        Role {
            source: Box::new(replayer),
            gate: Box::new(seen),
        }
    });
    let Err(EngineError::Diverged(divergence)) = stuck.ended else {
        panic!("{:?}", stuck.ended);
    };
    assert!(
        matches!(divergence.difference, Difference::Overdue { .. }),
        "{divergence}"
    );
}

fn is_incomplete(entry: &Entry) -> bool {
    matches!(
        entry.payload,
        Payload::State(StatePart::Pages(_)) | Payload::DiskData(_)
    )
}

/// The request to the disk that an entry completes.
fn completed(entry: &Entry) -> Option<u64> {
    match entry.payload {
        Payload::DiskDone { id, .. } => Some(id),
        _ => None,
    }
}

fn is_end(entry: &Entry) -> bool {
    matches!(entry.payload, Payload::Shutdown(_))
}

fn is_output(entry: &Entry) -> bool {
    matches!(entry.payload, Payload::Output(_))
}

/// The latest guest time that a log tells.
fn last_time(log: &[Entry]) -> u64 {
    let times = log.iter().filter_map(|entry| match entry.payload {
        Payload::Tsc(t) | Payload::Clock(t) | Payload::Tick(t) => Some(t),
        _ => None,
    });
    times.max().unwrap_or(0)
}

/// The generator makes guests that see all kinds of inputs: the properties above are not about
/// empty logs.
#[test]
fn random_guests_meet_every_kind_of_entry() {
    use logging_channel::codec::Kind;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut dice = Dice(1);
    let mut kinds = std::collections::BTreeSet::new();
    for _ in 0..200 {
        let deeds = deeds().new_tree(&mut runner).expect("a guest").current();
        let log = MemoryLog {
            joined_after: Some(5),
            renewal_wanted_after: Some(30),
            ..MemoryLog::default()
        };
        let (_, log) = record_to(log, &script(&deeds), &mut dice, Verification::EveryExit);
        kinds.extend(log.iter().map(|e| Kind::of(&e.payload).number()));
    }
    let missing: Vec<_> = Kind::ALL
        .iter()
        .filter(|k| !kinds.contains(&k.number()))
        .collect();
    // For counts there is a processor of its own.
    assert!(
        missing.iter().all(|k| matches!(k, Kind::Counted)),
        "{missing:?}"
    );
}
