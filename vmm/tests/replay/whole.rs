//! Transfers of the whole state: of much state, and cut off.

use std::cell::{Cell, RefCell};

use ftvm_vmm::devices::virtio::net::frame::Frame;
use ftvm_vmm::devices::{Appetite, ClockNeed, Input};
use ftvm_vmm::dice::Dice;
use ftvm_vmm::engine::{EngineError, Interruption, Role, Step};
use ftvm_vmm::fake_cpu::{Op, Script};
use ftvm_vmm::sources::{OutsideWorld, Recorder, Verification};
use logging_channel::codec::MAX_STATE_PART;
use logging_channel::entry::{Entry, Payload, ShutdownReason, StatePart};

use crate::guest::{BAR, deeds, out, script};
use crate::world::{MadeUpWorld, MemoryLog, Playback};
use crate::{Run, record_in, record_to, replay, replayer, run};

/// The largest frames that there are come one after the other, and cannot be compressed.
struct LargeFrames {
    noise: RefCell<Dice>,
    now: Cell<u64>,
}

impl OutsideWorld for LargeFrames {
    fn clock(&self, _: ClockNeed) -> u64 {
        self.now.set(self.now.get() + 1000);
        self.now.get()
    }

    fn poll(&self, appetite: &Appetite) -> Step<Option<Input>> {
        const TCP_OVER_IPV4: [u8; 10] = [1, 1, 54, 0, 0x78, 5, 34, 0, 16, 0];
        let mut noise = self.noise.borrow_mut();
        // A card that is not running takes any number of them.
        let comes = noise.roll(4) != 0;
        Ok((comes && appetite.frame).then(|| {
            Input::Frame(Frame {
                header: TCP_OVER_IPV4,
                bytes: (0..65_535).map(|_| noise.roll(256) as u8).collect(),
            })
        }))
    }

    fn is_ready(&self, _: &Appetite) -> bool {
        false
    }

    fn wait(&self, _: &Appetite) -> Step<Input> {
        Err(Interruption::Stop)
    }
}

/// A guest whose driver takes large frames, and gives the card no buffers for them.
fn without_buffers() -> Script {
    let bar = |at: u16, size, value| out(BAR + at, size, value);
    let mut main = vec![
        bar(0x14, 1, 3),
        bar(0x08, 4, 0),
        bar(0x0c, 4, 1 << 1 | 1 << 7), // GUEST_CSUM, GUEST_TSO4
        bar(0x08, 4, 1),
        bar(0x0c, 4, 1), // VERSION_1
        bar(0x14, 1, 11),
        bar(0x14, 1, 15),
    ];
    main.resize(120, Op::ReadTsc);
    Script {
        main,
        ..Script::default()
    }
}

fn record_large_frames(log: &MemoryLog, dice: &mut Dice) -> Run {
    let world = LargeFrames {
        noise: Dice(7).into(),
        now: Cell::new(0),
    };
    record_in(world, log.clone(), &without_buffers(), dice)
}

/// Somebody types more at once than a transfer carries, whatever the machine has room for; nothing else
/// comes.
struct LongText {
    now: Cell<u64>,
    text: Cell<Vec<u8>>,
}

impl LongText {
    /// Time that a look at the clock takes, in nanoseconds.
    const LOOK: u64 = 1_000_000;
}

impl OutsideWorld for LongText {
    fn clock(&self, _: ClockNeed) -> u64 {
        self.now.set(self.now.get() + Self::LOOK);
        self.now.get()
    }

    fn poll(&self, _: &Appetite) -> Step<Option<Input>> {
        let text = self.text.take();
        Ok((!text.is_empty()).then_some(Input::Typed(text)))
    }

    fn is_ready(&self, _: &Appetite) -> bool {
        false
    }

    fn wait(&self, _: &Appetite) -> Step<Input> {
        Err(Interruption::Stop)
    }
}

fn state_part(entry: &Entry) -> Option<&StatePart> {
    match &entry.payload {
        Payload::State(part) => Some(part),
        _ => None,
    }
}

/// 4 MiB of received frames that nobody takes, in a transfer whose entries carry 64 KiB.
#[test]
fn a_full_backlog_of_large_frames_is_transferred() {
    let mut dice = Dice(3);
    let log = MemoryLog {
        state_wanted_after: Some(140),
        ..MemoryLog::default()
    };
    let recorded = record_large_frames(&log, &mut dice);
    let ended = recorded.ended.as_ref().expect("it runs to its end");
    assert_eq!(ended.reason, ShutdownReason::PowerOff);

    let mut log = log.entries.take();
    let is_frame = |entry: &&Entry| matches!(entry.payload, Payload::NetRx(_));
    assert!(log.iter().filter(is_frame).count() >= 64);
    let bytes = log.iter().filter_map(state_part).map(|part| match part {
        // Memory is beside the log, and in blocks of another size.
        StatePart::Begin(_) | StatePart::Memory(_) | StatePart::Pages(_) => 0,
        StatePart::Rest(data) | StatePart::Commit(data) => {
            assert!(data.len() <= MAX_STATE_PART);
            data.len()
        }
    });
    assert!(bytes.sum::<usize>() > 4_000_000);

    // A replay that has nothing to begin with gets the state from there.
    let begin = log.iter().position(is_begin).expect("it was asked for");
    log.drain(..begin);
    let replayed = replay(&without_buffers(), &mut dice, Playback::with_state(log));
    assert!(replayed.ended.is_ok(), "{:?}", replayed.ended);
    assert!(replayed.registers == recorded.registers);
    assert!(replayed.contents() == recorded.contents());
}

fn is_begin(entry: &Entry) -> bool {
    matches!(state_part(entry), Some(StatePart::Begin(_)))
}

fn is_commit(entry: &Entry) -> bool {
    matches!(state_part(entry), Some(StatePart::Commit(_)))
}

/// What the devices hold at the moment is more than a transfer carries: the guest runs on, and gets
/// there when it has taken some of it.
#[test]
fn devices_that_hold_too_much_are_transferred_later() {
    const CONSOLE: u16 = 0x3f8;
    const CARRIED: usize = 8 << 20;
    let (port, size) = (CONSOLE, 1);
    let script = Script {
        main: vec![Op::In { port, size }; 3000],
        ..Script::default()
    };
    let mut dice = Dice(4);
    let log = MemoryLog {
        state_wanted_after: Some(3),
        ..MemoryLog::default()
    };
    let world = LongText {
        now: Cell::new(0),
        text: Cell::new(vec![b'x'; CARRIED]),
    };
    let recorded = record_in(world, log.clone(), &script, &mut dice);
    assert!(recorded.ended.is_ok(), "{:?}", recorded.ended);

    let mut log = log.entries.take();
    let places = |is: fn(&Entry) -> bool| -> Vec<u64> {
        let entries = log.iter().filter(|entry| is(entry));
        entries.map(|entry| entry.point.exits).collect()
    };
    let (begun, committed) = (places(is_begin), places(is_commit));
    let ([begun], [committed]) = (&begun[..], &committed[..]) else {
        panic!("one transfer: begun at {begun:?}, committed at {committed:?}");
    };
    // It was tried again after a second of the guest's, which looks at the clock at every exit.
    let seconds = (committed - begun) * LongText::LOOK / 1_000_000_000;
    assert!(seconds >= 1, "begun at {begun}, committed at {committed}");

    let begin = log.iter().position(is_begin).expect("it was found");
    log.drain(..begin);
    let replayed = replay(&script, &mut dice, Playback::with_state(log));
    assert!(replayed.ended.is_ok(), "{:?}", replayed.ended);
    assert!(replayed.registers == recorded.registers);
    assert!(replayed.contents() == recorded.contents());
}

/// A log with a transfer of the whole state in it, with pages at least: its script, and where the
/// transfer begins and ends.
fn with_a_transfer(dice: &mut Dice) -> (Script, Vec<Entry>, std::ops::Range<usize>) {
    use proptest::strategy::{Strategy as _, ValueTree as _};
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let guests = proptest::collection::vec(deeds(), 3);
    loop {
        let deeds = guests.new_tree(&mut runner).expect("guests").current();
        let script = script(&deeds.concat());
        let log = MemoryLog {
            state_wanted_after: Some(20),
            ..MemoryLog::default()
        };
        let (recorded, log) = record_to(log, &script, dice, Verification::Digests);
        assert!(recorded.ended.is_ok(), "{:?}", recorded.ended);
        let Some(begin) = log.iter().position(is_begin) else {
            continue;
        };
        if let Some(len) = log[begin..].iter().position(is_commit)
            && len > 1
        {
            return (script, log, begin..begin + len);
        }
    }
}

/// Memory is half the other host's there: nobody goes live with it, whether the replay differed
/// before or not.
#[test]
fn nobody_goes_live_within_a_transfer() {
    let mut dice = Dice(11);
    for _ in 0..8 {
        let (script, log, transfer) = with_a_transfer(&mut dice);
        for cut in transfer.start + 1..=transfer.end {
            let log = log[..cut].to_vec();
            let replayed = run(&script, &mut dice, |memory, seen| {
                let (memory_after, seen_after) = (memory.clone(), seen.clone());
                let playback = Playback::followed_by(log, move || {
                    let world = MadeUpWorld::new(1, 1 << 40);
                    let (log, verification) = (MemoryLog::default(), Verification::Digests);
                    Role {
                        source: Box::new(Recorder::new(world, log, verification, memory_after)),
                        gate: Box::new(seen_after),
                    }
                });
                Role {
                    source: Box::new(replayer(playback, memory)),
                    gate: Box::new(seen),
                }
            });
            let Err(EngineError::Diverged(_)) = replayed.ended else {
                panic!("cut at {cut} of {transfer:?}: {:?}", replayed.ended);
            };
        }
    }
}

/// A transfer that came damaged is asked for again.
#[test]
fn a_transfer_that_cannot_be_used_is_followed_by_another() {
    let mut dice = Dice(5);
    let (script, mut log, transfer) = with_a_transfer(&mut dice);
    let whole: Vec<Entry> = log[transfer.start..=transfer.end].to_vec();
    // The exits are those of the second transfer; only whether the first one is used matters.
    let mut damaged = whole;
    for entry in &mut damaged {
        entry.point = log[transfer.start].point;
        if let Payload::State(StatePart::Commit(bytes)) = &mut entry.payload {
            bytes[0] ^= 1;
        }
    }
    log.splice(transfer.start..transfer.start, damaged);
    let playback = Playback::with_state(log);
    let repaired = playback.repaired.clone();
    let replayed = replay(&script, &mut dice, playback);
    assert!(replayed.ended.is_ok(), "{:?}", replayed.ended);
    assert_eq!(repaired.get(), 1);
}
