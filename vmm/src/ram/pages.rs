//! Sets of guest pages.

use std::ops::Range;

/// A set of guest frame numbers, as a bitmap.
#[derive(Debug, Clone)]
pub struct PageSet {
    words: Vec<u64>,
    /// No word before this one has a page, so that pages are taken out in linear time.
    first: usize,
    /// Words that were looked at to take pages out.
    #[cfg(test)]
    looked_at: usize,
}

impl PageSet {
    /// The empty set of a memory of `pages` pages.
    #[must_use]
    pub fn empty(pages: u64) -> Self {
        let words = vec![0; pages.div_ceil(64) as usize];
        let first = words.len();
        Self {
            words,
            first,
            #[cfg(test)]
            looked_at: 0,
        }
    }

    /// All pages of a memory of `pages` pages.
    #[must_use]
    pub fn full(pages: u64) -> Self {
        let mut set = Self::empty(pages);
        set.words.fill(u64::MAX);
        set.first = 0;
        if let Some(last) = set.words.last_mut()
            && !pages.is_multiple_of(64)
        {
            *last = (1 << (pages % 64)) - 1;
        }
        set
    }

    /// Adds a page. Pages beyond the memory are ignored.
    pub fn insert(&mut self, page: u64) {
        let at = (page / 64) as usize;
        if let Some(word) = self.words.get_mut(at) {
            *word |= 1 << (page % 64);
            self.first = self.first.min(at);
        }
    }

    /// Whether a page is in it.
    #[must_use]
    pub fn contains(&self, page: u64) -> bool {
        let word = self.words.get((page / 64) as usize);
        word.is_some_and(|word| word >> (page % 64) & 1 != 0)
    }

    /// Takes all pages out.
    pub fn clear(&mut self) {
        self.words.fill(0);
        self.first = self.words.len();
    }

    /// Adds the pages of a bitmap, 64 pages a word, lowest page in the lowest bit, as
    /// KVM_GET_DIRTY_LOG fills it.
    pub fn insert_bitmap(&mut self, bitmap: &[u64]) {
        for (word, more) in self.words.iter_mut().zip(bitmap) {
            *word |= more;
        }
        self.first = 0;
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.words.iter().map(|w| u64::from(w.count_ones())).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words[self.first..].iter().all(|word| *word == 0)
    }

    /// Takes the lowest page out.
    pub fn take_first(&mut self) -> Option<u64> {
        let found = self.first_from(self.first as u64 * 64);
        self.first = found.map_or(self.words.len(), |page| (page / 64) as usize);
        self.remove(found?);
        found
    }

    /// Takes the lowest page of `range` out.
    pub fn take_first_in(&mut self, range: Range<u64>) -> Option<u64> {
        let found = self
            .first_from(range.start)
            .filter(|page| *page < range.end)?;
        self.remove(found);
        Some(found)
    }

    /// The lowest page that is not below `start`.
    fn first_from(&mut self, start: u64) -> Option<u64> {
        let at = (start / 64) as usize;
        let above = u64::MAX << (start % 64);
        let (word, rest) = self.words.get(at..)?.split_first()?;
        let words = std::iter::once(word & above).chain(rest.iter().copied());
        let (at, word) = (at as u64..).zip(words).find(|(_, word)| {
            #[cfg(test)]
            {
                self.looked_at += 1;
            }
            *word != 0
        })?;
        Some(at * 64 + u64::from(word.trailing_zeros()))
    }

    /// Takes the pages of another set out.
    pub fn remove_all(&mut self, other: &Self) {
        for (word, less) in self.words.iter_mut().zip(&other.words) {
            *word &= !less;
        }
    }

    fn remove(&mut self, page: u64) {
        self.words[(page / 64) as usize] &= !(1 << (page % 64));
    }

    /// As a bitmap, 64 pages a word, lowest page in the lowest bit.
    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }

    /// All of them, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        let words = self.words.iter().enumerate();
        words.flat_map(|(at, word)| bits(*word).map(move |bit| at as u64 * 64 + bit))
    }
}

/// The numbers of the bits that are set, ascending.
pub(crate) fn bits(mut word: u64) -> impl Iterator<Item = u64> {
    std::iter::from_fn(move || {
        if word == 0 {
            return None;
        }
        let bit = word.trailing_zeros();
        word &= word - 1;
        Some(bit.into())
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_a_set(pages in prop::collection::vec(0u64..300, 0..50)) {
            let mut set = PageSet::empty(300);
            pages.iter().for_each(|page| set.insert(*page));
            let model: BTreeSet<u64> = pages.into_iter().collect();
            prop_assert_eq!(set.len(), model.len() as u64);
            prop_assert_eq!(set.is_empty(), model.is_empty());
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), Vec::from_iter(model.clone()));
            for page in 0..320 {
                prop_assert_eq!(set.contains(page), model.contains(&page));
            }
            let taken: Vec<u64> = std::iter::from_fn(|| set.take_first()).collect();
            prop_assert_eq!(taken, Vec::from_iter(model));
            prop_assert!(set.is_empty());
        }

        #[test]
        fn is_a_set_of_which_parts_are_taken(
            pages in prop::collection::vec(0u64..300, 0..50),
            ranges in prop::collection::vec((0u64..310, 0u64..310), 0..10),
        ) {
            let mut set = PageSet::empty(300);
            pages.iter().for_each(|page| set.insert(*page));
            let mut model: BTreeSet<u64> = pages.into_iter().collect();
            for (start, end) in ranges {
                let taken: Vec<u64> = std::iter::from_fn(|| set.take_first_in(start..end)).collect();
                let expected = model.extract_if(start..end.max(start), |_| true);
                prop_assert_eq!(taken, Vec::from_iter(expected));
            }
            prop_assert_eq!(set.take_first(), model.pop_first());
        }

        #[test]
        fn is_a_set_of_which_another_is_taken(
            pages in prop::collection::btree_set(0u64..300, 0..50),
            others in prop::collection::btree_set(0u64..300, 0..50),
        ) {
            let mut sets = [&pages, &others].map(|pages| {
                let mut set = PageSet::empty(300);
                pages.iter().for_each(|page| set.insert(*page));
                set
            });
            let [set, other] = &mut sets;
            set.remove_all(other);
            let left: Vec<u64> = std::iter::from_fn(|| set.take_first()).collect();
            prop_assert_eq!(left, Vec::from_iter(pages.difference(&others).copied()));
        }

        /// Pages that come in before those that were taken out last.
        #[test]
        fn is_a_set_in_any_order(pages in prop::collection::vec((0u64..300, any::<bool>()), 0..50)) {
            let mut set = PageSet::empty(300);
            let mut model = BTreeSet::new();
            for (page, takes) in pages {
                set.insert(page);
                model.insert(page);
                if takes {
                    prop_assert_eq!(set.take_first(), model.pop_first());
                }
                prop_assert_eq!(set.is_empty(), model.is_empty());
            }
            set.clear();
            prop_assert!(set.is_empty() && set.take_first().is_none());
        }
    }

    /// Gigabytes are taken out page by page: what was passed over is not looked at again.
    #[test]
    fn pages_are_taken_out_in_linear_time() {
        const PAGES: u64 = 1 << 14;
        const WORDS: usize = (PAGES / 64) as usize;
        for (every, taken) in [(1, PAGES as usize), (64, WORDS), (PAGES - 1, 2)] {
            let mut set = PageSet::empty(PAGES);
            (0..PAGES)
                .step_by(every as usize)
                .for_each(|page| set.insert(page));
            assert_eq!(std::iter::from_fn(|| set.take_first()).count(), taken);
            let looked_at = set.looked_at;
            assert!(
                looked_at <= WORDS + taken,
                "{looked_at} words for {taken} pages"
            );
            assert!(set.is_empty() && looked_at >= WORDS);
        }
        let mut full = PageSet::full(PAGES);
        while full.take_first().is_some() {}
        assert!(
            full.looked_at <= WORDS + PAGES as usize,
            "{}",
            full.looked_at
        );
    }

    #[test]
    fn a_full_set_has_every_page() {
        for pages in [0, 1, 63, 64, 65, 300] {
            let full = PageSet::full(pages);
            assert!(full.iter().eq(0..pages), "{pages}");
        }
    }

    #[test]
    fn pages_beyond_memory_are_ignored() {
        let mut set = PageSet::empty(64);
        set.insert(64);
        set.insert_bitmap(&[1 << 63, 1]);
        assert_eq!(set.iter().collect::<Vec<_>>(), [63]);
    }
}
