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

/// Shadow pages that there may be, at least: those of a guest with some 200 small processes.
const LEAST_SHADOW_PAGES: u64 = 4096;

/// Pages of the guest for one shadow page that there may be.
const PAGES_FOR_ONE: u64 = 8;

/// Memory of the host that KVM takes for a shadow page: the table itself, and what it keeps of each
/// entry.
const SHADOW_PAGE_BYTES: u64 = 2 * PAGE as u64;

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
    // SAFETY: as in `map_memory`; the guest, which could see its first page twice, does not run before
    // the second copy is gone.
    let set = |region| unsafe { vm.set_user_memory_region(region) };
    set(page)?;
    set(nothing).inspect_err(|_| {
        // KVM had no memory to change its list of slots with. It may have some now; else the caller
        // ends this guest for the error.
        let _ = set(nothing);
    })
}

/// Lets KVM keep so many shadow pages that in practice it takes none away to make another.
///
/// What it takes away then follows from the guest as all else does, but each costs the guest its faults
/// again: slow, not wrong. By default there are 2 % of the number of the guest's pages, 655 in a guest of
/// 128 MiB. Linux with one program makes 257 there (`mmu_cache_miss` in KVM's debugfs, nothing dropped),
/// and every process some 20 more, of which KVM drops most where the guest fills its tables: with 40 that
/// sleep some 1,000 were made, and fewer than 240 were there at a time. A shadow page stands for a page
/// table or for 2 MiB, and one page of the guest may have several; an eighth of the pages is far more than
/// Linux has of them. KVM takes memory only for those that there are, and that bounds what a guest can
/// make it take ([`shadow_page_bytes`]).
pub(super) fn keep_shadow_pages(vm: &VmFd, memory: &GuestRam) -> Result<(), kvm_ioctls::Error> {
    let most = most_shadow_pages(page_count(memory));
    // SAFETY: the descriptor is a virtual machine's, and KVM_SET_NR_MMU_PAGES takes a number.
    match unsafe { vmm_sys_util::ioctl::ioctl_with_val(vm, KVM_SET_NR_MMU_PAGES(), most) } {
        0 => Ok(()),
        _ => Err(kvm_ioctls::Error::last()),
    }
}

fn most_shadow_pages(pages: u64) -> u64 {
    (pages / PAGES_FOR_ONE).max(LEAST_SHADOW_PAGES)
}

/// How many bytes of the host's memory KVM may take for the shadow pages of a guest with so many of its
/// own.
#[must_use]
pub fn shadow_page_bytes(memory_bytes: u64) -> u64 {
    SHADOW_PAGE_BYTES * most_shadow_pages(memory_bytes / PAGE as u64)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shadow_pages_take_a_quarter_of_the_guests_memory_at_most_but_in_small_guests() {
        assert_eq!(most_shadow_pages(0x8000), 4096, "128 MiB");
        assert_eq!(shadow_page_bytes(64 << 20), 32 << 20);
        assert_eq!(shadow_page_bytes(8 << 30), 2 << 30);
    }
}
