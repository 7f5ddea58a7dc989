//! Everything that can happen to two hosts, within bounds.

use simulation::{Bounds, Defect, search};

#[test]
fn nothing_that_can_happen_breaks_a_rule() {
    let searched = search(Bounds::TWO_HOSTS, None).unwrap_or_else(|broken| panic!("{broken}"));
    // It is about something.
    assert!(searched.failovers >= 2 && searched.ends > 0, "{searched:?}");
}

#[test]
fn what_is_broken_on_purpose_is_found() {
    let missed: Vec<_> = Defect::WITHOUT_TIME
        .into_iter()
        .filter(|defect| search(Bounds::TWO_HOSTS, Some(*defect)).is_ok())
        .collect();
    assert_eq!(missed, []);
}
