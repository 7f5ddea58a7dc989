//! The engine from exit to exit, with a processor that executes a script.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput};
use ftvm_vmm::cpu::{Exit, GuestCpu as _};
use ftvm_vmm::devices::{Devices, Output};
use ftvm_vmm::engine::{Engine, EventSource, Interruption, OutputGate, Role, Step};
use ftvm_vmm::fake_cpu::{FakeCpu, Op, Script};
use ftvm_vmm::ram::{GuestRam, allocate};
use ftvm_vmm::rewrite::Sites;
use ftvm_vmm::sources::{
    GuestClock, Head, Lanes, LiveInputs, LogSink, LogSource, NoLog, Pace, Recorder, Replayer,
    StateFollower, StateKeeper, Verification,
};
use ftvm_vmm::state::Baseline;
use ftvm_vmm::traps::TscTrap;
use logging_channel::Settings;
use logging_channel::codec::BatchEncoder;
use logging_channel::entry::{Entry, Lsn};

/// Of a run, which is an iteration.
const EXITS: usize = 10_000;
/// Seeds what no guest notices: all runs of a script have it equal.
const KICKS: u64 = 1;

/// Exits of one kind: those that log nothing, a value, or an output.
const KINDS: [(&str, Op); 3] = [
    (
        "exits that log nothing",
        Op::Out {
            port: 0x80,
            size: 1,
            value: 1,
        },
    ),
    ("exits that read the clock", Op::ReadTsc),
    (
        "exits with an output",
        Op::Out {
            port: 0x3f8,
            size: 1,
            value: b'\n' as u32,
        },
    ),
];

/// The script by itself, and under the engine without a log, recorded, and replayed.
pub(crate) fn exits(criterion: &mut Criterion) {
    let batch_bytes = Settings::default().batch_bytes;
    for (name, op) in KINDS {
        let script = Script {
            main: vec![op; EXITS],
            ..Script::default()
        };
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(EXITS as u64));
        let mut measure = |name, make: &dyn Fn(&GuestRam) -> Box<dyn EventSource>| {
            group.bench_function(name, |bencher| {
                let ready = || engine(&script, make);
                let run = |mut engine: Engine<FakeCpu>| {
                    engine.run().expect("it runs to its end");
                    engine
                };
                bencher.iter_batched(ready, run, BatchSize::PerIteration);
            });
        };
        measure("without a log", &|memory| Box::new(recorder(NoLog, memory)));
        measure("recorded", &|memory| {
            let log = Encoded {
                open: BatchEncoder::new(Lsn::FIRST),
                limit: batch_bytes,
            };
            Box::new(recorder(log, memory).with_keeper(keeper(memory)))
        });
        let log = log_of(&script);
        measure("replayed", &|memory| {
            let follower = StateFollower::new(baseline(memory), Arc::default());
            let log = Playback::of(log.clone());
            Box::new(Replayer::new(log, memory.clone(), Arc::default()).with_state(follower))
        });
        group.bench_function("processor", |bencher| {
            let ready = || FakeCpu::new(script.clone(), memory(), KICKS);
            bencher.iter_batched(ready, alone, BatchSize::PerIteration);
        });
        group.finish();
    }
}

/// Runs a processor to the end of its script, and answers nothing.
fn alone(mut cpu: FakeCpu) -> FakeCpu {
    while !matches!(cpu.run().expect("it runs"), Exit::Halt { .. }) {}
    cpu
}

fn memory() -> GuestRam {
    allocate(1 << 20).expect("a megabyte")
}

fn baseline(memory: &GuestRam) -> Baseline {
    Baseline::new(memory.clone()).expect("hashes of a megabyte")
}

fn keeper(memory: &GuestRam) -> StateKeeper {
    StateKeeper::new(baseline(memory), Pace::default(), Arc::default())
}

fn recorder<L: LogSink>(log: L, memory: &GuestRam) -> Recorder<L> {
    let live = LiveInputs::new(GuestClock::starting_now(), Lanes::default());
    Recorder::new(live, log, Verification::Digests, memory.clone())
}

fn engine(script: &Script, source: &dyn Fn(&GuestRam) -> Box<dyn EventSource>) -> Engine<FakeCpu> {
    let memory = memory();
    let role = Role {
        source: source(&memory),
        gate: Box::new(Nowhere),
    };
    let devices = Devices::new(&memory, [2, 0, 0, 0, 0, 1]);
    let traps = TscTrap::new(&Sites::default(), memory.clone());
    let cpu = FakeCpu::new(script.clone(), memory, KICKS);
    Engine::new(cpu, devices, traps, role)
}

/// What a run logs.
fn log_of(script: &Script) -> Rc<[Entry]> {
    let log = Kept::default();
    let source = |memory: &GuestRam| -> Box<dyn EventSource> {
        Box::new(recorder(log.clone(), memory).with_keeper(keeper(memory)))
    };
    engine(script, &source).run().expect("it runs to its end");
    log.0.take().into()
}

struct Nowhere;

impl OutputGate for Nowhere {
    fn submit(&mut self, _: Output, _: Option<Lsn>) {}
}

/// A log that is encoded, in batches as the channel sends them, which go nowhere.
struct Encoded {
    open: BatchEncoder,
    /// Bytes of a batch.
    limit: usize,
}

impl LogSink for Encoded {
    fn append(&mut self, entry: Entry) -> Step<Lsn> {
        let lsn = self.open.push(&entry).expect("a valid entry");
        if self.open.len() >= self.limit {
            drop(self.open.take());
        }
        Ok(lsn)
    }
}

/// A log that is kept. A handle.
#[derive(Clone, Default)]
struct Kept(Rc<RefCell<Vec<Entry>>>);

impl LogSink for Kept {
    fn append(&mut self, entry: Entry) -> Step<Lsn> {
        let mut entries = self.0.borrow_mut();
        entries.push(entry);
        Ok(Lsn(entries.len() as u64))
    }
}

/// A log that is read.
struct Playback {
    entries: Rc<[Entry]>,
    next: usize,
}

impl Playback {
    fn of(entries: Rc<[Entry]>) -> Self {
        Self { entries, next: 0 }
    }
}

impl LogSource for Playback {
    fn head(&mut self) -> Step<Head<'_>> {
        let lsn = Lsn(self.next as u64 + 1);
        Ok(match self.entries.get(self.next) {
            Some(entry) => Head::Entry(lsn, entry),
            None => Head::Ended,
        })
    }

    fn advance(&mut self) {
        self.next += 1;
    }

    fn after_end(&mut self) -> Interruption {
        Interruption::Failed("the log ends before the guest does".into())
    }
}
