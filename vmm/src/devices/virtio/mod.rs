//! virtio devices (OASIS virtio 1.2) on PCI.

pub mod blk;
pub mod net;
pub mod transport;

#[cfg(test)]
mod tests;

use virtio_queue::{DescriptorChain, Queue, QueueT};

use crate::ram::GuestRam;

/// What a device tells its transport after it worked on its queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Notify {
    /// Nothing.
    No,
    /// A used buffer that the driver wants to hear of.
    UsedBuffer,
    /// The driver broke the rules; the device needs a reset (section 2.1.2).
    NeedsReset,
}

/// A device behind the [`transport::VirtioPci`]. It has no thread, file or clock: what it does is
/// a function of its state, guest memory and the event it is given.
pub trait VirtioDevice {
    /// Device type (section 5).
    const DEVICE_TYPE: u16;
    /// PCI class: base class, subclass, interface.
    const CLASS: [u8; 3];
    /// Number of queues.
    const QUEUES: usize;
    /// Size of the device configuration structure in bytes.
    const CONFIG_BYTES: usize;

    /// Device features offered, beside the transport's own.
    fn features(&self) -> u64;
    /// Reads the device configuration structure.
    fn read_config(&self, offset: usize, data: &mut [u8]);
    /// The driver notified queue `index`.
    fn queue_notified(
        &mut self,
        index: usize,
        queues: &mut [virtio_queue::Queue],
        memory: &GuestRam,
    ) -> Notify;
    /// The driver has chosen these of the features.
    fn negotiated(&mut self, _features: u64) {}
    /// Guest time at which it has something to do, in nanoseconds.
    fn next_deadline(&self) -> Option<u64> {
        None
    }
    /// The driver reset the device.
    fn reset(&mut self);
}

/// Takes descriptor chains out of a queue, for one event: no more of them than the queue has
/// entries, which is all that a driver can have made available. So what a device writes into its own
/// ring, where a driver has it do that, makes no work without an end.
struct Chains {
    left: u16,
}

impl Chains {
    fn of(queue: &Queue) -> Self {
        Self { left: queue.size() }
    }

    fn next<'m>(
        &mut self,
        queue: &mut Queue,
        memory: &'m GuestRam,
    ) -> Option<DescriptorChain<&'m GuestRam>> {
        self.left = self.left.checked_sub(1)?;
        queue.pop_descriptor_chain(memory)
    }
}

/// Whether a chain is longer than the queue that it came from, which no driver may make (section
/// 2.7.5.3.1). An indirect table could have 65,535 descriptors, and a queue 256 of them: work for a
/// second, at one exit.
fn is_too_long(chain: &DescriptorChain<&GuestRam>, queue: &Queue) -> bool {
    chain.clone().nth(queue.size().into()).is_some()
}

/// What to tell the transport after work on `queue`; `used` if buffers were used.
fn notification(queue: &mut Queue, memory: &GuestRam, used: bool) -> Notify {
    if !used {
        return Notify::No;
    }
    match queue.needs_notification(memory) {
        Ok(true) => Notify::UsedBuffer,
        Ok(false) => Notify::No,
        Err(_) => Notify::NeedsReset,
    }
}
