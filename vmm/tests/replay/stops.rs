//! How much of a guest's memory is sent while it stands still.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use ftvm_vmm::dice::Dice;
use ftvm_vmm::engine::{Role, Step};
use ftvm_vmm::fake_cpu::{Op, Script};
use ftvm_vmm::sources::{LogSink, Recorder, StateKeeper, Verification};
use logging_channel::entry::{Entry, Lsn, Payload, ShutdownReason, StatePart};

use crate::guest::{engine_of, memory, processor};
use crate::world::{MemoryLog, Playback, Quiet, Seen};
use crate::{PACE, Run, baseline, finish, replay};

const PAGES: u64 = (1 << 20) / 4096;

/// So many pages are looked at in a stop that is to take no time.
const AT_A_TIME: usize = 64;

/// A log that knows the guest's stops.
#[derive(Clone)]
struct StopLog {
    log: MemoryLog,
    /// Pages that were sent in each.
    stops: Rc<RefCell<Vec<usize>>>,
}

impl LogSink for StopLog {
    fn append(&mut self, entry: Entry) -> Step<Lsn> {
        if let Payload::State(StatePart::Pages(block)) = &entry.payload {
            let mut stops = self.stops.borrow_mut();
            *stops.last_mut().expect("the guest stands still") += pages_of(block);
        }
        self.log.append(entry)
    }

    fn throttle(&mut self) {
        self.stops.borrow_mut().push(0);
    }
}

/// How many pages a block is of.
fn pages_of(block: &[u8]) -> usize {
    let raw = lz4_flex::block::decompress_size_prepended(block).expect("a block");
    let mut rest = raw.as_slice();
    let mut pages = 0;
    while !rest.is_empty() {
        let (_, tail) =
            postcard::take_from_bytes::<(i64, u8, Vec<(u16, Vec<u8>)>)>(rest).expect("a patch");
        rest = tail;
        pages += 1;
    }
    pages
}

/// A guest that writes to all of its memory, page after page, and makes an exit now and then.
fn writer() -> Script {
    let store = |n: u64| Op::Store {
        address: n % PAGES * 4096 + 0x800,
        value: n as u16,
    };
    let main = (1..20_000).map(|n| if n % 3000 == 0 { Op::ReadTsc } else { store(n) });
    Script {
        main: main.collect(),
        ..Script::default()
    }
}

fn record(log: &StopLog, dice: &mut Dice) -> Run {
    let memory = memory();
    // Where a stop in the middle of a delta may not change what is watched, its last one looks at all
    // that was written since it began.
    let cpu = processor(&writer(), &memory, dice).under_nested_paging();
    let world = Quiet::new(1000).with_nudges();
    let recorder = Recorder::new(world, log.clone(), Verification::Digests, memory.clone());
    let keeper = StateKeeper::new(baseline(&memory), PACE, Arc::default());
    let seen = Seen::default();
    let role = Role {
        source: Box::new(recorder.with_keeper(keeper)),
        gate: Box::new(seen.clone()),
    };
    let recorded = finish(engine_of(cpu, &memory, role), memory, &seen);
    let ended = recorded.ended.as_ref().expect("it runs to its end");
    assert_eq!(ended.reason, ShutdownReason::PowerOff);
    recorded
}

fn count(log: &[Entry], is: fn(&StatePart) -> bool) -> usize {
    let part = |entry: &Entry| matches!(&entry.payload, Payload::State(part) if is(part));
    log.iter().filter(|entry| part(entry)).count()
}

#[test]
fn a_delta_of_all_of_memory_takes_many_stops() {
    let mut dice = Dice(21);
    let log = StopLog {
        log: MemoryLog::default(),
        stops: Rc::default(),
    };
    let recorded = record(&log, &mut dice);
    let stops = log.stops.take();
    assert!(
        stops.iter().all(|pages| *pages <= AT_A_TIME),
        "{:?}",
        stops.iter().max()
    );
    let log = log.log.entries.take();
    let deltas = count(&log, |part| matches!(part, StatePart::Commit(_)));
    assert!(deltas > 10, "{deltas} deltas");
    let sending = stops.iter().filter(|pages| **pages > 0).count();
    assert!(sending > deltas + 20, "{sending} stops for {deltas} deltas");

    let replayed = replay(&writer(), &mut dice, Playback::new(log));
    assert!(replayed.ended.is_ok(), "{:?}", replayed.ended);
    assert!(replayed.is_like(&recorded));
    assert!(replayed.contents() == recorded.contents());
}
