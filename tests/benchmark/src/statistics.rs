//! Medians, spreads, and ratios of pairs.

use std::fmt;

/// The middle of some values, and how far the others lie from it. Printed as `median ± spread`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Summary {
    /// The middle one, or the mean of the two in the middle.
    pub(crate) median: f64,
    /// The distance of the farthest one. Of three values, which is what there often is, a median distance
    /// would be that of the nearer one.
    spread: f64,
    /// How many values there were.
    count: usize,
}

impl Summary {
    /// Of some values; none if there are none. Those that are no numbers are left out.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
        let median = median(&mut values)?;
        let distances = values.iter().map(|value| (value - median).abs());
        Some(Self {
            median,
            spread: distances.fold(0.0, f64::max),
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
            _ => {
                // Of a distance no more than of what it is the distance from.
                let most = digits(self.median).max(3);
                let digits = digits(self.spread).min(most);
                write!(f, " ± {:.digits$}", self.spread)
            }
        }
    }
}

/// A figure with three digits that say something.
pub(crate) fn figure(value: f64) -> String {
    let digits = digits(value);
    format!("{value:.digits$}")
}

/// How many of them are behind the point.
fn digits(value: f64) -> usize {
    match value.abs() {
        100.0.. | 0.0 => 0,
        10.0.. => 1,
        1.0.. => 2,
        0.01.. => 3,
        _ => 5,
    }
}

/// The middle value, or the mean of the two in the middle. Sorts the values.
fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().checked_sub(1)? / 2, values.len() / 2);
    Some(f64::midpoint(values[low], values[high]))
}

/// The ratios of two series, round by round. Rounds where the other one has nothing are left out.
pub(crate) fn ratios(of: &[(u32, f64)], to: &[(u32, f64)]) -> Option<Summary> {
    by_round(of, to, |value, other| value / other)
}

/// How the values of two series are to each other, round by round: what differs between rounds (the
/// machine's other work, its temperature) differs for both of a pair. Rounds that only one of them has are
/// left out, and those of which this is no number.
pub(crate) fn by_round(
    of: &[(u32, f64)],
    to: &[(u32, f64)],
    relation: impl Fn(f64, f64) -> f64,
) -> Option<Summary> {
    Summary::of(of.iter().filter_map(|(round, value)| {
        let (_, other) = to.iter().find(|(other, _)| other == round)?;
        Some(relation(*value, *other))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle_and_no_value_is_farther_than_is_told() {
        assert_eq!(Summary::of([]), None);
        assert_eq!(Summary::of([f64::NAN]), None);
        let words = |values: &[f64]| Summary::of(values.to_vec()).expect("some").to_string();
        assert_eq!(words(&[4.0, 1.0]), "2.50 ± 1.50");
        assert_eq!(words(&[10.0, 11.0, 9.0]), "10.0 ± 1.00");
        assert_eq!(words(&[10.0, 11.0, 9.0, 10.0, 500.0]), "10.0 ± 490");
        assert_eq!(words(&[-0.012_34]), "-0.012");
        assert_eq!(words(&[0.000_234_5]), "0.00023");
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
