use vm_memory::GuestAddress;

use super::*;
use crate::cpu::{Exit, GuestCpu};
use crate::devices::{Devices, Input};
use crate::fake_cpu::{FakeCpu, Op, Script};
use crate::ram::GuestRam;
use crate::sources::log_sink::NoLog;

const SECOND: Duration = Duration::from_secs(1);

/// A guest that stands still, and a keeper that holds it up for as much as one may.
struct HeldUp {
    keeper: StateKeeper,
    cpu: FakeCpu,
    devices: Devices,
}

impl HeldUp {
    fn new() -> Self {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), 1 << 20)]).expect("memory");
        let baseline = Baseline::new(memory.clone()).expect("a megabyte");
        let mut keeper = StateKeeper::new(baseline, Pace::default(), Arc::default());
        let mut convergence = Convergence::at_once();
        while convergence.run(&keeper.pace) > Duration::from_micros(250) {
            convergence.begin_round(100);
        }
        keeper.send_again(convergence, Duration::ZERO);
        let next = keeper.next_stop().expect("another one");
        assert_eq!(next.interval, Duration::from_micros(250));
        Self {
            keeper,
            cpu: FakeCpu::new(Script::default(), memory.clone(), 0),
            devices: Devices::new(&memory, [0; 6]),
        }
    }

    fn when<T>(&mut self, act: impl FnOnce(&mut StateKeeper, &mut Moment<'_>) -> Step<T>) -> T {
        let point = ExecutionPoint::at_exit(0);
        let mut at = Moment::new(point, &mut self.cpu, &mut self.devices);
        act(&mut self.keeper, &mut at).ok().expect("nothing fails")
    }

    /// The guest gets its time: it must run to come to what is waited for.
    fn is_let_go(&mut self) {
        let next = self.keeper.next_stop().expect("another one");
        assert!(next.interval >= Duration::from_millis(4), "{next:?}");
        assert!(next.interval <= self.keeper.pace.latency, "{next:?}");
    }
}

#[test]
fn a_guest_whose_devices_hold_too_much_is_not_held_up() {
    let mut guest = HeldUp::new();
    guest.devices.apply(Input::Typed(vec![b'x'; 8 << 20]));
    // Each time, the guest has run for a second, and memory is complete at once.
    for now in (1..20).map(|n| SECOND * n * 2) {
        guest.when(|keeper, at| keeper.keep_up(at, now, &|| now, &mut NoLog));
        assert!(guest.keeper.is_whole_ready());
        assert!(!guest.when(|keeper, at| keeper.commit_whole(at, &|| now, &mut NoLog)));
        guest.is_let_go();
    }
}

#[test]
fn a_guest_whose_next_transfer_has_to_wait_is_not_held_up() {
    let mut guest = HeldUp::new();
    for _ in 0..MANY {
        guest.keeper.repair(Lsn(1), SECOND, &mut NoLog);
    }
    guest.is_let_go();
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
            transfer_slice: Duration::ZERO,
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
