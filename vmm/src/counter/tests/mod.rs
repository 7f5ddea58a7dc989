//! Seeking on a simulated processor, where the test knows the true place.
//!
//! `FTVM_SEEK_CASES=1000000 cargo test --release -p ftvm-vmm counter` runs more cases.

mod simulated;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use self::simulated::{Events, Habits, Op, Simulated, TracePlace, programs};
use super::*;
use crate::cpu::CountedStop;

const CASES: u32 = 100_000;
/// Places of a run from which one is chosen.
const TRACE: usize = 150;
/// More than a run makes at one count.
const PATIENCE: u64 = 400;

/// Which place is sought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    /// One where a recorder settled.
    Settled,
    /// Any, named by its count and registers.
    Anywhere,
    /// The count of one, and registers that it does not have.
    OtherRegisters,
    /// Registers of one, at a count that it does not have.
    OtherCount,
}

#[derive(Debug, Clone)]
struct Case {
    program: Vec<Op>,
    habits: Habits,
    target: Target,
    /// Which place of the run, in 1/65536.
    at: u16,
}

fn cases() -> impl Strategy<Value = Case> {
    let events = prop_oneof![Just(Events::Instructions), Just(Events::Branches)];
    let target = prop_oneof![
        4 => Just(Target::Settled),
        4 => Just(Target::Anywhere),
        1 => Just(Target::OtherRegisters),
        1 => Just(Target::OtherCount),
    ];
    let skid = prop_oneof![Just(0), 0..4_u64, 0..40_u64];
    // A third of the counters come later than they say.
    let excess = prop_oneof![2 => Just(0), 1 => 1..40_u64];
    let spurious = prop_oneof![2 => Just(0), 1 => 1..40_u64];
    let habits = (events, skid, excess, spurious, any::<u64>()).prop_map(
        |(events, declared_skid, excess, spurious, seed)| Habits {
            events,
            declared_skid,
            true_skid: declared_skid + excess,
            spurious,
            seed,
        },
    );
    (programs(), habits, target, any::<u16>()).prop_map(|(program, habits, target, at)| Case {
        program,
        habits,
        target,
        at,
    })
}

/// The place that is sought, and where it is, if anywhere.
fn target(case: &Case, trace: &[TracePlace]) -> Option<(CountedStop, Option<u64>)> {
    let index = trace.len() * usize::from(case.at) / 65536;
    let mut name = trace[index].name();
    match case.target {
        Target::Settled => {
            let mut cpu = Simulated::new(&case.program, case.habits);
            while cpu.place.ordinal < trace[index].ordinal {
                cpu.execute();
            }
            match settle(&mut cpu, TRACE as u64).unwrap_or_else(|never| match never {}) {
                Settled::At(name) => return Some((name, Some(cpu.place.ordinal))),
                Settled::Exit(()) | Settled::Nowhere => return None,
            }
        }
        Target::Anywhere => {}
        // No program reaches such a value.
        Target::OtherRegisters => name.registers.gpr[3] ^= 1 << 40,
        Target::OtherCount => name.count += 1,
    }
    // What the name means: the first place that has it.
    let first = trace.iter().find(|place| place.name() == name);
    if first.is_none() && case.target == Target::OtherCount && trace.len() == TRACE {
        return None; // it may come later than the trace ends
    }
    if case.habits.events == Events::Instructions && case.target == Target::Anywhere {
        // Only one has it.
        assert_eq!(first.map(|place| place.ordinal), Some(trace[index].ordinal));
    }
    Some((name, first.map(|place| place.ordinal)))
}

#[derive(Debug, Default)]
struct Tally {
    found: u64,
    missed: u64,
    overshot: u64,
    skipped: u64,
}

fn check(case: &Case, tally: &mut Tally) -> Result<(), TestCaseError> {
    let trace = Simulated::trace(&case.program, case.habits, TRACE);
    let Some((name, truth)) = target(case, &trace) else {
        tally.skipped += 1;
        return Ok(());
    };
    let mut cpu = Simulated::new(&case.program, case.habits);
    let sought = seek(&mut cpu, &name, PATIENCE).unwrap_or_else(|never| match never {});
    match (sought, truth) {
        (Ok(()), Some(ordinal)) => {
            prop_assert_eq!(cpu.place.ordinal, ordinal, "found elsewhere");
            tally.found += 1;
        }
        (Ok(()), None) => prop_assert!(false, "found {:?}, which is nowhere", cpu.place),
        (Err(miss), Some(_)) => {
            let late = case.habits.true_skid > case.habits.declared_skid;
            let noticed = matches!(miss.why, Why::Overrun { .. } | Why::Exit(()));
            prop_assert!(late && noticed, "missed: {miss}");
            tally.overshot += 1;
        }
        (Err(miss), None) => {
            // What the report says is true: not even the nearest place matched.
            let exhausted = matches!(miss.why, Why::Exit(()) | Why::Overrun { .. });
            prop_assert!(!miss.differences.is_empty() || exhausted || miss.count != name.count);
            tally.missed += 1;
        }
    }
    Ok(())
}

#[test]
fn places_are_found_or_reported() {
    let cases_wanted = match std::env::var("FTVM_SEEK_CASES") {
        Ok(number) => number.parse().expect("FTVM_SEEK_CASES is a number"),
        Err(_) => CASES,
    };
    let mut runner = TestRunner::new(Config {
        cases: cases_wanted,
        failure_persistence: None,
        ..Config::default()
    });
    let tally = std::cell::RefCell::new(Tally::default());
    let result = runner.run(&cases(), |case| check(&case, &mut tally.borrow_mut()));
    if let Err(error) = result {
        panic!("{error}");
    }
    let tally = tally.into_inner();
    println!("{cases_wanted} cases: {tally:?}");
    let tenth = u64::from(cases_wanted / 20);
    assert!(tally.found > tenth, "{tally:?}");
    assert!(tally.missed > tenth / 4, "{tally:?}");
    assert!(tally.overshot > tenth / 40, "{tally:?}");
}

fn exact(events: Events) -> Habits {
    Habits {
        events,
        declared_skid: 0,
        true_skid: 0,
        spurious: 0,
        seed: 1,
    }
}

/// A loop that changes only memory, and that no counter of branches sees.
#[test]
fn a_settled_place_is_unique_where_others_are_not() {
    let program = [
        Op::Store(0, 1),
        Op::JumpThroughMemory(1, 7, 0),
        Op::LoopOnMemory(2, 0),
        Op::Out,
    ];
    let habits = exact(Events::Branches);
    let trace = Simulated::trace(&program, habits, TRACE);
    let twins = trace.iter().filter(|p| p.name() == trace[2].name()).count();
    assert!(twins > 1, "the program does what it is for");
    let mut recorder = Simulated::new(&program, habits);
    recorder.execute();
    let Ok(Settled::At(name)) = settle(&mut recorder, 100) else {
        panic!("a loop with a branch");
    };
    let mut replay = Simulated::new(&program, habits);
    assert_eq!(seek(&mut replay, &name, 100), Ok(Ok(())));
    assert_eq!(replay.place, recorder.place);
}

#[test]
fn an_endless_loop_without_events_is_given_up() {
    let program = [Op::Store(0, 1), Op::Jump(0)];
    let habits = exact(Events::Branches);
    let mut name = Simulated::new(&program, habits).place.name();
    assert_eq!(
        settle(&mut Simulated::new(&program, habits), 50),
        Ok(Settled::Nowhere)
    );
    name.registers.gpr[0] = 77;
    let Ok(Err(miss)) = seek(&mut Simulated::new(&program, habits), &name, 50) else {
        panic!("such registers are nowhere");
    };
    assert_eq!(miss.why, Why::Stuck);
}

/// A counter of branches has the same value, and RIP stays, at every iteration of a string
/// instruction: its registers name it.
#[test]
fn an_iteration_of_a_string_instruction_is_named_by_its_registers() {
    let program = [Op::SetCount(8), Op::Rep, Op::Loop(3, 0), Op::Out];
    let habits = exact(Events::Branches);
    let trace = Simulated::trace(&program, habits, TRACE);
    let iterations = &trace[1..9];
    let twins = |place: &TracePlace| (place.count, place.registers().rip);
    assert!(iterations.iter().all(|place| twins(place) == (0, 1)));
    for place in iterations {
        let mut cpu = Simulated::new(&program, habits);
        assert_eq!(seek(&mut cpu, &place.name(), 50), Ok(Ok(())));
        assert_eq!(cpu.place, *place);
    }
}

#[test]
fn a_miss_names_registers_and_values() {
    let program = [Op::SetCount(3), Op::Rep, Op::Loop(3, 0), Op::Out];
    let habits = exact(Events::Branches);
    let trace = Simulated::trace(&program, habits, TRACE);
    let mut name = trace[3].name();
    name.registers.gpr[2] = 5;
    let Ok(Err(miss)) = seek(&mut Simulated::new(&program, habits), &name, 50) else {
        panic!("RCX is never 5");
    };
    assert_eq!(miss.why, Why::Passed);
    assert_eq!(
        miss.differences
            .iter()
            .map(|d| (d.name, d.wanted))
            .collect::<Vec<_>>(),
        [("rcx", 5)]
    );
    let text = miss.to_string();
    assert!(text.contains("rcx is 0x1, not 0x5"), "{text}");
}
