//! Stops named by a counter: recorded and replayed on processors whose counters stop them late, each
//! in its own way.

use ftvm_vmm::counter::{CountingCpu, TallyCounter};
use ftvm_vmm::cpu::{Counted, CpuState, Exit};
use ftvm_vmm::fake_cpu::FakeCpu;

use super::*;
use crate::guest::{Deed, engine_of, processor};

/// How late a counter stops the processor at most, by its own word and in truth.
#[derive(Debug, Clone, Copy)]
struct Skid {
    declared: u64,
    real: u64,
}

fn skids() -> impl Strategy<Value = Skid> {
    (0..12u64, 0..12u64).prop_map(|(a, b)| Skid {
        declared: a.max(b),
        real: b,
    })
}

/// Guests that compute for long.
fn busy_deeds() -> impl Strategy<Value = Vec<Deed>> {
    let computing = prop::option::weighted(0.4, 1..200u32);
    let pauses = prop::collection::vec(computing, 60);
    (deeds(), pauses).prop_map(|(deeds, pauses)| {
        let pauses = pauses.into_iter().chain(std::iter::repeat(None));
        let both = deeds.into_iter().zip(pauses);
        both.flat_map(|(deed, pause)| {
            let pause = pause.map(|instructions| Deed::Do(Op::Compute(instructions)));
            [Some(deed), pause].into_iter().flatten()
        })
        .collect()
    })
}

fn counting(
    script: &Script,
    memory: &GuestRam,
    dice: &mut Dice,
    skid: Skid,
) -> CountingCpu<FakeCpu, TallyCounter> {
    let cpu = processor(script, memory, dice);
    let counter = TallyCounter::new(cpu.tally(), skid.declared, skid.real, dice.roll(u64::MAX));
    let mut cpu = CountingCpu::new(cpu);
    assert!(cpu.count_with(Ok(counter)), "it never fails");
    cpu
}

fn run_counted(
    script: &Script,
    dice: &mut Dice,
    skid: Skid,
    role: impl FnOnce(&GuestRam, Seen) -> Role,
) -> Run {
    let memory = memory();
    let seen = Seen::default();
    let cpu = counting(script, &memory, dice, skid);
    let engine = engine_of(cpu, &memory, role(&memory, seen.clone()));
    finish(engine, memory, &seen)
}

fn recorder(
    world: MadeUpWorld,
    log: MemoryLog,
    memory: &GuestRam,
) -> Box<Recorder<MemoryLog, MadeUpWorld>> {
    let recorder = Recorder::new(world, log, Verification::EveryExit, memory.clone());
    let keeper = StateKeeper::new(baseline(memory), PACE, Arc::default());
    Box::new(recorder.with_keeper(keeper))
}

fn record_counted(
    log: MemoryLog,
    script: &Script,
    dice: &mut Dice,
    skid: Skid,
) -> (Run, Vec<Entry>) {
    let world = MadeUpWorld::new(dice.roll(u64::MAX), 0);
    let run = run_counted(script, dice, skid, |memory, seen| Role {
        source: recorder(world, log.clone(), memory),
        gate: Box::new(seen),
    });
    (run, log.entries.take())
}

fn replay_counted(script: &Script, dice: &mut Dice, skid: Skid, log: Playback) -> Run {
    run_counted(script, dice, skid, |memory, seen| Role {
        source: Box::new(replayer(log, memory)),
        gate: Box::new(seen),
    })
}

fn counted_stops(log: &[Entry]) -> usize {
    let counted = |entry: &&Entry| matches!(entry.payload, Payload::Counted(_));
    log.iter().filter(counted).count()
}

proptest! {
    #[test]
    fn counted_stops_replay(
        deeds in busy_deeds(),
        seed: u64,
        here in skids(),
        there in skids(),
        whole in prop::option::of(0usize..60),
    ) {
        let (script, mut dice) = (script(&deeds), Dice(seed));
        // Whole states and counts in one log.
        let log = MemoryLog { state_wanted_after: whole, ..MemoryLog::default() };
        let (recorded, log) = record_counted(log, &script, &mut dice, here);
        prop_assert!(recorded.ended.is_ok(), "{:?}", recorded.ended);
        // A guest may end within a transfer.
        let part = |wanted: fn(&StatePart) -> bool| {
            let is = |e: &Entry| matches!(&e.payload, Payload::State(part) if wanted(part));
            log.iter().rposition(is)
        };
        let begin = part(|part| matches!(part, StatePart::Begin(_)));
        prop_assume!(begin <= part(|part| matches!(part, StatePart::Commit(_))));
        let replayed = replay_counted(&script, &mut dice, there, Playback::with_state(log));
        prop_assert!(replayed.ended.is_ok(), "{:?}", replayed.ended);
        prop_assert!(whole.is_some() || replayed.is_like(&recorded));
        prop_assert!(replayed.registers == recorded.registers);
        prop_assert!(replayed.contents() == recorded.contents());
    }

    /// A counter that stops the processor later than it says.
    #[test]
    fn a_stop_that_is_overrun_is_noticed(deeds in busy_deeds(), seed: u64, real in 1..40u64) {
        let (script, mut dice) = (script(&deeds), Dice(seed));
        let honest = Skid { declared: real, real };
        let (recorded, log) = record_counted(MemoryLog::default(), &script, &mut dice, honest);
        let liar = Skid { declared: 0, real };
        let replayed = replay_counted(&script, &mut dice, liar, Playback::new(log));
        match replayed.ended {
            Ok(_) => prop_assert!(replayed.is_like(&recorded) && replayed.contents() == recorded.contents()),
            Err(EngineError::Diverged(divergence)) => {
                prop_assert!(matches!(divergence.difference, Difference::Overrun(_)), "{divergence}");
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    #[test]
    fn a_moved_stop_is_found_out(deeds in busy_deeds(), seed: u64, skid in skids(), at: prop::sample::Index) {
        let (script, mut dice) = (script(&deeds), Dice(seed));
        let (_, mut log) = record_counted(MemoryLog::default(), &script, &mut dice, skid);
        let mut stops: Vec<_> = log.iter_mut().filter_map(|entry| match &mut entry.payload {
            Payload::Counted(stop) => Some(stop),
            _ => None,
        }).collect();
        prop_assume!(!stops.is_empty());
        let at = at.index(stops.len());
        stops[at].count += 1;
        let replayed = replay_counted(&script, &mut dice, skid, Playback::new(log));
        let Err(EngineError::Diverged(divergence)) = &replayed.ended else {
            return Err(TestCaseError::fail(format!("{:?}", replayed.ended)));
        };
        prop_assert!(matches!(divergence.difference, Difference::Seek(_)), "{divergence}");
    }

    #[test]
    fn a_cut_counted_log_goes_on_live(
        deeds in busy_deeds(),
        seed: u64,
        skid in skids(),
        cut: prop::sample::Index,
    ) {
        let (script, mut dice) = (script(&deeds), Dice(seed));
        let (_, mut log) = record_counted(MemoryLog::default(), &script, &mut dice, skid);
        log.truncate(cut.index(log.len()));
        let continued = MemoryLog::default();
        continued.entries.borrow_mut().clone_from(&log);
        let world = MadeUpWorld::new(dice.roll(u64::MAX), last_time(&log));
        let survivor = run_counted(&script, &mut dice, skid, |memory, seen| {
            let (new_log, new_memory, new_seen) = (continued.clone(), memory.clone(), seen.clone());
            let playback = Playback::followed_by(log, move || Role {
                source: Box::new(Recorder::new(world, new_log, Verification::Digests, new_memory)),
                gate: Box::new(new_seen),
            });
            Role { source: Box::new(replayer(playback, memory)), gate: Box::new(seen) }
        });
        prop_assert!(survivor.ended.is_ok(), "{:?}", survivor.ended);
        let again = Playback::new(continued.entries.take());
        let again = replay_counted(&script, &mut dice, skid, again);
        prop_assert!(again.ended.is_ok(), "{:?}", again.ended);
        prop_assert!(again.is_like(&survivor));
    }
}

const EXACT: Skid = Skid {
    declared: 0,
    real: 0,
};

/// A guest that computes, and is sent inputs meanwhile.
fn computing() -> Script {
    let deeds = [
        Deed::Do(Op::Sti),
        Deed::Do(Op::Compute(5000)),
        Deed::Do(Op::ReadTsc),
        Deed::Do(Op::Compute(5000)),
    ];
    script(&deeds)
}

#[test]
fn stops_of_a_computing_guest_have_counts_and_no_states() {
    let (_, log) = record_counted(MemoryLog::default(), &computing(), &mut Dice(3), EXACT);
    assert!(counted_stops(&log) > 100, "{}", counted_stops(&log));
    let state = |entry: &Entry| matches!(entry.payload, Payload::State(_));
    assert!(!log.iter().any(state));
}

#[test]
fn a_log_with_counts_is_refused_where_nothing_counts() {
    let (script, mut dice) = (computing(), Dice(3));
    let (_, log) = record_counted(MemoryLog::default(), &script, &mut dice, EXACT);
    let memory = memory();
    let seen = Seen::default();
    let cpu: CountingCpu<_, TallyCounter> =
        CountingCpu::new(processor(&script, &memory, &mut dice));
    let role = Role {
        source: Box::new(replayer(Playback::with_state(log), &memory)),
        gate: Box::new(seen.clone()),
    };
    let refused = finish(engine_of(cpu, &memory, role), memory.clone(), &seen);
    let Err(EngineError::Source(reason)) = refused.ended else {
        panic!("{:?}", refused.ended);
    };
    assert!(reason.contains("`ftvm doctor` says why"), "{reason}");
}

/// The guest comes to an exit before it comes to a counted event.
#[test]
fn an_exit_on_the_way_to_a_name_is_not_lost() {
    for (main, window, expected) in [
        (
            vec![
                Op::Compute(1),
                Op::In {
                    port: 0x71,
                    size: 1,
                },
            ],
            false,
            None,
        ),
        (
            vec![Op::Sti, Op::Compute(60)],
            true,
            Some(Exit::InterruptWindow),
        ),
    ] {
        let script = Script {
            main,
            ..Script::default()
        };
        let mut cpu = counting(&script, &memory(), &mut Dice(1), EXACT);
        cpu.request_interrupt_window(window);
        assert_eq!(cpu.counted_stop().expect("it runs"), Counted::Exit);
        assert!(
            !cpu.at_rest().expect("known"),
            "its state is not to be taken"
        );
        let exit = cpu.run().expect("it runs");
        match expected {
            Some(expected) => assert_eq!(exit, expected),
            None => {
                assert!(
                    matches!(exit, Exit::Io(access) if access.port == 0x71),
                    "{exit:?}"
                );
                assert_eq!(cpu.io_data().len(), 1);
            }
        }
    }
}
