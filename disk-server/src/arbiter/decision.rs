//! The decision itself: a pure function, so that it can be tested to exhaustion.

use super::names::Claimant;

/// The highest epoch: the largest integer that every JSON reader keeps exact. At one failover a
/// second it lasts 285 million years.
pub const MAX_EPOCH: u64 = (1 << 53) - 1;

/// What the arbiter knows of one virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// The current epoch. When nobody ever claimed: 0, or the highest one of the machines that were
    /// forgotten.
    pub epoch: u64,
    /// Who won the current epoch; `None` exactly when nobody ever claimed.
    pub holder: Option<Claimant>,
}

/// A request to move the epoch from `expected` to `expected + 1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRequest {
    /// The epoch that the claimant lived in. Below [`MAX_EPOCH`].
    pub expected: u64,
    /// Who asks.
    pub claimant: Claimant,
}

/// What the arbiter answers to a [`ClaimRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The claimant holds `epoch`, which is the one that it expected plus one.
    Won {
        /// The epoch won.
        epoch: u64,
    },
    /// The epoch is not the expected one, and the claimant does not hold the next one.
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
/// A claimant that repeats a claim it has won gets the same answer again: it may never have seen
/// the first one. Once the epoch moved on, the same request loses, as it must.
#[must_use]
pub fn decide(current: &Record, request: &ClaimRequest) -> (Answer, Option<Record>) {
    let Some(next) = request.expected.checked_add(1).filter(|n| *n <= MAX_EPOCH) else {
        // No epoch follows the last one. The wire format refuses such a request before it gets
        // here; without that, losing is the safe answer.
        return (lost(current), None);
    };
    if current.epoch == request.expected {
        let record = Record {
            epoch: next,
            holder: Some(request.claimant.clone()),
        };
        return (Answer::Won { epoch: next }, Some(record));
    }
    if current.epoch == next && current.holder.as_ref() == Some(&request.claimant) {
        return (Answer::Won { epoch: next }, None);
    }
    (lost(current), None)
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
        ClaimRequest {
            expected,
            claimant: claimant(n),
        }
    }

    fn record(epoch: u64, n: usize) -> Record {
        Record {
            epoch,
            holder: Some(claimant(n)),
        }
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
        view: View,
        deliveries: usize,
        answer_arrives: bool,
    }

    #[derive(Debug, Clone, Copy)]
    enum View {
        /// It asks for the epoch after the last one that it heard of.
        Own,
        /// It sends its previous request once more: a packet held back in the network.
        Stale,
        /// It asks for the epoch after an arbitrary one.
        Wild(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let view = prop_oneof![
            4 => Just(View::Own),
            2 => Just(View::Stale),
            1 => (0..12_u64).prop_map(View::Wild),
        ];
        (0..4_usize, view, 1..4_usize, any::<bool>()).prop_map(
            |(who, view, deliveries, answer_arrives)| Step {
                who,
                view,
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
                let claim = match (step.view, stale) {
                    (View::Stale, Some(stale)) => stale,
                    (View::Wild(expected), _) => request(expected, step.who),
                    (View::Own | View::Stale, _) => request(heard[step.who], step.who),
                };
                last[step.who] = Some(claim.clone());
                let mut first_answer = None;
                for _ in 0..step.deliveries {
                    let before = current.clone();
                    let (answer, new) = decide(&current, &claim);
                    if let Some(new) = new {
                        prop_assert_eq!(new.epoch, before.epoch + 1, "an epoch moves on by one");
                        prop_assert_eq!(new.holder.as_ref(), Some(&claim.claimant));
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
