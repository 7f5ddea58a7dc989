//! Which pages the guest writes, by KVM's dirty log (Linux, Documentation/virt/kvm/api.rst,
//! KVM_GET_DIRTY_LOG and KVM_CLEAR_DIRTY_LOG).
//!
//! KVM learns of a write by a fault: a page that is to be watched is write-protected, and the
//! first write to it leaves the guest. A guest writes to the same pages again and again, its
//! stacks and its kernel's timers, and that fault costs more than to compare such a page with what
//! it held. So pages that were written every time for a while are not protected any more: they are
//! named every time, written or not, until they are found unchanged for a while.

use kvm_bindings::{
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_MEM_LOG_DIRTY_PAGES, KVMIO, kvm_clear_dirty_log,
    kvm_clear_dirty_log__bindgen_ty_1, kvm_enable_cap,
};
use kvm_ioctls::VmFd;
use vm_memory::GuestMemoryBackend;

use super::memory_slot::{MEMORY_SLOT, map_memory};
use crate::cpu::CpuError;
use crate::ram::{GuestRam, PageSet, bits};

vmm_sys_util::ioctl_iowr_nr!(KVM_CLEAR_DIRTY_LOG, KVMIO, 0xc0, kvm_clear_dirty_log);

/// Pages written as often as this, one time after the other, are not watched any more.
const HOT_AFTER: u8 = 3;

/// A page that is not watched, and found unchanged as often as this, one time after the other, is
/// watched again: to compare it so often costs about as much as a fault.
const PATIENCE: u8 = 12;

/// No more pages are hot at a time, 32 MiB: each stop of the guest looks at all of them, which must
/// take a small part of the longest one that there may be.
const MOST_HOT: usize = 8192;

/// The guest's writes, logged by KVM.
#[derive(Debug)]
pub(super) struct WriteLog {
    bytes: usize,
    heat: Heat,
}

impl WriteLog {
    /// Begins to log the guest's writes.
    pub(super) fn start(vm: &VmFd, memory: &GuestRam) -> Result<Self, CpuError> {
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
        Ok(Self {
            bytes,
            heat: Heat::new(bytes.div_ceil(crate::ram::PAGE)),
        })
    }

    /// These pages were named and had not changed.
    pub(super) fn cool(&mut self, pages: &PageSet) {
        for page in pages.iter() {
            self.heat.cool(page as usize);
        }
    }

    /// Adds the pages that the guest wrote since the last call, and some that it writes so often
    /// that they are not watched. Those that are there already, which are to be looked at anyway, are
    /// not watched for more writes until then. To be called while the guest stands still.
    pub(super) fn take(&mut self, vm: &VmFd, into: &mut PageSet) -> Result<(), CpuError> {
        let named = vm
            .get_dirty_log(MEMORY_SLOT, self.bytes)
            .map_err(CpuError::failed_to("read the dirty log"))?;
        let mut pages = self.heat.choose(&named, into.words());
        into.insert_bitmap(&named);
        if pages.iter().all(|word| *word == 0) {
            return Ok(());
        }
        let request = kvm_clear_dirty_log {
            slot: MEMORY_SLOT,
            num_pages: self.heat.pages.len() as u32,
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

/// How often the pages were written lately.
#[derive(Debug)]
struct Heat {
    pages: Vec<Page>,
    /// Those that are watched since the last time, and were not before.
    watched: Vec<u64>,
    /// How many are hot.
    hot: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Page {
    /// How often it was written, one time after the other.
    written: u8,
    /// How often it was found unchanged since it is not watched, one time after the other,
    unchanged: u8,
    /// the last time it was named, too.
    was_unchanged: bool,
}

impl Page {
    fn is_hot(&self) -> bool {
        self.written >= HOT_AFTER
    }

    /// It was named, and may become hot or not. Whether it is to be watched from now on.
    fn named(&mut self, may_be_hot: bool) -> bool {
        if self.written < HOT_AFTER && (may_be_hot || self.written + 1 < HOT_AFTER) {
            self.written += 1;
        }
        if !std::mem::take(&mut self.was_unchanged) {
            self.unchanged = 0;
        }
        !self.is_hot()
    }

    /// It had not changed.
    fn cool(&mut self) {
        self.was_unchanged = true;
        self.unchanged += 1;
        if self.unchanged >= PATIENCE {
            *self = Self::default();
        }
    }
}

impl Heat {
    fn new(pages: usize) -> Self {
        Self {
            pages: vec![Page::default(); pages],
            watched: vec![0; pages.div_ceil(64)],
            hot: 0,
        }
    }

    /// The page was named, and had not changed.
    fn cool(&mut self, page: usize) {
        if let Some(page) = self.pages.get_mut(page) {
            let was_hot = page.is_hot();
            page.cool();
            self.hot -= usize::from(was_hot && !page.is_hot());
        }
    }

    /// Those of the pages that KVM names, 64 a word, that are to be watched again. Pages that wait
    /// to be looked at since they were named before are left as they are.
    fn choose(&mut self, named: &[u64], waiting: &[u64]) -> Vec<u64> {
        let mut chosen = vec![0; named.len()];
        let words = named.iter().zip(waiting).zip(&mut self.watched);
        for (at, ((named, waiting), watched)) in words.enumerate() {
            for bit in bits(*watched & !*named & !*waiting) {
                self.pages[64 * at + bit as usize] = Page::default();
            }
            for bit in bits(*named & !*waiting) {
                let Some(page) = self.pages.get_mut(64 * at + bit as usize) else {
                    continue;
                };
                let was_hot = page.is_hot();
                if page.named(self.hot < MOST_HOT) {
                    chosen[at] |= 1 << bit;
                } else {
                    self.hot += usize::from(!was_hot);
                }
            }
            *watched = chosen[at] | *watched & *waiting;
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAGES: usize = 100;

    /// KVM's side: pages that are watched make a fault at the first write, which names them until
    /// they are watched again.
    struct Kvm {
        named: Vec<u64>,
        faults: u32,
    }

    impl Kvm {
        fn new() -> Self {
            Self {
                named: vec![0; PAGES.div_ceil(64)],
                faults: 0,
            }
        }

        fn write(&mut self, page: usize) {
            let (word, bit) = (&mut self.named[page / 64], 1 << (page % 64));
            self.faults += u32::from(*word & bit == 0);
            *word |= bit;
        }

        fn take(&mut self, heat: &mut Heat) -> Vec<u64> {
            self.take_beside(heat, &[0; PAGES.div_ceil(64)])
        }

        fn take_beside(&mut self, heat: &mut Heat, waiting: &[u64]) -> Vec<u64> {
            let named = self.named.clone();
            let watch = heat.choose(&named, waiting);
            for (named, watch) in self.named.iter_mut().zip(watch) {
                *named &= !watch;
            }
            named
        }
    }

    fn has(set: &[u64], page: usize) -> bool {
        set[page / 64] >> (page % 64) & 1 != 0
    }

    proptest! {
        #[test]
        fn no_write_goes_unnamed(
            turns in prop::collection::vec(prop::collection::vec(0..PAGES, 0..20), 0..200)
        ) {
            let (mut kvm, mut heat) = (Kvm::new(), Heat::new(PAGES));
            for written in turns {
                for &page in &written {
                    kvm.write(page);
                }
                let named = kvm.take(&mut heat);
                for page in written {
                    prop_assert!(has(&named, page), "page {}", page);
                }
            }
        }
    }

    proptest! {
        /// The pages that were named are looked at some of them at a time.
        #[test]
        fn no_write_goes_unseen(
            turns in prop::collection::vec(
                (prop::collection::vec(0..PAGES, 0..20), 0..PAGES, 0..PAGES), 0..200
            )
        ) {
            let (mut kvm, mut heat) = (Kvm::new(), Heat::new(PAGES));
            let mut waiting = PageSet::empty(PAGES as u64);
            let mut unseen = std::collections::BTreeSet::new();
            for (written, first, end) in turns {
                for page in written {
                    kvm.write(page);
                    unseen.insert(page);
                }
                let named = kvm.take_beside(&mut heat, waiting.words());
                waiting.insert_bitmap(&named);
                for page in &unseen {
                    prop_assert!(waiting.contains(*page as u64), "page {}", page);
                }
                while let Some(page) = waiting.take_first_in(first as u64..end as u64) {
                    if !unseen.remove(&(page as usize)) {
                        heat.cool(page as usize);
                    }
                }
            }
        }
    }

    #[test]
    fn a_page_that_waits_makes_no_faults_and_stays_hot() {
        let (mut kvm, mut heat) = (Kvm::new(), Heat::new(PAGES));
        let waiting = [0, 1 << (70 % 64)];
        kvm.write(70);
        kvm.take(&mut heat);
        for _ in 0..100 {
            kvm.write(70);
            kvm.take_beside(&mut heat, &waiting);
        }
        assert_eq!(kvm.faults, 2);
        assert!(has(&kvm.take(&mut heat), 70));
        // Found unchanged each time it is looked at, however often it waits in between.
        for _ in 0..10 {
            kvm.take(&mut heat);
        }
        for _ in 0..PATIENCE {
            heat.cool(70);
            kvm.take_beside(&mut heat, &waiting);
            kvm.take(&mut heat);
        }
        kvm.take(&mut heat);
        assert!(!has(&kvm.take(&mut heat), 70));
    }

    #[test]
    fn a_page_written_all_the_time_makes_few_faults() {
        let (mut kvm, mut heat) = (Kvm::new(), Heat::new(PAGES));
        for turn in 0..1000 {
            kvm.write(70);
            kvm.take(&mut heat);
            if turn % 8 != 0 {
                // What was written may be what was there.
                heat.cool(70);
            }
        }
        assert_eq!(kvm.faults, u32::from(HOT_AFTER));
    }

    #[test]
    fn only_so_many_pages_are_looked_at_without_a_reason() {
        const MORE: usize = MOST_HOT + 64;
        let mut heat = Heat::new(MORE);
        let watched = |heat: &mut Heat| {
            let watched = heat.choose(&[u64::MAX; MORE / 64], &[0; MORE / 64]);
            let watched = watched.iter().map(|word| word.count_ones() as usize);
            watched.sum::<usize>()
        };
        for _ in 1..HOT_AFTER {
            assert_eq!(watched(&mut heat), MORE);
        }
        for _ in 0..3 {
            assert_eq!(watched(&mut heat), MORE - MOST_HOT);
        }
        for _ in 0..PATIENCE {
            heat.cool(70);
        }
        assert_eq!(heat.hot, MOST_HOT - 1);
        assert_eq!(
            watched(&mut heat),
            MORE - MOST_HOT,
            "another one is hot now"
        );
        assert_eq!(heat.hot, MOST_HOT);
    }

    #[test]
    fn a_page_that_has_not_changed_for_a_while_is_watched_again() {
        let (mut kvm, mut heat) = (Kvm::new(), Heat::new(PAGES));
        for _ in 0..10 {
            kvm.write(70);
            kvm.take(&mut heat);
        }
        let mut named = 0;
        while has(&kvm.take(&mut heat), 70) {
            heat.cool(70);
            named += 1;
        }
        // The last time it was not watched yet.
        assert_eq!(named, u32::from(PATIENCE) + 1);
        // It is like any other again.
        kvm.write(70);
        assert!(has(&kvm.take(&mut heat), 70));
        assert!(!has(&kvm.take(&mut heat), 70));
    }

    #[test]
    fn pages_written_now_and_then_are_named_when_they_are_and_no_more() {
        let (mut kvm, mut heat) = (Kvm::new(), Heat::new(PAGES));
        for turn in 0..100 {
            let written = turn % 3 != 0;
            if written {
                kvm.write(3);
            }
            assert_eq!(has(&kvm.take(&mut heat), 3), written, "turn {turn}");
        }
    }
}
