//! Fuzz targets: a guest and a world that do what the input says, to the real engine, devices and
//! traps.
//!
//! Whatever they do, the engine must get on to the next exit, what the machine holds must stay within
//! bounds, and its state must be one that another host takes over. A violation panics.

mod deeds;
mod drivers;
mod guest;
mod input;
mod world;

use std::cell::RefCell;
use std::rc::Rc;

use ftvm_vmm::devices::Devices;
use ftvm_vmm::engine::{Engine, EngineError, Role};
use ftvm_vmm::ram::GuestRam;
use ftvm_vmm::rewrite::Sites;
use ftvm_vmm::traps::TscTrap;
use vm_memory::{Bytes, GuestAddress};

use self::guest::Guest;
use self::input::Input;
use self::world::{Gate, Source, World};

/// Bytes of guest memory.
pub(crate) const MEMORY: u64 = 1 << 17;
/// Bytes of the guest's disk.
pub(crate) const DISK: u64 = 1 << 30;
const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];

/// What the guest mostly touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// Configuration space, BARs and tables of messages.
    Pci,
    /// The rings of the network card.
    Net,
    /// The ring of the disk.
    Blk,
    /// The local APIC.
    Apic,
    /// The 8254 and the 8259 pair.
    Pit,
    /// The console.
    Uart,
    /// The places where a rewritten kernel exits.
    Traps,
}

thread_local! {
    /// To map it anew for every input would take longer than the input.
    static RAM: GuestRam =
        GuestRam::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).expect("memory");
}

pub(crate) fn new_devices(memory: &GuestRam) -> Devices {
    Devices::new(memory, MAC).with_disk(DISK)
}

/// Runs a guest from reset to the end of `input`.
///
/// # Panics
/// Where the machine does what it must not.
pub(crate) fn run(target: Target, input: &[u8]) {
    let memory = RAM.with(GuestRam::clone);
    let zeroes = [0; MEMORY as usize];
    let written = memory.write_slice(&zeroes, GuestAddress(0));
    written.expect("in memory");
    let mut input = Input::new(input);
    let mut devices = new_devices(&memory);
    if input.chance(2) {
        devices = devices.with_merged_ticks();
    }
    let sites = Sites {
        iretqs: Vec::from_iter(input.chance(8).then_some(0x3000)),
        ..Sites::default()
    };
    let traps = TscTrap::new(&sites, memory.clone());
    let world = Rc::new(RefCell::new(World::new(memory.clone())));
    let guest = Guest::new(target, input, memory, world.clone());
    let role = Role {
        source: Box::new(Source(world.clone())),
        gate: Box::new(Gate(world)),
    };
    match Engine::new(guest, devices, traps, role).run() {
        Ok(_) => {}
        Err(error @ (EngineError::Cpu { .. } | EngineError::Source(_))) => panic!("{error}"),
        Err(error) => panic!("a fuzzed guest has no log: {error}"),
    }
}
