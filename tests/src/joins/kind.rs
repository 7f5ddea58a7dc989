//! What joins are cut off by.

use std::fmt;

use fastrand::Rng;
use serde::Serialize;

/// What happens in the middle of a join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The process that joins is killed.
    TargetKilled,
    /// Its host has no memory for it any more, and kills it.
    TargetOutOfMemory,
    /// Its host dies.
    TargetHostKilled,
    /// The logging network between the two is cut, for a while that may be too short to matter.
    LinkCut,
    /// Nothing that the one which joins sends there arrives.
    LinkCutFromTarget,
    /// Nothing that it is sent arrives.
    LinkCutToTarget,
    /// The disk server is killed, and is away for a while.
    DiskServerGone,
    /// The disk server is killed and started again at once.
    DiskServerRestarted,
    /// The process that runs the guest is killed.
    SourceKilled,
    /// Its host dies.
    SourceHostKilled,
}

impl Kind {
    /// One of each sort, each at so many percent. The last one may end the guest.
    pub const SHARE: [(f64, Self); 6] = [
        (60.0, Self::TargetKilled),
        (10.0, Self::LinkCutFromTarget),
        (30.0, Self::DiskServerRestarted),
        (80.0, Self::TargetOutOfMemory),
        (50.0, Self::LinkCut),
        (0.0, Self::SourceKilled),
    ];

    const ALL: [Self; 10] = [
        Self::TargetKilled,
        Self::TargetOutOfMemory,
        Self::TargetHostKilled,
        Self::LinkCut,
        Self::LinkCutFromTarget,
        Self::LinkCutToTarget,
        Self::DiskServerGone,
        Self::DiskServerRestarted,
        Self::SourceKilled,
        Self::SourceHostKilled,
    ];

    /// One of each kind in an order of this seed; those that may end the guest last.
    #[must_use]
    pub fn all(seed: u64) -> Vec<Self> {
        let mut kinds = Self::ALL.to_vec();
        Rng::with_seed(seed).shuffle(&mut kinds);
        kinds.sort_by_key(|kind| kind.is_of_source());
        kinds
    }

    /// Whether it is the only copy of the guest that dies.
    #[must_use]
    pub fn is_of_source(self) -> bool {
        matches!(self, Self::SourceKilled | Self::SourceHostKilled)
    }

    /// Whether it is the copy that joins.
    pub(super) fn is_of_target(self) -> bool {
        matches!(
            self,
            Self::TargetKilled | Self::TargetOutOfMemory | Self::TargetHostKilled
        )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::TargetKilled => "target killed",
            Self::TargetOutOfMemory => "target out of memory",
            Self::TargetHostKilled => "target's host killed",
            Self::LinkCut => "link cut both ways",
            Self::LinkCutFromTarget => "link cut from the target",
            Self::LinkCutToTarget => "link cut to the target",
            Self::DiskServerGone => "disk server gone",
            Self::DiskServerRestarted => "disk server restarted",
            Self::SourceKilled => "source killed",
            Self::SourceHostKilled => "source's host killed",
        })
    }
}

/// What a cut came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The guest goes on alone where it ran, and the one that joined is discarded.
    Discarded,
    /// The join was complete in spite of it, or before it.
    Protected,
    /// It was complete, the backup was lost, and the guest goes on alone where it ran.
    BackupLost,
    /// It was complete, and the guest goes on on the host that had joined.
    TookOver,
    /// The only copy of the guest is gone, and the one that joined never ran it.
    Gone,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Discarded => "discarded",
            Self::Protected => "protected",
            Self::BackupLost => "protected, and lost",
            Self::TookOver => "protected, and took over",
            Self::Gone => "the guest is gone",
        })
    }
}

/// When a join is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// When so large a part has passed of the time that an undisturbed join takes, from the start of the
    /// process that joins.
    Part(f64),
    /// When the source has told of that join that it is so far, in percent.
    Told(f64),
}

impl Moment {
    /// Some come when the join is complete.
    const LATEST: f64 = 1.1;

    /// Any.
    #[must_use]
    pub fn any(random: &mut Rng) -> Self {
        Self::Part(Self::LATEST * random.f64())
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Part(part) => write!(f, "at {part:.2} of its time"),
            Self::Told(percent) => write!(f, "at {percent:.0} %"),
        }
    }
}

/// A join that was cut off, or was to be.
#[derive(Debug, Clone, Serialize)]
pub struct Cut {
    /// By what.
    pub kind: Kind,
    /// When that was to be.
    pub moment: Moment,
    /// How far it was then: percent of memory that had been gone through in the present round, as the
    /// source had told last; none if it had not told of that join.
    pub percent: Option<f64>,
    /// What came of it.
    pub outcome: Outcome,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} (", self.kind, self.moment)?;
        match self.percent {
            Some(percent) => write!(f, "{percent:.0} %")?,
            None => f.write_str("not begun")?,
        }
        write!(f, "): {}", self.outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_turn_and_the_guest_ends_last() {
        let kinds = Kind::all(7);
        assert_ne!(kinds, Kind::all(8));
        assert_eq!(kinds.len(), Kind::ALL.len());
        assert!(Kind::ALL.iter().all(|kind| kinds.contains(kind)));
        assert!(kinds.is_sorted_by_key(|kind| kind.is_of_source()));
    }

    #[test]
    fn a_cut_is_told_in_a_line() {
        let mut cut = Cut {
            kind: Kind::LinkCut,
            moment: Moment::Part(0.55),
            percent: Some(27.2),
            outcome: Outcome::Discarded,
        };
        assert_eq!(
            cut.to_string(),
            "link cut both ways at 0.55 of its time (27 %): discarded"
        );
        cut.moment = Moment::Told(60.0);
        cut.percent = None;
        assert_eq!(
            cut.to_string(),
            "link cut both ways at 60 % (not begun): discarded"
        );
    }
}
