//! What the journal must tell of a step.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::fault::Fault;

/// On which hosts a guest's copies are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Copies {
    pub(super) primary: String,
    pub(super) backup: String,
}

impl Copies {
    pub(super) fn are_on(&self, host: &str) -> bool {
        self.primary == host || self.backup == host
    }
}

/// Entries as `ftvm history --json` prints them, the earliest first.
#[derive(Debug, Clone)]
pub(super) struct Journal(pub(super) Vec<Value>);

/// What it tells of a step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Figures {
    /// Of the guests that ran on the host, how long each stood still when another one went on with it, in
    /// milliseconds; the shortest first.
    outages_ms: Vec<u64>,
    /// How many guests had their backup there.
    backups: usize,
    /// How many had no copy there, and another view all the same: on a machine with other work to do one host may
    /// take another for lost.
    beside: usize,
    /// The longest that a guest of the host was not protected, in milliseconds.
    unprotected_ms: u64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} guests went on elsewhere", self.outages_ms.len())?;
        if let [first, .., last] | [first @ last] = &self.outages_ms[..] {
            write!(f, " after {first} to {last} ms")?;
        }
        write!(
            f,
            ", {} lost their backups; not protected for {} ms at most",
            self.backups, self.unprotected_ms
        )?;
        match self.beside {
            0 => Ok(()),
            beside => write!(f, "; {beside} others had another view"),
        }
    }
}

impl Journal {
    /// The number of its last entry.
    pub(super) fn last(&self) -> u64 {
        let numbers = self.0.iter().filter_map(|entry| entry["number"].as_u64());
        numbers.max().unwrap_or_default()
    }

    /// Whether it tells that this was done to a host, with the guests' copies before and after it.
    ///
    /// # Errors
    ///
    /// What it lacks, or has too much.
    pub(super) fn tells(
        &self,
        fault: Fault,
        host: &str,
        before: &BTreeMap<String, Copies>,
        after: &BTreeMap<String, Copies>,
    ) -> Result<Figures, String> {
        self.tells_of_the_host(fault, host)?;
        let mut figures = Figures::default();
        for (vm, before) in before {
            let after = after.get(vm).ok_or_else(|| format!("{vm} is gone"))?;
            let told = Told {
                entries: self.0.iter().filter(|entry| entry["vm"] == **vm).collect(),
            };
            let whole = told.is_whole(before, after);
            let failovers = whole.map_err(|what| format!("{vm}: {what}"))?;
            if !before.are_on(host) {
                figures.beside += usize::from(told.all("view").next().is_some());
                continue;
            }
            let went_on = failovers.iter().find(|it| it["from"] == host);
            let outage_ms = went_on.and_then(|it| it["outage_ms"].as_u64());
            match outage_ms {
                Some(outage_ms) => figures.outages_ms.push(outage_ms),
                None if before.primary == host => return Err(format!("{vm}: no failover")),
                None => figures.backups += 1,
            }
            let unprotected_ms = told.unprotected_ms();
            let unprotected_ms = unprotected_ms.ok_or_else(|| format!("{vm}: no loss"))?;
            figures.unprotected_ms = figures.unprotected_ms.max(unprotected_ms);
        }
        figures.outages_ms.sort_unstable();
        Ok(figures)
    }

    /// The host's own entries. On a machine with other work to do a host may be taken for dead at any time.
    fn tells_of_the_host(&self, fault: Fault, host: &str) -> Result<(), String> {
        let of_host = |entry: &&Value| entry["host"] == host && entry["vm"].is_null();
        let events = self.0.iter().filter(of_host);
        let told = events.map(|entry| match entry["event"].as_str() {
            Some("ordered") => entry["what"].as_str().unwrap_or_default(),
            event => event.unwrap_or_default(),
        });
        let (seen, ordered): (Vec<&str>, Vec<&str>) =
            told.partition(|told| ["dead", "live"].contains(told));
        let comes_back = seen.chunks(2).all(|it| it == ["dead", "live"]);
        let is_told = match fault {
            Fault::Kill => !seen.is_empty() && ordered.is_empty(),
            Fault::Drain => ordered == ["drain", "done", "undrain", "done"],
        };
        match is_told && comes_back {
            true => Ok(()),
            false => Err(format!(
                "of {host}, which was {fault}, it has {seen:?} and {ordered:?}"
            )),
        }
    }
}

/// What it tells of a guest.
struct Told<'a> {
    entries: Vec<&'a Value>,
}

impl<'a> Told<'a> {
    fn all(&self, event: &str) -> impl Iterator<Item = &'a Value> {
        let entries = self.entries.iter().copied();
        entries.filter(move |entry| entry["event"] == event)
    }

    /// Its views lead from these copies to those, each from the one before; each change of the primary has its
    /// failover, to the backup of the view before; and in the end it is protected. Its failovers.
    fn is_whole(&self, before: &Copies, after: &Copies) -> Result<Vec<&'a Value>, String> {
        let mut failovers = self.all("failover");
        let mut told = Vec::new();
        let (mut primary, mut backup) = (&before.primary[..], Some(&before.backup[..]));
        for view in self.all("view") {
            let [next, its_backup] = ["primary", "backup"].map(|member| host_of(&view[member]));
            let Some(next) = next else {
                return Err("it was stopped".to_owned());
            };
            if next != primary {
                let failover = failovers.next();
                let is_it = |it: &Value| {
                    it["view"] == view["view"] && it["from"] == primary && it["to"] == next
                };
                match failover {
                    Some(failover) if backup == Some(next) && is_it(failover) => {
                        told.push(failover)
                    }
                    _ => {
                        let how = format!("from {primary} and {backup:?} to {view}");
                        return Err(format!("{how}, with {failover:?}"));
                    }
                }
            }
            (primary, backup) = (next, its_backup);
        }
        if let Some(failover) = failovers.next() {
            return Err(format!("{failover}, and no view of it"));
        }
        let state = self.all("state").last();
        let is_protected = state.is_none_or(|state| state["state"] == "protected");
        match primary == after.primary && backup == Some(&after.backup) && is_protected {
            true => Ok(told),
            false => Err(format!(
                "it ends with {primary}, {backup:?} and {state:?}, and not with {after:?}"
            )),
        }
    }

    /// From when it was not protected any more to when it was again, at last; `None` if it does not tell that.
    fn unprotected_ms(&self) -> Option<u64> {
        let mut states = self.all("state");
        let begin = states.find(|state| state["state"] == "not_protected")?;
        let at = |entry: &Value| entry["unix_ms"].as_u64();
        at(states.last()?)?.checked_sub(at(begin)?)
    }
}

/// The host of a member of a view, if there is one.
fn host_of(claimant: &Value) -> Option<&str> {
    claimant.as_str()?.split('/').next()
}

impl fmt::Display for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|entry| {
            let subject = [&entry["vm"], &entry["host"]];
            let subject = subject.into_iter().find_map(Value::as_str);
            let (time, words) = (&entry["time"], &entry["words"]);
            writeln!(f, "{time} {} {words}", subject.unwrap_or_default())
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn copies(primary: &str, backup: &str) -> Copies {
        Copies {
            primary: primary.to_owned(),
            backup: backup.to_owned(),
        }
    }

    fn placed(guests: [(&str, Copies); 3]) -> BTreeMap<String, Copies> {
        guests
            .into_iter()
            .map(|(vm, it)| (vm.to_owned(), it))
            .collect()
    }

    fn before() -> BTreeMap<String, Copies> {
        placed([
            ("one", copies("a", "b")),
            ("two", copies("b", "a")),
            ("three", copies("b", "c")),
        ])
    }

    fn after() -> BTreeMap<String, Copies> {
        placed([
            ("one", copies("b", "c")),
            ("two", copies("b", "c")),
            ("three", copies("b", "c")),
        ])
    }

    /// A journal of the loss of host a.
    fn journal() -> Journal {
        let view = |vm: &str, view: u64, primary: &str, backup: Option<&str>| json!({"vm": vm, "event": "view", "view": view, "primary": primary, "backup": backup});
        let state = |vm: &str, state: &str, at: u64| json!({"vm": vm, "event": "state", "state": state, "unix_ms": at});
        let entries = vec![
            json!({"host": "a", "event": "dead"}),
            view("one", 3, "b/1", None),
            json!({"vm": "one", "event": "failover", "view": 3, "outage_ms": 700, "from": "a", "to": "b"}),
            state("one", "not_protected", 1000),
            view("two", 3, "b/2", None),
            state("two", "not_protected", 1000),
            json!({"host": "a", "event": "live"}),
            view("one", 4, "b/1", Some("c/1")),
            state("one", "protected", 5000),
            view("two", 4, "b/2", Some("c/2")),
            state("two", "protected", 9000),
        ];
        Journal(entries)
    }

    fn told(journal: &Journal) -> Result<Figures, String> {
        journal.tells(Fault::Kill, "a", &before(), &after())
    }

    #[test]
    fn a_journal_tells_a_loss() {
        let figures = told(&journal()).expect("it tells it");
        assert_eq!(
            figures.to_string(),
            "1 guests went on elsewhere after 700 to 700 ms, 1 lost their backups; \
             not protected for 8000 ms at most"
        );
    }

    #[test]
    fn each_entry_is_needed() {
        let whole = journal();
        for left_out in 0..whole.0.len() {
            let mut journal = whole.clone();
            let entry = journal.0.remove(left_out);
            // That two was without a backup shows in the view after that.
            let is_needed = entry["view"] != 3 || entry["vm"] != "two";
            assert_eq!(told(&journal).is_err(), is_needed, "without {entry}");
        }
    }

    #[test]
    fn nothing_but_a_member_of_the_view_before_goes_on() {
        for (entry, field) in [(1, "primary"), (2, "from"), (2, "to"), (2, "view")] {
            let mut journal = journal();
            journal.0[entry][field] = json!("c");
            assert!(told(&journal).is_err(), "with another {field}");
        }
        let mut journal = journal();
        let stopped =
            json!({"vm": "three", "event": "view", "view": 3, "primary": null, "backup": null});
        journal.0.push(stopped);
        assert!(told(&journal).is_err());
    }

    #[test]
    fn guests_that_were_elsewhere_are_told_apart() {
        let mut journal = journal();
        let again = ["a/2", "c/2"].map(
            |backup| json!({"vm": "three", "event": "view", "primary": "b/3", "backup": backup}),
        );
        journal.0.push(again[0].clone());
        assert!(told(&journal).is_err(), "its backup is on c");
        journal.0.push(again[1].clone());
        assert_eq!(told(&journal).expect("it tells it").beside, 1);
    }

    #[test]
    fn a_drain_is_ordered_and_done() {
        let mut entries = journal().0;
        entries.retain(|entry| entry["host"].is_null());
        assert!(
            Journal(entries.clone())
                .tells(Fault::Drain, "a", &before(), &after())
                .is_err()
        );
        for (event, what) in [
            ("ordered", "drain"),
            ("done", ""),
            ("ordered", "undrain"),
            ("done", ""),
        ] {
            entries.push(json!({"host": "a", "event": event, "what": what}));
        }
        let tells = |entries: &[Value]| {
            Journal(entries.to_vec()).tells(Fault::Drain, "a", &before(), &after())
        };
        tells(&entries).expect("it tells it");
        entries.push(json!({"host": "a", "event": "dead"}));
        tells(&entries).expect_err("it did not come back");
        entries.push(json!({"host": "a", "event": "live"}));
        tells(&entries).expect("it came back");
    }
}
