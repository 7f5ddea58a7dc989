//! A host's pings: the product's own, and what is on its way.

use disk_server::arbiter::{Record, VmName};
use disk_server::views::{Capabilities, Cause, Paging, Ping, Proposal, Role as Does, Text};
use ftvm_vmm::protocol::pings::Pings;

use super::process::{Run, claimant};

/// Pings the view service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Pinger {
    pings: Pings,
    /// The last one.
    last: Option<Ping>,
    /// Its answer, on its way.
    answer: Option<(Record, Option<Proposal>)>,
}

pub(super) fn vm() -> VmName {
    "db".parse().expect("a name")
}

/// What every host can carry, and the guest needs.
pub(super) fn capabilities() -> Capabilities {
    Capabilities {
        memory_mib: 1024,
        processor: Text::cut("one"),
        instructions: 1,
        paging: Paging::Shadow,
        exports: std::iter::empty().collect(),
    }
}

impl Pinger {
    pub(super) fn new(run: Run) -> Self {
        Self {
            pings: Pings::new(claimant(run)),
            last: None,
            answer: None,
        }
    }

    /// What an idle host says.
    pub(super) fn idle(&self) -> Does {
        self.pings.idle(vm())
    }

    /// Whether it has said this last.
    pub(super) fn has_said(&self, role: &Does) -> bool {
        self.last.as_ref().is_some_and(|it| it.role == *role)
    }

    /// The next ping. No answer to an earlier one is waited for any more.
    pub(super) fn ping(&mut self, role: Does) -> Ping {
        let ping = self.pings.next(capabilities(), role);
        (self.last, self.answer) = (Some(ping.clone()), None);
        ping
    }

    /// The service answers the last one. Forgets it where it is no news.
    pub(super) fn answer(&mut self, record: Record, proposal: Option<Proposal>) {
        let before = self.clone();
        self.answer = Some((record, proposal));
        let mut after = self.clone();
        after.hear();
        if after == before {
            *self = before;
        }
    }

    pub(super) fn is_answered(&self) -> bool {
        self.answer.is_some()
    }

    /// The answer comes: what is to be tried now.
    pub(super) fn hear(&mut self) -> Option<Proposal> {
        let (record, proposal) = self.answer.take()?;
        self.pings.answered(self.last.as_ref()?, &record, proposal)
    }

    /// What was tried came to nothing.
    pub(super) fn decline(&mut self) {
        self.pings.decline(Cause::Other, "it was not taken");
    }
}
