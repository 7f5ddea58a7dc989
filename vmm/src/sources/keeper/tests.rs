use std::io;

use logging_channel::entry::Lsn;
use vm_memory::GuestAddress;

use super::*;
use crate::cpu::{Exit, GuestCpu};
use crate::devices::{Devices, Input};
use crate::fake_cpu::{FakeCpu, Op, Script};
use crate::ram::{GuestRam, PageSet};
use crate::sources::log_sink::NoLog;
use crate::sources::repairs::MANY;
use crate::state::SendBlocks;
use crate::threads::LEFT;

const SECOND: Duration = Duration::from_secs(1);

/// Takes memory, and has nobody who reads it.
struct Nowhere;

impl SendBlocks for Nowhere {
    fn send(&mut self, _: u32, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn may_wait(&self) -> bool {
        false
    }
}

impl LogSink for Nowhere {
    fn append(&mut self, _: Entry) -> Step<Lsn> {
        Ok(Lsn::default())
    }

    fn memory_streams(&mut self) -> Vec<Box<dyn SendBlocks>> {
        vec![Box::new(Self)]
    }
}

/// Takes memory on a thread.
struct OnThreads {
    lost: bool,
}

impl SendBlocks for OnThreads {
    fn send(&mut self, _: u32, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

impl LogSink for OnThreads {
    fn append(&mut self, _: Entry) -> Step<Lsn> {
        Ok(Lsn::default())
    }

    fn memory_streams(&mut self) -> Vec<Box<dyn SendBlocks>> {
        vec![Box::new(Self { lost: false })]
    }

    fn lose_replay(&mut self, _: &io::Error) {
        self.lost = true;
    }
}

/// A guest that stands still, and a keeper that looks at it often for a transfer of its state.
struct LookedAt {
    keeper: StateKeeper,
    cpu: FakeCpu,
    devices: Devices,
}

impl LookedAt {
    fn new() -> Self {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), 1 << 20)]).expect("memory");
        let baseline = Baseline::new(memory.clone()).expect("a megabyte");
        let mut guest = Self {
            keeper: StateKeeper::new(baseline, Pace::default(), Arc::default()),
            cpu: FakeCpu::new(Script::default(), memory.clone(), 0),
            devices: Devices::new(&memory, [0; 6]),
        };
        guest.when(|keeper, at| keeper.join(at, &|| Duration::ZERO, &mut Nowhere));
        let next = guest.keeper.next_stop().expect("another one");
        assert_eq!(next.interval, Duration::from_millis(10));
        guest
    }

    fn when<T>(&mut self, act: impl FnOnce(&mut StateKeeper, &mut Moment<'_>) -> Step<T>) -> T {
        let point = ExecutionPoint::at_exit(0);
        let mut at = Moment::new(point, &mut self.cpu, &mut self.devices);
        act(&mut self.keeper, &mut at).ok().expect("nothing fails")
    }

    /// It runs for as long as always.
    fn is_let_go(&mut self) {
        let next = self.keeper.next_stop().expect("another one");
        assert_eq!(next, self.keeper.pace.next_stop(Duration::ZERO));
    }
}

#[test]
fn a_guest_whose_devices_hold_too_much_is_not_held_up() {
    let mut guest = LookedAt::new();
    guest.devices.apply(Input::Typed(vec![b'x'; 8 << 20]));
    // Each time, the guest has run for a second.
    for now in (1..20).map(|n| SECOND * n * 2) {
        guest.when(|keeper, at| keeper.keep_up(at, now, &|| now, &mut Nowhere));
        assert!(!guest.when(|keeper, at| keeper.commit_whole(at, &|| now, &mut Nowhere)));
        guest.is_let_go();
        assert!(!guest.when(|keeper, at| keeper.commit_whole(at, &|| now, &mut Nowhere)));
        assert_eq!(guest.keeper.next_stop(), None, "it is not tried at once");
    }
}

#[test]
fn a_guest_whose_next_transfer_has_to_wait_is_not_held_up() {
    let mut guest = LookedAt::new();
    for _ in 0..MANY {
        guest.keeper.repair(Lsn(1), SECOND, &mut Nowhere);
    }
    guest.is_let_go();
}

/// Who follows the log knows no other place, and follows it until there.
#[test]
fn a_renewal_ends_at_an_exit() {
    let mut guest = LookedAt::new();
    let goes_on = |guest: &mut LookedAt, exits: bool| {
        (0..20).any(|_| {
            if exits {
                guest.keeper.at_exit();
            }
            guest.when(|keeper, at| keeper.keep_up(at, SECOND, &|| SECOND, &mut Nowhere));
            guest.when(|keeper, at| keeper.kicked(at, &|| SECOND, &mut Nowhere));
            assert!(guest.keeper.whole.is_wanted());
            guest.when(|keeper, at| keeper.departs(at, &|| SECOND, &mut Nowhere))
        })
    };
    assert!(goes_on(&mut guest, false), "it has joined");
    assert!(!guest.keeper.whole.is_wanted());
    guest.when(|keeper, at| keeper.renew(at, &|| SECOND, &mut Nowhere));
    assert!(!guest.keeper.whole.replaces_log(), "the log is followed");
    assert!(!goes_on(&mut guest, false), "it has made no exit");
    guest.when(|keeper, at| keeper.use_idle_time(at, &|| SECOND, &mut Nowhere));
    assert!(goes_on(&mut guest, true));
    assert!(!guest.keeper.whole.is_wanted());
}

/// Whoever reads the log no more takes no memory either.
#[test]
fn a_transfer_that_nobody_takes_is_given_up() {
    let mut guest = LookedAt::new();
    guest.keeper.give_up();
    guest.when(|keeper, at| keeper.join(at, &|| SECOND, &mut NoLog));
    guest.when(|keeper, at| keeper.keep_up(at, SECOND, &|| SECOND, &mut NoLog));
    assert!(!guest.when(|keeper, at| keeper.commit_whole(at, &|| SECOND, &mut NoLog)));
}

/// The replay is lost, and the guest runs on.
#[test]
fn a_host_without_threads_begins_no_transfer() {
    let mut guest = LookedAt::new();
    guest.keeper.give_up();
    let mut log = OnThreads { lost: false };
    LEFT.set(0);
    guest.when(|keeper, at| keeper.join(at, &|| SECOND, &mut log));
    LEFT.set(u32::MAX);
    assert!(log.lost);
    assert!(!guest.when(|keeper, at| keeper.commit_whole(at, &|| SECOND, &mut log)));
}

/// A guest that has written to all of its memory, goes on writing, and makes no exit.
struct Writer {
    keeper: StateKeeper,
    cpu: FakeCpu,
    devices: Devices,
}

impl Writer {
    fn new(cpu: impl FnOnce(FakeCpu) -> FakeCpu) -> Self {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), 1 << 20)]).expect("memory");
        let store = |n: u64| Op::Store {
            // All pages at first, and then a few of them again and again.
            address: n % if n < 512 { 256 } else { 16 } * 4096 + 0x800,
            value: n as u16,
        };
        let script = Script {
            main: (0..200_000).map(store).collect(),
            ..Script::default()
        };
        let pace = Pace {
            // Each stop looks at as little as it can.
            longest_stop: Duration::ZERO,
            ..Pace::default()
        };
        let baseline = Baseline::new(memory.clone()).expect("a megabyte");
        let mut writer = Self {
            keeper: StateKeeper::new(baseline, pace, Arc::default()),
            devices: Devices::new(&memory, [0; 6]),
            cpu: cpu(FakeCpu::new(script, memory, 7)),
        };
        writer.runs(512);
        writer
    }

    /// Until it has written to about so many pages.
    fn runs(&mut self, stores: u64) {
        let begun = self.cpu.rip().expect("a fake processor has one");
        while self.cpu.rip().expect("a fake processor has one") < begun + 64 * stores {
            assert_eq!(self.cpu.run().expect("it runs"), Exit::Kicked);
        }
    }

    /// A stop for a delta. Whether it is complete.
    fn is_stopped(&mut self) -> bool {
        let point = ExecutionPoint::at_exit(0);
        let mut at = Moment::new(point, &mut self.cpu, &mut self.devices);
        let stopped = self.keeper.delta(&mut at, &mut NoLog);
        stopped.ok().expect("nothing fails")
    }

    /// Stops it for deltas, between which it writes a little, until one is complete or given up. Whether
    /// it is complete.
    fn delta(&mut self) -> bool {
        for _ in 0..1000 {
            if self.is_stopped() {
                return true;
            }
            if self.keeper.delta.is_none() {
                return false;
            }
            self.runs(4);
        }
        panic!("the delta has no end");
    }

    fn digest(&mut self) {
        let point = ExecutionPoint::at_exit(1);
        let mut at = Moment::new(point, &mut self.cpu, &mut self.devices);
        self.keeper.at_exit();
        let now = Duration::from_nanos(1);
        let done = self.keeper.keep_up(&mut at, now, &|| now, &mut NoLog);
        done.ok().expect("nothing fails");
    }
}

/// Its rounds do not shrink: each has all that was written since both hosts last looked.
#[test]
fn a_delta_that_does_not_converge_under_shadow_paging_waits_for_a_digest() {
    let mut guest = Writer::new(|cpu| cpu);
    assert!(
        !guest.delta(),
        "it is given up before a stop without a limit"
    );
    let next = guest.keeper.next_stop().expect("another one");
    assert_eq!(
        next.interval,
        guest.keeper.pace.next_stop(next.pause / 2).interval
    );
    // There, the digest is due at once, and both hosts look.
    guest.digest();
    assert!(!guest.keeper.gave_up);
    assert!(guest.delta(), "what was written since is little");
    assert!(!guest.keeper.gave_up);
}

/// Nothing would ever get in.
#[test]
fn a_guest_without_exits_is_stopped_for_as_long_as_a_delta_takes() {
    let mut guest = Writer::new(|cpu| cpu);
    assert!(!guest.delta(), "it is given up once");
    assert!(guest.delta(), "and not twice");
    // That was a look of both hosts as well.
    guest.runs(4);
    assert!(guest.delta());
}

/// There its rounds shrink.
#[test]
fn a_delta_converges_under_nested_paging() {
    assert!(Writer::new(FakeCpu::under_nested_paging).delta());
}

/// What it had written before is in the first round, and only once: the guest's own writes tell the rest,
/// whoever translates for it.
#[test]
fn a_transfer_looks_again_only_at_what_was_written_since_it_began() {
    for cpu in [|cpu| cpu, FakeCpu::under_nested_paging] {
        let mut guest = Writer::new(cpu);
        let point = ExecutionPoint::at_exit(0);
        let mut at = Moment::new(point, &mut guest.cpu, &mut guest.devices);
        let joined = guest.keeper.join(&mut at, &|| SECOND, &mut Nowhere);
        joined.ok().expect("nothing fails");
        guest.runs(4);
        let mut at = Moment::new(point, &mut guest.cpu, &mut guest.devices);
        let capture = &mut guest.keeper.capture;
        let written = capture.end_round(&mut at, &PageSet::empty(256));
        let written = written.ok().expect("nothing fails");
        assert!((1..=16).contains(&written), "{written} pages of 256");
    }
}
