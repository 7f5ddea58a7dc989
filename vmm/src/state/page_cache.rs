//! Contents of pages that both sides have kept, for small changes of pages that are written again and
//! again.

use crate::elsewhere::DroppedElsewhere;
use crate::ram::PAGE;

/// One page in so many of the guest's is kept: the stacks and timers of a kernel, and what a program
/// works with for a while.
const SHARE: u64 = 16;

/// A page that was changed so often is kept for so many turns of the hand without being changed.
const MOST_CREDIT: u8 = 7;

/// No page of the guest, or none of the cache.
const NONE: u32 = u32::MAX;

/// Which pages it keeps follows from the order in which they are given to it and from nothing else: both
/// sides keep the same.
///
/// It is a clock: a hand goes over the pages and takes credit from each, until it finds one that has none
/// left, in whose place another is kept. A page that was changed in the present transfer is left alone,
/// and the hand goes round once in each: a program that goes over more memory than there is room for
/// keeps as much of it as fits, in place of none.
pub(super) struct PageCache {
    /// Where each page of the guest is kept.
    places: Vec<u32>,
    kept: Vec<Kept>,
    contents: DroppedElsewhere<Vec<[u8; PAGE]>>,
    room: usize,
    hand: usize,
    /// How far the hand went in this transfer.
    passed: usize,
    transfer: u32,
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    page: u32,
    /// The transfer in which it was last changed.
    changed_in: u32,
    credit: u8,
}

impl PageCache {
    /// For a guest of so many pages. It takes its memory as it fills.
    pub(super) fn new(pages: u64) -> Result<Self, std::collections::TryReserveError> {
        let room = (pages / SHARE) as usize;
        let mut contents = Vec::new();
        contents.try_reserve_exact(room)?;
        Ok(Self {
            places: vec![NONE; pages as usize],
            kept: Vec::with_capacity(room),
            contents: DroppedElsewhere::new(contents),
            room,
            hand: 0,
            passed: 0,
            transfer: 0,
        })
    }

    /// How many bytes it may come to for a guest of so many pages.
    pub(super) fn most_bytes(pages: u64) -> u64 {
        let kept = PAGE as u64 + size_of::<Kept>() as u64;
        pages / SHARE * kept + pages * size_of::<u32>() as u64
    }

    /// What it has of a page.
    pub(super) fn get(&self, page: u64) -> Option<&[u8; PAGE]> {
        self.contents.get(self.places[page as usize] as usize)
    }

    /// A page that it has is this now.
    pub(super) fn refresh(&mut self, page: u64, content: &[u8; PAGE]) {
        if let Some(kept) = self.contents.get_mut(self.places[page as usize] as usize) {
            *kept = *content;
        }
    }

    /// Another transfer begins.
    pub(super) fn begin_transfer(&mut self) {
        self.passed = 0;
        self.transfer = self.transfer.wrapping_add(1);
    }

    /// A page that it has was changed to this by the present transfer.
    pub(super) fn change(&mut self, page: u64, content: &[u8; PAGE]) {
        self.refresh(page, content);
        if let Some(kept) = self.kept.get_mut(self.places[page as usize] as usize) {
            kept.changed_in = self.transfer;
            kept.credit = MOST_CREDIT.min(kept.credit + 1);
        }
    }

    /// Keeps a page that it does not have, and that was changed to this by the present transfer, if
    /// there is room.
    pub(super) fn keep(&mut self, page: u64, content: &[u8; PAGE]) {
        let new = Kept {
            page: page as u32,
            changed_in: self.transfer,
            credit: 1,
        };
        if self.kept.len() < self.room {
            self.places[page as usize] = self.kept.len() as u32;
            self.kept.push(new);
            self.contents.push(*content);
        } else if let Some(place) = self.make_room() {
            self.places[self.kept[place].page as usize] = NONE;
            self.places[page as usize] = place as u32;
            self.kept[place] = new;
            self.contents[place] = *content;
        }
    }

    fn make_room(&mut self) -> Option<usize> {
        while self.passed < self.room {
            let at = self.hand;
            self.passed += 1;
            self.hand = (at + 1) % self.room;
            let kept = &mut self.kept[at];
            if kept.changed_in == self.transfer {
                continue;
            }
            if kept.credit == 0 {
                return Some(at);
            }
            kept.credit -= 1;
        }
        None
    }

    /// Keeps nothing any more.
    pub(super) fn forget(&mut self) {
        self.places.fill(NONE);
        self.kept.clear();
        self.contents.clear();
        self.hand = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const PAGES: u64 = 256;
    const ROOM: u64 = PAGES / SHARE;

    fn content(value: u8) -> [u8; PAGE] {
        [value; PAGE]
    }

    /// Changes a page. Whether it was there.
    fn write(cache: &mut PageCache, page: u64, value: u8) -> bool {
        let has = cache.get(page).is_some();
        match has {
            true => cache.change(page, &content(value)),
            false => cache.keep(page, &content(value)),
        }
        has
    }

    proptest! {
        #[test]
        fn what_it_has_of_a_page_is_the_last_of_it(
            transfers in prop::collection::vec(
                prop::collection::vec((0..PAGES, any::<u8>(), any::<bool>()), 0..40), 0..20
            ),
        ) {
            let mut cache = PageCache::new(PAGES).expect("64 KiB");
            let mut last = BTreeMap::new();
            for transfer in transfers {
                cache.begin_transfer();
                let mut kept = Vec::new();
                for (page, value, refreshes) in transfer {
                    if refreshes {
                        cache.refresh(page, &content(value));
                    } else {
                        write(&mut cache, page, value);
                        kept.extend(cache.get(page).map(|_| page));
                    }
                    last.insert(page, value);
                    let there = (0..PAGES).filter_map(|page| Some((page, cache.get(page)?)));
                    prop_assert!(there.clone().count() as u64 <= ROOM);
                    for (page, has) in there {
                        prop_assert!(*has == content(last[&page]), "page {}", page);
                    }
                    // What the present transfer brought stays until its end.
                    prop_assert!(kept.iter().all(|page| cache.get(*page).is_some()));
                }
            }
            cache.forget();
            prop_assert!((0..PAGES).all(|page| cache.get(page).is_none()));
            cache.begin_transfer();
            prop_assert!(!write(&mut cache, 3, 1));
            prop_assert_eq!(cache.get(3), Some(&content(1)));
        }
    }

    /// What a kernel writes all the time stays, whatever programs go over; and of what they go over again
    /// and again, as much as fits.
    #[test]
    fn pages_that_are_written_often_stay() {
        let mut cache = PageCache::new(PAGES).expect("64 KiB");
        let often = 0..ROOM / 4;
        let mut hits = 0;
        for transfer in 0..100u64 {
            cache.begin_transfer();
            let missed = often.clone().filter(|page| !write(&mut cache, *page, 1));
            let missed = missed.count();
            assert!(transfer == 0 || missed == 0, "{transfer}: {missed}");
            // Others each time at first, and then the same.
            let first = 64 + transfer.min(50) % 4 * 48;
            for page in first..(first + 48).min(PAGES) {
                hits += u64::from(write(&mut cache, page, 2) && transfer > 70);
            }
        }
        assert!(hits >= 29 * ROOM / 2, "{hits}");
    }

    #[test]
    fn a_guest_may_be_too_small_for_one() {
        let mut cache = PageCache::new(SHARE - 1).expect("nothing");
        cache.begin_transfer();
        assert!(!write(&mut cache, 1, 1) && !write(&mut cache, 1, 1));
    }
}
