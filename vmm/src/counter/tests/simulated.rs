//! A simulated processor with a counter that has bad habits.

use proptest::prelude::*;

use crate::counter::{Ran, Seekable};
use crate::cpu::{CountedStop, Registers};
use crate::dice::Dice;

/// Registers that programs use: RAX, RBX, RCX, RDX.
const REGISTERS: usize = 4;
const RCX: usize = 2;
const WORDS: usize = 4;
/// After so many instructions without a stop the host has something to do.
const HOST_TICK: u64 = 600;

/// One instruction.
#[derive(Debug, Clone, Copy)]
pub(super) enum Op {
    /// Adds to a register.
    Add(usize, u64),
    /// Adds to a word of memory; no register shows it.
    Store(usize, u64),
    /// Loads a register from memory.
    Load(usize, usize),
    /// Sets RCX.
    SetCount(u64),
    /// Stores RCX times, one iteration a step, with RIP staying.
    Rep,
    /// Jumps; not counted.
    Jump(usize),
    /// Jumps through a pointer in memory, which is another one every so many times; not counted.
    JumpThroughMemory(usize, u64, usize),
    /// Decrements a register and jumps unless it is zero: a counted branch.
    Loop(usize, usize),
    /// Decrements a word of memory and jumps unless it is zero: a counted branch.
    LoopOnMemory(usize, usize),
    /// Makes a deterministic exit.
    Out,
}

/// Instructions by address. After the last one comes an exit.
pub(super) fn programs() -> impl Strategy<Value = Vec<Op>> {
    let address = 0..12_usize;
    let register = 0..REGISTERS;
    let word = 0..WORDS;
    let op = prop_oneof![
        3 => (register.clone(), 0..3_u64).prop_map(|(r, n)| Op::Add(r, n)),
        3 => (word.clone(), 1..3_u64).prop_map(|(w, n)| Op::Store(w, n)),
        1 => (register.clone(), word.clone()).prop_map(|(r, w)| Op::Load(r, w)),
        2 => (0..9_u64).prop_map(Op::SetCount),
        2 => Just(Op::Rep),
        1 => address.clone().prop_map(Op::Jump),
        2 => (word.clone(), 1..7_u64, address.clone())
            .prop_map(|(w, n, a)| Op::JumpThroughMemory(w, n, a)),
        3 => (register, address.clone()).prop_map(|(r, a)| Op::Loop(r, a)),
        3 => (word, address).prop_map(|(w, a)| Op::LoopOnMemory(w, a)),
        1 => Just(Op::Out),
    ];
    prop::collection::vec(op, 2..12)
}

/// What the counter counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Events {
    Instructions,
    Branches,
}

/// How the counter behaves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Habits {
    pub(super) events: Events,
    /// What it says that its skid is.
    pub(super) declared_skid: u64,
    /// What it is.
    pub(super) true_skid: u64,
    /// One in so many instructions is followed by a stop without a reason; 0 for none.
    pub(super) spurious: u64,
    pub(super) seed: u64,
}

/// A place in a program's run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TracePlace {
    /// Instructions executed: what nobody but the test knows.
    pub(super) ordinal: u64,
    pub(super) count: u64,
    gpr: [u64; REGISTERS],
    rip: usize,
}

impl TracePlace {
    pub(super) fn registers(&self) -> Registers {
        let mut registers = Registers {
            rip: self.rip as u64,
            ..Registers::default()
        };
        registers.gpr[..REGISTERS].copy_from_slice(&self.gpr);
        registers
    }

    pub(super) fn name(&self) -> CountedStop {
        CountedStop {
            count: self.count,
            registers: self.registers(),
        }
    }
}

pub(super) struct Simulated<'a> {
    program: &'a [Op],
    habits: Habits,
    dice: Dice,
    memory: [u64; WORDS],
    pub(super) place: TracePlace,
}

impl<'a> Simulated<'a> {
    pub(super) fn new(program: &'a [Op], habits: Habits) -> Self {
        Self {
            program,
            habits,
            dice: Dice(habits.seed),
            memory: [5; WORDS],
            place: TracePlace {
                ordinal: 0,
                count: 0,
                gpr: [3; REGISTERS],
                rip: 0,
            },
        }
    }

    /// The first places of the run, the last one being at most an exit.
    pub(super) fn trace(program: &'a [Op], habits: Habits, limit: usize) -> Vec<TracePlace> {
        let mut cpu = Self::new(program, habits);
        let mut places = vec![cpu.place];
        while places.len() < limit && cpu.execute() {
            places.push(cpu.place);
        }
        places
    }

    /// Executes one instruction; `false` if that is an exit.
    pub(super) fn execute(&mut self) -> bool {
        let Some(&op) = self.program.get(self.place.rip) else {
            return false;
        };
        let gpr = &mut self.place.gpr;
        let memory = &mut self.memory;
        let mut next = self.place.rip + 1;
        let mut branches = 0;
        match op {
            Op::Out => return false,
            Op::Add(r, n) => gpr[r] = gpr[r].wrapping_add(n),
            Op::Store(w, n) => memory[w] = memory[w].wrapping_add(n),
            Op::Load(r, w) => gpr[r] = memory[w],
            Op::SetCount(n) => gpr[RCX] = n,
            Op::Rep if gpr[RCX] > 1 => {
                gpr[RCX] -= 1;
                next -= 1;
            }
            Op::Rep => gpr[RCX] = 0,
            Op::Jump(a) => next = a,
            Op::JumpThroughMemory(w, n, a) => {
                memory[w] = memory[w].wrapping_add(1);
                if !memory[w].is_multiple_of(n) {
                    next = a;
                }
            }
            Op::Loop(r, a) => {
                branches = 1;
                gpr[r] = gpr[r].wrapping_sub(1) % 8;
                if gpr[r] != 0 {
                    next = a;
                }
            }
            Op::LoopOnMemory(w, a) => {
                branches = 1;
                memory[w] = memory[w].wrapping_sub(1) % 8;
                if memory[w] != 0 {
                    next = a;
                }
            }
        }
        self.place.rip = next;
        self.place.ordinal += 1;
        self.place.count += match self.habits.events {
            Events::Instructions => 1,
            Events::Branches => branches,
        };
        true
    }

    /// Runs until `arrived`, or late after `events`, or stopped for no reason.
    fn run(&mut self, events: u64, arrived: impl Fn(&TracePlace) -> bool) -> Ran<()> {
        let late = self.dice.roll(self.habits.true_skid + 1);
        let overflow = self.place.count + events;
        // The interrupt comes somewhere between two events.
        let mut instructions_late = self.dice.roll(8);
        for _ in 0..HOST_TICK {
            if !self.execute() {
                return Ran::Exit(());
            }
            if arrived(&self.place) {
                return Ran::Stopped;
            }
            if self.place.count > overflow + late {
                // One event further would be more than the skid, so it is now at the latest.
                unreachable!("stops before the next event");
            }
            if self.place.count == overflow + late {
                if instructions_late == 0 || self.next_is_event() {
                    return Ran::Stopped;
                }
                instructions_late -= 1;
            }
            if self.habits.spurious > 0 && self.dice.roll(self.habits.spurious) == 0 {
                return Ran::Stopped;
            }
        }
        Ran::Stopped
    }

    fn next_is_event(&self) -> bool {
        let branch = |op: &Op| matches!(op, Op::Loop(..) | Op::LoopOnMemory(..));
        self.habits.events == Events::Instructions
            || self.program.get(self.place.rip).is_some_and(branch)
    }
}

impl Seekable for Simulated<'_> {
    type Exit = ();
    type Error = std::convert::Infallible;

    fn count(&mut self) -> Result<u64, Self::Error> {
        Ok(self.place.count)
    }

    fn registers(&mut self) -> Result<Registers, Self::Error> {
        Ok(self.place.registers())
    }

    fn skid(&self) -> u64 {
        self.habits.declared_skid
    }

    fn run_for(&mut self, events: u64) -> Result<Ran<()>, Self::Error> {
        assert!(events > 0);
        Ok(self.run(events, |_| false))
    }

    fn run_to(&mut self, rip: u64, events: u64) -> Result<Ran<()>, Self::Error> {
        assert!(events > 0);
        Ok(self.run(events, |place| place.rip as u64 == rip))
    }

    fn step(&mut self) -> Result<Ran<()>, Self::Error> {
        Ok(if self.execute() {
            Ran::Stopped
        } else {
            Ran::Exit(())
        })
    }
}
