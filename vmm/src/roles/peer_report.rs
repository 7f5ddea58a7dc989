//! The two hosts of a pair, or of a recording and its replay, compare what they can do.

use logging_channel::{CheckOutcome, HostDifference, HostReport, SAME_PROCESSORS};

use crate::doctor::{NESTED_PAGING, PAGING, PROCESSOR, has_counter, has_shadow_paging};
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
        if difference.name == PAGING {
            log::warn!(
                "{whose} translates the guest's addresses in another way ({difference}): the guest will \
                 differ soon; have both hosts use shadow paging (`ftvm doctor`)"
            );
        } else if difference.name == PROCESSOR {
            log::warn!(
                "{whose} has another processor ({difference}): it gave the same results wherever \
                 they are known to differ, but others were not tried; {SAME_PROCESSORS}"
            );
        } else {
            log::info!("{whose} differs: {difference}");
        }
    }
    differences
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
