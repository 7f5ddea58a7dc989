//! Reads configurations: TOML files, of which everything that is wrong is told, each with its place.

use std::fmt::{self, Write as _};
use std::ops::Range;
use std::path::Path;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer, Error};

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
}

/// Something that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// Where.
    pub place: Place,
    /// Of which kind it is.
    pub kind: FaultKind,
    /// What is wrong, and what is allowed.
    pub reason: String,
}

/// What tells a configuration that has a mistake from one of something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// A key is not known.
    UnknownKey,
    /// A key is missing.
    MissingKey,
    /// What a key says.
    Value,
}

/// All that is wrong with a configuration, in the order of places: at least one fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl Place {
    /// The place of this byte.
    fn of(text: &str, byte: usize) -> Self {
        let before = text.get(..byte).unwrap_or(text);
        let line = before.rfind('\n').map_or(0, |end| end + 1);
        Self {
            line: 1 + before.matches('\n').count(),
            column: 1 + before[line..].chars().count(),
        }
    }

    /// The place of a key at the top of a configuration; its begin where it does not have that.
    #[must_use]
    pub fn of_key(text: &str, key: &str) -> Self {
        let (table, _) = DeTable::parse_recoverable(text);
        let entry = table.get_ref().get_key_value(key);
        Self::of(text, entry.map_or(0, |(key, _)| key.span().start))
    }
}

impl Fault {
    /// What is wrong at this byte of a configuration.
    pub fn at(text: &str, byte: usize, kind: FaultKind, reason: impl Into<String>) -> Self {
        Self {
            place: Place::of(text, byte),
            kind,
            reason: reason.into(),
        }
    }
}

impl Faults {
    /// Those that were found, if there are any.
    ///
    /// # Errors
    /// There are some.
    pub fn none(mut found: Vec<Fault>) -> Result<(), Self> {
        found.sort();
        match found.is_empty() {
            true => Ok(()),
            false => Err(Self(found)),
        }
    }

    /// How many there are of a kind.
    #[must_use]
    pub fn count(&self, kind: FaultKind) -> usize {
        self.0.iter().filter(|fault| fault.kind == kind).count()
    }

    /// A line for each, as compilers have them: `FILE:LINE:COLUMN: what is wrong`.
    #[must_use]
    pub fn in_file(&self, path: &Path) -> String {
        let mut text = String::new();
        for Fault { place, reason, .. } in &self.0 {
            let Place { line, column } = place;
            let end = if text.is_empty() { "" } else { "\n" };
            // Writing to a string cannot fail.
            let _ = write!(text, "{end}{}:{line}:{column}: {reason}", path.display());
        }
        text
    }
}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self(vec![fault])
    }
}

/// In one line.
impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, Fault { place, reason, .. }) in self.0.iter().enumerate() {
            let between = if n == 0 { "" } else { "; " };
            write!(f, "{between}line {}: {reason}", place.line)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Reads the text of a configuration. After a fault it goes on without what has it. Of keys that are missing one is
/// told at a time.
///
/// # Errors
/// All that is wrong with it.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Faults> {
    let (mut table, errors) = DeTable::parse_recoverable(text);
    let mut faults: Vec<Fault> = errors.iter().map(|error| fault(text, error)).collect();
    // What is missing may be what could not be read.
    let mut may_lack_any = !faults.is_empty();
    let mut without = Vec::new();
    loop {
        let error = match T::deserialize(Deserializer::from(table.clone())) {
            Ok(value) => {
                Faults::none(faults)?;
                return Ok(value);
            }
            Err(error) => error,
        };
        let missing = within(error.message(), "missing field `", "`");
        let is_known =
            missing.is_some_and(|key| may_lack_any || without.iter().any(|it| it == key));
        let fault = fault(text, &error);
        // A value that could not be read is not of the right type, either.
        let is_unread =
            fault.kind == FaultKind::Value && faults.iter().any(|known| known.place == fault.place);
        if !is_known && !is_unread {
            faults.push(fault);
        }
        let Some(taken) = error.span().and_then(|at| take_out(table.get_mut(), &at)) else {
            break;
        };
        // A key that was mistyped is missing where it was meant.
        without.extend(Unknown::of(error.message()).and_then(|it| it.meant().map(str::to_owned)));
        without.push(taken);
        may_lack_any |= missing.is_some();
    }
    match Faults::none(faults) {
        Err(faults) => Err(faults),
        Ok(()) => unreachable!("what ends the loop is a fault"),
    }
}

/// Takes the innermost entry out that holds what is `at` this range. Its key.
fn take_out(table: &mut DeTable<'_>, at: &Range<usize>) -> Option<String> {
    for (_, value) in table.iter_mut() {
        if let DeValue::Table(inner) = value.get_mut()
            && let Some(key) = take_out(inner, at)
        {
            return Some(key);
        }
    }
    let holds = |span: Range<usize>| span.start <= at.start && at.end <= span.end;
    let entry = table
        .iter()
        .find(|(key, value)| holds(key.span()) || holds(value.span()));
    let key = entry.map(|(key, _)| key.get_ref().clone().into_owned())?;
    table.remove(key.as_str()).map(|_: Spanned<_>| key)
}

fn fault(text: &str, error: &Error) -> Fault {
    let message = error.message();
    let (kind, reason) = if let Some(key) = within(message, "missing field `", "`") {
        let reason = format!("the key `{key}` is missing");
        (FaultKind::MissingKey, reason)
    } else if let Some(unknown) = Unknown::of(message) {
        (unknown.kind, unknown.told())
    } else {
        (FaultKind::Value, message.to_owned())
    };
    Fault::at(text, error.span().map_or(0, |at| at.start), kind, reason)
}

/// A word that stands where others are known: as serde says it, which has no other form of it.
struct Unknown<'a> {
    kind: FaultKind,
    word: &'a str,
    known: Vec<&'a str>,
}

impl<'a> Unknown<'a> {
    fn of(message: &'a str) -> Option<Self> {
        let kinds = [
            ("unknown field `", FaultKind::UnknownKey),
            ("unknown variant `", FaultKind::Value),
        ];
        let found = kinds.into_iter().find_map(|(start, kind)| {
            let rest = message.strip_prefix(start)?;
            Some((kind, rest.split_once('`')?))
        });
        let (kind, (word, rest)) = found?;
        let known = rest.split('`').skip(1).step_by(2).collect();
        Some(Self { kind, word, known })
    }

    fn meant(&self) -> Option<&'a str> {
        similar(self.word, self.known.iter().copied())
    }

    fn told(&self) -> String {
        let Self { kind, word, known } = self;
        let what = match kind {
            FaultKind::UnknownKey => "key",
            _ => "word",
        };
        let meant = self
            .meant()
            .map_or(String::new(), |meant| format!(" (`{meant}`?)"));
        format!(
            "unknown {what} `{word}`{meant}: it can be {}",
            known.join(", ")
        )
    }
}

fn within<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    text.strip_prefix(start)?.strip_suffix(end)
}

/// The one of `names` that was meant, perhaps.
#[must_use]
pub fn similar<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // As clap has it for commands.
    let alike = |other: &'a str| (strsim::jaro_winkler(name, other), other);
    let names = names.into_iter().map(alike).filter(|(how, _)| *how > 0.7);
    let best = names.max_by(|(one, _), (other, _)| one.total_cmp(other));
    best.map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "it is about what is wrong")]
    struct Config {
        name: String,
        port: u16,
        #[serde(default)]
        clock: Clock,
        #[serde(default)]
        lag: BTreeMap<String, u8>,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Clock {
        #[default]
        KvmClock,
        PmTimer,
    }

    fn told(text: &str) -> String {
        let faults = parse::<Config>(text).expect_err(text);
        faults.in_file(Path::new("a.toml"))
    }

    #[test]
    fn everything_that_is_wrong_is_told_with_its_place() {
        let text =
            "name = 1\n  prot = 7\nclock = \"pm-time\"\n[lag]\nred = 1\nyellow = 256\nblue = -1\n";
        let lines = [
            "a.toml:1:8: invalid type: integer `1`, expected a string",
            "a.toml:2:3: unknown key `prot` (`port`?): it can be name, port, clock, lag",
            "a.toml:3:9: unknown word `pm-time` (`pm-timer`?): it can be kvm-clock, pm-timer",
            "a.toml:6:10: invalid value: integer `256`, expected u8",
            "a.toml:7:8: invalid value: integer `-1`, expected u8",
        ];
        assert_eq!(told(text), lines.join("\n"));
    }

    #[test]
    fn what_is_missing_is_told_unless_it_is_what_could_not_be_read() {
        assert_eq!(told("port = 1"), "a.toml:1:1: the key `name` is missing");
        assert!(told("nmae = \"a\"\nport = 1").ends_with("it can be name, port, clock, lag"));
        let both = told("name = \"a\"\nclokc = 1");
        assert!(
            both.contains("`port` is missing") && both.contains("`clokc`"),
            "{both}"
        );
        let unread = told("name = a\nport = 1");
        assert_eq!(unread.lines().count(), 1, "{unread}");
        let torn = told("name = \nport = 1\nclokc = 1");
        assert_eq!(torn.lines().count(), 2, "{torn}");
        assert!(torn.starts_with("a.toml:1:8: "), "{torn}");
    }

    #[test]
    fn a_slip_of_the_finger_is_seen() {
        let names = ["web", "db", "mail-1", "mail-2"];
        assert_eq!(similar("mial-1", names), Some("mail-1"));
        assert_eq!(similar("dbb", names), Some("db"));
        assert_eq!(similar("queue", names), None);
    }

    #[test]
    fn a_column_counts_characters() {
        assert!(told("name = \"ä\"\nport = 1\n\"ü\" = 1").starts_with("a.toml:3:1: "));
        assert!(
            told("lag = { \"ä\" = 1, b = 256 }\nname = \"a\"\nport = 1")
                .starts_with("a.toml:1:22: ")
        );
        let text = "a = 1\nb = 2\n";
        assert_eq!(Place::of_key(text, "b"), Place { line: 2, column: 1 });
        assert_eq!(Place::of_key(text, "c"), Place { line: 1, column: 1 });
    }

    #[test]
    fn what_is_right_is_taken() {
        let config: Config = parse("name = \"a\"\nport = 1").expect("it is right");
        assert_eq!((config.name.as_str(), config.port), ("a", 1));
    }
}
