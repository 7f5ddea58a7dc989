//! What the guest's kernel finds of KVM's paravirtual features (Linux,
//! `Documentation/virt/kvm/x86/cpuid.rst`). ftvm provides them, not the host's KVM, so they are the
//! same on every host.

use crate::config::Clock;

/// CPUID leaf of the hypervisor's name, and what it says: the highest leaf, and "KVMKVMKVM".
pub const NAME_LEAF: (u32, [u32; 4]) = (
    0x4000_0000,
    [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x0000_004d],
);

/// KVM_FEATURE_NOP_IO_DELAY: port accesses need no pause behind them.
const NO_IO_DELAY: u32 = 1 << 1;
/// KVM_FEATURE_CLOCKSOURCE2, which is the registers of [`super::kvm_clock`], and
/// KVM_FEATURE_CLOCKSOURCE_STABLE_BIT, which says that PVCLOCK_TSC_STABLE_BIT means what it says.
const CLOCK: u32 = 1 << 3 | 1 << 24;
/// KVM_FEATURE_PV_EOI: interrupts can be ended without an exit ([`super::apic`]).
const PARAVIRTUAL_EOI: u32 = 1 << 6;

/// CPUID leaf of the features, and what it says for a guest with this clock.
#[must_use]
pub fn features_leaf(clock: Clock) -> (u32, [u32; 4]) {
    let clock = if clock.is_paravirtual() { CLOCK } else { 0 };
    (
        0x4000_0001,
        [NO_IO_DELAY | PARAVIRTUAL_EOI | clock, 0, 0, 0],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_one_that_kernels_look_for() {
        let (_, [_, ebx, ecx, edx]) = NAME_LEAF;
        let name = [ebx, ecx, edx].map(u32::to_le_bytes).concat();
        assert_eq!(name, b"KVMKVMKVM\0\0\0");
    }
}
