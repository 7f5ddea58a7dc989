//! The transport's state, saved and restored.

use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueState};

use super::{ISR_CONFIG, ISR_QUEUE, QUEUE_SIZE, VirtioPci};
use crate::devices::pci::msix::{Msix, NO_VECTOR};
use crate::devices::virtio::VirtioDevice;

/// [`QueueState`] for serde. A queue also counts what it added to the used ring since it last
/// looked whether the driver wants to hear of it; that is 0 between events, or never looked at
/// again because the device needs a reset.
#[derive(Serialize, Deserialize)]
#[serde(remote = "QueueState")]
struct QueueFields {
    max_size: u16,
    next_avail: u16,
    next_used: u16,
    event_idx_enabled: bool,
    size: u16,
    ready: bool,
    desc_table: u64,
    avail_ring: u64,
    used_ring: u64,
}

#[derive(Serialize, Deserialize)]
struct SavedQueue(#[serde(with = "QueueFields")] QueueState);

/// What the future of the transport depends on, beside its device and guest memory.
#[derive(Serialize, Deserialize)]
pub(in crate::devices) struct TransportState {
    config_space: Vec<u8>,
    queues: Vec<SavedQueue>,
    status: u8,
    isr: u8,
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    queue_select: u16,
    msix: Msix,
    config_vector: u16,
    queue_vectors: Vec<u16>,
}

impl<D: VirtioDevice> VirtioPci<D> {
    /// The transport's state, for [`VirtioPci::with_state`].
    pub(in crate::devices) fn state(&self) -> TransportState {
        TransportState {
            config_space: self.config_space.state(),
            queues: self.queues.iter().map(|q| SavedQueue(q.state())).collect(),
            status: self.status,
            isr: self.isr,
            device_feature_select: self.device_feature_select,
            driver_feature_select: self.driver_feature_select,
            driver_features: self.driver_features,
            queue_select: self.queue_select,
            msix: self.msix.clone(),
            config_vector: self.config_vector,
            queue_vectors: self.queue_vectors.clone(),
        }
    }

    /// The same function in a saved state, with `device` behind it; an error says why this
    /// function cannot be in it. Where rings are is the driver's business, here as in operation.
    pub(in crate::devices) fn with_state(
        &self,
        state: TransportState,
        mut device: D,
    ) -> Result<Self, &'static str> {
        if state.queues.len() != D::QUEUES || state.queue_vectors.len() != D::QUEUES {
            return Err("the device has another number of queues");
        }
        if state.isr & !(ISR_QUEUE | ISR_CONFIG) != 0 {
            return Err("no such interrupt status");
        }
        let config_space = self.config_space.with_state(&state.config_space)?;
        state.msix.check(&self.msix, &config_space)?;
        let vectors = state.queue_vectors.iter().chain([&state.config_vector]);
        if vectors
            .into_iter()
            .any(|&vector| vector != NO_VECTOR && !self.msix.has(vector))
        {
            return Err("no such interrupt vector");
        }
        let queue = |SavedQueue(saved): SavedQueue| {
            if saved.max_size != QUEUE_SIZE {
                return Err("a queue has another maximum size");
            }
            Queue::try_from(saved).map_err(|_| "a queue's size or alignment is impossible")
        };
        device.negotiated(super::negotiated(state.status, state.driver_features));
        Ok(Self {
            device,
            config_space,
            window: self.window,
            queues: state
                .queues
                .into_iter()
                .map(queue)
                .collect::<Result<_, _>>()?,
            memory: self.memory.clone(),
            status: state.status,
            isr: state.isr,
            device_feature_select: state.device_feature_select,
            driver_feature_select: state.driver_feature_select,
            driver_features: state.driver_features,
            queue_select: state.queue_select,
            msix: state.msix,
            config_vector: state.config_vector,
            queue_vectors: state.queue_vectors,
            told_broken: self.told_broken,
        })
    }
}
