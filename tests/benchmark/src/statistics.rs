//! Medians, spreads, and ratios of pairs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use hdrhistogram::Histogram;

/// The middle of some values and how far they lie apart. Printed as `median ± spread`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Summary {
    /// The middle one, or the mean of the two in the middle.
    pub(crate) median: f64,
    /// The median of the distances from the median: half of the values are no farther from it.
    pub(crate) spread: f64,
    /// How many values there were.
    pub(crate) count: usize,
}

impl Summary {
    /// Of some values; none if there are none. Those that are no numbers are left out.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
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

impl fmt::Display for Summary {
    /// A single value has no spread.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&figure(self.median))?;
        match self.count {
            1 => Ok(()),
            _ => write!(f, " ± {}", figure(self.spread)),
        }
    }
}

/// A figure with three digits that say something.
pub(crate) fn figure(value: f64) -> String {
    let digits = match value.abs() {
        100.0.. | 0.0 => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// The middle value, or the mean of the two in the middle. Sorts the values.
fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().checked_sub(1)? / 2, values.len() / 2);
    Some(f64::midpoint(values[low], values[high]))
}

/// The ratios of two series, round by round: what differs between rounds (the machine's other work,
/// its temperature) differs for both of a pair. Rounds that only one of them has are left out, and
/// those where the other one has nothing.
pub(crate) fn ratios(of: &[(u32, f64)], to: &[(u32, f64)]) -> Option<Summary> {
    Summary::of(of.iter().filter_map(|(round, value)| {
        let (_, other) = to.iter().find(|(other, _)| other == round)?;
        (*other > 0.0).then(|| value / other)
    }))
}

/// The median of each part of a whole, which was taken apart in every round. What a round has not had
/// is none of it.
pub(crate) fn medians<K: Ord + Clone>(rounds: &[BTreeMap<K, f64>]) -> BTreeMap<K, f64> {
    let parts: BTreeSet<&K> = rounds.iter().flat_map(BTreeMap::keys).collect();
    let median = |part: &K| {
        let values = rounds.iter().map(|round| round.get(part).copied());
        let summary = Summary::of(values.map(Option::unwrap_or_default))?;
        Some((part.clone(), summary.median))
    };
    parts.into_iter().filter_map(median).collect()
}

/// Of times and how often each occurred, in microseconds: how many there are, and quantiles (0 to 1)
/// in milliseconds. None if there are no times.
pub(crate) fn quantiles<const N: usize>(
    times: impl IntoIterator<Item = (u64, u64)>,
    quantiles: [f64; N],
) -> Option<(u64, [f64; N])> {
    let mut histogram = Histogram::<u64>::new(3).expect("three digits are allowed");
    for (micros, count) in times {
        histogram.record_n(micros, count).expect("it grows");
    }
    let millis = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
    (!histogram.is_empty()).then(|| (histogram.len(), quantiles.map(millis)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_round_has_not_had_is_none_of_it() {
        let round = |parts: &[(&'static str, f64)]| parts.iter().copied().collect();
        let rounds: [BTreeMap<&str, f64>; 3] = [
            round(&[("often", 2.0), ("once", 9.0)]),
            round(&[("often", 4.0)]),
            round(&[("often", 3.0)]),
        ];
        assert_eq!(medians(&rounds), round(&[("often", 3.0), ("once", 0.0)]));
    }

    #[test]
    fn a_median_is_in_the_middle_and_one_outlier_changes_little() {
        assert_eq!(Summary::of([]), None);
        assert_eq!(Summary::of([f64::NAN]), None);
        let words = |values: &[f64]| {
            Summary::of(values.iter().copied())
                .expect("some")
                .to_string()
        };
        assert_eq!(words(&[4.0, 1.0]), "2.50 ± 1.50");
        assert_eq!(words(&[10.0, 11.0, 9.0, 10.0, 500.0]), "10.0 ± 1.00");
        assert_eq!(words(&[-0.012_34]), "-0.012");
        assert_eq!(words(&[0.0]), "0");
    }

    #[test]
    fn ratios_are_those_of_each_round() {
        let qemu = [(1, 100.0), (2, 1000.0), (3, 0.0)];
        let ftvm = [(2, 700.0), (1, 50.0), (3, 4.0), (4, 1.0)];
        let ratio = ratios(&ftvm, &qemu).expect("two pairs");
        assert_eq!((ratio.median, ratio.count), (0.6, 2));
        assert_eq!(ratios(&ftvm, &[]), None);
    }
}
