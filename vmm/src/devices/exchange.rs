//! What devices exchange with the world: inputs, outputs, and what they need to know of the time.

use logging_channel::entry::{OutputChannel, OutputMarker};
use serde::{Deserialize, Serialize};

use super::virtio::net::frame::{Frame, Offloads};
use crate::disk::{DiskCompletion, DiskRequest};

/// Which clock an access depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockNeed {
    /// The time stamp counter.
    Tsc,
    /// Guest monotonic time in nanoseconds since reset.
    Monotonic,
    /// Wall clock in nanoseconds since the Unix epoch.
    Wall,
}

/// An asynchronous input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Guest monotonic time has reached this value.
    Tick(u64),
    /// A frame from the client network.
    Frame(Frame),
    /// Bytes typed at the console.
    Typed(Vec<u8>),
    /// A request to the disk was completed.
    Disk(DiskCompletion),
}

/// Something that leaves the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// An Ethernet frame to the client network.
    Frame(Frame),
    /// Bytes to the console.
    Console(Vec<u8>),
    /// A request to the disk.
    Disk(DiskRequest),
    /// What the guest takes from now on of what senders of frames leave to others.
    Offloads(Offloads),
}

impl Output {
    /// What the log says of it. `None` for what changes nothing outside the machine: a request
    /// that does not modify the disk, and what the guest can receive.
    #[must_use]
    pub fn marker(&self) -> Option<OutputMarker> {
        let (channel, header, bytes) = match self {
            Self::Frame(frame) => (OutputChannel::Net, &frame.header[..], &frame.bytes),
            Self::Console(bytes) => (OutputChannel::Console, &[][..], bytes),
            Self::Disk(request) => return request.marker(),
            Self::Offloads(_) => return None,
        };
        let len = bytes.len() as u32;
        Some(OutputMarker::new(channel, len, &[header, bytes]))
    }
}

/// Which inputs the machine can take now. None, by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Appetite {
    /// Guest time of the next timer interrupt.
    pub timer_deadline: Option<u64>,
    /// The network card has room for a frame.
    pub frame: bool,
    /// Frames get nowhere: they may be dropped, and are no inputs. Nobody has set the card up.
    pub drops_frames: bool,
    /// The console has room for typed bytes.
    pub typed: bool,
    /// Completions of requests to the disk are taken.
    pub disk: bool,
}
