use proptest::prelude::*;

use super::*;

const PAGES: usize = 100;

/// The hypervisor's side: pages that are watched make a fault at the first write, which names them
/// until they are watched again.
struct Watched {
    named: Vec<u64>,
    faults: u32,
}

fn pages(range: std::ops::Range<usize>) -> Range<u64> {
    range.start as u64..range.end as u64
}

fn none() -> PageSet {
    PageSet::empty(PAGES as u64)
}

impl Watched {
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
        let named = self.named.clone();
        let watch = heat.choose(&named);
        for (named, watch) in self.named.iter_mut().zip(watch) {
            *named &= !watch;
        }
        named
    }

    /// All that is named is looked at, and `unchanged` has not changed if it is among it.
    fn take_and_look(&mut self, heat: &mut Heat, unchanged: Option<usize>) -> Vec<u64> {
        let named = self.take(heat);
        let mut set = none();
        unchanged.iter().for_each(|page| set.insert(*page as u64));
        heat.looked_at(pages(0..PAGES), &set);
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
        let (mut kvm, mut heat) = (Watched::new(), Heat::new(PAGES));
        for written in turns {
            for &page in &written {
                kvm.write(page);
            }
            let named = kvm.take_and_look(&mut heat, None);
            for page in written {
                prop_assert!(has(&named, page), "page {}", page);
            }
        }
    }

    /// The pages that were named are looked at some of them at a time.
    #[test]
    fn no_write_goes_unseen(
        turns in prop::collection::vec(
            (prop::collection::vec(0..PAGES, 0..20), 0..PAGES, 0..PAGES), 0..200
        )
    ) {
        let (mut kvm, mut heat) = (Watched::new(), Heat::new(PAGES));
        let mut waiting = none();
        let mut unseen = std::collections::BTreeSet::new();
        for (written, first, end) in turns {
            for page in written {
                kvm.write(page);
                unseen.insert(page);
            }
            waiting.insert_bitmap(&kvm.take(&mut heat));
            for page in &unseen {
                prop_assert!(waiting.contains(*page as u64), "page {}", page);
            }
            let range = pages(first..end);
            let mut unchanged = none();
            while let Some(page) = waiting.take_first_in(range.clone()) {
                if !unseen.remove(&(page as usize)) {
                    unchanged.insert(page);
                }
            }
            heat.looked_at(range, &unchanged);
        }
    }
}

#[test]
fn a_page_that_waits_makes_no_faults_and_stays_hot() {
    let (mut kvm, mut heat) = (Watched::new(), Heat::new(PAGES));
    kvm.write(70);
    kvm.take(&mut heat);
    for _ in 0..100 {
        kvm.write(70);
        heat.looked_at(0..70, &none());
        kvm.take(&mut heat);
    }
    assert_eq!(kvm.faults, 2);
    heat.looked_at(70..71, &none());
    kvm.write(70);
    assert!(has(&kvm.take_and_look(&mut heat, None), 70));
    kvm.write(70);
    kvm.take_and_look(&mut heat, None);
    // Found unchanged each time it is looked at, however often it waits in between.
    for _ in 0..PATIENCE {
        assert!(has(&kvm.take(&mut heat), 70));
        kvm.take(&mut heat);
        kvm.take_and_look(&mut heat, Some(70));
    }
    kvm.take_and_look(&mut heat, None);
    assert!(!has(&kvm.take(&mut heat), 70));
}

#[test]
fn a_page_that_was_not_named_cools_nothing() {
    let (mut kvm, mut heat) = (Watched::new(), Heat::new(PAGES));
    for _ in 0..HOT_AFTER {
        kvm.write(70);
        kvm.take_and_look(&mut heat, None);
    }
    let mut unchanged = none();
    unchanged.insert(70);
    for _ in 0..2 * PATIENCE {
        heat.looked_at(pages(0..PAGES), &unchanged);
    }
    assert!(has(&kvm.take(&mut heat), 70), "it is hot");
}

#[test]
fn a_page_written_all_the_time_makes_few_faults() {
    let (mut kvm, mut heat) = (Watched::new(), Heat::new(PAGES));
    for turn in 0..1000 {
        kvm.write(70);
        // What was written may be what was there.
        kvm.take_and_look(&mut heat, (turn % 8 != 0).then_some(70));
    }
    assert_eq!(kvm.faults, u32::from(HOT_AFTER));
}

#[test]
fn only_so_many_pages_are_looked_at_without_a_reason() {
    const MORE: usize = MOST_HOT + 64;
    let mut heat = Heat::new(MORE);
    let watched = |heat: &mut Heat, unchanged: &PageSet| {
        let watched = heat.choose(&[u64::MAX; MORE / 64]);
        heat.looked_at(pages(0..MORE), unchanged);
        let watched = watched.iter().map(|word| word.count_ones() as usize);
        watched.sum::<usize>()
    };
    let mut unchanged = PageSet::empty(MORE as u64);
    for _ in 1..HOT_AFTER {
        assert_eq!(watched(&mut heat, &unchanged), MORE);
    }
    for _ in 0..3 {
        assert_eq!(watched(&mut heat, &unchanged), MORE - MOST_HOT);
    }
    unchanged.insert(70);
    for _ in 0..PATIENCE {
        assert_eq!(heat.hot, MOST_HOT);
        watched(&mut heat, &unchanged);
    }
    assert_eq!(heat.hot, MOST_HOT - 1);
    unchanged.clear();
    assert_eq!(
        watched(&mut heat, &unchanged),
        MORE - MOST_HOT,
        "another one is hot now"
    );
    assert_eq!(heat.hot, MOST_HOT);
}

#[test]
fn a_page_that_has_not_changed_for_a_while_is_watched_again() {
    let (mut kvm, mut heat) = (Watched::new(), Heat::new(PAGES));
    for _ in 0..10 {
        kvm.write(70);
        kvm.take_and_look(&mut heat, None);
    }
    let mut named = 0;
    while has(&kvm.take_and_look(&mut heat, Some(70)), 70) {
        named += 1;
    }
    // The last time it was not watched yet.
    assert_eq!(named, u32::from(PATIENCE) + 1);
    // It is like any other again.
    kvm.write(70);
    assert!(has(&kvm.take_and_look(&mut heat, None), 70));
    assert!(!has(&kvm.take_and_look(&mut heat, None), 70));
}

#[test]
fn pages_written_now_and_then_are_named_when_they_are_and_no_more() {
    let (mut kvm, mut heat) = (Watched::new(), Heat::new(PAGES));
    for turn in 0..100 {
        let written = turn % 3 != 0;
        if written {
            kvm.write(3);
        }
        assert_eq!(
            has(&kvm.take_and_look(&mut heat, None), 3),
            written,
            "turn {turn}"
        );
    }
}
