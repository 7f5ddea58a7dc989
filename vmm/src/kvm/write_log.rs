//! Which pages the guest writes, by KVM's dirty log (Linux, Documentation/virt/kvm/api.rst,
//! KVM_GET_DIRTY_LOG and KVM_CLEAR_DIRTY_LOG).
//!
//! KVM learns of a write by a fault: a page that is to be watched is write-protected, and the
//! first write to it leaves the guest. Not all pages are: see [`Heat`].
//!
//! Under shadow paging KVM marks the guest's page tables at that fault, as accessed and dirty: the guest
//! can notice. So pages are watched again only where both hosts do it ([`Look::Open`]).

use std::ops::Range;

use kvm_bindings::{
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_MEM_LOG_DIRTY_PAGES, KVMIO, kvm_clear_dirty_log,
    kvm_clear_dirty_log__bindgen_ty_1, kvm_enable_cap,
};
use kvm_ioctls::VmFd;
use vm_memory::GuestMemoryBackend;

use super::memory_slot::{MEMORY_SLOT, map_memory};
use super::paging::Paging;
use crate::cpu::{CpuError, Look};
use crate::ram::{GuestRam, Heat, PAGE, PageSet};

vmm_sys_util::ioctl_iowr_nr!(KVM_CLEAR_DIRTY_LOG, KVMIO, 0xc0, kvm_clear_dirty_log);

/// The guest's writes, logged by KVM.
#[derive(Debug)]
pub(super) struct WriteLog {
    paging: Paging,
    pages: usize,
    heat: Heat,
}

impl WriteLog {
    /// Begins to log the guest's writes.
    pub(super) fn start(vm: &VmFd, memory: &GuestRam, paging: Paging) -> Result<Self, CpuError> {
        let failed = CpuError::failed_to("log the pages that the guest writes");
        let by_hand = kvm_enable_cap {
            cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
            // KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE: reading the log protects nothing.
            args: [1, 0, 0, 0],
            ..Default::default()
        };
        vm.enable_cap(&by_hand).map_err(&failed)?;
        map_memory(vm, memory, KVM_MEM_LOG_DIRTY_PAGES).map_err(failed)?;
        let bytes = (memory.last_addr().0 + 1) as usize;
        let pages = bytes.div_ceil(PAGE);
        Ok(Self {
            paging,
            pages,
            heat: Heat::new(pages),
        })
    }

    fn may_change(&self, look: Look) -> bool {
        look.may_change(self.paging == Paging::Shadow)
    }

    /// Of the pages that were named, those of `range` have been looked at, and `unchanged` had not
    /// changed.
    pub(super) fn looked_at(&mut self, look: Look, range: Range<u64>, unchanged: &PageSet) {
        if self.may_change(look) {
            self.heat.looked_at(range, unchanged);
        }
    }

    /// Adds the pages that the guest wrote since the last open look, and some that it writes so often
    /// that they are not watched. After an open look, they are watched for more writes, but for those
    /// that were named before and are to be looked at anyway. To be called while the guest stands
    /// still.
    pub(super) fn take(
        &mut self,
        vm: &VmFd,
        look: Look,
        into: &mut PageSet,
    ) -> Result<(), CpuError> {
        let named = self.named(vm)?;
        into.insert_bitmap(&named);
        if self.may_change(look) {
            let pages = self.heat.choose(&named);
            self.watch(vm, pages)?;
        }
        Ok(())
    }

    /// Forgets what was written and how often: as if the guest had not run yet.
    pub(super) fn forget(&mut self, vm: &VmFd) -> Result<(), CpuError> {
        self.heat = Heat::new(self.pages);
        let named = self.named(vm)?;
        self.watch(vm, named)
    }

    fn named(&self, vm: &VmFd) -> Result<Vec<u64>, CpuError> {
        vm.get_dirty_log(MEMORY_SLOT, self.pages * PAGE)
            .map_err(CpuError::failed_to("read the dirty log"))
    }

    /// Watches these pages for writes, and names them no more until they are written.
    fn watch(&self, vm: &VmFd, mut pages: Vec<u64>) -> Result<(), CpuError> {
        if pages.iter().all(|word| *word == 0) {
            return Ok(());
        }
        let request = kvm_clear_dirty_log {
            slot: MEMORY_SLOT,
            num_pages: self.pages as u32,
            first_page: 0,
            __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 {
                dirty_bitmap: pages.as_mut_ptr().cast(),
            },
        };
        // SAFETY: the descriptor is a virtual machine's, and KVM_CLEAR_DIRTY_LOG reads a request
        // and a bitmap of `num_pages` bits, which both outlive the call.
        match unsafe { vmm_sys_util::ioctl::ioctl_with_ref(vm, KVM_CLEAR_DIRTY_LOG(), &request) } {
            0 => Ok(()),
            _ => Err(CpuError::failed_to("watch pages for writes again")(
                std::io::Error::last_os_error(),
            )),
        }
    }
}
