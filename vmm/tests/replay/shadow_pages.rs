//! What a guest under shadow paging notices of the hypervisor happens at the same places on both hosts.

use std::cell::RefCell;
use std::rc::Rc;

use ftvm_vmm::dice::Dice;
use ftvm_vmm::engine::{EventSource, Role, Step};
use ftvm_vmm::fake_cpu::{Noticed, NoticedAt, Op, Script};
use ftvm_vmm::ram::GuestRam;
use ftvm_vmm::sources::{LogSink, OutsideWorld, Recorder, StateKeeper, Verification};
use ftvm_vmm::state::SendBlocks;
use logging_channel::entry::{Entry, Lsn, Payload, StatePart};
use proptest::prelude::*;

use crate::guest::{Deed, deeds, engine_of, memory, processor, script};
use crate::world::{MadeUpWorld, MemoryLog, Playback, Quiet, Seen};
use crate::{PACE, Run, baseline, finish, replayer};

type NoticedList = Rc<RefCell<Vec<NoticedAt>>>;

/// A log that knows what the recorder's guest has noticed.
#[derive(Clone, Default)]
struct WatchedLog {
    log: MemoryLog,
    noticed: NoticedList,
    /// How much that was when the last transfer of the whole state began: nobody follows the guest from
    /// there to its end.
    begun: Rc<RefCell<Option<usize>>>,
}

impl LogSink for WatchedLog {
    fn append(&mut self, entry: Entry) -> Step<Lsn> {
        match &entry.payload {
            Payload::State(StatePart::Begin(_)) => {
                let before = self.noticed.borrow().len();
                self.begun.replace(Some(before));
            }
            Payload::State(StatePart::Commit(_)) => {
                if let Some(begun) = self.begun.take() {
                    let mut noticed = self.noticed.borrow_mut();
                    let dropped = noticed.pop();
                    noticed.truncate(begun);
                    noticed.extend(dropped);
                }
            }
            _ => {}
        }
        self.log.append(entry)
    }

    fn state_wanted(&mut self) -> Option<Lsn> {
        self.log.state_wanted()
    }

    fn memory_streams(&mut self) -> Vec<Box<dyn SendBlocks>> {
        self.log.memory_streams()
    }
}

pub(crate) fn record(
    world: impl OutsideWorld + 'static,
    script: &Script,
    dice: &mut Dice,
    state_wanted_after: Option<usize>,
) -> (Run, Vec<Entry>, Vec<NoticedAt>) {
    let memory = memory();
    let seen = Seen::default();
    let cpu = processor(script, &memory, dice);
    let log = WatchedLog {
        log: MemoryLog {
            state_wanted_after,
            ..MemoryLog::default()
        },
        noticed: cpu.noticed(),
        begun: Rc::default(),
    };
    let recorder = Recorder::new(world, log.clone(), Verification::Digests, memory.clone());
    let keeper = StateKeeper::new(baseline(&memory), PACE, Default::default());
    let role = Role {
        source: Box::new(recorder.with_keeper(keeper)),
        gate: Box::new(seen.clone()),
    };
    let run = finish(engine_of(cpu, &memory, role), memory, &seen);
    if let Some(begun) = log.begun.take() {
        log.noticed.borrow_mut().truncate(begun);
    }
    (run, log.log.entries.take(), log.noticed.take())
}

fn replay(script: &Script, dice: &mut Dice, log: Vec<Entry>) -> (Run, Vec<NoticedAt>) {
    replay_with(script, dice, |memory| {
        Box::new(replayer(Playback::with_state(log), memory))
    })
}

pub(crate) fn replay_with(
    script: &Script,
    dice: &mut Dice,
    source: impl FnOnce(&GuestRam) -> Box<dyn EventSource>,
) -> (Run, Vec<NoticedAt>) {
    let memory = memory();
    let seen = Seen::default();
    let cpu = processor(script, &memory, dice);
    let noticed = cpu.noticed();
    let role = Role {
        source: source(&memory),
        gate: Box::new(seen.clone()),
    };
    let run = finish(engine_of(cpu, &memory, role), memory, &seen);
    (run, noticed.take())
}

/// The first thing that only one of both notices.
pub(crate) fn first_difference(recorded: &[NoticedAt], replayed: &[NoticedAt]) -> Option<String> {
    let len = recorded.len().max(replayed.len());
    let at = (0..len).find(|at| recorded.get(*at) != replayed.get(*at))?;
    let tell = |noticed: &[NoticedAt]| match noticed.get(at) {
        Some((registers, what)) => format!("{what:?} at {:#x}", registers.rip),
        None => "nothing more".into(),
    };
    Some(format!(
        "{at} of {len}: {} and {}",
        tell(recorded),
        tell(replayed)
    ))
}

fn ends_within_a_transfer(log: &[Entry]) -> bool {
    log.iter()
        .fold(false, |is_within, entry| match entry.payload {
            Payload::State(StatePart::Begin(_)) => true,
            Payload::State(StatePart::Commit(_)) => false,
            _ => is_within,
        })
}

/// Deeds, with stores over all of memory between them: more pages than one stop looks at.
pub(crate) fn writers() -> impl Strategy<Value = Script> {
    let store = (0x40u64..0x100, any::<u16>()).prop_map(|(page, value)| {
        let address = page * 4096 + 0xf00;
        Deed::Do(Op::Store { address, value })
    });
    let compute = (1u32..200).prop_map(|n| Deed::Do(Op::Compute(n)));
    let writes = prop::collection::vec(prop_oneof![8 => store, 1 => compute], 0..200);
    prop::collection::vec((writes, deeds()), 1..4).prop_map(|turns| {
        let turns = turns
            .into_iter()
            .map(|(writes, deeds)| [writes, deeds].concat());
        script(&turns.collect::<Vec<_>>().concat())
    })
}

proptest! {
    #[test]
    fn both_guests_notice_the_same(
        script in writers(),
        seed: u64,
        state_wanted_after in prop::option::of(0usize..200),
    ) {
        let mut dice = Dice(seed);
        let world = MadeUpWorld::new(dice.roll(u64::MAX), 0);
        let (recorded, log, noticed) = record(world, &script, &mut dice, state_wanted_after);
        prop_assert!(recorded.ended.is_ok(), "{:?}", recorded.ended);
        // A guest may end before the whole state was sent: nobody follows it from there.
        prop_assume!(!ends_within_a_transfer(&log));
        let (replayed, noticed_again) = replay(&script, &mut dice, log);
        prop_assert!(replayed.ended.is_ok(), "{:?}", replayed.ended);
        prop_assert_eq!(first_difference(&noticed, &noticed_again), None);
    }
}

/// A guest that computes and writes for long, whose deltas take several stops or come to nothing when
/// an exit comes first.
#[test]
fn deltas_that_come_to_nothing_are_not_noticed() {
    let store = |n: u64| Op::Store {
        address: n * 7 % 192 * 4096 + 0x4_0800,
        value: n as u16,
    };
    let main = (1..20_000).map(|n| if n % 100 == 0 { Op::ReadTsc } else { store(n) });
    let script = Script {
        main: main.collect(),
        ..Script::default()
    };
    let mut dice = Dice(41);
    let world = Quiet::new(20_000).with_nudges();
    let (recorded, log, noticed) = record(world, &script, &mut dice, None);
    assert!(recorded.ended.is_ok(), "{:?}", recorded.ended);
    let pages = |entry: &&Entry| matches!(entry.payload, Payload::State(StatePart::Pages(_)));
    let commits = |entry: &&Entry| matches!(entry.payload, Payload::State(StatePart::Commit(_)));
    let abandoned = log.windows(2).filter(|pair| {
        pages(&&pair[0]) && pair[1].point.exits > pair[0].point.exits && !commits(&&pair[1])
    });
    assert!(abandoned.count() > 3, "deltas that came to nothing");
    let watches = |(_, what): &&NoticedAt| match what {
        Noticed::Watched(pages) => pages.iter().any(|word| *word != 0),
        Noticed::Dropped => false,
    };
    // How many depends on how busy this machine is.
    assert!(noticed.iter().any(|noticed| watches(&noticed)), "digests");
    let (replayed, noticed_again) = replay(&script, &mut dice, log);
    assert!(replayed.ended.is_ok(), "{:?}", replayed.ended);
    assert_eq!(first_difference(&noticed, &noticed_again), None);
}
