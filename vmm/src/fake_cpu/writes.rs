//! Which pages a script writes, as a hypervisor under shadow paging logs it.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use crate::cpu::{Look, Registers};
use crate::ram::{Heat, PAGE, PageSet};

/// Something that a guest under shadow paging notices: its next access to a page leaves the guest, and
/// the hypervisor marks page tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Noticed {
    /// These pages are watched for writes, 64 a word.
    Watched(Vec<u64>),
    /// All shadow pages were dropped.
    Dropped,
}

/// That, and the registers of the place where it happened, as they are compared.
pub type NoticedAt = (Registers, Noticed);

/// The log, and what was done with it.
pub(super) struct Writes {
    /// Whether its guest notices: if not, a hidden look is as good as an open one.
    pub(super) is_shadow_paging: bool,
    named: Vec<u64>,
    heat: Heat,
    pub(super) noticed: Rc<RefCell<Vec<NoticedAt>>>,
}

impl Writes {
    /// Of a memory of so many pages.
    pub(super) fn new(pages: u64) -> Self {
        Self {
            is_shadow_paging: true,
            named: vec![0; pages.div_ceil(64) as usize],
            heat: Heat::new(pages as usize),
            noticed: Rc::default(),
        }
    }

    /// A page was written, at this address.
    pub(super) fn add(&mut self, address: u64) {
        let page = address / PAGE as u64;
        self.named[(page / 64) as usize] |= 1 << (page % 64);
    }

    pub(super) fn take(&mut self, at: &Registers, look: Look, into: &mut PageSet) {
        into.insert_bitmap(&self.named);
        if !look.may_change(self.is_shadow_paging) {
            return;
        }
        let watched = self.heat.choose(&self.named);
        for (named, watched) in self.named.iter_mut().zip(&watched) {
            *named &= !watched;
        }
        self.notice(at, Noticed::Watched(watched));
    }

    pub(super) fn looked_at(&mut self, look: Look, range: Range<u64>, unchanged: &PageSet) {
        if look.may_change(self.is_shadow_paging) {
            self.heat.looked_at(range, unchanged);
        }
    }

    /// Whether the guest notices.
    pub(super) fn forget(&mut self, at: &Registers) -> bool {
        if self.is_shadow_paging {
            let noticed = self.noticed.clone();
            *self = Self::new(64 * self.named.len() as u64);
            self.noticed = noticed;
            self.notice(at, Noticed::Dropped);
        }
        self.is_shadow_paging
    }

    fn notice(&self, at: &Registers, what: Noticed) {
        self.noticed.borrow_mut().push((at.compared(), what));
    }
}
