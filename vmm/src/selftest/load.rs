//! What the guest's load did, by its own count.

use std::collections::BTreeMap;

/// Counts by their names, as `guest-images/src/programs/mix.c` has them.
pub(super) type Load = BTreeMap<String, u64>;

/// Adds what a line of the guest's says: "mix: forks 310, execs 77, …".
pub(super) fn add(total: &mut Load, line: &str) {
    let counts = line.strip_prefix("mix: ").unwrap_or_default().split(", ");
    for (name, count) in counts.filter_map(|count| count.split_once(' ')) {
        if let Ok(count) = count.parse::<u64>() {
            *total.entry(name.to_owned()).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_added_up() {
        let mut total = Load::new();
        for line in [
            "mix: forks 310, pswpin 7",
            "mix: forks 2, pswpin 1, wrong 0",
            "",
        ] {
            add(&mut total, line);
        }
        let expected = [("forks", 312), ("pswpin", 8), ("wrong", 0)];
        assert_eq!(
            total,
            expected
                .map(|(name, count)| (name.to_owned(), count))
                .into()
        );
    }
}
