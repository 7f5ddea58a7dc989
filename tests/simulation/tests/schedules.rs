//! A share of the schedules, and that what is broken on purpose is found.

use simulation::{Defect, Seen, run};

#[test]
fn schedules_keep_all_promises() {
    let mut seen = Seen::default();
    for seed in 0..200 {
        seen += run(seed, None).unwrap_or_else(|failure| panic!("{failure}"));
    }
    // They are about something.
    assert!(seen.failovers > 100 && seen.joins > 300, "{seen:?}");
}

#[test]
fn what_is_broken_on_purpose_is_found() {
    let kept: Vec<Defect> = (Defect::ALL.into_iter())
        .filter(|defect| (0..1000).all(|seed| run(seed, Some(*defect)).is_ok()))
        .collect();
    assert_eq!(kept, []);
}
