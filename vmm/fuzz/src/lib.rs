//! The targets of `vmm/tests/fuzz`, for the programs of this package.

#[path = "../../tests/fuzz/targets/mod.rs"]
mod targets;

use targets::{Target, run};

/// [`Target::Pci`].
pub fn pci(input: &[u8]) {
    run(Target::Pci, input);
}

/// [`Target::Net`].
pub fn net(input: &[u8]) {
    run(Target::Net, input);
}

/// [`Target::Blk`].
pub fn blk(input: &[u8]) {
    run(Target::Blk, input);
}

/// [`Target::Apic`].
pub fn apic(input: &[u8]) {
    run(Target::Apic, input);
}

/// [`Target::Pit`].
pub fn pit(input: &[u8]) {
    run(Target::Pit, input);
}

/// [`Target::Uart`].
pub fn uart(input: &[u8]) {
    run(Target::Uart, input);
}

/// [`Target::Traps`].
pub fn traps(input: &[u8]) {
    run(Target::Traps, input);
}
