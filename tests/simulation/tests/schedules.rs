//! A share of the schedules, and that what is broken on purpose is found.

use std::thread;

use simulation::{Defect, Failure, Rule, Seen, run, run_moments};

#[test]
fn schedules_keep_all_promises() {
    let mut seen = Seen::default();
    for seed in 0..1000 {
        seen += run(seed, None).unwrap_or_else(|failure| panic!("{failure}"));
    }
    // They are about something.
    assert!(seen.failovers > 500 && seen.joins > 1500, "{seen:?}");
    assert!(seen.hand_overs > 200, "{seen:?}");
    assert!(seen.renewals > 50 && seen.renewals_cut > 10, "{seen:?}");
}

#[test]
fn a_join_may_be_cut_at_every_moment() {
    let mut seen = Seen::default();
    for seed in [1, 2] {
        seen += run_moments(seed, 11).unwrap_or_else(|failure| panic!("{failure}"));
    }
    assert!(seen.joins_cut > 100 && seen.gone > 20, "{seen:?}");
}

#[test]
fn what_is_broken_on_purpose_is_found() {
    thread::scope(|scope| {
        let searches = Defect::ALL.map(|defect| (defect, scope.spawn(move || found(defect))));
        let missed = searches.into_iter();
        let missed =
            missed.filter_map(|(defect, search)| (search.join().ok()?.is_none()).then_some(defect));
        assert_eq!(missed.collect::<Vec<_>>(), []);
    });
}

/// The first schedule that finds this.
fn found(defect: Defect) -> Option<Box<Failure>> {
    let failure = (0..2000).find_map(|seed| run(seed, Some(defect)).err())?;
    let schedules = failure.seed() + 1;
    println!(
        "{defect:?}: after {schedules} schedules: {}",
        failure.broken()
    );
    Some(failure)
}

#[test]
fn rule_3_a_backup_accepts_log_traffic_of_its_own_view_only() {
    let failure = found(Defect::SessionBeforeAdmission).expect("it is broken");
    let rule = Rule::LogOfOwnView.to_string();
    assert!(failure.broken().starts_with(&rule), "{failure}");
}
