//! What the guest's load did, by its own count.

use std::collections::BTreeMap;

/// Counts by their names, as `guest-images/src/programs/mix.c` has them.
pub(super) type Load = BTreeMap<String, u64>;

/// What a guest under load is there for. A load that did nothing of one of these proves nothing of it.
const NEEDED: [&str; 10] = [
    "forks",
    "execs",
    "signals",
    "faults",
    "floats",
    "aged",
    "compiled",
    "reclaimed",
    "pswpin",
    "pswpout",
];

/// Those that did not happen.
pub(super) fn missing(total: &Load) -> impl Iterator<Item = &'static str> {
    let happened = |name: &&str| total.get(*name).is_some_and(|count| *count > 0);
    NEEDED.into_iter().filter(move |name| !happened(name))
}

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
    fn what_did_not_happen_is_missing() {
        let mut total = Load::new();
        assert!(missing(&total).eq(NEEDED));
        let all: Vec<String> = NEEDED.iter().map(|name| format!("{name} 1")).collect();
        let all = format!("mix: {}, wrong 0", all.join(", "));
        add(&mut total, &all.replace("pswpin 1", "pswpin 0"));
        assert!(missing(&total).eq(["pswpin"]));
        add(&mut total, &all);
        assert_eq!(missing(&total).next(), None, "in one of the rounds");
    }

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
