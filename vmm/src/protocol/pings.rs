//! What a host tells the view service, and what an idle one makes of the answers.
//!
//! ```text
//!            proposed, for the record's view
//!   waiting ────────────────────────────────▶ trying ──its session begins──▶ a backup
//!      ▲                                         │
//!      └──────refused, or not reached: declined──┘
//! ```

use disk_server::arbiter::{Claimant, Record, VmName};
use disk_server::views::{Capabilities, Cause, Declined, Ping, Proposal, Role, Text};

/// The pings of one host.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pings {
    me: Claimant,
    /// Of the last one.
    number: u64,
    trying: Option<Proposal>,
    /// To be told until there is an answer.
    declined: Option<Declined>,
}

impl Pings {
    /// Of a host that has not pinged yet.
    #[must_use]
    pub fn new(me: Claimant) -> Self {
        Self {
            me,
            number: 0,
            trying: None,
            declined: None,
        }
    }

    /// What an idle host is, that waits to be the backup of `vm` or tries to be.
    #[must_use]
    pub fn idle(&self, vm: VmName) -> Role {
        Role::Idle {
            vm,
            declined: self.declined.clone(),
        }
    }

    /// The next ping.
    pub fn next(&mut self, carries: Capabilities, role: Role) -> Ping {
        self.number += 1;
        Ping {
            host: self.me.clone(),
            number: self.number,
            carries,
            role,
        }
    }

    /// The answer to `ping`: the record of its guest, and what is proposed. Gives what is to be tried now.
    /// An answer to an earlier ping, and a proposal for a view that is over, change nothing.
    pub fn answered(
        &mut self,
        ping: &Ping,
        record: &Record,
        proposal: Option<Proposal>,
    ) -> Option<Proposal> {
        if ping.number != self.number {
            return None;
        }
        if let Role::Idle { declined, .. } = &ping.role
            && self.declined == *declined
        {
            self.declined = None;
        }
        let current = |proposal: &Proposal| {
            proposal.view == record.epoch && record.holder.as_ref() == Some(&proposal.primary)
        };
        let proposal = proposal.filter(current)?;
        if self.trying.is_some() || !matches!(ping.role, Role::Idle { .. }) {
            return None;
        }
        self.trying = Some(proposal.clone());
        Some(proposal)
    }

    /// What is being tried came to nothing, for this reason.
    pub fn decline(&mut self, cause: Cause, reason: &str) {
        if let Some(proposal) = self.trying.take() {
            self.declined = Some(Declined {
                view: proposal.view,
                cause,
                reason: Text::cut(reason),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use disk_server::views::Paging;

    use super::*;

    fn carries() -> Capabilities {
        Capabilities {
            memory_mib: 1024,
            processor: Text::cut("a processor"),
            instructions: 1,
            paging: Paging::Shadow,
            exports: BTreeSet::new(),
        }
    }

    fn record(epoch: u64, holder: &str) -> Record {
        Record::held(epoch, holder.parse().expect("a claimant"))
    }

    fn proposal(view: u64) -> Proposal {
        Proposal {
            vm: "db".parse().expect("a name"),
            view,
            primary: "hosta/1".parse().expect("a claimant"),
            address: "10.0.0.1:7421".parse().expect("an address"),
        }
    }

    fn next(pings: &mut Pings) -> Ping {
        let role = pings.idle("db".parse().expect("a name"));
        pings.next(carries(), role)
    }

    #[test]
    fn a_proposal_is_tried_once_until_it_is_declined() {
        let mut pings = Pings::new("hostb/1".parse().expect("a claimant"));
        let record = record(4, "hosta/1");
        let first = next(&mut pings);
        assert_eq!(pings.answered(&first, &record, None), None);
        let second = next(&mut pings);
        assert!(second.number > first.number);
        let tried = pings.answered(&second, &record, Some(proposal(4)));
        assert_eq!(tried, Some(proposal(4)));
        let again = next(&mut pings);
        let answer = Some(proposal(4));
        assert_eq!(pings.answered(&again, &record, answer.clone()), None);
        pings.decline(Cause::Other, "it has a backup");
        let declining = next(&mut pings);
        let Role::Idle { declined, .. } = &declining.role else {
            panic!("another role");
        };
        let declined = declined.clone().expect("it is told");
        assert_eq!(declined.view, 4);
        assert_eq!(declined.reason.as_str(), "it has a backup");
        // The service has heard of it, and proposes it once more.
        assert_eq!(pings.answered(&declining, &record, answer.clone()), answer);
        let Role::Idle { declined: None, .. } = next(&mut pings).role else {
            panic!("told again");
        };
    }

    #[test]
    fn what_is_declined_is_told_until_it_is_answered() {
        let mut pings = Pings::new("hostb/1".parse().expect("a claimant"));
        let record = record(4, "hosta/1");
        let ping = next(&mut pings);
        pings.answered(&ping, &record, Some(proposal(4)));
        let before = next(&mut pings);
        pings.decline(Cause::Other, "no route");
        pings.answered(&before, &record, None);
        for _ in 0..3 {
            let Role::Idle { declined, .. } = next(&mut pings).role else {
                panic!("another role");
            };
            assert!(declined.is_some(), "no answer knows of it");
        }
    }

    #[test]
    fn an_old_answer_and_a_view_that_is_over_are_ignored() {
        let mut pings = Pings::new("hostb/1".parse().expect("a claimant"));
        let old = next(&mut pings);
        let last = next(&mut pings);
        let now = record(4, "hosta/1");
        assert_eq!(pings.answered(&old, &now, Some(proposal(4))), None);
        for later in [
            record(5, "hosta/1"),
            record(5, "hostc/1"),
            record(4, "hostc/1"),
        ] {
            assert_eq!(pings.answered(&last, &later, Some(proposal(4))), None);
        }
        assert!(pings.answered(&last, &now, Some(proposal(4))).is_some());
    }
}
