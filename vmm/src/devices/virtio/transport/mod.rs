//! virtio over PCI (virtio 1.2, section 4.1), with all structures in one I/O BAR, and MSI-X.
//!
//! An I/O BAR instead of memory, because a port access costs KVM one decoded exit where a memory
//! access needs its instruction emulator. All queues share one notification port. Interrupts are
//! messages, a vector for each queue and one for the configuration, so that the driver need not
//! ask which queue one is for: that would be an exit. A driver without MSI-X gets INTx.

mod state;

pub(in crate::devices) use state::TransportState;

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueT};

use super::{Notify, VirtioDevice};
use crate::devices::apic::Message;
use crate::devices::pci::msix::{self, Msix, NO_VECTOR};
use crate::devices::pci::{Bar, ConfigSpace, MemoryBar};
use crate::ram::GuestRam;

/// Ports of the BAR.
pub const BAR_BYTES: u16 = 0x100;
const COMMON: u16 = 0x00;
const COMMON_BYTES: u16 = 0x38;
/// Offset of the interrupt status in the BAR.
pub const ISR: u16 = 0x40;
/// Offset at which drivers tell of buffers.
pub const NOTIFY: u16 = 0x44;
const DEVICE: u16 = 0x80;

/// Entries a queue can have.
pub const QUEUE_SIZE: u16 = 256;

const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

const CAPABILITY_VENDOR: u8 = 0x09;
/// cfg_type values of section 4.1.4.
const CAP_COMMON: u8 = 1;
const CAP_NOTIFY: u8 = 2;
const CAP_ISR: u8 = 3;
const CAP_DEVICE: u8 = 4;
const CAP_PCI: u8 = 5;

/// Where the guest finds a function: what firmware would have decided.
#[derive(Debug, Clone, Copy)]
pub struct Resources {
    /// First port of the I/O BAR, with [`BAR_BYTES`].
    pub ports: u16,
    /// Guest-physical address of the memory BAR, with [`msix::BAR_BYTES`].
    pub messages: u32,
    /// Line of the 8259 pair.
    pub line: u8,
}

/// A virtio device with its PCI function.
pub struct VirtioPci<D> {
    /// The device.
    pub device: D,
    config_space: ConfigSpace,
    /// Offset of the VIRTIO_PCI_CAP_PCI_CFG capability.
    window: u8,
    queues: Vec<Queue>,
    memory: GuestRam,
    status: u8,
    isr: u8,
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    queue_select: u16,
    msix: Msix,
    /// Vector for changes of the configuration.
    config_vector: u16,
    queue_vectors: Vec<u16>,
    /// People know that the driver breaks the protocol. Not part of the state.
    told_broken: bool,
}

impl<D: VirtioDevice> VirtioPci<D> {
    /// Puts `device` behind a function at `place`.
    #[must_use]
    pub fn new(device: D, memory: GuestRam, place: Resources) -> Self {
        let mut config_space = ConfigSpace::new(
            0x1af4,
            0x1040 + D::DEVICE_TYPE,
            D::CLASS,
            1,
            (0x1af4, 0x1100),
        )
        .with_io_bar(Bar {
            base: place.ports,
            size: BAR_BYTES,
        })
        .with_memory_bar(MemoryBar {
            base: place.messages,
            size: msix::BAR_BYTES,
        })
        .with_interrupt(place.line);
        for (kind, offset, len) in [
            (CAP_COMMON, COMMON, COMMON_BYTES),
            (CAP_ISR, ISR, 1),
            (CAP_DEVICE, DEVICE, D::CONFIG_BYTES as u16),
        ] {
            config_space.add_capability(CAPABILITY_VENDOR, &capability(kind, offset, len));
        }
        let mut notify = capability(CAP_NOTIFY, NOTIFY, 2).to_vec();
        notify[0] += 4;
        notify.extend_from_slice(&0u32.to_le_bytes()); // notify_off_multiplier
        config_space.add_capability(CAPABILITY_VENDOR, &notify);
        let mut access = capability(CAP_PCI, 0, 0).to_vec();
        access[0] += 4;
        access.extend_from_slice(&[0; 4]); // pci_cfg_data
        let window = config_space.add_capability(CAPABILITY_VENDOR, &access);
        config_space.make_writable(window + 4, 1);
        config_space.make_writable(window + 8, 8);
        let msix = Msix::new(D::QUEUES as u16 + 1, &mut config_space);

        let queues = (0..D::QUEUES)
            .map(|_| Queue::new(QUEUE_SIZE).expect("the size is a power of two"))
            .collect();
        Self {
            device,
            config_space,
            window,
            queues,
            memory,
            status: 0,
            isr: 0,
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            queue_select: 0,
            msix,
            config_vector: NO_VECTOR,
            queue_vectors: vec![NO_VECTOR; D::QUEUES],
            told_broken: false,
        }
    }

    /// Level of the function's interrupt pin.
    #[must_use]
    pub fn interrupt(&self) -> bool {
        self.isr != 0 && !self.msix.is_enabled(&self.config_space)
    }

    /// Takes a message that the function sends.
    pub fn take_message(&mut self) -> Option<Message> {
        self.msix.take(&self.config_space)
    }

    /// Guest time at which the device has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.device.next_deadline().filter(|_| self.is_running())
    }

    /// The memory BAR, where the guest put it.
    #[must_use]
    pub fn memory_bar(&self) -> Option<MemoryBar> {
        self.config_space.memory_bar()
    }

    /// Reads the memory BAR at `offset`.
    pub fn read_memory_bar(&self, offset: u16, data: &mut [u8]) {
        self.msix.read(offset, data);
    }

    /// Writes the memory BAR at `offset`.
    pub fn write_memory_bar(&mut self, offset: u16, data: &[u8]) {
        self.msix.write(offset, data);
    }

    /// The I/O BAR, where the guest put it.
    #[must_use]
    pub fn bar(&self) -> Option<Bar> {
        self.config_space.io_bar()
    }

    /// Lets the device work on a queue outside a notification, for an input that arrived. Nothing
    /// happens unless the driver is running.
    pub fn with_device(
        &mut self,
        queue: usize,
        work: impl FnOnce(&mut D, &mut [Queue], &GuestRam) -> Notify,
    ) {
        if self.is_running() {
            let notify = work(&mut self.device, &mut self.queues, &self.memory);
            self.raise(notify, queue);
        }
    }

    /// Whether the driver has set the device up and it is not broken.
    #[must_use]
    pub fn is_running(&self) -> bool {
        let status = u32::from(self.status);
        status & VIRTIO_CONFIG_S_DRIVER_OK != 0 && status & VIRTIO_CONFIG_S_NEEDS_RESET == 0
    }

    fn raise(&mut self, notify: Notify, queue: usize) {
        let (vector, status) = match notify {
            Notify::No => return,
            Notify::UsedBuffer => (self.queue_vectors[queue], ISR_QUEUE),
            Notify::NeedsReset => {
                // Once: a guest that does it again and again does not fill the host's log.
                let level = match std::mem::replace(&mut self.told_broken, true) {
                    false => log::Level::Warn,
                    true => log::Level::Debug,
                };
                log::log!(
                    level,
                    "the guest's virtio driver broke the protocol; its device stops"
                );
                self.status |= VIRTIO_CONFIG_S_NEEDS_RESET as u8;
                (self.config_vector, ISR_CONFIG)
            }
        };
        if self.msix.is_enabled(&self.config_space) {
            self.msix.raise(vector);
        } else {
            self.isr |= status;
            self.config_space.set_interrupt_status(true);
        }
    }

    fn features(&self) -> u64 {
        self.device.features()
            | 1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
    }

    fn reset(&mut self) {
        for queue in &mut self.queues {
            queue.reset();
        }
        self.device.reset();
        self.status = 0;
        self.isr = 0;
        self.driver_features = 0;
        self.msix.forget_pending();
        self.config_vector = NO_VECTOR;
        self.queue_vectors.fill(NO_VECTOR);
        self.config_space.set_interrupt_status(false);
    }

    /// Reads PCI configuration space.
    pub fn read_config_space(&mut self, offset: u8, data: &mut [u8]) {
        if offset == self.window + 16 {
            let (at, len) = self.window_access();
            let mut through = [0xff; 4];
            self.read_bar(at, &mut through[..len]);
            data.fill(0);
            let n = data.len().min(len);
            data[..n].copy_from_slice(&through[..n]);
            return;
        }
        self.config_space.read(offset, data);
    }

    /// Writes PCI configuration space.
    pub fn write_config_space(&mut self, offset: u8, data: &[u8]) {
        if offset == self.window + 16 {
            let (at, len) = self.window_access();
            if len <= data.len() {
                self.write_bar(at, &data[..len]);
            }
            return;
        }
        self.config_space.write(offset, data);
    }

    /// BAR offset and width that the PCI configuration access capability points at
    /// (section 4.1.4.9).
    fn window_access(&self) -> (u16, usize) {
        let mut word = [0; 4];
        self.config_space.read(self.window + 8, &mut word);
        let offset = u32::from_le_bytes(word).min(u32::from(BAR_BYTES)) as u16;
        self.config_space.read(self.window + 12, &mut word);
        match u32::from_le_bytes(word) {
            len @ (1 | 2 | 4) => (offset, len as usize),
            _ => (BAR_BYTES, 1),
        }
    }

    /// Reads the BAR at `offset`.
    pub fn read_bar(&mut self, offset: u16, data: &mut [u8]) {
        match offset {
            COMMON..COMMON_BYTES => {
                let value = self.read_common(offset, data.len());
                let bytes = value.to_le_bytes();
                let n = data.len().min(bytes.len());
                data[..n].copy_from_slice(&bytes[..n]);
            }
            ISR => {
                data.fill(0);
                data[0] = std::mem::take(&mut self.isr);
                self.config_space.set_interrupt_status(false);
            }
            DEVICE.. => self.device.read_config(usize::from(offset - DEVICE), data),
            _ => data.fill(0xff),
        }
    }

    /// Writes the BAR at `offset`.
    pub fn write_bar(&mut self, offset: u16, data: &[u8]) {
        let mut bytes = [0; 4];
        let n = data.len().min(4);
        bytes[..n].copy_from_slice(&data[..n]);
        let value = u32::from_le_bytes(bytes);
        match offset {
            COMMON..COMMON_BYTES => self.write_common(offset, value),
            NOTIFY => self.notified(value as u16),
            _ => {}
        }
    }

    fn notified(&mut self, queue: u16) {
        let queue = usize::from(queue);
        if queue < self.queues.len() && self.is_running() && self.queues[queue].ready() {
            let notify = self
                .device
                .queue_notified(queue, &mut self.queues, &self.memory);
            self.raise(notify, queue);
        }
    }

    fn selected(&self) -> Option<&Queue> {
        self.queues.get(usize::from(self.queue_select))
    }

    fn selected_vector(&self) -> u16 {
        let selected = self.queue_vectors.get(usize::from(self.queue_select));
        selected.copied().unwrap_or(NO_VECTOR)
    }

    /// The vector that a driver gets when it asks for `value`: none if there is no such.
    fn vector(&self, value: u32) -> u16 {
        let vector = value as u16;
        if self.msix.has(vector) {
            vector
        } else {
            NO_VECTOR
        }
    }

    /// struct virtio_pci_common_cfg, section 4.1.4.3. Fields wider than the access are read in
    /// parts.
    fn read_common(&self, offset: u16, len: usize) -> u32 {
        let queue = self.selected();
        let half = |value: u64, high: bool| {
            if high {
                (value >> 32) as u32
            } else {
                value as u32
            }
        };
        let (field, value) = match offset {
            0x00..0x04 => (0x00, self.device_feature_select),
            0x04..0x08 => (
                0x04,
                match self.device_feature_select {
                    0 => self.features() as u32,
                    1 => (self.features() >> 32) as u32,
                    _ => 0,
                },
            ),
            0x08..0x0c => (0x08, self.driver_feature_select),
            0x0c..0x10 => (
                0x0c,
                match self.driver_feature_select {
                    0 => self.driver_features as u32,
                    1 => (self.driver_features >> 32) as u32,
                    _ => 0,
                },
            ),
            0x10..0x12 => (0x10, u32::from(self.config_vector)),
            0x12..0x14 => (0x12, D::QUEUES as u32),
            0x14 => (0x14, u32::from(self.status)),
            0x15 => (0x15, 0), // config_generation: the configuration never changes
            0x16..0x18 => (0x16, u32::from(self.queue_select)),
            0x18..0x1a => (0x18, queue.map_or(0, |q| u32::from(q.size()))),
            0x1a..0x1c => (0x1a, u32::from(self.selected_vector())),
            0x1c..0x1e => (0x1c, queue.map_or(0, |q| u32::from(q.ready()))),
            0x1e..0x20 => (0x1e, 0), // queue_notify_off
            0x20..0x28 => (
                offset & !3,
                queue.map_or(0, |q| half(q.desc_table(), offset >= 0x24)),
            ),
            0x28..0x30 => (
                offset & !3,
                queue.map_or(0, |q| half(q.avail_ring(), offset >= 0x2c)),
            ),
            0x30..0x38 => (
                offset & !3,
                queue.map_or(0, |q| half(q.used_ring(), offset >= 0x34)),
            ),
            _ => (offset, u32::MAX),
        };
        let shifted = value >> (8 * (offset - field));
        if len >= 4 {
            shifted
        } else {
            shifted & ((1 << (8 * len)) - 1)
        }
    }

    fn write_common(&mut self, offset: u16, value: u32) {
        let features_open = u32::from(self.status) & VIRTIO_CONFIG_S_FEATURES_OK == 0;
        match offset {
            0x00 => self.device_feature_select = value,
            0x08 => self.driver_feature_select = value,
            0x0c if features_open => {
                let (mask, shifted) = match self.driver_feature_select {
                    0 => (0xffff_ffff, u64::from(value)),
                    1 => (0xffff_ffff << 32, u64::from(value) << 32),
                    _ => (0, 0),
                };
                self.driver_features = self.driver_features & !mask | shifted;
            }
            0x10 => self.config_vector = self.vector(value),
            0x14 => self.write_status(value as u8),
            0x1a => {
                let vector = self.vector(value);
                if let Some(of_queue) = self.queue_vectors.get_mut(usize::from(self.queue_select)) {
                    *of_queue = vector;
                }
            }
            0x16 => self.queue_select = value as u16,
            _ => self.write_queue_field(offset, value),
        }
    }

    fn write_queue_field(&mut self, offset: u16, value: u32) {
        let running = self.is_running();
        let event_idx = self.driver_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)) else {
            return;
        };
        if queue.ready() || running {
            return; // section 4.1.4.3.2: not after the queue was enabled
        }
        match offset {
            0x18 => queue.set_size(value as u16),
            0x1c if value == 1 => {
                queue.set_event_idx(event_idx);
                queue.set_ready(true);
            }
            0x20 => queue.set_desc_table_address(Some(value), None),
            0x24 => queue.set_desc_table_address(None, Some(value)),
            0x28 => queue.set_avail_ring_address(Some(value), None),
            0x2c => queue.set_avail_ring_address(None, Some(value)),
            0x30 => queue.set_used_ring_address(Some(value), None),
            0x34 => queue.set_used_ring_address(None, Some(value)),
            _ => {}
        }
    }

    fn write_status(&mut self, value: u8) {
        if value == 0 {
            return self.reset();
        }
        let mut status = value | self.status & VIRTIO_CONFIG_S_NEEDS_RESET as u8;
        let version_1 = self.driver_features & 1 << VIRTIO_F_VERSION_1 != 0;
        let only_offered = self.driver_features & !self.features() == 0;
        if !(version_1 && only_offered) {
            status &= !(VIRTIO_CONFIG_S_FEATURES_OK as u8);
        }
        self.status = status;
        self.device
            .negotiated(negotiated(status, self.driver_features));
    }
}

/// The features that a driver with this status has chosen.
fn negotiated(status: u8, driver_features: u64) -> u64 {
    if u32::from(status) & VIRTIO_CONFIG_S_FEATURES_OK != 0 {
        driver_features
    } else {
        0
    }
}

/// struct virtio_pci_cap without its first two bytes (id, next).
fn capability(kind: u8, offset: u16, len: u16) -> [u8; 14] {
    let mut body = [0; 14];
    body[0] = 16; // cap_len
    body[1] = kind;
    body[6..8].copy_from_slice(&offset.to_le_bytes());
    body[10..12].copy_from_slice(&len.to_le_bytes());
    body
}
