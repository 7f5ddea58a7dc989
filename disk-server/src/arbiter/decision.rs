//! The decision itself: a pure function, so that it can be tested to exhaustion.

use serde::{Deserialize, Serialize};

use super::names::Claimant;

/// The highest epoch: the largest integer that every JSON reader keeps exact. At one failover a
/// second it lasts 285 million years.
pub const MAX_EPOCH: u64 = (1 << 53) - 1;

/// The claimant that stands for nobody: a virtual machine that ended in order.
pub const STOPPED: &str = "stopped";

/// What the arbiter knows of one virtual machine: its *view*, whose number is the epoch. Who is primary
/// holds it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Record {
    /// The current epoch. When nobody ever claimed: 0, or the highest one of the machines that were
    /// forgotten.
    pub epoch: u64,
    /// Who won the current epoch; `None` exactly when nobody ever claimed.
    pub holder: Option<Claimant>,
    /// Whom the holder took as its backup with this epoch.
    #[serde(default)]
    pub backup: Option<Claimant>,
    /// The holder has said that its backup has taken over the guest's state: from then on that one may
    /// claim the next epoch. `false` where there is no backup.
    #[serde(default)]
    pub acknowledged: bool,
}

impl Record {
    /// That somebody won an epoch, and has no backup.
    #[must_use]
    pub fn held(epoch: u64, holder: Claimant) -> Self {
        Self {
            epoch,
            holder: Some(holder),
            ..Self::default()
        }
    }

    /// Whether nobody runs the machine, which ended in order.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.holder.as_ref().is_some_and(Claimant::is_stopped)
    }

    /// Whether it is what `request` asks for.
    fn is_granted(&self, request: &ClaimRequest) -> bool {
        let wanted = request.wanted();
        self.epoch == wanted.epoch && self.holder == wanted.holder && self.backup == wanted.backup
    }

    /// Whether somebody belongs to this view: its primary, or the backup that has taken over. The
    /// primary of the next view is one of the two.
    fn has_member(&self, claimant: &Claimant) -> bool {
        let is = |member: &Option<Claimant>| member.as_ref() == Some(claimant);
        is(&self.holder) || self.acknowledged && is(&self.backup)
    }
}

impl Claimant {
    /// Whether it stands for nobody.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.as_str() == STOPPED
    }
}

/// What a claimant wants the next epoch for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Next {
    /// To start the machine, which runs nowhere as far as the claimant knows. No view is its predecessor.
    Start,
    /// To run it alone.
    Alone,
    /// To run it with a backup, which has not got its state.
    With(Claimant),
    /// For nobody: it ended in order.
    Stopped,
}

/// A request to move the epoch from `expected` to `expected + 1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRequest {
    /// The epoch that the claimant lived in. Below [`MAX_EPOCH`].
    pub expected: u64,
    /// Who asks.
    pub claimant: Claimant,
    /// For what.
    pub next: Next,
}

impl ClaimRequest {
    /// Who is to hold the epoch.
    #[must_use]
    pub fn holder(&self) -> Claimant {
        match self.next {
            Next::Start | Next::Alone | Next::With(_) => self.claimant.clone(),
            Next::Stopped => STOPPED.parse().expect("the word is a valid claimant"),
        }
    }

    /// The record that it asks for.
    fn wanted(&self) -> Record {
        let backup = match &self.next {
            Next::With(backup) => Some(backup.clone()),
            _ => None,
        };
        Record {
            backup,
            ..Record::held(self.expected.saturating_add(1), self.holder())
        }
    }
}

/// What the arbiter answers to a [`ClaimRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The claimant holds `epoch`, which is the one that it expected plus one.
    Won {
        /// The epoch won.
        epoch: u64,
    },
    /// The epoch is not the expected one, and the claimant does not hold the next one. Or it is, and
    /// the claimant does not belong to its view.
    Lost {
        /// The current epoch.
        epoch: u64,
        /// Who holds it.
        holder: Option<Claimant>,
    },
}

/// Decides a request: the answer, and the new record where there is one. The new record must be on
/// stable storage before the answer is given.
///
/// Only the primary of the current view, and its backup once that has taken over, can have the next one;
/// except that a machine may be started.
///
/// A claimant that repeats a claim it has won gets the same answer again: it may never have seen
/// the first one. Once the epoch moved on, the same request loses, as it must.
#[must_use]
pub fn decide(current: &Record, request: &ClaimRequest) -> (Answer, Option<Record>) {
    let Some(next) = request.expected.checked_add(1).filter(|n| *n <= MAX_EPOCH) else {
        // No epoch follows the last one. The wire format refuses such a request before it gets
        // here; without that, losing is the safe answer.
        return (lost(current), None);
    };
    if current.is_granted(request) {
        return (Answer::Won { epoch: next }, None);
    }
    let may = request.next == Next::Start || current.has_member(&request.claimant);
    if current.epoch == request.expected && may && !request.claimant.is_stopped() {
        return (Answer::Won { epoch: next }, Some(request.wanted()));
    }
    (lost(current), None)
}

/// The holder of `epoch` says that the backup of that view has taken over the guest's state. The new
/// record, if that changes anything, which must be on stable storage before it is told.
#[must_use]
pub fn acknowledge(current: &Record, epoch: u64, holder: &Claimant) -> Option<Record> {
    let due = current.epoch == epoch
        && current.holder.as_ref() == Some(holder)
        && current.backup.is_some()
        && !current.acknowledged;
    due.then(|| Record {
        acknowledged: true,
        ..current.clone()
    })
}

fn lost(current: &Record) -> Answer {
    Answer::Lost {
        epoch: current.epoch,
        holder: current.holder.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn claimant(n: usize) -> Claimant {
        format!("host{n}").parse().unwrap()
    }

    fn request(expected: u64, n: usize) -> ClaimRequest {
        asks(expected, n, Next::Start)
    }

    fn asks(expected: u64, n: usize, next: Next) -> ClaimRequest {
        ClaimRequest {
            expected,
            claimant: claimant(n),
            next,
        }
    }

    fn record(epoch: u64, n: usize) -> Record {
        Record::held(epoch, claimant(n))
    }

    #[test]
    fn the_next_primary_was_primary_or_had_taken_over() {
        let with = asks(1, 1, Next::With(claimant(2)));
        let (answer, joining) = decide(&record(1, 1), &with);
        assert_eq!(answer, Answer::Won { epoch: 2 });
        let joining = joining.unwrap();
        assert_eq!(joining.backup, Some(claimant(2)));
        assert_eq!(decide(&joining, &with).0, answer, "again");

        let lost = |record: &Record, n, next| {
            matches!(
                decide(record, &asks(2, n, next)).0,
                Answer::Lost { epoch: 2, .. }
            )
        };
        for n in [2, 3] {
            for next in [Next::Alone, Next::Stopped, Next::With(claimant(3))] {
                assert!(lost(&joining, n, next.clone()), "{n} {next:?}");
            }
        }
        assert!(!lost(&joining, 1, Next::Alone) && !lost(&joining, 1, Next::Stopped));

        for (epoch, holder) in [(1, 1), (3, 1), (2, 2), (2, 3)] {
            assert_eq!(acknowledge(&joining, epoch, &claimant(holder)), None);
        }
        let joined = acknowledge(&joining, 2, &claimant(1)).unwrap();
        assert_eq!(acknowledge(&joined, 2, &claimant(1)), None, "it is already");
        assert!(!lost(&joined, 2, Next::Alone) && !lost(&joined, 1, Next::Alone));
        assert!(lost(&joined, 3, Next::Alone));
        // Whoever goes on alone leaves the other one behind.
        let (_, alone) = decide(&joined, &asks(2, 2, Next::Alone));
        let alone = alone.unwrap();
        assert_eq!(alone, record(3, 2));
        assert_eq!(acknowledge(&alone, 3, &claimant(2)), None);
        let (answer, _) = decide(&alone, &asks(3, 1, Next::Alone));
        assert!(matches!(answer, Answer::Lost { epoch: 3, .. }));
    }

    #[test]
    fn a_backup_of_an_older_view_is_refused_with_the_number_of_the_present_one() {
        // Host 2 was the backup of view 2, slept, and host 3 took its place in view 4.
        let present = Record {
            backup: Some(claimant(3)),
            acknowledged: true,
            ..record(4, 1)
        };
        for (expected, next) in [(2, Next::Alone), (3, Next::Alone), (4, Next::Alone)] {
            let (answer, new) = decide(&present, &asks(expected, 2, next));
            let holder = Some(claimant(1));
            assert_eq!(answer, Answer::Lost { epoch: 4, holder });
            assert_eq!(new, None);
        }
        assert_eq!(acknowledge(&present, 2, &claimant(1)), None);
    }

    #[test]
    fn nobody_claims_for_himself_in_the_name_of_nobody() {
        let claimant: Claimant = STOPPED.parse().unwrap();
        let stopped = Record::held(4, claimant.clone());
        let request = ClaimRequest {
            expected: 4,
            claimant,
            next: Next::Alone,
        };
        assert!(matches!(decide(&stopped, &request).0, Answer::Lost { .. }));
    }

    #[test]
    fn the_first_claim_wins_and_the_second_loses() {
        let (answer, new) = decide(&Record::default(), &request(0, 1));
        assert_eq!(answer, Answer::Won { epoch: 1 });
        assert_eq!(new, Some(record(1, 1)));
        let (answer, new) = decide(&record(1, 1), &request(0, 2));
        let holder = Some(claimant(1));
        assert_eq!(answer, Answer::Lost { epoch: 1, holder });
        assert_eq!(new, None);
    }

    #[test]
    fn a_repeated_claim_wins_again_and_changes_nothing() {
        let (answer, new) = decide(&record(1, 1), &request(0, 1));
        assert_eq!(answer, Answer::Won { epoch: 1 });
        assert_eq!(new, None);
    }

    #[test]
    fn a_repeated_claim_loses_once_the_epoch_moved_on() {
        let (answer, new) = decide(&record(2, 2), &request(0, 1));
        assert!(matches!(answer, Answer::Lost { epoch: 2, .. }));
        assert_eq!(new, None);
    }

    #[test]
    fn an_epoch_of_the_future_loses() {
        let (answer, new) = decide(&Record::default(), &request(7, 1));
        assert_eq!(
            answer,
            Answer::Lost {
                epoch: 0,
                holder: None
            }
        );
        assert_eq!(new, None);
    }

    #[test]
    fn nothing_follows_the_last_epoch() {
        for expected in [MAX_EPOCH, u64::MAX] {
            let (answer, new) = decide(&record(expected, 1), &request(expected, 1));
            assert!(matches!(answer, Answer::Lost { .. }));
            assert_eq!(new, None);
        }
        let (answer, _) = decide(&record(MAX_EPOCH - 1, 1), &request(MAX_EPOCH - 1, 2));
        assert_eq!(answer, Answer::Won { epoch: MAX_EPOCH });
    }

    /// One step of the model: a claimant sends a claim. Its request may be delivered any number of
    /// times (a retry after a lost answer), and each answer may be lost.
    #[derive(Debug, Clone)]
    struct Step {
        who: usize,
        /// Where the claimant's idea of the epoch comes from.
        idea: Idea,
        next: Next,
        /// The holder says first that its backup has taken over.
        acknowledges: bool,
        deliveries: usize,
        answer_arrives: bool,
    }

    #[derive(Debug, Clone, Copy)]
    enum Idea {
        /// It asks for the epoch after the last one that it heard of.
        Own,
        /// It sends its previous request once more: a packet held back in the network.
        Stale,
        /// It asks for the epoch after an arbitrary one.
        Wild(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let idea = prop_oneof![
            4 => Just(Idea::Own),
            2 => Just(Idea::Stale),
            1 => (0..12_u64).prop_map(Idea::Wild),
        ];
        let next = prop_oneof![
            1 => Just(Next::Start),
            3 => Just(Next::Alone),
            4 => (0..4_usize).prop_map(|n| Next::With(claimant(n))),
        ];
        let coins = (any::<bool>(), any::<bool>());
        (0..4_usize, idea, next, 1..4_usize, coins).prop_map(
            |(who, idea, next, deliveries, (acknowledges, answer_arrives))| Step {
                who,
                idea,
                next,
                acknowledges,
                deliveries,
                answer_arrives,
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn one_winner_an_epoch_and_no_way_back(steps in prop::collection::vec(step(), 1..120)) {
            let mut current = Record::default();
            let mut heard = [0_u64; 4];
            let mut last: [Option<ClaimRequest>; 4] = [None, None, None, None];
            let mut winners: BTreeMap<u64, Claimant> = BTreeMap::new();
            for step in steps {
                let stale = last[step.who].clone();
                let expected = match step.idea {
                    Idea::Wild(expected) => expected,
                    Idea::Own | Idea::Stale => heard[step.who],
                };
                let claim = match (step.idea, stale) {
                    (Idea::Stale, Some(stale)) => stale,
                    _ => asks(expected, step.who, step.next),
                };
                if step.acknowledges
                    && let Some(holder) = current.holder.clone()
                    && let Some(new) = acknowledge(&current, current.epoch, &holder)
                {
                    current = new;
                }
                last[step.who] = Some(claim.clone());
                let mut first_answer = None;
                for _ in 0..step.deliveries {
                    let before = current.clone();
                    let (answer, new) = decide(&current, &claim);
                    if let Some(new) = new {
                        prop_assert_eq!(new.epoch, before.epoch + 1, "an epoch moves on by one");
                        prop_assert_eq!(new.holder.as_ref(), Some(&claim.claimant));
                        let was = |member: &Option<Claimant>| *member == new.holder;
                        prop_assert!(
                            claim.next == Next::Start
                                || was(&before.holder)
                                || was(&before.backup) && before.acknowledged,
                            "the primary of a view was in the one before"
                        );
                        prop_assert!(!new.acknowledged);
                        current = new;
                    }
                    match &answer {
                        Answer::Won { epoch } => {
                            prop_assert_eq!(*epoch, claim.expected + 1);
                            prop_assert_eq!(current.epoch, *epoch, "a win is the current epoch");
                            let winner = winners.entry(*epoch).or_insert(claim.claimant.clone());
                            prop_assert_eq!(&*winner, &claim.claimant, "two winners");
                        }
                        Answer::Lost { epoch, holder } => {
                            prop_assert_eq!(&before, &current, "a loss changes nothing");
                            prop_assert_eq!(*epoch, current.epoch);
                            prop_assert_eq!(holder, &current.holder);
                        }
                    }
                    let first = first_answer.get_or_insert(answer.clone());
                    prop_assert_eq!(&*first, &answer, "a retry gets the same answer");
                    if step.answer_arrives {
                        let (Answer::Won { epoch } | Answer::Lost { epoch, .. }) = answer;
                        heard[step.who] = epoch;
                    }
                }
                prop_assert_eq!(current.epoch, winners.len() as u64, "every epoch was won once");
            }
        }
    }
}
