//! Going live: nothing stands between the end of the log and the guest.

use std::cell::Cell;
use std::rc::Rc;

use ftvm_vmm::devices::{Appetite, ClockNeed, Input};
use ftvm_vmm::dice::Dice;
use ftvm_vmm::engine::{EventSource, Interruption, Moment, Role, Step, Waited};
use ftvm_vmm::fake_cpu::{Op, Script};
use ftvm_vmm::sources::{Head, LogSource};
use logging_channel::entry::{Lsn, OutputMarker, ShutdownReason};

use crate::world::Playback;
use crate::{replayer_of, run};

/// A log that takes long to drop.
struct Heavy {
    log: Playback,
    /// Whether the guest runs in its next role.
    runs: Rc<Cell<bool>>,
    /// Whether it did when this was dropped.
    dropped: Rc<Cell<Option<bool>>>,
}

impl Drop for Heavy {
    fn drop(&mut self) {
        self.dropped.set(Some(self.runs.get()));
    }
}

impl LogSource for Heavy {
    fn head(&mut self) -> Step<Head<'_>> {
        self.log.head()
    }

    fn advance(&mut self) {
        self.log.advance();
    }

    fn after_end(&mut self) -> Interruption {
        self.log.after_end()
    }
}

/// The next role: the guest runs on until it halts.
struct Onwards {
    runs: Rc<Cell<bool>>,
}

impl EventSource for Onwards {
    fn at_exit(&mut self, _: &mut Moment<'_>) -> Step<()> {
        Ok(())
    }

    fn clock(&mut self, _: &mut Moment<'_>, _: ClockNeed) -> Step<u64> {
        Ok(0)
    }

    fn poll(&mut self, _: &mut Moment<'_>, _: &Appetite) -> Step<Option<Input>> {
        Ok(None)
    }

    fn wait(&mut self, _: &mut Moment<'_>, _: &Appetite) -> Step<Waited> {
        Err(Interruption::Stop)
    }

    fn window(&mut self, _: &mut Moment<'_>, _: Option<u8>) -> Step<()> {
        Ok(())
    }

    fn output(&mut self, _: &mut Moment<'_>, _: OutputMarker) -> Step<Lsn> {
        Ok(Lsn::default())
    }

    fn depart(&mut self, _: &mut Moment<'_>) -> Step<Option<u64>> {
        self.runs.set(true);
        Ok(None)
    }

    fn kicked(&mut self, _: &mut Moment<'_>, _: &Appetite) -> Step<bool> {
        Ok(false)
    }

    fn ended(&mut self, _: &mut Moment<'_>, _: ShutdownReason) -> Step<()> {
        Ok(())
    }
}

#[test]
fn the_guest_runs_before_anything_of_the_replay_is_dropped() {
    let script = Script {
        main: vec![Op::ReadTsc; 10],
        ..Script::default()
    };
    let (runs, dropped) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(None)));
    let dropped_after = dropped.clone();
    let replayed = run(&script, &mut Dice(1), |memory, seen| {
        let (next_runs, next_seen) = (runs.clone(), seen.clone());
        let log = Playback::followed_by(Vec::new(), move || Role {
            source: Box::new(Onwards { runs: next_runs }),
            gate: Box::new(next_seen),
        });
        let log = Heavy { log, runs, dropped };
        Role {
            source: Box::new(replayer_of(log, memory)),
            gate: Box::new(seen),
        }
    });
    assert!(replayed.ended.is_ok(), "{:?}", replayed.ended);
    assert_eq!(dropped_after.get(), Some(true));
}
