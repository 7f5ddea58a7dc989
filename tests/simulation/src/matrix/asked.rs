//! What a person would ask about first, which is tried on real hosts too (`cargo xtask matrix`).

use std::time::Duration;

use super::case::Case;
use crate::place::Place::{self, Backup, Primary, Service};
use crate::world::chosen::Trouble::{self, Crash, Cut, Freeze};

const FROZEN: Duration = Duration::from_secs(5);

/// What a host sends to the others does not arrive.
fn mute(host: Place) -> Vec<Trouble> {
    others(host).map(|other| Cut(host, other)).collect()
}

/// Nothing gets from a host to the others, or from there.
fn logging(host: Place) -> Vec<Trouble> {
    let ways = others(host).flat_map(|other| [Cut(host, other), Cut(other, host)]);
    ways.collect()
}

fn others(host: Place) -> impl Iterator<Item = Place> {
    (Place::HOSTS.into_iter()).filter(move |other| *other != host)
}

/// The same of the disk server.
fn storage(host: Place) -> Vec<Trouble> {
    vec![Cut(host, Service), Cut(Service, host)]
}

fn both(one: Vec<Trouble>, other: Vec<Trouble>) -> Vec<Trouble> {
    one.into_iter().chain(other).collect()
}

/// What happens, as both say it, and the case that it is here. `testbed::matrix` has the same ones.
pub(super) fn asked() -> Vec<(&'static str, Case)> {
    let troubles = [
        ("the primary's host loses its power", vec![Crash(Primary)]),
        ("the backup's host loses its power", vec![Crash(Backup)]),
        ("the disk server is killed", vec![Crash(Service)]),
        ("the backup's logging link is cut", logging(Backup)),
        (
            "what the primary sends to the logging network is lost",
            mute(Primary),
        ),
        (
            "what the backup sends to the logging network is lost",
            mute(Backup),
        ),
        ("the backup's storage link is cut", storage(Backup)),
        (
            "the primary's logging and storage links are cut",
            both(logging(Primary), storage(Primary)),
        ),
        (
            "the backup's logging and storage links are cut",
            both(logging(Backup), storage(Backup)),
        ),
        (
            "the primary's host stands still for 5 s",
            vec![Freeze(Primary)],
        ),
        (
            "the primary's host loses its power, and the disk server is killed",
            vec![Crash(Service), Crash(Primary)],
        ),
        (
            "both hosts of the pair lose their power",
            vec![Crash(Primary), Crash(Backup)],
        ),
    ];
    let cases = troubles.into_iter().map(|(name, troubles)| {
        let frozen = matches!(troubles[..], [Freeze(_)]);
        let case = Case::at_once(troubles);
        let held = if frozen { FROZEN } else { case.held };
        (name, Case { held, ..case })
    });
    cases.collect()
}
