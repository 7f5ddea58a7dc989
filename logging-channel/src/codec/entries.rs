//! One entry within a batch, written and read.
//!
//! ```text
//!   tag      1 byte: bits 0-3 kind (0: its number follows), bit 4 has landmark, bit 5 has check,
//!                    bits 6-7 step of `exits`: 0, 1, or 2 = a varint follows (3 is invalid)
//!   kind     1 byte, only when the tag says so: a number beyond 15
//!   step     varint, only when the tag says so
//!   rip      delta to the last landmark of the batch, only with a landmark
//!   check    u32, only with a check
//!   content  by kind
//! ```
//!
//! A *delta* is the wrapping difference to the last value of the same kind in the batch (0 at the
//! batch's start), zigzag-coded as a varint. A time stamp counter that moved by 60,000 costs three
//! bytes instead of eight, and nothing is needed from an earlier batch to read it.

use super::error::{EncodeError, EntryError};
use super::kind::Kind;
use super::limits::{MAX_FRAME, MAX_HASHES, MAX_STATE_PART};
use super::state;
use crate::bytes::{FieldError, Fields, put_delta, put_varint};
use crate::entry::{
    CountedStop, DiskOutcome, Entry, ExecutionPoint, Landmark, OutputChannel, OutputMarker,
    PartDigests, Payload, Registers, ShutdownReason, StatePart,
};

const KIND_MASK: u8 = 0x0f;
/// In place of a kind's number in the tag: it has a byte of its own.
const KIND_FOLLOWS: u8 = 0;
const HAS_LANDMARK: u8 = 0x10;
const HAS_CHECK: u8 = 0x20;
const STEP_SHIFT: u32 = 6;
const STEP_FOLLOWS: u8 = 2;

/// What the entries of one batch are coded against. Starts from zero with every batch, so that
/// each decodes on its own.
#[derive(Debug, Clone, Default)]
pub(super) struct Context {
    exits: u64,
    rip: u64,
    tsc: u64,
    clock: u64,
    wall_clock: u64,
    tick: u64,
    disk: u64,
    registers: [u64; Registers::NAMES.len()],
}

/// Whether `payload` is within the limits of an entry.
pub(super) fn admit(payload: &Payload) -> Result<(), EncodeError> {
    match payload {
        Payload::NetRx(data) | Payload::ConsoleInput(data) | Payload::DiskData(data)
            if data.len() > MAX_FRAME =>
        {
            Err(EncodeError::TooLong {
                kind: Kind::of(payload),
                len: data.len(),
            })
        }
        Payload::MemoryHashes { hashes, .. } if hashes.len() > MAX_HASHES => {
            Err(EncodeError::TooManyHashes {
                count: hashes.len(),
            })
        }
        Payload::State(
            StatePart::Pages(data) | StatePart::Rest(data) | StatePart::Commit(data),
        )
        | Payload::Renewal(
            StatePart::Pages(data) | StatePart::Rest(data) | StatePart::Commit(data),
        ) if data.len() > MAX_STATE_PART => Err(EncodeError::TooLong {
            kind: Kind::of(payload),
            len: data.len(),
        }),
        Payload::Digest(digest) => state::admit(digest),
        _ => Ok(()),
    }
}

impl Context {
    /// Appends `entry`, which was admitted and does not lie before the last one.
    pub(super) fn write(&mut self, entry: &Entry, out: &mut Vec<u8>) {
        let step = entry.point.exits - self.exits;
        self.exits = entry.point.exits;
        let number = Kind::of(&entry.payload).number();
        let mut tag = if number > KIND_MASK {
            KIND_FOLLOWS
        } else {
            number
        };
        tag |= (step.min(u64::from(STEP_FOLLOWS)) as u8) << STEP_SHIFT;
        if entry.point.landmark.is_some() {
            tag |= HAS_LANDMARK;
        }
        if entry.check.is_some() {
            tag |= HAS_CHECK;
        }
        out.push(tag);
        if number > KIND_MASK {
            out.push(number);
        }
        if step >= u64::from(STEP_FOLLOWS) {
            put_varint(out, step);
        }
        if let Some(Landmark { rip }) = entry.point.landmark {
            put_delta(out, self.rip, rip);
            self.rip = rip;
        }
        if let Some(check) = entry.check {
            out.extend_from_slice(&check.to_le_bytes());
        }
        self.write_payload(&entry.payload, out);
    }

    fn write_payload(&mut self, payload: &Payload, out: &mut Vec<u8>) {
        let mut timed = |last: &mut u64, value: u64| {
            put_delta(out, *last, value);
            *last = value;
        };
        match payload {
            Payload::Tsc(value) => timed(&mut self.tsc, *value),
            Payload::Clock(value) => timed(&mut self.clock, *value),
            Payload::WallClock(value) => timed(&mut self.wall_clock, *value),
            Payload::Tick(value) => timed(&mut self.tick, *value),
            Payload::NetRx(data) | Payload::ConsoleInput(data) | Payload::DiskData(data) => {
                put_varint(out, data.len() as u64);
                out.extend_from_slice(data);
            }
            Payload::Interrupt(vector) => out.push(*vector),
            Payload::Output(marker) => {
                out.push(channel_number(marker.channel));
                put_varint(out, u64::from(marker.len));
                out.extend_from_slice(&marker.hash.to_le_bytes());
            }
            Payload::Progress => {}
            Payload::Protected { clock, wall_clock } => {
                timed(&mut self.clock, *clock);
                timed(&mut self.wall_clock, *wall_clock);
            }
            Payload::Registers(registers) => self.write_registers(registers, out),
            Payload::MemoryHashes { first_page, hashes } => {
                put_varint(out, *first_page);
                put_varint(out, hashes.len() as u64);
                for hash in hashes {
                    out.extend_from_slice(&hash.to_le_bytes());
                }
            }
            Payload::Shutdown(reason) => out.push(reason_number(*reason)),
            Payload::State(part) | Payload::Renewal(part) => state::write_part(part, out),
            Payload::Digest(digest) => {
                state::write_pages(digest, out);
                match &digest.last {
                    None => out.push(0),
                    Some(last) => {
                        out.push(1);
                        self.write_registers(&last.registers, out);
                        state::write_digests(&last.parts, out);
                    }
                }
            }
            Payload::Counted(stop) => {
                put_varint(out, stop.count);
                self.write_registers(&stop.registers, out);
            }
            Payload::DiskDone { id, outcome } => {
                timed(&mut self.disk, *id);
                write_outcome(*outcome, out);
            }
        }
    }

    fn write_registers(&mut self, registers: &Registers, out: &mut Vec<u8>) {
        let fields = registers.fields();
        let changed = (0..fields.len())
            .filter(|&i| fields[i] != self.registers[i])
            .fold(0, |bits, i| bits | 1u64 << i);
        put_varint(out, changed);
        for (last, value) in self.registers.iter_mut().zip(fields) {
            if *last != value {
                put_delta(out, *last, value);
                *last = value;
            }
        }
    }

    /// Takes the next entry off `fields`.
    pub(super) fn read(&mut self, fields: &mut Fields<'_>) -> Result<Entry, EntryError> {
        let tag = fields.u8()?;
        let number = match tag & KIND_MASK {
            KIND_FOLLOWS => {
                let number = fields.u8()?;
                // Each kind has one way to be written.
                if number <= KIND_MASK {
                    return Err(EntryError::UnknownKind(number));
                }
                number
            }
            number => number,
        };
        let kind = Kind::from_number(number).ok_or(EntryError::UnknownKind(number))?;
        let step = match tag >> STEP_SHIFT {
            STEP_FOLLOWS => fields.varint()?,
            step if step < STEP_FOLLOWS => u64::from(step),
            _ => return Err(EntryError::ReservedStep(tag)),
        };
        self.exits = self
            .exits
            .checked_add(step)
            .ok_or(EntryError::ExitsOverflow)?;
        let landmark = if tag & HAS_LANDMARK != 0 {
            self.rip = fields.delta(self.rip)?;
            Some(Landmark { rip: self.rip })
        } else {
            None
        };
        let check = if tag & HAS_CHECK != 0 {
            Some(fields.u32()?)
        } else {
            None
        };
        Ok(Entry {
            point: ExecutionPoint {
                exits: self.exits,
                landmark,
            },
            check,
            payload: self.read_payload(kind, fields)?,
        })
    }

    fn read_payload(&mut self, kind: Kind, fields: &mut Fields<'_>) -> Result<Payload, EntryError> {
        let mut timed = |last: &mut u64| -> Result<u64, FieldError> {
            *last = fields.delta(*last)?;
            Ok(*last)
        };
        Ok(match kind {
            Kind::Tsc => Payload::Tsc(timed(&mut self.tsc)?),
            Kind::Clock => Payload::Clock(timed(&mut self.clock)?),
            Kind::WallClock => Payload::WallClock(timed(&mut self.wall_clock)?),
            Kind::Tick => Payload::Tick(timed(&mut self.tick)?),
            Kind::NetRx => Payload::NetRx(read_data(fields)?),
            Kind::ConsoleInput => Payload::ConsoleInput(read_data(fields)?),
            Kind::Interrupt => Payload::Interrupt(fields.u8()?),
            Kind::Output => {
                let channel = read_channel(fields.u8()?)?;
                let len = fields.varint()?;
                Payload::Output(OutputMarker {
                    channel,
                    len: u32::try_from(len).map_err(|_| EntryError::OutputTooLong(len))?,
                    hash: fields.u32()?,
                })
            }
            Kind::Progress => Payload::Progress,
            Kind::Protected => Payload::Protected {
                clock: timed(&mut self.clock)?,
                wall_clock: timed(&mut self.wall_clock)?,
            },
            Kind::Registers => Payload::Registers(Box::new(self.read_registers(fields)?)),
            Kind::MemoryHashes => {
                let first_page = fields.varint()?;
                let count = fields.varint()?;
                if count > MAX_HASHES as u64 {
                    return Err(EntryError::TooManyHashes(count));
                }
                let mut hashes = fields.clone();
                // Claim the bytes before room is made for what they hold.
                fields.bytes(count as usize * 8)?;
                Payload::MemoryHashes {
                    first_page,
                    hashes: (0..count).map(|_| hashes.u64()).collect::<Result<_, _>>()?,
                }
            }
            Kind::Shutdown => Payload::Shutdown(read_reason(fields.u8()?)?),
            Kind::State => Payload::State(state::read_part(fields)?),
            Kind::Renewal => Payload::Renewal(state::read_part(fields)?),
            Kind::Digest => {
                let mut digest = state::read_pages(fields)?;
                digest.last = match fields.u8()? {
                    0 => None,
                    1 => Some(PartDigests {
                        registers: self.read_registers(fields)?,
                        parts: state::read_digests(fields)?,
                    }),
                    other => return Err(EntryError::UnknownPart(other)),
                };
                Payload::Digest(Box::new(digest))
            }
            Kind::Counted => Payload::Counted(Box::new(CountedStop {
                count: fields.varint()?,
                registers: self.read_registers(fields)?,
            })),
            Kind::DiskData => Payload::DiskData(read_data(fields)?),
            Kind::DiskDone => Payload::DiskDone {
                id: timed(&mut self.disk)?,
                outcome: read_outcome(fields)?,
            },
        })
    }

    fn read_registers(&mut self, fields: &mut Fields<'_>) -> Result<Registers, EntryError> {
        let changed = fields.varint()?;
        if changed >> self.registers.len() != 0 {
            return Err(EntryError::UnknownRegister(changed));
        }
        for (i, last) in self.registers.iter_mut().enumerate() {
            if changed & (1 << i) != 0 {
                *last = fields.delta(*last)?;
            }
        }
        let mut gpr = [0; 16];
        gpr.copy_from_slice(&self.registers[..16]);
        Ok(Registers {
            gpr,
            rip: self.registers[16],
            rflags: self.registers[17],
            cr3: self.registers[18],
        })
    }
}

fn read_data(fields: &mut Fields<'_>) -> Result<Vec<u8>, EntryError> {
    let len = fields.varint()?;
    if len > MAX_FRAME as u64 {
        return Err(EntryError::TooLong(len));
    }
    Ok(fields.bytes(len as usize)?.to_vec())
}

fn channel_number(channel: OutputChannel) -> u8 {
    match channel {
        OutputChannel::Net => 1,
        OutputChannel::Console => 2,
        OutputChannel::Disk => 3,
    }
}

fn read_channel(number: u8) -> Result<OutputChannel, EntryError> {
    match number {
        1 => Ok(OutputChannel::Net),
        2 => Ok(OutputChannel::Console),
        3 => Ok(OutputChannel::Disk),
        other => Err(EntryError::UnknownChannel(other)),
    }
}

fn write_outcome(outcome: DiskOutcome, out: &mut Vec<u8>) {
    match outcome {
        DiskOutcome::Done => out.push(0),
        DiskOutcome::Shared { crc } => {
            out.push(1);
            out.extend_from_slice(&crc.to_le_bytes());
        }
        DiskOutcome::Failed => out.push(2),
        DiskOutcome::Unsupported => out.push(3),
    }
}

fn read_outcome(fields: &mut Fields<'_>) -> Result<DiskOutcome, EntryError> {
    match fields.u8()? {
        0 => Ok(DiskOutcome::Done),
        1 => Ok(DiskOutcome::Shared { crc: fields.u32()? }),
        2 => Ok(DiskOutcome::Failed),
        3 => Ok(DiskOutcome::Unsupported),
        other => Err(EntryError::UnknownOutcome(other)),
    }
}

fn reason_number(reason: ShutdownReason) -> u8 {
    match reason {
        ShutdownReason::PowerOff => 1,
        ShutdownReason::Reset => 2,
        ShutdownReason::TripleFault => 3,
        ShutdownReason::Stopped => 4,
    }
}

fn read_reason(number: u8) -> Result<ShutdownReason, EntryError> {
    match number {
        1 => Ok(ShutdownReason::PowerOff),
        2 => Ok(ShutdownReason::Reset),
        3 => Ok(ShutdownReason::TripleFault),
        4 => Ok(ShutdownReason::Stopped),
        other => Err(EntryError::UnknownReason(other)),
    }
}
