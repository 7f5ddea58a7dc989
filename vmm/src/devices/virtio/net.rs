//! virtio-net (virtio 1.2, section 5.1): one receive and one transmit queue, no offloads.

use std::collections::VecDeque;
use std::io::{Read, Write};

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{VIRTIO_NET_F_MAC, VIRTIO_NET_F_STATUS, VIRTIO_NET_S_LINK_UP};
use virtio_queue::{Queue, QueueT};

use super::{Notify, VirtioDevice, notification};
use crate::ram::GuestRam;

const RX: usize = 0;
const TX: usize = 1;

/// struct virtio_net_hdr_v1: flags, gso_type, four 16-bit fields, num_buffers.
const HEADER_BYTES: usize = 12;
/// Header of a received packet: everything 0 but num_buffers = 1.
const RX_HEADER: [u8; HEADER_BYTES] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];

/// Largest Ethernet frame, with a VLAN tag, without its checksum.
pub const MAX_FRAME_BYTES: usize = 1518;

/// Frames the device holds while the driver has no buffers. More are dropped, as on a wire.
const RX_BACKLOG: usize = 64;

/// The device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Net {
    mac: [u8; 6],
    received: VecDeque<Vec<u8>>,
    transmitted: Vec<Vec<u8>>,
}

impl Net {
    /// A network card with this address.
    #[must_use]
    pub fn new(mac: [u8; 6]) -> Self {
        Self {
            mac,
            received: VecDeque::new(),
            transmitted: Vec::new(),
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
        Ok(())
    }

    /// Its address.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Whether a frame given now would be kept.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.received.len() < RX_BACKLOG
    }

    /// Takes a frame from the network; delivers it and what waited before it, as far as the
    /// driver has buffers.
    pub fn receive(&mut self, frame: Vec<u8>, queues: &mut [Queue], memory: &GuestRam) -> Notify {
        if self.has_room() {
            self.received.push_back(frame);
        }
        self.deliver(&mut queues[RX], memory)
    }

    /// Takes the frames that the guest sent.
    pub fn take_transmitted(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.transmitted)
    }

    fn deliver(&mut self, queue: &mut Queue, memory: &GuestRam) -> Notify {
        if !queue.ready() {
            return Notify::No;
        }
        let mut used = false;
        while let Some(frame) = self.received.front() {
            let Some(chain) = queue.pop_descriptor_chain(memory) else {
                break;
            };
            let head = chain.head_index();
            let Ok(mut writer) = chain.writer(memory) else {
                return Notify::NeedsReset;
            };
            let written = if writer.available_bytes() >= HEADER_BYTES + frame.len() {
                let complete = writer
                    .write_all(&RX_HEADER)
                    .and_then(|()| writer.write_all(frame));
                if complete.is_err() {
                    return Notify::NeedsReset;
                }
                HEADER_BYTES + frame.len()
            } else {
                0 // too small a buffer: the frame is lost, as section 5.1.6.3.1 leaves no other way
            };
            self.received.pop_front();
            if queue.add_used(memory, head, written as u32).is_err() {
                return Notify::NeedsReset;
            }
            used = true;
        }
        notification(queue, memory, used)
    }

    fn transmit(&mut self, queue: &mut Queue, memory: &GuestRam) -> Notify {
        let mut used = false;
        if queue.disable_notification(memory).is_err() {
            return Notify::NeedsReset;
        }
        while let Some(chain) = queue.pop_descriptor_chain(memory) {
            let head = chain.head_index();
            let Ok(mut reader) = chain.reader(memory) else {
                return Notify::NeedsReset;
            };
            let len = reader.available_bytes();
            // Frames that no Ethernet could carry are dropped.
            if (HEADER_BYTES + 14..=HEADER_BYTES + MAX_FRAME_BYTES).contains(&len) {
                let mut packet = vec![0; len];
                if reader.read_exact(&mut packet).is_err() {
                    return Notify::NeedsReset;
                }
                packet.drain(..HEADER_BYTES);
                self.transmitted.push(packet);
            }
            if queue.add_used(memory, head, 0).is_err() {
                return Notify::NeedsReset;
            }
            used = true;
        }
        // The guest stands still, so nothing can have been added meanwhile. What cannot be taken
        // out of the ring is an index that no ring can have.
        match queue.enable_notification(memory) {
            Ok(false) => notification(queue, memory, used),
            Ok(true) | Err(_) => Notify::NeedsReset,
        }
    }
}

impl VirtioDevice for Net {
    const DEVICE_TYPE: u16 = VIRTIO_ID_NET as u16;
    const CLASS: [u8; 3] = [0x02, 0x00, 0x00];
    const QUEUES: usize = 2;
    const CONFIG_BYTES: usize = 8;

    fn features(&self) -> u64 {
        1 << VIRTIO_NET_F_MAC | 1 << VIRTIO_NET_F_STATUS
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let mut config = [0; Self::CONFIG_BYTES];
        config[..6].copy_from_slice(&self.mac);
        config[6..].copy_from_slice(&(VIRTIO_NET_S_LINK_UP as u16).to_le_bytes());
        for (n, byte) in data.iter_mut().enumerate() {
            *byte = config.get(offset + n).copied().unwrap_or(0);
        }
    }

    fn queue_notified(&mut self, index: usize, queues: &mut [Queue], memory: &GuestRam) -> Notify {
        match index {
            RX => self.deliver(&mut queues[RX], memory),
            TX => self.transmit(&mut queues[TX], memory),
            _ => Notify::No,
        }
    }

    fn reset(&mut self) {
        self.received.clear();
        self.transmitted.clear();
    }
}
