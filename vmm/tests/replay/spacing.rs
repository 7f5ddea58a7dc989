//! A backup that differs again as soon as it was repaired.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use ftvm_vmm::dice::Dice;
use ftvm_vmm::engine::Step;
use ftvm_vmm::fake_cpu::{Op, Script};
use ftvm_vmm::sources::{LogSink, MANY, Sent};
use ftvm_vmm::state::SendBlocks;
use logging_channel::entry::{Entry, Lsn, Payload, StatePart};

use crate::record_in;
use crate::world::{MemoryLog, Quiet};

/// Guest time from one look at the clock to the next.
const STEP: u64 = 20_000;
/// How long the guest stands still for each part of its state.
const PART: u64 = 1_000_000;

/// When a repair began, and for how long the guest had stood still by then.
#[derive(Clone, Copy)]
struct Begun {
    at: Duration,
    stood_still: Duration,
}

/// What became of the pair. A handle.
#[derive(Clone, Default)]
struct Pair {
    repairs: Rc<RefCell<Vec<Begun>>>,
    /// What the primary was told of divergences: how many, and how long the next repair waits.
    told: Rc<RefCell<Vec<(usize, Duration)>>>,
}

/// The log of a primary whose backup differs whenever it has the state.
struct Hopeless {
    time: Quiet,
    pair: Pair,
    is_wanted: bool,
    parts: u64,
}

impl LogSink for Hopeless {
    fn append(&mut self, entry: Entry) -> Step<Lsn> {
        if let Payload::State(part) = entry.payload {
            if matches!(part, StatePart::Begin(_)) {
                self.pair.repairs.borrow_mut().push(Begun {
                    at: Duration::from_nanos(self.time.now()),
                    stood_still: Duration::from_nanos(PART * self.parts),
                });
            }
            self.parts += 1;
            self.time.pass(PART);
        }
        Ok(Lsn::default())
    }

    fn state_wanted(&mut self) -> Option<Lsn> {
        std::mem::take(&mut self.is_wanted).then(Lsn::default)
    }

    fn is_unprotected(&mut self, divergences: usize, wait: Duration) {
        self.pair.told.borrow_mut().push((divergences, wait));
    }

    fn memory_streams(&mut self) -> Vec<Box<dyn SendBlocks>> {
        MemoryLog::default().memory_streams()
    }

    fn state_sent(&mut self, _: Sent) {
        self.is_wanted = true;
    }
}

/// From the third repair on, the guest keeps nine tenths of its time.
#[test]
fn a_guest_whose_backup_differs_for_ever_keeps_its_time() {
    const REPAIRS: usize = 8;
    let script = Script {
        main: vec![Op::ReadTsc; 100_000],
        ..Script::default()
    };
    let pair = Pair::default();
    let time = Quiet::new(STEP);
    let log = Hopeless {
        time: time.clone(),
        pair: pair.clone(),
        is_wanted: true,
        parts: 0,
    };
    let ended = record_in(time, log, &script, &mut Dice(4)).ended;
    assert!(ended.is_ok(), "{ended:?}");

    let repairs = pair.repairs.take();
    assert!(repairs.len() >= REPAIRS, "{} repairs", repairs.len());
    let (first, later) = repairs[MANY - 1..].split_first().expect("there are more");
    for repair in later {
        let (passed, lost) = (repair.at - first.at, repair.stood_still - first.stood_still);
        assert!(lost * 10 <= passed, "{lost:?} of {passed:?}");
    }
    let told = pair.told.take();
    assert!(told[..MANY - 1].iter().all(|(_, wait)| wait.is_zero()));
    assert!(told[MANY - 1..].iter().all(|(_, wait)| !wait.is_zero()));
    let counts = told.iter().map(|(divergences, _)| *divergences);
    assert!(counts.eq(1..=told.len()));
}
