use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::arbiter::STOPPED;

const GENEROUS: WaitLimit<'_> = WaitLimit::of(Duration::from_secs(60));

fn vm() -> VmName {
    "db".parse().unwrap()
}

fn disk(n: usize) -> ExportName {
    format!("disk{n}").parse().unwrap()
}

fn host() -> Claimant {
    "host/1".parse().unwrap()
}

fn fence() -> Fence {
    Fence::new(vm(), &Record::default())
}

#[test]
fn a_right_ends_with_its_epoch_or_its_connection() {
    let fence = fence();
    let refused = |right| fence.enter(&disk(0), right).unwrap_err();
    let plain = fence.plain().unwrap();
    assert!(fence.enter(&disk(0), plain).is_ok());
    let not_running = Refusal::NotRunning { vm: vm(), epoch: 0 };
    assert_eq!(fence.open_writer(&disk(0), 0, GENEROUS), Err(not_running));
    fence.advance(1, &host(), GENEROUS).unwrap();
    assert_eq!(refused(plain), Refusal::Running { vm: vm() });
    assert_eq!(fence.plain(), None);
    let first = fence.open_writer(&disk(0), 1, GENEROUS).unwrap();
    let other_disk = fence.open_writer(&disk(1), 1, GENEROUS).unwrap();
    assert!(fence.enter(&disk(0), first).is_ok());
    assert!(fence.enter(&disk(0), other_disk).is_err());
    let second = fence.open_writer(&disk(0), 1, GENEROUS).unwrap();
    assert_eq!(refused(first), Refusal::Superseded { vm: vm() });
    assert!(fence.enter(&disk(0), second).is_ok());
    assert!(fence.enter(&disk(1), other_disk).is_ok());
    fence
        .advance(2, &STOPPED.parse().unwrap(), GENEROUS)
        .unwrap();
    let over = Refusal::Over {
        vm: vm(),
        held: 1,
        current: 2,
    };
    assert_eq!(refused(second), over);
    // What was there before the machine ran does not write what it read then.
    let has_run = Refusal::HasRun {
        vm: vm(),
        since: 0,
        current: 2,
    };
    assert_eq!(refused(plain), has_run);
    assert!(fence.enter(&disk(0), fence.plain().unwrap()).is_ok());
    // A late call for a past epoch brings nothing back.
    fence.advance(1, &host(), GENEROUS).unwrap();
    assert_eq!(fence.epoch(), (2, false));
}

#[test]
fn every_call_for_an_epoch_waits_for_the_writes_before_it() {
    let fence = fence();
    let permit = fence.enter(&disk(0), fence.plain().unwrap()).unwrap();
    thread::scope(|scope| {
        let calls = [0; 3].map(|_| scope.spawn(|| fence.advance(1, &host(), GENEROUS).unwrap()));
        while fence.epoch().0 == 0 {
            thread::yield_now();
        }
        for call in &calls {
            assert!(!call.is_finished(), "it did not wait");
        }
        drop(permit);
    });
    // New permits are none of its business.
    let writer = fence.open_writer(&disk(0), 1, GENEROUS).unwrap();
    let _permit = fence.enter(&disk(0), writer).unwrap();
    fence.advance(1, &host(), GENEROUS).unwrap();
}

#[test]
fn a_call_that_waited_too_long_has_ended_the_old_rights_all_the_same() {
    let fence = fence();
    let plain = fence.plain().unwrap();
    let permit = fence.enter(&disk(0), plain).unwrap();
    let short = WaitLimit::of(Duration::from_millis(1));
    for _ in 0..2 {
        assert_eq!(fence.advance(1, &host(), short), Err(NotYet::Slow));
        assert!(fence.enter(&disk(0), plain).is_err());
        let opened = fence.open_writer(&disk(0), 1, short);
        assert_eq!(opened, Err(Refusal::NotYet(NotYet::Slow)));
    }
    drop(permit);
    fence.advance(1, &host(), short).unwrap();
    fence.open_writer(&disk(0), 1, short).unwrap();
}

/// What happened, in the order in which it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// A write of an epoch and connection landed.
    Landed { epoch: u64, number: u64 },
    /// A write of a client that belongs to no epoch landed, which came in this one.
    PlainLanded { since: u64 },
    /// It was answered that the epoch was won, running or stopped.
    Won { epoch: u64, runs: bool },
    /// A connection was let in.
    Opened { number: u64 },
}

#[derive(Debug, Clone)]
struct Plan {
    /// For each epoch, whether it is one of a running machine, and how many connections it has.
    epochs: Vec<(bool, usize)>,
    writers: usize,
    spin: u32,
}

fn plan() -> impl Strategy<Value = Plan> {
    let epoch = (prop::bool::weighted(0.8), 1..4_usize);
    (prop::collection::vec(epoch, 1..10), 1..5_usize, 0..20_u32).prop_map(
        |(epochs, writers, spin)| Plan {
            epochs,
            writers,
            spin,
        },
    )
}

fn spin(times: u32) {
    for n in 0..times {
        if n % 8 == 0 {
            thread::yield_now();
        }
        std::hint::spin_loop();
    }
}

/// Writers that use every right they ever saw, while epochs are won.
fn run(plan: &Plan) -> Vec<Step> {
    let fence = fence();
    let log = Mutex::new(Vec::new());
    let rights = Mutex::new(vec![fence.plain().unwrap()]);
    let done = AtomicBool::new(false);
    let landed = AtomicU64::new(0);
    thread::scope(|scope| {
        for seed in 0..plan.writers {
            let (fence, log, rights, done) = (&fence, &log, &rights, &done);
            let landed = &landed;
            scope.spawn(move || {
                for turn in seed.. {
                    if done.load(Ordering::SeqCst) {
                        return;
                    }
                    let right = {
                        let rights = rights.lock();
                        // The last ones most, and all of them now and then.
                        let back = [0, 0, 1, 0, 2, turn][turn % 6] % rights.len();
                        rights[rights.len() - 1 - back]
                    };
                    let Ok(permit) = fence.enter(&disk(0), right) else {
                        continue;
                    };
                    spin(plan.spin);
                    let step = match right {
                        Right::Plain { epoch } => Step::PlainLanded { since: epoch },
                        Right::Writer { epoch, number } => Step::Landed { epoch, number },
                    };
                    log.lock().push(step);
                    landed.fetch_add(1, Ordering::SeqCst);
                    drop(permit);
                }
            });
        }
        for (epoch, (runs, connections)) in (1..).zip(&plan.epochs) {
            let holder = if *runs {
                format!("host/{epoch}").parse().unwrap()
            } else {
                STOPPED.parse().unwrap()
            };
            fence.advance(epoch, &holder, GENEROUS).unwrap();
            let won = Step::Won { epoch, runs: *runs };
            log.lock().push(won);
            rights.lock().extend(fence.plain());
            for _ in 0..*connections {
                if let Ok(right @ Right::Writer { number, .. }) =
                    fence.open_writer(&disk(0), epoch, GENEROUS)
                {
                    log.lock().push(Step::Opened { number });
                    rights.lock().push(right);
                }
                // Until somebody wrote: one right is always good.
                let before = landed.load(Ordering::SeqCst);
                while landed.load(Ordering::SeqCst) == before {
                    thread::yield_now();
                }
            }
        }
        done.store(true, Ordering::SeqCst);
    });
    log.into_inner()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// The order in which things happen is the threads', so a failure may not come again.
    #[test]
    fn after_an_epoch_was_won_nothing_older_lands(plan in plan()) {
        let steps = run(&plan);
        let (mut current, mut running, mut connection) = (0, false, 0);
        for step in &steps {
            match *step {
                Step::Won { epoch, runs } => (current, running) = (epoch, runs),
                Step::Opened { number } => connection = number,
                Step::PlainLanded { since } => {
                    prop_assert!(!running, "a plain write landed in epoch {current}");
                    prop_assert_eq!(since, current, "a client from before the machine ran wrote");
                }
                Step::Landed { epoch, number } => {
                    prop_assert!(epoch >= current, "epoch {epoch} wrote in epoch {current}");
                    prop_assert!(running, "epoch {epoch} wrote, and does not run");
                    prop_assert!(number >= connection, "a superseded connection wrote");
                }
            }
        }
    }
}
