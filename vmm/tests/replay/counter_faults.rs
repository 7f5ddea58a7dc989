//! Counters that fail while a pair runs: found, named and survived.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

use ftvm_vmm::counter::{CountingCpu, Fault, Faulty, TallyCounter};
use ftvm_vmm::cpu::{Counted, CountedStop, CpuError, SeekError};
use ftvm_vmm::engine::{Divergence, Interruption, Step};
use ftvm_vmm::sources::Head;
use ftvm_vmm::state::{MemoryTaker, SendBlocks};
use logging_channel::entry::Lsn;
use logging_channel::memory::TakeBlocks as _;

use super::*;
use crate::guest::{Deed, engine_of, processor};

/// How many entries the backup may be behind: requests for the state take no longer.
const BEHIND: usize = 8;

const SKID: u64 = 5;

/// What the two hosts know of each other.
#[derive(Default)]
struct Wire {
    log: Vec<Entry>,
    executed: usize,
    recorded: bool,
    backup_is_gone: bool,
    state_wanted: Option<Lsn>,
    uncounted: bool,
    /// Takes memory that comes beside the log.
    memory: Option<Arc<MemoryTaker>>,
    /// What the backup found.
    differences: Vec<Difference>,
}

#[derive(Clone, Default)]
struct Session(Arc<(Mutex<Wire>, Condvar)>);

impl Session {
    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.0.0.lock().expect("nobody panics")
    }

    fn change<T>(&self, change: impl FnOnce(&mut Wire) -> T) -> T {
        let result = change(&mut self.wire());
        self.0.1.notify_all();
        result
    }

    fn wait(&self, until: impl Fn(&Wire) -> bool) -> MutexGuard<'_, Wire> {
        let waiting = self.0.1.wait_while(self.wire(), |wire| !until(wire));
        waiting.expect("nobody panics")
    }
}

impl LogSink for Session {
    fn append(&mut self, entry: Entry) -> Step<Lsn> {
        Ok(self.change(|wire| {
            wire.log.push(entry);
            Lsn(wire.log.len() as u64)
        }))
    }

    fn throttle(&mut self) {
        drop(self.wait(|wire| wire.backup_is_gone || wire.executed + BEHIND >= wire.log.len()));
    }

    fn state_wanted(&mut self) -> Option<Lsn> {
        self.wire().state_wanted.take()
    }

    fn takes_counts(&self) -> bool {
        !self.wire().uncounted
    }

    fn memory_streams(&mut self) -> Vec<Box<dyn SendBlocks>> {
        vec![Box::new(self.clone())]
    }
}

impl SendBlocks for Session {
    fn send(&mut self, transfer: u32, block: &[u8]) -> io::Result<()> {
        let wire = self.wait(|wire| wire.backup_is_gone || wire.memory.is_some());
        let taker = wire.memory.clone();
        drop(wire);
        let taker = taker.ok_or(io::ErrorKind::BrokenPipe)?;
        taker.take(transfer, block).map_err(io::Error::other)
    }

    /// For the backup, and for no network: these guests are short.
    fn may_wait(&self) -> bool {
        false
    }
}

/// The backup's end.
struct Received {
    session: Session,
    head: Option<Entry>,
}

impl LogSource for Received {
    fn head(&mut self) -> Step<Head<'_>> {
        let wire = self
            .session
            .wait(|wire| wire.recorded || wire.executed < wire.log.len());
        let lsn = Lsn(wire.executed as u64 + 1);
        self.head = wire.log.get(wire.executed).cloned();
        drop(wire);
        Ok(match &self.head {
            Some(entry) => Head::Entry(lsn, entry),
            None => Head::Ended,
        })
    }

    fn advance(&mut self) {
        self.session.change(|wire| wire.executed += 1);
    }

    fn after_end(&mut self) -> Interruption {
        Interruption::Failed("the log ends before the guest does".into())
    }

    fn differs(&mut self, divergence: &Divergence) -> bool {
        self.session.change(|wire| {
            wire.state_wanted = Some(divergence.lsn);
            wire.uncounted |= matches!(divergence.difference, Difference::CounterLost(_));
            wire.differences.push(divergence.difference.clone());
        });
        true
    }
}

/// One host at the end.
struct Host {
    ended: Result<Ended, String>,
    registers: Registers,
    contents: Vec<u8>,
    /// Why its counter was not used any more.
    lost: Option<String>,
}

fn run_host(
    deeds: &[Deed],
    seed: u64,
    fault: Fault,
    role: impl FnOnce(&GuestRam, Seen) -> Role,
) -> Host {
    let (script, mut dice) = (script(deeds), Dice(seed));
    let memory = memory();
    let cpu = processor(&script, &memory, &mut dice);
    let counter = TallyCounter::new(cpu.tally(), SKID, SKID, dice.roll(u64::MAX));
    let mut cpu = CountingCpu::new(cpu);
    let counter = Faulty::new(counter, fault, dice.roll(u64::MAX));
    let lost = Rc::new(Cell::new(None));
    let told = lost.clone();
    cpu.tell_loss(move |reason| told.set(Some(reason.to_owned())));
    let opened = match fault {
        Fault::Disappears(0) => Err(CpuError::Counter("others had it first".into())),
        _ => Ok(counter),
    };
    cpu.count_with(opened);
    let seen = Seen::default();
    let engine = engine_of(cpu, &memory, role(&memory, seen.clone()));
    let run = finish(engine, memory, &seen);
    Host {
        contents: run.contents(),
        ended: run.ended.map_err(|error| error.to_string()),
        registers: run.registers,
        lost: lost.take(),
    }
}

struct Pair {
    primary: Host,
    backup: Host,
    log: Vec<Entry>,
    differences: Vec<Difference>,
}

/// Runs a pair whose counters have these faults.
fn pair(deeds: &[Deed], seed: u64, primary: Fault, backup: Fault) -> Pair {
    let session = Session::default();
    let (primary, backup) = thread::scope(|scope| {
        let there = scope.spawn(|| {
            let host = run_host(deeds, seed ^ 1, backup, |memory, seen| {
                let log = Received {
                    session: session.clone(),
                    head: None,
                };
                let follower = follower(memory);
                session.change(|wire| wire.memory = Some(follower.memory_taker()));
                let replayer = Replayer::new(log, memory.clone(), Arc::default());
                Role {
                    source: Box::new(replayer.with_state(follower)),
                    gate: Box::new(seen),
                }
            });
            session.change(|wire| wire.backup_is_gone = true);
            host
        });
        let here = run_host(deeds, seed, primary, |memory, seen| {
            let world = MadeUpWorld::new(seed, 0).with_disk_of(&seen);
            let recorder = Recorder::new(
                world,
                session.clone(),
                Verification::Digests,
                memory.clone(),
            );
            let keeper = StateKeeper::new(baseline(memory), PACE, Arc::default());
            Role {
                source: Box::new(recorder.with_keeper(keeper)),
                gate: Box::new(seen),
            }
        });
        session.change(|wire| wire.recorded = true);
        (here, there.join().expect("it does not panic"))
    });
    let mut wire = session.wire();
    Pair {
        primary,
        backup,
        log: std::mem::take(&mut wire.log),
        differences: std::mem::take(&mut wire.differences),
    }
}

impl Pair {
    /// Both guests came to their end, which is the same one.
    fn check(&self) -> Result<(), TestCaseError> {
        let Self {
            primary, backup, ..
        } = self;
        prop_assert!(primary.ended.is_ok(), "{:?}", primary.ended);
        prop_assert!(
            backup.ended.is_ok(),
            "{:?} after {:?}",
            backup.ended,
            self.differences
        );
        prop_assert!(primary.registers == backup.registers);
        prop_assert!(primary.contents == backup.contents);
        Ok(())
    }

    /// Entries of the kind: all of them, and the last one's place in the log.
    fn count(&self, is: fn(&Payload) -> bool) -> (usize, Option<usize>) {
        let of_kind = |entry: &Entry| is(&entry.payload);
        let count = self.log.iter().filter(|entry| of_kind(entry)).count();
        (count, self.log.iter().rposition(of_kind))
    }

    fn counted(&self) -> (usize, Option<usize>) {
        self.count(|payload| matches!(payload, Payload::Counted(_)))
    }

    fn deltas(&self) -> (usize, Option<usize>) {
        self.count(|payload| matches!(payload, Payload::State(StatePart::Commit(_))))
    }

    /// Stops had counts at first, and were named by deltas from the loss on.
    fn deltas_took_over(&self) {
        let (counted, last_counted) = self.counted();
        let (deltas, last_delta) = self.deltas();
        assert!(counted > 0 && deltas > 10, "{counted}, {deltas}");
        assert!(last_counted < last_delta);
    }
}

/// A guest that computes for long, with an exit now and then.
fn computing() -> Vec<Deed> {
    let mut deeds = vec![Deed::Do(Op::Sti)];
    for _ in 0..30 {
        deeds.extend([Deed::Do(Op::Compute(4000)), Deed::Do(Op::ReadTsc)]);
    }
    deeds
}

fn named(lost: &Option<String>, word: &str) {
    let told = lost.as_deref().unwrap_or("nothing");
    assert!(told.contains(word), "{told}");
}

/// The backup's counter disappears after so many events, for a reason with these words in it.
fn a_backup_loses_its_counter(after: u64, reason: &str) {
    let backups = pair(&computing(), 2, Fault::None, Fault::Disappears(after));
    backups.check().expect("they are equal");
    named(&backups.backup.lost, reason);
    named(&backups.primary.lost, "the other host");
    assert!(
        matches!(&backups.differences[..], [Difference::CounterLost(_)]),
        "{:?}",
        backups.differences
    );
    backups.deltas_took_over();
}

#[test]
fn a_pair_with_sound_counters_takes_no_states() {
    let pair = pair(&computing(), 1, Fault::None, Fault::None);
    pair.check().expect("they are equal");
    assert_eq!((&pair.primary.lost, &pair.backup.lost), (&None, &None));
    assert!(pair.counted().0 > 100);
    assert_eq!(pair.deltas().0, 0);
}

/// A counter that is gone is no matter of the guest's, on either host.
#[test]
fn deltas_take_over_from_a_counter_that_disappears() {
    let primaries = pair(&computing(), 2, Fault::Disappears(2000), Fault::None);
    primaries.check().expect("they are equal");
    named(&primaries.primary.lost, "taken away");
    assert_eq!(primaries.differences, [], "the backup sees deltas");
    primaries.deltas_took_over();

    a_backup_loses_its_counter(2000, "taken away");
}

/// What was there when the hosts compared what they have, and is gone when the guest is to run.
#[test]
fn deltas_name_stops_where_a_counter_cannot_be_opened() {
    let primaries = pair(&computing(), 2, Fault::Disappears(0), Fault::None);
    primaries.check().expect("they are equal");
    named(&primaries.primary.lost, "others had it first");
    assert_eq!(primaries.differences, [], "the backup sees deltas");
    assert_eq!(primaries.counted().0, 0);
    assert!(primaries.deltas().0 > 10);

    a_backup_loses_its_counter(0, "others had it first");
}

/// The guest that was stopped too late has not diverged; more is allowed for the next time.
#[test]
fn an_overrun_is_repaired_and_counting_goes_on() {
    let overruns = (1..20)
        .map(|seed| pair(&computing(), seed, Fault::None, Fault::Overruns(400)))
        .inspect(|pair| pair.check().expect("they are equal"))
        .find(|pair| !pair.differences.is_empty() && pair.backup.lost.is_none())
        .expect("one of them overruns once or twice");
    let is_overrun = |difference: &Difference| matches!(difference, Difference::Overrun(_));
    assert!(
        overruns.differences.iter().all(is_overrun),
        "{:?}",
        overruns.differences
    );
    let (_, last_counted) = overruns.counted();
    let (_, transfer) = overruns.deltas();
    assert!(last_counted > transfer, "stops have counts again");
}

/// Places that are missed again and again are taken for the counter's fault, whatever each looks like.
#[test]
fn a_counter_that_misses_again_and_again_is_given_up() {
    let (script, mut dice) = (script(&computing()), Dice(4));
    let memory = memory();
    let cpu = processor(&script, &memory, &mut dice);
    let counter = TallyCounter::new(cpu.tally(), SKID, SKID, 1);
    let mut cpu = CountingCpu::new(cpu);
    assert!(cpu.count_with(Ok(counter)), "it begins well");
    let nowhere = CountedStop {
        count: 3,
        registers: Registers {
            rip: 7,
            ..Registers::default()
        },
    };
    for _ in 0..2 {
        let missed = cpu.seek(&nowhere);
        assert!(matches!(missed, Err(SeekError::Missed(_))), "{missed:?}");
    }
    for _ in 0..2 {
        let Err(SeekError::Lost(reason)) = cpu.seek(&nowhere) else {
            panic!("it is trusted still");
        };
        assert!(reason.contains("3 of the last"), "{reason}");
    }
    assert_eq!(cpu.counted_stop().expect("it runs"), Counted::Unnamed);
}

/// Where the guest is stepped, on the way to every place, what is counted can be compared.
#[test]
fn a_counter_that_counts_wrongly_is_found_by_its_own_host() {
    for (fault, word) in [
        (Fault::CountsHost(400), "counts more"),
        (Fault::LosesCounts(400), "loses"),
    ] {
        let equal = |seed, primary, backup| {
            let pair = pair(&computing(), seed, primary, backup);
            pair.check().expect("they are equal");
            pair
        };
        let mut found = Vec::new();
        let is_named = (1..20).any(|seed| {
            found.extend(equal(seed, fault, Fault::None).primary.lost);
            found.last().is_some_and(|lost| lost.contains(word))
        });
        assert!(is_named, "{found:?}");
        let is_lost = (1..20).any(|seed| equal(seed, Fault::None, fault).backup.lost.is_some());
        assert!(is_lost, "{word}: no backup's counter");
    }
}

fn faults() -> impl Strategy<Value = Fault> {
    prop_oneof![
        Just(Fault::None),
        (1..500u64).prop_map(Fault::Overruns),
        (1..500u64).prop_map(Fault::LosesCounts),
        (1..500u64).prop_map(Fault::CountsHost),
        (0..3000u64).prop_map(Fault::Disappears),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is wrong with the counters: both guests get to the same end, and the backup asks for
    /// the state a few times at most.
    #[test]
    fn a_pair_survives_its_counters(seed: u64, here in faults(), there in faults()) {
        let pair = pair(&computing(), seed, here, there);
        pair.check()?;
        prop_assert!(pair.differences.len() <= 4, "{:?}", pair.differences);
    }
}
