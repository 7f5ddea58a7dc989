//! What is cut and what crashes.

use std::fmt;
use std::time::Duration;

use crate::place::Place;
use crate::world::Trouble;

/// How long something is wrong: longer than every timeout.
const HELD: Duration = Duration::from_secs(10);

/// The links, each between two places.
pub(super) const LINKS: [Link; 9] = [
    Link(Place::Primary, Place::Backup),
    Link(Place::Primary, Place::Idle),
    Link(Place::Backup, Place::Idle),
    Link(Place::Primary, Place::Service),
    Link(Place::Backup, Place::Service),
    Link(Place::Idle, Place::Service),
    Link(Place::Primary, Place::Client),
    Link(Place::Backup, Place::Client),
    Link(Place::Idle, Place::Client),
];

/// What can crash.
pub(super) const CRASHING: [Place; 4] =
    [Place::Primary, Place::Backup, Place::Idle, Place::Service];

/// A link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link(pub(super) Place, pub(super) Place);

/// Which way of a link is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Both,
    There,
    Back,
}

impl Way {
    pub(super) const ALL: [Self; 3] = [Self::Both, Self::There, Self::Back];
}

/// A cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut(pub(super) Link, pub(super) Way);

impl Cut {
    /// Every single one.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        LINKS
            .into_iter()
            .flat_map(|link| Way::ALL.map(|way| Self(link, way)))
    }

    fn troubles(self) -> Vec<Trouble> {
        let Self(Link(one, other), way) = self;
        let there = Trouble::Cut(one, other);
        let back = Trouble::Cut(other, one);
        match way {
            Way::Both => vec![there, back],
            Way::There => vec![there],
            Way::Back => vec![back],
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} – {}", self.0, self.1)
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(link @ Link(one, other), way) = self;
        match way {
            Way::Both => write!(f, "{link}"),
            Way::There => write!(f, "{one} → {other}"),
            Way::Back => write!(f, "{other} → {one}"),
        }
    }
}

/// Something that goes wrong, is held, and is healed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Case {
    /// What goes wrong at once.
    pub(super) troubles: Vec<Trouble>,
    pub(super) held: Duration,
    /// What crashes when that is healed and the guest is protected again: places are by what they are
    /// then.
    pub(super) next: Option<Place>,
}

impl Case {
    pub(super) fn cuts(cuts: &[Cut]) -> Self {
        let troubles = cuts.iter().flat_map(|cut| cut.troubles());
        Self::at_once(troubles.collect())
    }

    pub(super) fn crashes(places: &[Place]) -> Self {
        Self::at_once(places.iter().copied().map(Trouble::Crash).collect())
    }

    pub(super) fn one_after_the_other(first: Place, next: Place) -> Self {
        Self {
            next: Some(next),
            ..Self::crashes(&[first])
        }
    }

    pub(super) fn at_once(troubles: Vec<Trouble>) -> Self {
        Self {
            troubles,
            held: HELD,
            next: None,
        }
    }

    /// Nothing gets from one place to the other.
    fn cuts_off(&self, from: Place, to: Place) -> bool {
        self.troubles.contains(&Trouble::Cut(from, to))
    }

    /// Nothing is done by a place.
    fn stops(&self, place: Place) -> bool {
        let stops = [Trouble::Crash(place), Trouble::Freeze(place)];
        stops.iter().any(|trouble| self.troubles.contains(trouble))
    }

    /// Two places that hear each other.
    fn connects(&self, one: Place, other: Place) -> bool {
        !self.cuts_off(one, other)
            && !self.cuts_off(other, one)
            && !self.stops(one)
            && !self.stops(other)
    }

    /// The guest must go on: the pair is whole, or one that is up to date can talk to the disk server.
    pub(super) fn must_go_on(&self) -> bool {
        self.connects(Place::Primary, Place::Backup)
            || self.connects(Place::Primary, Place::Service)
            || self.connects(Place::Backup, Place::Service)
    }

    /// The guest may be gone: both hosts are that have it.
    pub(super) fn may_end_it(&self) -> bool {
        [Place::Primary, Place::Backup]
            .iter()
            .all(|place| self.troubles.contains(&Trouble::Crash(*place)))
    }

    /// Whether a request gets to a host.
    pub(super) fn hears_client(&self, host: Place) -> bool {
        !self.cuts_off(Place::Client, host)
    }
}
