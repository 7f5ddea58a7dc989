//! Control messages: what both sides say between batches, and how a log ends.
//!
//! ```text
//!   offset  size  field
//!        0     4  magic "FTVC"
//!        4     2  kind: 1 acknowledge, 2 released, 3 goodbye, 4 need state, 5 renew, 6 used
//!        6     2  acknowledge: how long nothing is left to execute, in tenths of milliseconds
//!                 need state: 1 if the backup does not find counted stops any more, else 0
//!                 else 0
//!        8     8  first LSN:  acknowledge: received   released: released   goodbye: last entry
//!                             need state: entry that differed   renew: 0
//!                             used: microseconds
//!       16     8  second LSN: acknowledge: executed   else 0
//!       24     4  CRC-32 of bytes 0 to 23
//! ```
//!
//! As long as a batch's header, so that a reader of the stream always takes 28 bytes and then
//! knows what it has.

use std::time::Duration;

use crate::bytes::{FieldError, Fields};
use crate::codec::HEADER_LEN;
use crate::entry::Lsn;

pub(crate) const CONTROL_MAGIC: [u8; 4] = *b"FTVC";

/// What the time in [`Control::Acknowledge`] is counted in.
pub const IDLE_UNIT: Duration = Duration::from_micros(100);

/// A control message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Backup to primary: every entry up to `received` is in the backup's memory, and every entry
    /// up to `executed` has been replayed.
    Acknowledge {
        /// Last entry received.
        received: Lsn,
        /// Last entry executed.
        executed: Lsn,
        /// How long ago that was, if nothing was left to execute then; otherwise zero. To
        /// [`IDLE_UNIT`], rounded down, and no more than 65,535 of them.
        idle: Duration,
    },
    /// Primary to backup: every output up to this LSN has left the primary.
    Released(Lsn),
    /// Primary to backup, and the last thing in a file: the log ends in order after this LSN.
    Goodbye(Lsn),
    /// Backup to primary: its state differed from the log at this entry. It cannot take over
    /// before it has got a transfer of the whole state that begins after this message.
    NeedState {
        /// That entry.
        differed: Lsn,
        /// Its performance counter is lost: no entry after that transfer may be a counted stop.
        uncounted: bool,
    },
    /// Cold backup to primary: there is much to replay by now, and a transfer of the whole state would
    /// spare that. What it has is as good as before.
    Renew,
    /// Primary to cold backup: the guest has used so much of a processor until what comes next was
    /// logged. To a microsecond.
    Used(Duration),
}

/// Why bytes are not a control message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Something else is here.
    #[error("no message starts here: magic {0:02x?}")]
    Magic([u8; 4]),
    /// The message was damaged.
    #[error("damaged control message: its checksum is {found:#010x}, computed {computed:#010x}")]
    Checksum {
        /// The checksum in the message.
        found: u32,
        /// The checksum of the message.
        computed: u32,
    },
    /// A kind that this version does not know.
    #[error("unknown control message {0}")]
    UnknownKind(u16),
}

impl Control {
    /// The message as it is sent.
    #[must_use]
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let (kind, more, first, second) = match self {
            Control::Acknowledge {
                received,
                executed,
                idle,
            } => {
                let units = idle.as_nanos() / IDLE_UNIT.as_nanos();
                (
                    1u16,
                    units.try_into().unwrap_or(u16::MAX),
                    received,
                    executed,
                )
            }
            Control::Released(lsn) => (2, 0, lsn, Lsn(0)),
            Control::Goodbye(last) => (3, 0, last, Lsn(0)),
            Control::NeedState {
                differed,
                uncounted,
            } => (4, uncounted.into(), differed, Lsn(0)),
            Control::Renew => (5, 0, Lsn(0), Lsn(0)),
            Control::Used(used) => (6, 0, Lsn(used.as_micros() as u64), Lsn(0)),
        };
        let mut out = [0; HEADER_LEN];
        out[0..4].copy_from_slice(&CONTROL_MAGIC);
        out[4..6].copy_from_slice(&kind.to_le_bytes());
        out[6..8].copy_from_slice(&more.to_le_bytes());
        out[8..16].copy_from_slice(&first.0.to_le_bytes());
        out[16..24].copy_from_slice(&second.0.to_le_bytes());
        let crc = crc32fast::hash(&out[..24]);
        out[24..28].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a message.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, ControlError> {
        let mut fields = Fields::new(bytes);
        let mut read = || -> Result<_, FieldError> {
            Ok((
                fields.array::<4>()?,
                fields.u16()?,
                fields.u16()?,
                Lsn(fields.u64()?),
                Lsn(fields.u64()?),
                fields.u32()?,
            ))
        };
        let (magic, kind, more, first, second, found) =
            read().expect("the fields are as long as the message");
        if magic != CONTROL_MAGIC {
            return Err(ControlError::Magic(magic));
        }
        let computed = crc32fast::hash(&bytes[..24]);
        if found != computed {
            return Err(ControlError::Checksum { found, computed });
        }
        match kind {
            1 => Ok(Control::Acknowledge {
                received: first,
                executed: second,
                idle: IDLE_UNIT * more.into(),
            }),
            2 => Ok(Control::Released(first)),
            3 => Ok(Control::Goodbye(first)),
            4 => Ok(Control::NeedState {
                differed: first,
                uncounted: more != 0,
            }),
            5 => Ok(Control::Renew),
            6 => Ok(Control::Used(Duration::from_micros(first.0))),
            other => Err(ControlError::UnknownKind(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn messages_survive_and_flipped_bits_do_not(
            a: u64, b: u64, units: u16, kind in 0..6, bit in 0..224usize
        ) {
            let idle = IDLE_UNIT * units.into();
            let message = match kind {
                0 => Control::Acknowledge { received: Lsn(a), executed: Lsn(b), idle },
                1 => Control::Released(Lsn(a)),
                2 => Control::NeedState { differed: Lsn(a), uncounted: b % 2 == 1 },
                3 => Control::Renew,
                4 => Control::Used(Duration::from_micros(a)),
                _ => Control::Goodbye(Lsn(a)),
            };
            let mut bytes = message.encode();
            prop_assert_eq!(Control::decode(&bytes), Ok(message));
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Control::decode(&bytes).is_err());
        }

        #[test]
        fn any_bytes_end_in_a_message_or_an_error(bytes: [u8; HEADER_LEN]) {
            let _ = Control::decode(&bytes);
        }
    }
}
