//! Medians, spreads, and ratios of pairs.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// The middle of some values and how far they lie apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The median of the distances from the median: half of the values are no farther from it.
    pub spread: f64,
    /// How many values there were.
    pub count: usize,
}

impl Summary {
    /// Of some values; none if there are none. Those that are no numbers are left out.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
        let median = median(&mut values)?;
        let mut distances: Vec<f64> = values.iter().map(|value| (value - median).abs()).collect();
        Some(Self {
            median,
            spread: self::median(&mut distances)?,
            count: values.len(),
        })
    }
}

/// The middle value, or the mean of the two in the middle. Sorts the values.
fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// The ratios of two series, round by round: what differs between rounds (the machine's other work,
/// its temperature) differs for both of a pair. Rounds that only one of them has are left out, and
/// those where the other one has nothing.
#[must_use]
pub fn ratios(of: &[(u32, f64)], to: &[(u32, f64)]) -> Option<Summary> {
    Summary::of(of.iter().filter_map(|(round, value)| {
        let (_, other) = to.iter().find(|(other, _)| other == round)?;
        (*other > 0.0).then(|| value / other)
    }))
}

/// The median of each part of a whole, which was taken apart in every round. What a round has not had
/// is none of it.
pub(super) fn medians<K: Ord + Clone>(rounds: &[BTreeMap<K, f64>]) -> BTreeMap<K, f64> {
    let parts: BTreeSet<&K> = rounds.iter().flat_map(BTreeMap::keys).collect();
    let median = |part: &K| {
        let values = rounds.iter().map(|round| round.get(part).copied());
        let summary = Summary::of(values.map(Option::unwrap_or_default))?;
        Some((part.clone(), summary.median))
    };
    parts.into_iter().filter_map(median).collect()
}

/// Counts of values, as histograms are given: `(value, how often)`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<u64, u64>);

impl Counts {
    /// Adds counts to these.
    pub fn add(&mut self, counts: impl IntoIterator<Item = (u64, u64)>) {
        for (value, count) in counts {
            *self.0.entry(value).or_default() += count;
        }
    }

    /// How many values there are.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// The smallest value that a share (0 to 1) of all values does not pass; none if there are no
    /// values.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<u64> {
        let rank = (quantile * self.total() as f64).ceil().max(1.0);
        let mut below = 0;
        self.0
            .iter()
            .find(|(_, count)| {
                below += **count;
                below as f64 >= rank
            })
            .map(|(value, _)| *value)
            .or_else(|| self.0.keys().next_back().copied())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_round_has_not_had_is_none_of_it() {
        let round = |parts: &[(&'static str, f64)]| parts.iter().copied().collect();
        let rounds: [BTreeMap<&str, f64>; 3] = [
            round(&[("often", 2.0), ("once", 9.0)]),
            round(&[("often", 4.0)]),
            round(&[("often", 3.0)]),
        ];
        let expected = round(&[("often", 3.0), ("once", 0.0)]);
        assert_eq!(medians(&rounds), expected);
        assert_eq!(medians::<&str>(&[]), BTreeMap::new());
    }

    #[test]
    fn a_median_is_in_the_middle_and_one_outlier_changes_little() {
        assert_eq!(Summary::of([]), None);
        assert_eq!(Summary::of([f64::NAN]), None);
        let summary = Summary::of([4.0, 1.0]).expect("two values");
        assert_eq!((summary.median, summary.spread), (2.5, 1.5));
        let summary = Summary::of([10.0, 11.0, 9.0, 10.0, 500.0]).expect("five values");
        assert_eq!((summary.median, summary.spread), (10.0, 1.0));
    }

    #[test]
    fn ratios_are_those_of_each_round() {
        let qemu = [(1, 100.0), (2, 1000.0), (3, 0.0)];
        let ftvm = [(2, 700.0), (1, 50.0), (3, 4.0), (4, 1.0)];
        let ratio = ratios(&ftvm, &qemu).expect("two pairs");
        assert_eq!((ratio.median, ratio.count), (0.6, 2));
        assert_eq!(ratios(&ftvm, &[]), None);
    }

    proptest! {
        #[test]
        fn a_summary_does_not_depend_on_the_order_and_moves_with_the_values(
            mut values in prop::collection::vec(-1e6..1e6_f64, 1..30),
            offset in -1e6..1e6_f64,
        ) {
            let summary = Summary::of(values.clone()).expect("values");
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            prop_assert!((least..=most).contains(&summary.median));
            prop_assert!(summary.spread >= 0.0 && summary.spread <= most - least);
            let near = values.iter().filter(|v| (*v - summary.median).abs() <= summary.spread + 1e-9);
            prop_assert!(near.count() * 2 >= values.len());

            values.reverse();
            prop_assert_eq!(Summary::of(values.clone()), Some(summary));
            let moved = Summary::of(values.iter().map(|v| v + offset)).expect("values");
            prop_assert!((moved.median - summary.median - offset).abs() < 1e-6);
            prop_assert!((moved.spread - summary.spread).abs() < 1e-6);
        }

        #[test]
        fn a_ratio_is_the_inverse_of_the_other_way_round_for_one_pair(
            a in 1e-3..1e6_f64, b in 1e-3..1e6_f64,
        ) {
            let there = ratios(&[(1, a)], &[(1, b)]).expect("a pair").median;
            let back = ratios(&[(1, b)], &[(1, a)]).expect("a pair").median;
            prop_assert!((there * back - 1.0).abs() < 1e-9);
        }

        #[test]
        fn quantiles_of_counts_are_those_of_the_sorted_values(
            mut values in prop::collection::vec(0..500_u64, 1..200),
            quantile in 0.0..=1.0_f64,
        ) {
            let mut counts = Counts::default();
            counts.add(values.iter().map(|value| (*value, 1)));
            values.sort_unstable();
            let rank = (quantile * values.len() as f64).ceil().max(1.0) as usize;
            prop_assert_eq!(counts.quantile(quantile), Some(values[rank - 1]));
            prop_assert_eq!(counts.total(), values.len() as u64);
        }
    }
}
