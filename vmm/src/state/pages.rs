//! Sets of guest pages.

/// A set of guest frame numbers, as a bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageSet {
    words: Vec<u64>,
}

impl PageSet {
    /// The empty set of a memory of `pages` pages.
    #[must_use]
    pub fn empty(pages: u64) -> Self {
        Self {
            words: vec![0; pages.div_ceil(64) as usize],
        }
    }

    /// Adds a page. Pages beyond the memory are ignored.
    pub fn insert(&mut self, page: u64) {
        if let Some(word) = self.words.get_mut((page / 64) as usize) {
            *word |= 1 << (page % 64);
        }
    }

    /// Adds the pages of a bitmap, 64 pages a word, lowest page in the lowest bit, as
    /// KVM_GET_DIRTY_LOG fills it.
    pub fn insert_bitmap(&mut self, bitmap: &[u64]) {
        for (word, more) in self.words.iter_mut().zip(bitmap) {
            *word |= more;
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.words.iter().map(|w| u64::from(w.count_ones())).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Takes the lowest page out.
    pub fn take_first(&mut self) -> Option<u64> {
        let at = self.words.iter().position(|word| *word != 0)?;
        let bit = self.words[at].trailing_zeros();
        self.words[at] &= self.words[at] - 1;
        Some(at as u64 * 64 + u64::from(bit))
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
            let taken: Vec<u64> = std::iter::from_fn(|| set.take_first()).collect();
            prop_assert_eq!(taken, Vec::from_iter(model));
            prop_assert!(set.is_empty());
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
