//! virtio-net (virtio 1.2, section 5.1): one receive and one transmit queue, with what a sender may
//! leave to others ([`frame`]), and received frames that may lie in several buffers.

pub mod frame;
mod moderation;

use std::collections::VecDeque;
use std::io::{Read, Write};

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_NET_F_STATUS, VIRTIO_NET_S_LINK_UP,
};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use self::frame::{Frame, Offloads};
use self::moderation::Moderation;
use super::{Chains, Notify, VirtioDevice, is_too_long, notification};
use crate::ram::GuestRam;

/// The queue of received frames.
pub const RX: usize = 0;
/// The queue of frames to send.
pub const TX: usize = 1;

/// struct virtio_net_hdr_v1: [`frame::Header`] and num_buffers.
const HEADER_BYTES: usize = frame::HEADER_BYTES + 2;
/// Shortest Ethernet frame: its header.
const MIN_FRAME_BYTES: usize = 14;

/// Frames the device holds while the driver has no buffers. More are dropped, as on a wire.
const RX_BACKLOG: usize = 64;

/// The device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Net {
    mac: [u8; 6],
    /// What the driver negotiated; 0 before that. The transport has it in its state.
    #[serde(skip)]
    features: u64,
    received: VecDeque<Frame>,
    transmitted: Vec<Frame>,
    moderation: Moderation,
}

/// What became of the frame that is to be received first.
enum Delivered {
    /// It is in the driver's buffers, or lost because they are too small.
    Yes,
    /// It waits for buffers.
    Waits,
    /// The driver broke the rules.
    Broken,
}

impl Net {
    /// A network card with this address.
    #[must_use]
    pub fn new(mac: [u8; 6]) -> Self {
        Self {
            mac,
            features: 0,
            received: VecDeque::new(),
            transmitted: Vec::new(),
            moderation: Moderation::default(),
        }
    }

    /// Whether a card with address `mac` could be in this state; if not, what is wrong.
    pub(in crate::devices) fn check(&self, mac: [u8; 6]) -> Result<(), &'static str> {
        if self.mac != mac {
            return Err("the card has another address");
        }
        if self.received.len() > RX_BACKLOG {
            return Err("more frames wait than the card holds");
        }
        if (self.received.iter()).any(|frame| frame.bytes.len() > frame.limit()) {
            return Err("a frame waits that is too long");
        }
        self.moderation.check()
    }

    /// Its address.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// What the guest takes of what senders leave to others.
    #[must_use]
    pub fn offloads(&self) -> Offloads {
        Offloads::of_features(self.features)
    }

    fn has(&self, feature: u32) -> bool {
        self.features & 1 << feature != 0
    }

    /// Whether a frame given now would be kept.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.received.len() < RX_BACKLOG
    }

    /// Takes a frame from the network; delivers it and what waited before it, as far as the
    /// driver has buffers. A frame that the driver does not take is lost.
    pub fn receive(&mut self, frame: Frame, queues: &mut [Queue], memory: &GuestRam) -> Notify {
        if self.has_room() && self.offloads().take(&frame) {
            self.received.push_back(frame);
        }
        self.deliver(&mut queues[RX], memory)
    }

    /// Takes the frames that the guest sent.
    pub fn take_transmitted(&mut self) -> Vec<Frame> {
        std::mem::take(&mut self.transmitted)
    }

    /// It is `now`, in nanoseconds of guest time.
    pub fn tick(&mut self, now: u64, queues: &[Queue], memory: &GuestRam) -> Notify {
        let wanted = || is_wanted(&queues[TX], memory);
        paid(self.moderation.tick(now, wanted))
    }

    /// The guest halted.
    pub fn idle(&mut self) -> Notify {
        paid(self.moderation.idle())
    }

    fn deliver(&mut self, queue: &mut Queue, memory: &GuestRam) -> Notify {
        if !queue.ready() {
            return Notify::No;
        }
        let mergeable = self.has(VIRTIO_NET_F_MRG_RXBUF);
        let mut used = false;
        while let Some(frame) = self.received.front() {
            match put(frame, mergeable, queue, memory) {
                Delivered::Yes => {
                    self.received.pop_front();
                    used = true;
                }
                Delivered::Waits => break,
                Delivered::Broken => return Notify::NeedsReset,
            }
        }
        notification(queue, memory, used)
    }

    fn transmit(&mut self, queue: &mut Queue, memory: &GuestRam) -> Notify {
        let mut used = false;
        let mut weight = 0;
        if queue.disable_notification(memory).is_err() {
            return Notify::NeedsReset;
        }
        let mut chains = Chains::of(queue);
        while let Some(chain) = chains.next(queue, memory) {
            if is_too_long(&chain, queue) {
                return Notify::NeedsReset;
            }
            let head = chain.head_index();
            let Ok(mut reader) = chain.reader(memory) else {
                return Notify::NeedsReset;
            };
            let len = reader.available_bytes();
            if (HEADER_BYTES + MIN_FRAME_BYTES..=HEADER_BYTES + frame::MAX_BYTES).contains(&len) {
                let mut header = [0; HEADER_BYTES];
                let mut bytes = vec![0; len - HEADER_BYTES];
                let read =
                    (reader.read_exact(&mut header)).and_then(|()| reader.read_exact(&mut bytes));
                if read.is_err() {
                    return Notify::NeedsReset;
                }
                let mut frame = Frame::from(bytes);
                if self.has(VIRTIO_NET_F_CSUM) {
                    frame.header.copy_from_slice(&header[..frame::HEADER_BYTES]);
                }
                // Frames that no Ethernet could carry are dropped.
                if frame.bytes.len() <= frame.limit() {
                    weight += if frame.bytes.len() > frame::MAX_WIRE_BYTES {
                        2
                    } else {
                        1
                    };
                    self.transmitted.push(frame);
                }
            }
            if queue.add_used(memory, head, 0).is_err() {
                return Notify::NeedsReset;
            }
            used = true;
        }
        // The guest stands still, so nothing can have been added meanwhile. What cannot be taken
        // out of the ring is an index that no ring can have.
        match queue.enable_notification(memory) {
            Ok(false) => match notification(queue, memory, used) {
                Notify::NeedsReset => Notify::NeedsReset,
                // Whether the driver took its buffers back cannot be seen.
                notify if !queue.event_idx_enabled() => notify,
                notify => paid(self.moderation.sent(weight, notify == Notify::UsedBuffer)),
            },
            Ok(true) | Err(_) => Notify::NeedsReset,
        }
    }
}

/// What to tell the transport when an interrupt comes, or does not.
fn paid(comes: bool) -> Notify {
    if comes {
        Notify::UsedBuffer
    } else {
        Notify::No
    }
}

/// Whether the driver wants to hear of a buffer that was used and that it has not looked at
/// (`used_event`, virtio 1.2, section 2.7.10).
fn is_wanted(queue: &Queue, memory: &GuestRam) -> bool {
    // A ring outside memory stops the device elsewhere.
    let at = (queue.avail_ring()).wrapping_add(4 + 2 * u64::from(queue.size()));
    let event: u16 = memory.read_obj(GuestAddress(at)).unwrap_or_default();
    let ahead = queue.next_used().wrapping_sub(event).wrapping_sub(1);
    (ahead as i16) >= 0
}

/// Puts a frame into the driver's next buffer, or into as many as it takes if they are `mergeable`
/// (section 5.1.6.4).
fn put(frame: &Frame, mergeable: bool, queue: &mut Queue, memory: &GuestRam) -> Delivered {
    let needed = HEADER_BYTES + frame.bytes.len();
    let mut buffers = Vec::new();
    let mut room = 0;
    while room < needed {
        let Some(chain) = queue.pop_descriptor_chain(memory) else {
            break;
        };
        if is_too_long(&chain, queue) {
            return Delivered::Broken;
        }
        let head = chain.head_index();
        let Ok(writer) = chain.writer(memory) else {
            return Delivered::Broken;
        };
        room += writer.available_bytes();
        buffers.push((head, writer));
        if !mergeable {
            break;
        }
    }
    let is_all = buffers.len() == usize::from(queue.size());
    if room < needed && (buffers.is_empty() || mergeable && !is_all) {
        // The driver is to tell of the next one: behind all that were looked at, so before these
        // are put back. The guest stands still, so it cannot have come meanwhile.
        if queue.enable_notification(memory).is_err() {
            return Delivered::Broken;
        }
        for _ in buffers {
            queue.go_to_previous_position();
        }
        return Delivered::Waits;
    }
    // Too small a buffer: the frame is lost, as section 5.1.6.3.1 leaves no other way.
    let is_lost = room < needed;
    let count = (buffers.len() as u16).to_le_bytes();
    let mut parts = [&frame.header[..], &count, &frame.bytes].into_iter();
    let mut rest: &[u8] = &[];
    for (head, mut writer) in buffers {
        let mut written = 0;
        while !is_lost && writer.available_bytes() > 0 {
            if rest.is_empty() {
                let Some(part) = parts.next() else { break };
                rest = part;
            }
            let (now, later) = rest.split_at(rest.len().min(writer.available_bytes()));
            if writer.write_all(now).is_err() {
                return Delivered::Broken;
            }
            written += now.len();
            rest = later;
        }
        if queue.add_used(memory, head, written as u32).is_err() {
            return Delivered::Broken;
        }
    }
    Delivered::Yes
}

impl VirtioDevice for Net {
    const DEVICE_TYPE: u16 = VIRTIO_ID_NET as u16;
    const CLASS: [u8; 3] = [0x02, 0x00, 0x00];
    const QUEUES: usize = 2;
    const CONFIG_BYTES: usize = 8;

    fn features(&self) -> u64 {
        [
            VIRTIO_NET_F_MAC,
            VIRTIO_NET_F_STATUS,
            VIRTIO_NET_F_CSUM,
            VIRTIO_NET_F_HOST_TSO4,
            VIRTIO_NET_F_HOST_TSO6,
            VIRTIO_NET_F_GUEST_CSUM,
            VIRTIO_NET_F_GUEST_TSO4,
            VIRTIO_NET_F_GUEST_TSO6,
            VIRTIO_NET_F_MRG_RXBUF,
        ]
        .into_iter()
        .fold(0, |features, bit| features | 1 << bit)
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let mut config = [0; Self::CONFIG_BYTES];
        config[..6].copy_from_slice(&self.mac);
        config[6..].copy_from_slice(&(VIRTIO_NET_S_LINK_UP as u16).to_le_bytes());
        for (n, byte) in data.iter_mut().enumerate() {
            *byte = config.get(offset + n).copied().unwrap_or(0);
        }
    }

    fn negotiated(&mut self, features: u64) {
        self.features = features;
    }

    fn next_deadline(&self) -> Option<u64> {
        self.moderation.deadline()
    }

    fn queue_notified(&mut self, index: usize, queues: &mut [Queue], memory: &GuestRam) -> Notify {
        match index {
            RX => self.deliver(&mut queues[RX], memory),
            TX => self.transmit(&mut queues[TX], memory),
            _ => Notify::No,
        }
    }

    fn reset(&mut self) {
        self.features = 0;
        self.received.clear();
        self.transmitted.clear();
        self.moderation.forget();
    }
}
