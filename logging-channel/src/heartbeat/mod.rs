//! Heartbeats: how each side learns that it lost the other when no connection breaks.
//!
//! Both sides send a datagram to each other every fifth of the timeout, between the addresses of
//! the log's TCP connection. Heartbeats and log traffic feed one [`FailureDetector`]. A heartbeat says
//! that its sender is alive, not that it gets on: the primary judges that by its log
//! ([`crate::sender`]). An end that took its peer for lost sends no more, and so is lost too.
//!
//! ```text
//!   offset  size  field
//!        0     4  magic "FTVH"
//!        4     2  protocol version, that of the session
//!        6     1  sender's role: 1 primary, 2 backup
//!        7     1  backup: how long ago the disk server answered it, in tenths of a second, rounded
//!                 up; 0: never, or too long ago; primary: 0
//!        8     8  session
//!       16     8  sequence number, from 1
//!       24     8  primary: LSN up to which outputs were released; backup: 0
//!       32     8  sequence number of the last heartbeat that the sender heard; 0: none
//!       40     4  how long ago that was, in microseconds
//!       44     4  CRC-32 of bytes 0 to 43
//! ```
//!
//! Anything else that reaches the port is ignored: it proves nothing about the peer.

mod arrivals;
mod beating;
mod detector;
mod grace;
mod round_trip;

pub use arrivals::Arrivals;
pub(crate) use beating::{Beating, LastHeard, Monitored};
pub use detector::{FailureDetector, Liveness};
pub(crate) use grace::Grace;
pub(crate) use round_trip::RoundTrip;

use std::time::Duration;

use crate::bytes::{FieldError, Fields};
use crate::entry::Lsn;

/// Length of a heartbeat.
pub const HEARTBEAT_LEN: usize = BEFORE_CRC + 4;

/// Where its checksum begins.
const BEFORE_CRC: usize = 44;

const MAGIC: [u8; 4] = *b"FTVH";

/// Which side sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The side that runs the guest.
    Primary,
    /// The side that replays it.
    Backup,
}

/// What a heartbeat says of the last one that its sender heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo {
    /// Its number.
    pub sequence: u64,
    /// How long ago it was heard; exact to a microsecond, and up to 71 minutes.
    pub held: Duration,
}

/// One heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// Who sends it.
    pub role: Role,
    /// Whose session it is.
    pub session: u64,
    /// Its number.
    pub sequence: u64,
    /// How far the sender released its outputs; 0 from a backup.
    pub released: Lsn,
    /// The last one that the sender heard, if any.
    pub echo: Option<Echo>,
    /// How long ago the disk server answered the sender: to a tenth of a second, rounded up, and
    /// none that is older than 25 s. `None` from a primary.
    pub storage: Option<Duration>,
}

/// What the age of the disk server's answer is counted in.
const STORAGE_UNIT: Duration = Duration::from_millis(100);

impl Heartbeat {
    /// The datagram, as `version` has it.
    #[must_use]
    pub fn encode(&self, version: u16) -> Vec<u8> {
        let mut out = vec![0; BEFORE_CRC];
        out[0..4].copy_from_slice(&MAGIC);
        out[4..6].copy_from_slice(&version.to_le_bytes());
        out[6] = match self.role {
            Role::Primary => 1,
            Role::Backup => 2,
        };
        out[7] = self.storage.map_or(0, storage_units);
        out[8..16].copy_from_slice(&self.session.to_le_bytes());
        out[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        out[24..32].copy_from_slice(&self.released.0.to_le_bytes());
        // One that is older than can be said is none.
        if let Some(echo) = self.echo
            && let Ok(held) = u32::try_from(echo.held.as_micros())
        {
            out[32..40].copy_from_slice(&echo.sequence.to_le_bytes());
            out[40..44].copy_from_slice(&held.to_le_bytes());
        }
        #[cfg(feature = "next-protocol")]
        crate::next::put(version, &mut out);
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a datagram; `None` if it is not a heartbeat of this `version`.
    #[must_use]
    pub fn decode(datagram: &[u8], version: u16) -> Option<Self> {
        let (content, crc) = datagram.split_last_chunk()?;
        let mut fields = Fields::new(content);
        let mut read = || -> Result<Option<Self>, FieldError> {
            let (magic, written) = (fields.array::<4>()?, fields.u16()?);
            let (role, storage) = (fields.u8()?, fields.u8()?);
            let (session, sequence, released) = (fields.u64()?, fields.u64()?, fields.u64()?);
            let (echoed, held) = (fields.u64()?, fields.u32()?);
            #[cfg(feature = "next-protocol")]
            crate::next::take(version, &mut fields)?;
            let role = match role {
                1 => Role::Primary,
                2 => Role::Backup,
                _ => return Ok(None),
            };
            let valid = magic == MAGIC
                && written == version
                && fields.is_empty()
                && u32::from_le_bytes(*crc) == crc32fast::hash(content);
            Ok(valid.then_some(Self {
                role,
                session,
                sequence,
                released: Lsn(released),
                echo: (echoed > 0).then_some(Echo {
                    sequence: echoed,
                    held: Duration::from_micros(held.into()),
                }),
                storage: (storage > 0).then(|| STORAGE_UNIT * storage.into()),
            }))
        };
        read().ok().flatten()
    }
}

/// An age as a heartbeat has it.
fn storage_units(age: Duration) -> u8 {
    let units = age.as_nanos().div_ceil(STORAGE_UNIT.as_nanos()).max(1);
    // One that is older than can be said is none.
    units.try_into().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::VERSIONS;

    proptest! {
        #[test]
        fn heartbeats_survive_and_flipped_bits_do_not(
            session: u64,
            sequence: u64,
            released: u64,
            primary: bool,
            echo: Option<(u64, u32)>,
            storage: u8,
            bit in 0..HEARTBEAT_LEN * 8,
        ) {
            let beat = Heartbeat {
                role: if primary { Role::Primary } else { Role::Backup },
                session,
                sequence,
                released: Lsn(released),
                echo: echo.filter(|(echoed, _)| *echoed > 0).map(|(echoed, held)| Echo {
                    sequence: echoed,
                    held: Duration::from_micros(held.into()),
                }),
                storage: (storage > 0).then(|| STORAGE_UNIT * storage.into()),
            };
            for version in [VERSIONS.oldest, VERSIONS.newest] {
                let mut bytes = beat.encode(version);
                prop_assert_eq!(Heartbeat::decode(&bytes, version), Some(beat));
                for other in [version - 1, version + 1] {
                    prop_assert_eq!(Heartbeat::decode(&bytes, other), None);
                }
                bytes[bit / 8] ^= 1 << (bit % 8);
                prop_assert_eq!(Heartbeat::decode(&bytes, version), None);
            }
        }

        #[test]
        fn an_answer_of_the_disk_server_is_told_no_younger_than_it_is(millis in 0u64..40_000) {
            let age = Duration::from_millis(millis);
            let told = STORAGE_UNIT * storage_units(age).into();
            prop_assert!(told.is_zero() == (millis > 25_500));
            prop_assert!(told.is_zero() || (told >= age && told <= age + STORAGE_UNIT));
        }

        #[test]
        fn any_datagram_is_read_or_ignored(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Heartbeat::decode(&bytes, VERSIONS.newest);
        }
    }
}
