//! Guest memory as KVM has it: one slot.

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::ram::GuestRam;

/// Slot of guest memory in KVM.
pub(super) const MEMORY_SLOT: u32 = 0;

/// Tells KVM where guest memory is, or with which `flags` it is mapped from now on.
pub(super) fn map_memory(
    vm: &VmFd,
    memory: &GuestRam,
    flags: u32,
) -> Result<(), kvm_ioctls::Error> {
    #[expect(
        clippy::disallowed_methods,
        reason = "for KVM, whose dirty log tracks what the guest writes"
    )]
    let host = memory
        .get_host_address(GuestAddress(0))
        .expect("guest memory begins at 0");
    let region = kvm_userspace_memory_region {
        slot: MEMORY_SLOT,
        flags,
        guest_phys_addr: 0,
        memory_size: memory.last_addr().0 + 1,
        userspace_addr: host as u64,
    };
    // SAFETY: guest memory is one mapping of this size, and belongs to `memory`, which the KvmCpu
    // holds as long as its vCPU file, and so the VM, is open.
    unsafe { vm.set_user_memory_region(region) }
}
