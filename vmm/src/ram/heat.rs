//! Which pages a guest writes so often that nothing is gained by watching them.
//!
//! A write is learnt of by a fault: a page that is to be watched is write-protected. A guest writes to
//! the same pages again and again, its stacks and its kernel's timers, and that fault costs more than to
//! compare such a page with what it held. So pages that were written every time for a while are not
//! watched any more: they are named every time, written or not, until they are found unchanged for a
//! while.

use std::ops::Range;

use super::{PageSet, bits};

/// Pages written as often as this, one time after the other, are not watched any more.
const HOT_AFTER: u8 = 3;

/// A page that is not watched, and found unchanged as often as this, one time after the other, is
/// watched again: to compare it so often costs about as much as a fault.
const PATIENCE: u8 = 12;

/// No more pages are hot at a time, 32 MiB: each stop of the guest looks at all of them, which must
/// take a small part of the longest one that there may be.
const MOST_HOT: usize = 8192;

/// How often the pages were written lately. What it chooses follows from what it is told, and from
/// nothing else: under shadow paging the guest notices.
#[derive(Debug)]
pub(crate) struct Heat {
    pages: Vec<Page>,
    /// Those that are watched since the last time, and were not before.
    watched: Vec<u64>,
    /// Those that were named, and not looked at since.
    waiting: Vec<u64>,
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
    /// Of a memory of so many pages.
    pub(crate) fn new(pages: usize) -> Self {
        let none = vec![0; pages.div_ceil(64)];
        Self {
            pages: vec![Page::default(); pages],
            watched: none.clone(),
            waiting: none,
            hot: 0,
        }
    }

    /// Of the pages that were named, those of `range` have been looked at, and `unchanged` had not
    /// changed.
    pub(crate) fn looked_at(&mut self, range: Range<u64>, unchanged: &PageSet) {
        let words = self.waiting.iter_mut().zip(unchanged.words());
        for (at, (waiting, unchanged)) in (0u64..).zip(words) {
            let seen = *waiting & bits_of(&range, at);
            *waiting &= !seen;
            for bit in bits(seen & unchanged) {
                let Some(page) = self.pages.get_mut((64 * at + bit) as usize) else {
                    continue;
                };
                let was_hot = page.is_hot();
                page.cool();
                self.hot -= usize::from(was_hot && !page.is_hot());
            }
        }
    }

    /// Those of the pages that are named, 64 a word, that are to be watched again. Pages that wait to be
    /// looked at since they were named before are left as they are.
    pub(crate) fn choose(&mut self, named: &[u64]) -> Vec<u64> {
        let mut chosen = vec![0; named.len()];
        let words = named.iter().zip(&mut self.waiting).zip(&mut self.watched);
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
            *waiting |= named;
        }
        chosen
    }
}

/// The bits of word `at` of a bitmap that stand for pages of `range`.
fn bits_of(range: &Range<u64>, at: u64) -> u64 {
    let below = |end: u64| match end.saturating_sub(64 * at) {
        bits @ 0..64 => (1 << bits) - 1,
        _ => u64::MAX,
    };
    below(range.end) & !below(range.start)
}

#[cfg(test)]
mod tests;
