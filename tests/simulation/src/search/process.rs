//! A run of `ftvm`, and what it is made of.

use std::sync::LazyLock;

use disk_server::arbiter::{Claimant, Record};
use disk_server::views::Proposal;
use ftvm_vmm::protocol::epoch::{Core, Input, Task};
use ftvm_vmm::protocol::follower::Follower;
use ftvm_vmm::protocol::live::Live;
use ftvm_vmm::protocol::outputs::HeldOutputs;
use logging_channel::entry::Lsn;
use logging_channel::protocol::Permit;

/// The number of a run, of all hosts. On which host one is makes no difference: a host without a run
/// remembers nothing.
pub(super) type Run = u8;

/// What the guest has lived through: for each request that it counted, the run in which it did.
pub(super) type Guest = Vec<Run>;

/// What comes over the log's connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Entry {
    /// The whole state.
    State(Guest),
    /// The end of the whole state anew, whose memory comes beside the log.
    Renewed(Guest),
    Protected,
    /// A request: which, and in which run.
    Counted(usize, Run),
    /// The guest has ended.
    Shutdown,
    /// So has the log. No entry of it.
    Goodbye,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Process {
    pub(super) run: Run,
    pub(super) role: Role,
    pub(super) owner: Option<Owner>,
    /// How it ends, once it does.
    pub(super) closing: Option<Closing>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Closing {
    InOrder,
    GivesUp,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Role {
    /// It waits to be proposed, or is to try this.
    Idle(Option<Proposal>),
    /// It wants to join the guest of this run, which has let it in so far as to ask for the next view, or
    /// not.
    Waits {
        of: Run,
        is_let_in: bool,
    },
    Follows(Follows),
    Runs(Runs),
}

/// The owner of an epoch, and its question to the disk server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Owner {
    pub(super) core: Core,
    /// What has happened, and waits for the answer to a claim.
    pub(super) inbox: Vec<Input>,
    pub(super) asked: Option<Task>,
    /// On its way.
    pub(super) answer: Option<Input>,
    /// What the record was when it was looked at; on its way.
    pub(super) look: Option<Record>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Follows {
    pub(super) follower: Follower,
    pub(super) guest: Guest,
    /// Whose log it is, of which view.
    pub(super) of: Run,
    pub(super) view: u64,
    /// What was sent and has not come.
    pub(super) log: Vec<Entry>,
    /// What has come and is not executed.
    pub(super) queue: Vec<Entry>,
    /// It had the whole state once.
    pub(super) has_state: bool,
    pub(super) received: u64,
    /// The two may not hear each other any more.
    pub(super) silent: bool,
    /// Its log has ended.
    pub(super) over: bool,
    /// It executes nothing until its primary is lost.
    pub(super) cold: bool,
    /// The memory of a state anew has come.
    pub(super) memory: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Runs {
    pub(super) live: Live,
    pub(super) guest: Guest,
    /// The guest has ended in order.
    pub(super) ended: bool,
    /// Replies that have not left: how much was counted then.
    pub(super) held: HeldOutputs<usize>,
    /// What a thread has decided to let out.
    pub(super) decided: Option<Permit>,
    pub(super) session: Option<Session>,
}

/// What a backup says, all of it each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Report {
    pub(super) received: u64,
    pub(super) executed: u64,
    /// It cannot go on without the whole state.
    pub(super) needs_state: bool,
    /// It wants it anew.
    pub(super) renew: bool,
}

/// The session with a backup, as the primary has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Session {
    pub(super) with: Run,
    pub(super) view: u64,
    /// What was heard last, and what there is to hear.
    pub(super) heard: Report,
    pub(super) coming: Report,
    pub(super) lost: bool,
    /// The backup cannot have taken this host for lost.
    pub(super) lease: bool,
    /// The state is to be sent.
    pub(super) transfer: bool,
    /// How much was counted when the session began, when it began to protect the guest, and of what the
    /// backup has accepted.
    pub(super) began: usize,
    pub(super) protects: Option<usize>,
    pub(super) accepted: usize,
}

impl Owner {
    pub(super) fn new(core: Core) -> Self {
        Self {
            core,
            inbox: Vec::new(),
            asked: None,
            answer: None,
            look: None,
        }
    }

    /// Whether the answer to a claim is waited for.
    pub(super) fn claims(&self) -> bool {
        matches!(self.asked, Some(Task::Claim { .. }))
    }
}

impl Process {
    pub(super) fn new(run: Run, role: Role) -> Self {
        Self {
            run,
            role,
            owner: None,
            closing: None,
        }
    }

    /// Whether it is the one with which this run asks for the next view.
    pub(super) fn is_let_in_by(&self, run: Run) -> bool {
        matches!(self.role, Role::Waits { of, is_let_in: true } if of == run)
    }

    pub(super) fn runs(&self) -> Option<&Runs> {
        match &self.role {
            Role::Runs(it) => Some(it),
            Role::Idle(_) | Role::Waits { .. } | Role::Follows(_) => None,
        }
    }

    pub(super) fn follows(&self) -> Option<&Follows> {
        match &self.role {
            Role::Follows(it) => Some(it),
            Role::Idle(_) | Role::Waits { .. } | Role::Runs(_) => None,
        }
    }

    /// Whether the guest goes on as long as this process does.
    pub(super) fn is_copy(&self) -> bool {
        self.closing.is_none()
            && match &self.role {
                Role::Runs(_) => true,
                Role::Follows(it) => {
                    it.follower.is_protecting() && (it.cold || it.follower.executes())
                }
                Role::Idle(_) | Role::Waits { .. } => false,
            }
    }
}

impl Runs {
    pub(super) fn alone(guest: Guest) -> Self {
        // What the lost one may not have let out.
        let mut held = HeldOutputs::default();
        if !guest.is_empty() {
            held.hold(Lsn(0), guest.len());
        }
        Self {
            live: Live::alone(Lsn(0)),
            guest,
            ended: false,
            held,
            decided: None,
            session: None,
        }
    }

    /// The session, while its backup is there.
    pub(super) fn session(&self) -> Option<&Session> {
        self.session.as_ref().filter(|it| !it.lost)
    }
}

impl Session {
    pub(super) fn new(with: Run, view: u64, began: usize) -> Self {
        Self {
            with,
            view,
            heard: Report::default(),
            coming: Report::default(),
            lost: false,
            lease: true,
            transfer: true,
            began,
            protects: None,
            accepted: 0,
        }
    }
}

/// More than there ever are.
const RUNS: Run = 16;

/// Who a run is to the disk server.
pub(super) fn claimant(run: Run) -> Claimant {
    static NAMES: LazyLock<Vec<Claimant>> = LazyLock::new(|| {
        let name = |run| format!("run/{run}").parse().expect("a claimant");
        (0..RUNS).map(name).collect()
    });
    NAMES[usize::from(run)].clone()
}
