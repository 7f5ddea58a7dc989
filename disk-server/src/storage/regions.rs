//! What of a file is known to be data.

use std::collections::BTreeMap;

use parking_lot::Mutex;

/// So many regions are remembered. A file of more is too fragmented for it to be worth the memory.
const MOST: usize = 4096;

/// Regions of a file that were found to be data, so that they need not be looked for again: some file
/// systems walk over a region page by page to find its end.
///
/// Writing never makes a region smaller; only what calls [`Regions::forget`] does. If another program
/// makes a hole in the file, that is taken for data for a while, which reads the same.
#[derive(Debug, Default)]
pub(super) struct Regions(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Where regions begin and end. No two of them touch.
    regions: BTreeMap<u64, u64>,
    /// How often something was forgotten.
    forgotten: u64,
}

/// When somebody looked at the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Looked(u64);

impl Regions {
    /// Where the region ends that a place is in, if it is in one.
    pub(super) fn end_of(&self, at: u64) -> Option<u64> {
        let state = self.0.lock();
        let (_, end) = state.regions.range(..=at).next_back()?;
        (*end > at).then_some(*end)
    }

    /// To be called before the file is looked at.
    pub(super) fn look(&self) -> Looked {
        Looked(self.0.lock().forgotten)
    }

    /// There is data in a range that is not empty; does nothing if anything was forgotten since `looked`.
    pub(super) fn learn(&self, looked: Looked, mut start: u64, mut end: u64) {
        let mut state = self.0.lock();
        if state.forgotten != looked.0 || start >= end {
            return;
        }
        while let Some((s, e)) = state.last_before(end + 1)
            && e >= start
        {
            state.regions.remove(&s);
            start = start.min(s);
            end = end.max(e);
        }
        if state.regions.len() >= MOST {
            state.regions.clear();
        }
        state.regions.insert(start, end);
    }

    /// There may be holes in a range from now on.
    pub(super) fn forget(&self, start: u64, end: u64) {
        let mut state = self.0.lock();
        state.forgotten += 1;
        while let Some((s, e)) = state.last_before(end)
            && e > start
        {
            state.regions.remove(&s);
            if e > end {
                state.regions.insert(end, e);
            }
            if s < start {
                state.regions.insert(s, start);
            }
        }
    }
}

impl State {
    /// The last region that begins before a place.
    fn last_before(&self, place: u64) -> Option<(u64, u64)> {
        let (start, end) = self.regions.range(..place).next_back()?;
        Some((*start, *end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_was_seen_before_a_hole_was_made_is_not_believed() {
        let regions = Regions::default();
        let looked = regions.look();
        regions.forget(10, 20);
        regions.learn(looked, 0, 100);
        assert_eq!(regions.end_of(0), None);
        regions.learn(regions.look(), 0, 100);
        regions.forget(10, 20);
        assert_eq!(
            [0, 9, 10, 19, 20, 99, 100].map(|at| regions.end_of(at)),
            [Some(10), Some(10), None, None, Some(100), Some(100), None]
        );
    }

    proptest! {
        #[test]
        fn it_is_a_set_of_places(
            steps in prop::collection::vec((any::<bool>(), 0..64_u64, 1..64_u64), 0..60),
        ) {
            let regions = Regions::default();
            let mut data = [false; 128];
            for (learn, start, length) in steps {
                let end = start + length;
                if learn {
                    regions.learn(regions.look(), start, end);
                } else {
                    regions.forget(start, end);
                }
                data[start as usize..end as usize].fill(learn);
                for at in 0..data.len() {
                    let run = data[at..].iter().take_while(|is| **is).count();
                    let end = (run > 0).then_some((at + run) as u64);
                    prop_assert_eq!(regions.end_of(at as u64), end);
                }
            }
        }
    }
}
