//! The devices' state: saved and loaded whole, to bring another host's devices to where these
//! are, and digested device by device, to see on which one two hosts differ.
//!
//! All that a device's future depends on is in its state, but for guest memory and what is given
//! at construction (the card's address, the placement of functions): that is compared and not
//! taken over.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::apic::Apic;
use super::cmos::Cmos;
use super::console::{Console, ConsoleState};
use super::pci::ConfigAddress;
use super::pic::Pic;
use super::pit::Pit;
use super::power::Power;
use super::virtio::blk::Blk;
use super::virtio::net::Net;
use super::virtio::transport::TransportState;
use super::{Devices, Output};

/// Version of the encoding, counted up with every change of a device's state. That is a new version of the log's
/// protocol, too, and a peer that speaks the one before it gets the state as that had it.
const VERSION: u32 = 5;

/// The longest state that is looked at, in bytes. What guests bring about takes some kilobytes,
/// and 4 MiB with a full backlog of frames that are yet to be cut into segments.
const MAX_BYTES: usize = 1 << 23;

/// All devices' state. Its fields are in the order in which they are encoded.
#[derive(Serialize, Deserialize)]
struct DevicesState {
    apic: Apic,
    pic: Pic,
    pit: Pit,
    cmos: Cmos,
    console: ConsoleState,
    power: Power,
    pci: PciState,
    net: NetState,
    disk: Option<DiskState>,
    reset_requested: bool,
    is_halted: bool,
    outputs: VecDeque<Output>,
}

#[derive(Serialize, Deserialize)]
struct PciState {
    address: ConfigAddress,
    host_bridge: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct NetState {
    transport: TransportState,
    card: Net,
}

#[derive(Serialize, Deserialize)]
struct DiskState {
    transport: TransportState,
    blk: Blk,
}

/// Why a device state was not loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceStateError {
    /// It was saved by another version of ftvm.
    #[error(
        "the device state has version {0}, this ftvm knows version {VERSION} only: \
         run the same ftvm on both hosts"
    )]
    Version(u32),
    /// It is too long to be one.
    #[error("a device state of {0} bytes: at most {MAX_BYTES} are allowed")]
    TooLong(usize),
    /// It is not the encoding of a state.
    #[error("the device state cannot be decoded: it is damaged")]
    Malformed,
    /// No guest brings the device into this state, or the device here is another one.
    #[error(
        "the state of device {device} does not fit: {problem}; \
         the state is damaged, or the machines are configured differently"
    )]
    Impossible {
        /// Name of the device, as in [`Devices::digests`].
        device: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
}

fn of(device: &'static str) -> impl Fn(&'static str) -> DeviceStateError {
    move |problem| DeviceStateError::Impossible { device, problem }
}

fn encode(state: &impl Serialize) -> Vec<u8> {
    postcard::to_allocvec(state).expect("plain data can be encoded")
}

impl DevicesState {
    fn decode(bytes: &[u8]) -> Result<Self, DeviceStateError> {
        if bytes.len() > MAX_BYTES {
            return Err(DeviceStateError::TooLong(bytes.len()));
        }
        let malformed = |_| DeviceStateError::Malformed;
        let (version, body) = postcard::take_from_bytes(bytes).map_err(malformed)?;
        if version != VERSION {
            return Err(DeviceStateError::Version(version));
        }
        match postcard::take_from_bytes(body).map_err(malformed)? {
            (state, []) => Ok(state),
            _ => Err(DeviceStateError::Malformed),
        }
    }
}

impl Devices {
    /// The devices' whole state, for [`Devices::load`].
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        encode(&(VERSION, self.state()))
    }

    /// Brings the devices into a saved state. Guest memory has to be brought there as well: the
    /// state has the positions in the rings of the network card and the disk, memory has the rings.
    ///
    /// # Errors
    /// [`DeviceStateError`]; the devices are then as they were. A state without an error is one
    /// in which the devices answer whatever the guest does; damage can also give one of these.
    pub fn load(&mut self, bytes: &[u8]) -> Result<(), DeviceStateError> {
        let state = DevicesState::decode(bytes)?;
        state.apic.check(&self.memory).map_err(of("apic"))?;
        state.pic.check().map_err(of("pic"))?;
        state.pit.check().map_err(of("pit"))?;
        state.cmos.check().map_err(of("cmos"))?;
        state.power.check().map_err(of("power"))?;
        state.pci.address.check().map_err(of("pci"))?;
        let NetState { transport, card } = state.net;
        card.check(self.net.device.mac()).map_err(of("net"))?;
        let disk = match (&self.disk, state.disk) {
            (None, None) => None,
            (Some(here), Some(DiskState { transport, blk })) => {
                blk.check(here.device.capacity()).map_err(of("disk"))?;
                Some(here.with_state(transport, blk).map_err(of("disk"))?)
            }
            (None, Some(_)) => return Err(of("disk")("this machine has none")),
            (Some(_), None) => return Err(of("disk")("this machine has one")),
        };
        let net = self.net.with_state(transport, card).map_err(of("net"))?;
        *self = Self {
            apic: state.apic,
            pic: state.pic,
            pit: state.pit,
            cmos: state.cmos,
            console: Console::from_state(state.console).map_err(of("console"))?,
            power: state.power,
            pci_address: state.pci.address,
            host_bridge: self
                .host_bridge
                .with_state(&state.pci.host_bridge)
                .map_err(of("pci"))?,
            disk,
            memory: self.memory.clone(),
            clock_for_programs: self.clock_for_programs,
            merges_ticks: self.merges_ticks,
            offloads: net.device.offloads(),
            net,
            reset_requested: state.reset_requested,
            is_halted: state.is_halted,
            outputs: state.outputs,
        };
        Ok(())
    }

    /// A digest (CRC-32, IEEE) of every device's state, by its name. "reset" is whether the guest
    /// asked for one, "outputs" what was not fetched yet. Equal states have equal digests, if
    /// they come from the same version of ftvm.
    #[must_use]
    pub fn digests(&self) -> [(&'static str, u32); 11] {
        let state = self.state();
        [
            ("apic", encode(&state.apic)),
            ("pic", encode(&state.pic)),
            ("pit", encode(&state.pit)),
            ("cmos", encode(&state.cmos)),
            ("console", encode(&state.console)),
            ("power", encode(&state.power)),
            ("pci", encode(&state.pci)),
            ("net", encode(&state.net)),
            ("disk", encode(&state.disk)),
            ("reset", encode(&state.reset_requested)),
            ("outputs", encode(&state.outputs)),
        ]
        .map(|(device, bytes)| (device, crc32fast::hash(&bytes)))
    }

    fn state(&self) -> DevicesState {
        DevicesState {
            apic: self.apic.clone(),
            pic: self.pic.clone(),
            pit: self.pit.clone(),
            cmos: self.cmos.clone(),
            console: self.console.state(),
            power: self.power.clone(),
            pci: PciState {
                address: self.pci_address,
                host_bridge: self.host_bridge.state(),
            },
            net: NetState {
                transport: self.net.state(),
                card: self.net.device.clone(),
            },
            disk: self.disk.as_ref().map(|disk| DiskState {
                transport: disk.state(),
                blk: disk.device.clone(),
            }),
            reset_requested: self.reset_requested,
            is_halted: self.is_halted,
            outputs: self.outputs.clone(),
        }
    }
}
