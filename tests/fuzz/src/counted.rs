//! The system's allocator, which counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

pub(crate) struct Counted {
    /// Bytes that are taken.
    now: AtomicUsize,
    /// The most since [`Counted::most_in`] began.
    most: AtomicUsize,
}

impl Counted {
    pub(crate) const fn new() -> Self {
        Self {
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        }
    }

    /// How many bytes `work` takes at a time, at most.
    pub(crate) fn most_in(&self, work: impl FnOnce()) -> usize {
        let before = self.now.load(Relaxed);
        self.most.store(before, Relaxed);
        work();
        self.most.load(Relaxed) - before
    }

    fn take(&self, len: usize) {
        let now = self.now.fetch_add(len, Relaxed) + len;
        self.most.fetch_max(now, Relaxed);
    }

    fn give_back(&self, len: usize) {
        self.now.fetch_sub(len, Relaxed);
    }
}

// SAFETY: all of it is the system's.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.take(layout.size());
        // SAFETY: as the caller says.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.take(layout.size());
        // SAFETY: as the caller says.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        self.take(len);
        self.give_back(layout.size());
        // SAFETY: as the caller says.
        unsafe { System.realloc(at, layout, len) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        self.give_back(layout.size());
        // SAFETY: as the caller says.
        unsafe { System.dealloc(at, layout) }
    }
}
