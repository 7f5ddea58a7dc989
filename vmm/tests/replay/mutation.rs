//! Damage to a log that checksums did not catch.

use ftvm_vmm::dice::Dice;
use logging_channel::entry::{
    DiskOutcome, Entry, ExecutionPoint, Landmark, OutputChannel, Payload, ShutdownReason, StatePart,
};

/// Changes one thing. Returns what it did, for messages.
pub(crate) fn mutate(log: &mut Vec<Entry>, dice: &mut Dice) -> String {
    let at = dice.roll(log.len() as u64) as usize;
    let what = match dice.roll(7) {
        0 => {
            log.remove(at);
            "dropped"
        }
        1 => {
            log.insert(at, log[at].clone());
            "duplicated"
        }
        2 if at + 1 < log.len() => {
            log.swap(at, at + 1);
            "swapped with the next"
        }
        3 => {
            point(&mut log[at].point, dice);
            "moved"
        }
        4 => {
            log[at].payload = any_payload(dice);
            "of another kind"
        }
        5 => {
            log[at].check = log[at].check.map(|check| check ^ 1 << dice.roll(32));
            "with another digest"
        }
        _ => {
            value(&mut log[at].payload, dice);
            "of another value"
        }
    };
    format!("entry {} {what}", at + 1)
}

fn point(point: &mut ExecutionPoint, dice: &mut Dice) {
    match (dice.roll(3), &mut point.landmark) {
        (0, Some(mark)) => mark.rip ^= 1 << dice.roll(48),
        (0, none) => {
            *none = Some(Landmark {
                rip: 0x10_0000 + dice.roll(0x1000),
            });
        }
        (1, _) => point.exits = point.exits.wrapping_add(1 + dice.roll(3)),
        _ => point.exits = point.exits.saturating_sub(1 + dice.roll(3)),
    }
}

fn any_payload(dice: &mut Dice) -> Payload {
    let value = dice.roll(u64::MAX) >> dice.roll(64);
    match dice.roll(12) {
        0 => Payload::Tsc(value),
        1 => Payload::Clock(value),
        2 => Payload::WallClock(value),
        3 => Payload::Tick(value),
        4 => Payload::NetRx(vec![value as u8; dice.roll(3000) as usize]),
        5 => Payload::ConsoleInput(vec![value as u8; dice.roll(100) as usize]),
        6 => Payload::Interrupt(value as u8),
        7 => Payload::Progress,
        8 => Payload::MemoryHashes {
            first_page: value,
            hashes: vec![value; dice.roll(4) as usize],
        },
        9 => Payload::DiskData(vec![value as u8; 1 + dice.roll(3000) as usize]),
        10 => Payload::DiskDone {
            id: dice.roll(30),
            outcome: DiskOutcome::Done,
        },
        _ => Payload::Shutdown(ShutdownReason::Stopped),
    }
}

fn value(payload: &mut Payload, dice: &mut Dice) {
    let bit = 1 << dice.roll(64);
    match payload {
        Payload::Tsc(v) | Payload::Clock(v) | Payload::WallClock(v) | Payload::Tick(v) => *v ^= bit,
        Payload::NetRx(bytes) | Payload::ConsoleInput(bytes) => match dice.roll(3) {
            0 => bytes.push(bit as u8),
            1 => drop(bytes.pop()),
            _ => {
                let at = dice.roll(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << dice.roll(8);
            }
        },
        Payload::Interrupt(vector) => *vector ^= 1 << dice.roll(8),
        Payload::Output(marker) => match dice.roll(3) {
            0 => marker.len ^= bit as u32,
            1 => marker.hash ^= 1 << dice.roll(32),
            _ => {
                marker.channel = match marker.channel {
                    OutputChannel::Net => OutputChannel::Console,
                    OutputChannel::Console => OutputChannel::Disk,
                    OutputChannel::Disk => OutputChannel::Net,
                }
            }
        },
        Payload::Progress => {}
        Payload::Protected { clock, wall_clock } => match dice.roll(2) {
            0 => *clock ^= bit,
            _ => *wall_clock ^= bit,
        },
        Payload::Registers(registers) => registers.gpr[dice.roll(16) as usize] ^= bit,
        Payload::MemoryHashes { first_page, hashes } => match dice.roll(2) {
            0 => *first_page ^= bit,
            _ => {
                let at = dice.roll(hashes.len() as u64) as usize;
                hashes[at] ^= bit;
            }
        },
        Payload::Shutdown(reason) => {
            *reason = match reason {
                ShutdownReason::PowerOff => ShutdownReason::Reset,
                _ => ShutdownReason::PowerOff,
            };
        }
        Payload::State(StatePart::Begin(number)) | Payload::Renewal(StatePart::Begin(number)) => {
            *number ^= 1 << dice.roll(32);
        }
        Payload::State(StatePart::Memory(blocks)) | Payload::Renewal(StatePart::Memory(blocks)) => {
            *blocks ^= bit;
        }
        Payload::State(
            StatePart::Pages(bytes) | StatePart::Rest(bytes) | StatePart::Commit(bytes),
        )
        | Payload::Renewal(
            StatePart::Pages(bytes) | StatePart::Rest(bytes) | StatePart::Commit(bytes),
        ) => {
            if !bytes.is_empty() {
                let at = dice.roll(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << dice.roll(8);
            }
        }
        Payload::Digest(digest) => match &mut digest.last {
            Some(last) if digest.pages.is_empty() || dice.roll(2) == 0 => {
                let at = dice.roll(last.parts.len() as u64) as usize;
                last.parts[at] ^= 1 << dice.roll(32);
            }
            // A part of memory in which nothing changed.
            _ if digest.pages.is_empty() => {}
            _ => {
                let at = dice.roll(digest.pages.len() as u64) as usize;
                digest.pages[at].digest ^= 1 << dice.roll(32);
            }
        },
        Payload::Counted(stop) => stop.count ^= bit,
        Payload::DiskData(bytes) => {
            let at = dice.roll(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << dice.roll(8);
        }
        Payload::DiskDone { id, .. } => *id ^= bit,
    }
}
