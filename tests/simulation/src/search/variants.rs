//! What is broken on purpose, and which rule that breaks.

use super::bounds::Bounds;
use crate::defect::Defect;
use crate::rule::Rule;

/// A defect that the search finds: it does not depend on how long something takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant {
    /// What is broken.
    pub defect: Defect,
    /// What that breaks first.
    pub rule: Rule,
    /// Within which bounds.
    pub bounds: Bounds,
}

const fn breaks(rule: Rule, defect: Defect, bounds: Bounds) -> Variant {
    Variant {
        defect,
        rule,
        bounds,
    }
}

use Bounds as B;
use Defect as D;
use Rule as R;

/// What makes no progress shows only when all states are known: as few as it takes.
const CALM_ENDS: Bounds = Bounds {
    kills: 0,
    cuts: 0,
    abandons: 0,
    ..B::ENDS
};

const CALM_FORCE: Bounds = Bounds {
    kills: 0,
    cuts: 0,
    ..B::FORCE
};

/// All of them.
pub const VARIANTS: [Variant; 23] = [
    breaks(R::PrimaryWasMember, D::AnybodyClaims, B::FAILOVERS),
    breaks(
        R::OutputAfterAcceptance,
        D::OutputBeforeAcknowledgement,
        B::FAILOVERS,
    ),
    breaks(
        R::OutputAfterAcceptance,
        D::EverythingMayLeaveAlone,
        B::FAILOVERS,
    ),
    breaks(
        R::OutputAfterAcceptance,
        D::NoEntryWhileContesting,
        B::FAILOVERS,
    ),
    breaks(R::LogOfOwnView, D::SessionBeforeAdmission, B::FAILOVERS),
    breaks(R::LogOfOwnView, D::AcknowledgementAfterLoss, B::FAILOVERS),
    breaks(R::OnlyPrimaryActs, D::PermitWithoutLease, B::FAILOVERS),
    breaks(R::OnlyPrimaryActs, D::LifeOfAnotherSession, B::FAILOVERS),
    breaks(R::OnlyPrimaryActs, D::AnswerBeforeWrite, B::FAILOVERS),
    breaks(R::OnlyPrimaryActs, D::FenceDoesNotWait, B::DISK),
    breaks(R::OnlyPrimaryActs, D::FenceLetsAnybodyIn, B::DISK),
    breaks(R::InputBesideTransfer, D::StateTakenEarly, B::FAILOVERS),
    breaks(
        R::InputBesideTransfer,
        D::ProtectedWithoutState,
        B::DIFFERENCES,
    ),
    breaks(
        R::InputBesideTransfer,
        D::TakenOverBeforeExecution,
        B::DIFFERENCES,
    ),
    breaks(R::NothingUndone, D::RunsOnAfterHandOver, B::HAND_OVERS),
    breaks(R::NothingUndone, D::TargetClaims, B::FAILOVERS),
    breaks(R::NothingUndone, D::ClaimBeforeReplay, B::DIFFERENCES),
    breaks(R::NothingUndone, D::DivergedClaims, B::DIFFERENCES),
    breaks(R::InputBesideTransfer, D::RenewedWithoutMemory, B::COLD),
    breaks(R::Progress, D::LookOlderThanClaim, CALM_ENDS),
    breaks(R::Progress, D::EndUntold, CALM_ENDS),
    breaks(R::Progress, D::NeverLooks, CALM_FORCE),
    breaks(R::Advice, D::ProposesMembers, B::SERVICE),
];
