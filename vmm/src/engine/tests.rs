//! The engine on its own, with a made-up source.

use std::cell::RefCell;
use std::rc::Rc;

use logging_channel::entry::{Lsn, OutputMarker};
use vm_memory::GuestAddress;

use super::*;
use crate::disk::DiskCompletion;
use crate::fake_cpu::{FakeCpu, Op, Script};
use crate::ram::GuestRam;
use crate::rewrite::Sites;

const HANDLERS: u64 = 0xffff_ffff_8200_0000;

/// What was asked of a source.
#[derive(Default)]
struct Asked {
    /// Inputs taken at each exit.
    inputs: Vec<u32>,
    /// Where the guest was at each exit: in a handler, or not.
    in_handler: Vec<bool>,
}

/// A source with an input whenever the machine takes one.
struct Busy {
    asked: Rc<RefCell<Asked>>,
    is_endless: bool,
}

impl EventSource for Busy {
    fn at_exit(&mut self, at: &mut Moment<'_>) -> Step<()> {
        let mut asked = self.asked.borrow_mut();
        asked.inputs.push(0);
        asked.in_handler.push(at.cpu.rip()? >= HANDLERS);
        Ok(())
    }

    fn clock(&mut self, _: &mut Moment<'_>, _: ClockNeed) -> Step<u64> {
        Ok(1000)
    }

    fn poll(&mut self, _: &mut Moment<'_>, appetite: &Appetite) -> Step<Option<Input>> {
        if !(self.is_endless && appetite.disk) {
            return Ok(None);
        }
        *self.asked.borrow_mut().inputs.last_mut().expect("an exit") += 1;
        let result = Ok(Vec::new());
        Ok(Some(Input::Disk(DiskCompletion::new(7, result))))
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

    fn kicked(&mut self, _: &mut Moment<'_>, _: &Appetite) -> Step<bool> {
        Ok(false)
    }

    fn ended(&mut self, _: &mut Moment<'_>, _: ShutdownReason) -> Step<()> {
        Ok(())
    }
}

struct Nowhere;

impl OutputGate for Nowhere {
    fn submit(&mut self, _: Output, _: Option<Lsn>) {}
}

fn run(script: Script, is_endless: bool) -> Asked {
    let memory = GuestRam::from_ranges(&[(GuestAddress(0), 0x1_0000)]).expect("memory");
    let asked = Rc::new(RefCell::new(Asked::default()));
    let source = Busy {
        asked: asked.clone(),
        is_endless,
    };
    let role = Role {
        source: Box::new(source),
        gate: Box::new(Nowhere),
    };
    let devices = Devices::new(&memory, [2, 0, 0, 0, 0, 1]).with_disk(1 << 20);
    let traps = TscTrap::new(&Sites::default(), memory.clone());
    let cpu = FakeCpu::new(script, memory, 1);
    let ended = Engine::new(cpu, devices, traps, role).run();
    ended.expect("it runs to its end");
    asked.take()
}

fn out(value: u32) -> Op {
    let (port, size) = (0x80, 1);
    Op::Out { port, size, value }
}

/// Otherwise inputs that come faster than they are delivered hold the guest at one exit for ever.
#[test]
fn a_guest_gets_on_however_fast_inputs_come() {
    let script = Script {
        main: vec![out(1), out(2), out(3)],
        ..Script::default()
    };
    let asked = run(script, true);
    assert_eq!(asked.inputs, [MOST_INPUTS as u32; 4]);
}

/// MOV CR8 raises the priority without an exit, and makes one that no other access makes where it
/// lowers it.
#[test]
fn an_interrupt_waits_for_the_processors_task_priority() {
    let vector = 0x41;
    let script = Script {
        main: vec![
            Op::WriteMsr(0x80f, 0x1ff), // the local APIC is enabled
            Op::SetTaskPriority(15),
            Op::Sti,
            Op::WriteMsr(0x83f, vector.into()), // to itself
            out(1),
            Op::Compute(100),
            out(2),
            Op::SetTaskPriority(4),
            out(3),
            Op::SetTaskPriority(3),
            out(4),
            Op::Cli,
        ],
        handlers: [(vector, vec![out(5)])].into(),
    };
    let asked = run(script, false);
    let in_handler: Vec<usize> = (0..)
        .zip(&asked.in_handler)
        .filter(|(_, is)| **is)
        .map(|(n, _)| n)
        .collect();
    // Behind: two registers, two writes, the first fall, a write, and the second fall.
    assert_eq!(in_handler, [7]);
    assert_eq!(asked.in_handler.len(), 10);
}
