//! How a guest stands on its hosts, as they tell.

use std::time::Instant;

use crate::pair::{Side, Told};

/// What an `ftvm` does with the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// It waits to be a backup, or joins.
    Waits,
    /// It protects the guest.
    Follows,
    /// It runs the guest, alone.
    Alone,
    /// It runs the guest, which has a backup.
    Protected,
    /// It lost the other one, and does not know who goes on.
    Contests,
}

/// What a process does that was started as a primary, or as a backup, and has told this.
pub(super) fn part(is_primary: bool, told: &Told) -> Part {
    let start = if is_primary { Part::Alone } else { Part::Waits };
    let kinds = told
        .events
        .iter()
        .filter_map(|event| event["event"].as_str());
    kinds.fold(start, |part, kind| match (kind, part) {
        ("joined", _) => Part::Follows,
        ("protected", _) => Part::Protected,
        ("live", _) => Part::Alone,
        ("peer-lost", Part::Follows | Part::Protected) => Part::Contests,
        (_, same) => same,
    })
}

/// An `ftvm` on a host.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) side: Side,
    /// It was started as the primary.
    pub(super) is_primary: bool,
}

impl Process {
    /// What it does, unless it has ended.
    pub(super) fn part(&mut self) -> Option<Part> {
        let part = part(self.is_primary, self.side.told());
        (!self.side.has_ended()).then_some(part)
    }

    /// When it told last that the guest is protected.
    pub(super) fn protected_at(&mut self) -> Option<Instant> {
        let protected = self.side.told().after(0, "protected");
        protected.map(|(at, _)| at).last()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_process_does_follows_from_what_it_told() {
        let told = |kinds: &[&str]| {
            let mut told = Told::default();
            for kind in kinds {
                told.take(json!({ "event": kind }), Instant::now());
            }
            told
        };
        assert_eq!(part(true, &told(&["role"])), Part::Alone);
        assert_eq!(
            part(true, &told(&["joining", "protected"])),
            Part::Protected
        );
        assert_eq!(
            part(true, &told(&["protected", "peer-lost"])),
            Part::Contests
        );
        let live = ["protected", "peer-lost", "waiting", "live"];
        assert_eq!(part(true, &told(&live)), Part::Alone);
        assert_eq!(part(false, &told(&["role"])), Part::Waits);
        let backup = ["joined", "peer-lost", "live", "joining", "protected"];
        assert_eq!(part(false, &told(&backup[..1])), Part::Follows);
        assert_eq!(part(false, &told(&backup[..2])), Part::Contests);
        assert_eq!(part(false, &told(&backup)), Part::Protected);
    }
}
