//! The two hosts of a pair, or of a recording and its replay, compare what they can do.

use logging_channel::{CheckOutcome, HostDifference, HostReport, SAME_PROCESSORS};

use crate::doctor::{DEVICE, NESTED_PAGING, PAGING, PROCESSOR, has_counter, has_shadow_paging};
use crate::engine::Divergence;
use crate::events::{Event, Events};

/// How a stop of the guest between two exits is named in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StopNaming {
    /// By a performance counter: both hosts have one.
    Counter,
    /// By the state that the primary reached.
    StateDelta,
}

impl StopNaming {
    fn of(here: &HostReport, peer: &HostReport) -> Self {
        if has_counter(here) && has_counter(peer) {
            Self::Counter
        } else {
            Self::StateDelta
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::StateDelta => "state-delta",
        }
    }
}

/// Says where `other`, which is called `whose`, differs from this host.
pub(super) fn tell_differences(
    here: &HostReport,
    other: &HostReport,
    whose: &str,
) -> Vec<HostDifference> {
    let differences = here.differences(other);
    for difference in &differences {
        match meaning(&difference.name, here, other) {
            Some(meaning) => log::warn!("{whose} {meaning} ({difference})"),
            None => log::info!("{whose} differs: {difference}"),
        }
    }
    differences
}

/// What follows from a difference in this check, and what to do, if it may make the guest differ.
fn meaning(check: &str, here: &HostReport, other: &HostReport) -> Option<String> {
    match (check, has_shadow_paging(here), has_shadow_paging(other)) {
        (PAGING, here, other) if here != other => Some(
            "translates the guest's addresses in another way: the guest will differ soon; have both \
             hosts use shadow paging, see `ftvm doctor`"
                .into(),
        ),
        // Each kernel has its own rules of when its KVM marks the guest's page tables.
        (DEVICE, true, true) => Some(
            "has another kernel, whose KVM may set accessed bits of the guest elsewhere: the guest may \
             differ now and then; use the same kernel release on both"
                .into(),
        ),
        (PROCESSOR, ..) => Some(format!(
            "has another processor: it gave the same results wherever they are known to differ, but \
             others were not tried; {SAME_PROCESSORS}"
        )),
        _ => None,
    }
}

/// Whether the two hosts of a pair, or of a recording and its replay, are bound to differ now and then,
/// as their user allowed.
pub(super) fn have_nested_paging(here: &HostReport, other: &HostReport) -> bool {
    !(has_shadow_paging(here) && has_shadow_paging(other))
}

/// What most likely caused a difference between two such hosts, or two that are not.
pub(super) fn likely_cause(divergence: &Divergence, nested_paging: bool) -> String {
    let cause = divergence.likely_cause();
    if nested_paging {
        format!("{NESTED_PAGING}; or {cause}")
    } else {
        cause
    }
}

/// Says where the peer's host differs from this one, and how the pair will work.
pub(super) fn compare(events: &Events, here: &HostReport, peer: &HostReport) -> StopNaming {
    let differences = tell_differences(here, peer, "the other host");
    let stops = StopNaming::of(here, peer);
    if stops == StopNaming::StateDelta && (has_counter(here) || has_counter(peer)) {
        log::warn!(
            "only {} host has a usable performance counter: the latency of inputs is bounded by \
             state deltas, which cost more",
            if has_counter(here) {
                "this"
            } else {
                "the other"
            }
        );
    }
    let passed = peer
        .checks()
        .iter()
        .filter(|c| c.outcome == CheckOutcome::Passed);
    events.emit(&Event::PeerReport {
        passed: passed.map(|check| check.name.clone()).collect(),
        differences: differences.iter().map(ToString::to_string).collect(),
        stops: stops.name(),
    });
    stops
}

#[cfg(test)]
mod tests {
    use logging_channel::HostCheck;

    use super::*;

    fn host(counter: CheckOutcome) -> HostReport {
        HostReport::new([HostCheck {
            name: "counter".into(),
            outcome: counter,
            required: false,
            measured: String::new(),
        }])
    }

    #[test]
    fn stops_are_counted_where_both_hosts_can() {
        let (with, without) = (host(CheckOutcome::Passed), host(CheckOutcome::Failed));
        for (here, there, stops) in [
            (&with, &with, StopNaming::Counter),
            (&with, &without, StopNaming::StateDelta),
            (&without, &with, StopNaming::StateDelta),
            (&without, &HostReport::default(), StopNaming::StateDelta),
        ] {
            assert_eq!(compare(&Events::default(), here, there), stops);
        }
    }

    fn host_with(name: &str, outcome: CheckOutcome, measured: &str) -> HostReport {
        let check = |name: &str, outcome, measured: &str| HostCheck {
            name: name.into(),
            outcome,
            required: false,
            measured: measured.into(),
        };
        // Under shadow paging, if that is not what it is about.
        let paging = check(PAGING, CheckOutcome::Passed, "shadow");
        let others = (name != PAGING).then_some(paging);
        HostReport::new([check(name, outcome, measured)].into_iter().chain(others))
    }

    #[test]
    fn what_may_make_the_guest_differ_is_told_with_the_mend() {
        use CheckOutcome::{Failed, Passed};
        let told = |name, here, other| {
            let [here, other] = [here, other].map(|(outcome, text)| host_with(name, outcome, text));
            assert_eq!(tell_differences(&here, &other, "the other host").len(), 1);
            meaning(name, &here, &other)
        };
        let kernel = told(
            DEVICE,
            (Passed, "yes, Linux 6.1.0"),
            (Passed, "yes, Linux 6.12.0"),
        );
        let kernel = kernel.expect("KVM's rules may be others");
        assert!(kernel.contains("same kernel release on both"), "{kernel}");
        let paging = told(PAGING, (Passed, "shadow"), (Failed, "nested"));
        assert!(paging.expect("they differ").contains("shadow paging"));
        // In words alone: neither has it.
        let contradiction = "nested, although KVM's module says shadow";
        let both_nested = told(PAGING, (Failed, "nested"), (Failed, contradiction));
        assert_eq!(both_nested, None);
        assert!(told(PROCESSOR, (Passed, "AMD 1"), (Passed, "AMD 2")).is_some());
        assert_eq!(told("halt", (Passed, "3"), (Passed, "4")), None);

        // Where the processor translates, that decides and not the kernel.
        let nested = |text| {
            let device = host_with(DEVICE, Passed, text).checks()[0].clone();
            HostReport::new([device])
        };
        let (old, new) = (nested("yes, Linux 6.1.0"), nested("yes, Linux 6.12.0"));
        assert_eq!(meaning(DEVICE, &old, &new), None);
    }

    #[test]
    fn the_event_names_what_differs() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let events = Events::open(Some(file.path())).expect("a file");
        let (with, without) = (host(CheckOutcome::Passed), host(CheckOutcome::Failed));
        compare(&events, &without, &with);
        events.drain();
        let line = std::fs::read_to_string(file.path()).expect("a line");
        let json: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(json["event"], "peer-report");
        assert_eq!(json["passed"][0], "counter");
        assert_eq!(json["differences"][0], "counter: here no, there yes");
        assert_eq!(json["stops"], "state-delta");
    }
}
