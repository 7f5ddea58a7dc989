//! What was seen of one case, with several delays: the worst of it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::measure::Seen;
use crate::place::Place;
use crate::world::Standing;

/// A case, as often as it was run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// What went wrong with the promises, by seed.
    pub(super) failures: Vec<(u64, String)>,
    meanwhile: BTreeSet<Option<Standing>>,
    answered: BTreeSet<Vec<Place>>,
    finally: BTreeSet<Option<Standing>>,
    pub(super) silence: Duration,
    /// The client had no reply until it was healed.
    pub(super) cut_off: bool,
    pub(super) unprotected: Duration,
    again: Duration,
    /// The guest was gone.
    pub(super) gone: bool,
}

impl Outcome {
    pub(super) fn add(&mut self, seed: u64, seen: Result<Seen, String>) {
        let seen = match seen {
            Ok(seen) => seen,
            Err(what) => return self.failures.push((seed, what)),
        };
        self.meanwhile.insert(seen.meanwhile);
        self.answered.insert(seen.answered);
        self.finally.insert(seen.finally);
        self.silence = self.silence.max(seen.silence);
        self.cut_off |= seen.cut_off;
        self.unprotected = self.unprotected.max(seen.unprotected);
        self.again = self.again.max(seen.again);
        self.gone |= seen.finally.is_none();
    }

    /// The worse of both in all.
    pub(super) fn worst(mut self, other: &Self) -> Self {
        self.silence = self.silence.max(other.silence);
        self.cut_off |= other.cut_off;
        self.unprotected = self.unprotected.max(other.unprotected);
        self.again = self.again.max(other.again);
        self.gone |= other.gone;
        self
    }

    /// Where the guest runs before all is healed, and which host protects it.
    pub(super) fn meanwhile(&self) -> String {
        each(&self.meanwhile, |it| standing(*it))
    }

    /// Who answered, one after the other.
    pub(super) fn answered(&self) -> String {
        each(&self.answered, |them| match them[..] {
            [] => "nobody".to_owned(),
            _ => {
                let them: Vec<String> = them.iter().map(Place::to_string).collect();
                them.join(", then ")
            }
        })
    }

    pub(super) fn finally(&self) -> String {
        each(&self.finally, |it| match it {
            None => "the guest is gone".to_owned(),
            some => standing(*some),
        })
    }

    /// The longest time without a reply.
    pub(super) fn silence(&self) -> String {
        match (self.gone, self.cut_off) {
            (true, _) => "for ever".to_owned(),
            (false, true) => format!("{}, until healed", seconds(self.silence)),
            (false, false) => seconds(self.silence),
        }
    }

    pub(super) fn unprotected(&self) -> String {
        match self.gone {
            true => "for ever".to_owned(),
            false => some_seconds(self.unprotected),
        }
    }

    /// How long after the healing the guest was protected again, if it was not before.
    pub(super) fn again(&self) -> String {
        match self.gone {
            true => "never".to_owned(),
            false => some_seconds(self.again),
        }
    }
}

fn each<T>(all: &BTreeSet<T>, told: impl Fn(&T) -> String) -> String {
    all.iter().map(told).collect::<Vec<_>>().join(" or ")
}

fn standing(standing: Option<Standing>) -> String {
    match standing {
        None => "nobody".to_owned(),
        Some(Standing { on, backup: None }) => format!("{on}, alone"),
        Some(Standing {
            on,
            backup: Some(backup),
        }) => format!("{on}, with {backup}"),
    }
}

/// Seconds with one digit, rounded up.
pub(super) fn seconds(time: Duration) -> String {
    let tenths = time.as_millis().div_ceil(100);
    format!("{}.{} s", tenths / 10, tenths % 10)
}

fn some_seconds(time: Duration) -> String {
    match time.is_zero() {
        true => "–".to_owned(),
        false => seconds(time),
    }
}
