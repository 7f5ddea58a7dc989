//! What is broken on purpose.

/// A defect that is put into what drives the machines, to see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Defect {
    /// Outputs do not wait for their acknowledgement.
    OutputBeforeAcknowledgement,
    /// An acknowledged output leaves however long ago the backup was heard.
    PermitWithoutLease,
    /// An acknowledged output leaves for as much longer as the network takes there and back.
    PermitForARoundTripMore,
    /// What is decided while the guest is alone lets out all that comes later.
    EverythingMayLeaveAlone,
    /// Outputs have no entry to wait for as soon as the backup is lost.
    NoEntryWhileContesting,
    /// A backup protects the guest that could not use the state, and has said so.
    ProtectedWithoutState,
    /// A backup claims as soon as it lost its primary.
    ClaimBeforeReplay,
    /// A backup that does not protect the guest yet claims.
    TargetClaims,
    /// A backup that differs claims.
    DivergedClaims,
    /// A backup acknowledges after it took its primary for lost.
    AcknowledgementAfterLoss,
    /// A cold backup gives its log away for a state whose memory has not come.
    RenewedWithoutMemory,
    /// The disk server gives the next epoch to whoever asks for it, and a backup that does not protect the
    /// guest does.
    AnybodyClaims,
    /// A claim is answered while writes of an earlier epoch are under way.
    FenceDoesNotWait,
    /// Whoever has opened the disk writes it.
    FenceLetsAnybodyIn,
    /// A host that goes live does not issue again what its guest waits for.
    InFlightForgotten,
    /// What was answered and not flushed is not made again after the disk server's power cut.
    UnflushedForgotten,
    /// A host that goes live does not know what was answered and not flushed.
    UnflushedLeftBehind,
    /// What a backup reads itself is not held for it.
    ReadsNotHeld,
    /// A flush is answered before it is done.
    FlushAnsweredEarly,
    /// The disk server answers before it has written its decision. Its store is files and no machine: what is
    /// left out is the write that stands for it in the search.
    AnswerBeforeWrite,
    /// A primary begins a session before the disk server has given it the next view with that backup.
    SessionBeforeAdmission,
    /// A primary takes a state for taken over that its backup has received.
    TakenOverBeforeExecution,
    /// The state that a backup gets is that of the moment at which its session began. What takes a guest's
    /// state is no machine either, as it is made of the guest's memory: the transfers that stand for it leave
    /// out what was written since.
    StateTakenEarly,
    /// A look at the record is heard after a claim that was made since.
    LookOlderThanClaim,
    /// No host looks at the record by itself.
    NeverLooks,
    /// Nobody tells the disk server of the guest's end.
    EndUntold,
    /// A primary takes what comes of an earlier session for a sign of life of its backup. A choice of the
    /// search: [`Pulse`](logging_channel::protocol::Pulse), which knows the heartbeats of its session by their
    /// number, lives by a clock. In schedules it can be given those of all sessions, and 10,000 of them find
    /// nothing: what an earlier backup echoes would have to be the number of a heartbeat just sent.
    LifeOfAnotherSession,
    /// A primary that has handed its guest over runs on alone, without a claim.
    RunsOnAfterHandOver,
    /// The view service does not know who has taken over: the record with which it is asked leaves that out.
    /// Only the search has pings of members that come so late that they say they are idle.
    ProposesMembers,
}

impl Defect {
    /// Those that schedules find. The search has [`VARIANTS`](crate::VARIANTS).
    pub const ALL: [Self; 21] = [
        Self::OutputBeforeAcknowledgement,
        Self::PermitWithoutLease,
        Self::PermitForARoundTripMore,
        Self::EverythingMayLeaveAlone,
        Self::NoEntryWhileContesting,
        Self::ProtectedWithoutState,
        Self::ClaimBeforeReplay,
        Self::TargetClaims,
        Self::DivergedClaims,
        Self::AcknowledgementAfterLoss,
        Self::RenewedWithoutMemory,
        Self::AnybodyClaims,
        Self::FenceDoesNotWait,
        Self::FenceLetsAnybodyIn,
        Self::InFlightForgotten,
        Self::UnflushedForgotten,
        Self::UnflushedLeftBehind,
        Self::ReadsNotHeld,
        Self::FlushAnsweredEarly,
        Self::SessionBeforeAdmission,
        Self::StateTakenEarly,
    ];
}
