//! Guest memory as KVM has it: one slot.

use kvm_bindings::{KVMIO, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::ram::{GuestRam, PAGE, page_count};

vmm_sys_util::ioctl_io_nr!(KVM_SET_NR_MMU_PAGES, KVMIO, 0x44);

/// Slot of guest memory in KVM.
pub(super) const MEMORY_SLOT: u32 = 0;

/// A slot that is there for no guest: only between two exits.
const PASSING_SLOT: u32 = 1;

/// KVM takes no fewer (KVM_MIN_ALLOC_MMU_PAGES).
const LEAST_SHADOW_PAGES: u64 = 64;

/// Guest-physical addresses below this one may be in use: by memory, and by KVM itself for a processor
/// that cannot run real mode.
const ALWAYS_FREE: u64 = 1 << 32;

/// Tells KVM where guest memory is, or with which `flags` it is mapped from now on.
pub(super) fn map_memory(
    vm: &VmFd,
    memory: &GuestRam,
    flags: u32,
) -> Result<(), kvm_ioctls::Error> {
    let memory_size = memory.last_addr().0 + 1;
    let region = kvm_userspace_memory_region {
        slot: MEMORY_SLOT,
        flags,
        guest_phys_addr: 0,
        memory_size,
        userspace_addr: host_address(memory),
    };
    // SAFETY: guest memory is one mapping of this size, and belongs to `memory`, which the KvmCpu
    // holds as long as its vCPU file, and so the VM, is open.
    unsafe { vm.set_user_memory_region(region) }
}

/// Has KVM drop all its shadow pages. To be called while the guest stands still.
///
/// KVM drops all of them, whatever slot it is that goes (`kvm_arch_flush_shadow_memslot`; newer kernels
/// with KVM_X86_QUIRK_SLOT_ZAP_ALL, which every machine has that does not switch it off). So one goes
/// that nobody uses: removing the memory's own slot would lose its dirty log, and KVM would have to
/// make anew what it keeps of every page.
pub(super) fn drop_shadow_pages(vm: &VmFd, memory: &GuestRam) -> Result<(), kvm_ioctls::Error> {
    let page = kvm_userspace_memory_region {
        slot: PASSING_SLOT,
        flags: 0,
        guest_phys_addr: (memory.last_addr().0 + 1).max(ALWAYS_FREE),
        memory_size: PAGE as u64,
        userspace_addr: host_address(memory),
    };
    let nothing = kvm_userspace_memory_region {
        memory_size: 0,
        ..page
    };
    for region in [page, nothing] {
        // SAFETY: as in `map_memory`; the guest, which could see its first page twice, does not run
        // before the second copy is gone.
        unsafe { vm.set_user_memory_region(region) }?;
    }
    Ok(())
}

/// Lets KVM keep so many shadow pages that it never has to take one away to make another.
///
/// What it takes away then follows from the guest as all else does, but each costs the guest its faults
/// again. By default there are 2 % of the number of the guest's pages, 655 in a guest of 128 MiB. Linux
/// with one program makes 257 there (`mmu_cache_miss` in KVM's debugfs, nothing dropped), and every
/// process some 20 more: a guest with 30 of them would fill it. As many as pages are never full, because
/// a shadow page stands for a page table or for 2 MiB, and few pages are page tables; KVM takes memory
/// only for those that there are. `mmu_recycled` stayed 0.
pub(super) fn keep_shadow_pages(vm: &VmFd, memory: &GuestRam) -> Result<(), kvm_ioctls::Error> {
    let most = page_count(memory).max(LEAST_SHADOW_PAGES);
    // SAFETY: the descriptor is a virtual machine's, and KVM_SET_NR_MMU_PAGES takes a number.
    match unsafe { vmm_sys_util::ioctl::ioctl_with_val(vm, KVM_SET_NR_MMU_PAGES(), most) } {
        0 => Ok(()),
        _ => Err(kvm_ioctls::Error::last()),
    }
}

fn host_address(memory: &GuestRam) -> u64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "for KVM, whose dirty log tracks what the guest writes"
    )]
    let host = memory
        .get_host_address(GuestAddress(0))
        .expect("guest memory begins at 0");
    host as u64
}
