//! What the doctor found, for people and for programs.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;

use logging_channel::{CheckOutcome, HostCheck, HostReport, InstructionResult, InstructionResults};
use serde::Serialize;

use super::catalogue::CATALOGUE;
use super::purpose::{NeededBy, Purpose};

/// Numbers that were measured, by name. The name ends with the unit.
pub type Figures = BTreeMap<&'static str, f64>;

/// What a check that passed found.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Finding {
    /// In words that are the same wherever hosts behave the same.
    pub(super) text: String,
    /// What may be another in every run.
    pub(super) figures: Figures,
    /// What a table of instructions came to, if that was tried.
    pub(super) instructions: InstructionResults,
}

impl Finding {
    /// With one more figure; `name` ends with its unit.
    pub(super) fn with(mut self, name: &'static str, value: f64) -> Self {
        self.figures.insert(name, value);
        self
    }

    /// With what a table of instructions came to.
    pub(super) fn with_instructions(self, instructions: InstructionResults) -> Self {
        Self {
            instructions,
            ..self
        }
    }
}

impl<T: Into<String>> From<T> for Finding {
    fn from(text: T) -> Self {
        Self {
            text: text.into(),
            figures: Figures::new(),
            instructions: InstructionResults::default(),
        }
    }
}

/// What came of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", content = "measured", rename_all = "snake_case")]
pub enum Outcome {
    /// The host can; with what was measured.
    Pass(String),
    /// The host cannot; with what was seen instead.
    Fail(String),
    /// Not reached, because something that it needs failed.
    NotChecked,
}

impl Outcome {
    /// What was measured.
    #[must_use]
    pub fn measured(&self) -> &str {
        match self {
            Self::Pass(text) | Self::Fail(text) => text,
            Self::NotChecked => "not checked",
        }
    }
}

/// One capability.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// Name for programs.
    pub id: &'static str,
    /// Name for people.
    pub title: &'static str,
    /// What needs it.
    pub needed_by: NeededBy,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// What it costs, if that was measured: `stop_us` is in microseconds.
    pub figures: Figures,
    /// What it is needed for, and what it costs.
    pub meaning: &'static str,
    /// What to do when it fails.
    pub mend: &'static str,
}

impl Check {
    fn passed(&self) -> bool {
        matches!(self.outcome, Outcome::Pass(_))
    }

    fn is_needed(&self, purpose: Purpose) -> bool {
        purpose.needs(self.id, self.needed_by)
    }
}

/// All that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    checks: Vec<Check>,
    instructions: InstructionResults,
    /// How long it took.
    pub elapsed_ms: f64,
}

impl Report {
    pub(super) fn new() -> Self {
        let checks = CATALOGUE
            .iter()
            .map(|entry| Check {
                id: entry.id,
                title: entry.title,
                needed_by: entry.needed_by,
                outcome: Outcome::NotChecked,
                figures: Figures::new(),
                meaning: entry.meaning,
                mend: entry.mend,
            })
            .collect();
        Self {
            checks,
            instructions: InstructionResults::default(),
            elapsed_ms: 0.0,
        }
    }

    pub(super) fn record(&mut self, id: &str, found: Result<Finding, String>) {
        let check = self.checks.iter_mut().find(|c| c.id == id);
        let check = check.expect("every check is in the catalogue");
        match found {
            Ok(Finding {
                text,
                figures,
                instructions,
            }) => {
                check.outcome = Outcome::Pass(text);
                check.figures = figures;
                if instructions != InstructionResults::default() {
                    self.instructions = instructions;
                }
            }
            Err(seen) => check.outcome = Outcome::Fail(seen),
        }
    }

    /// The check that was under way failed.
    pub(super) fn fail_first_open(&mut self, seen: &str) {
        let open = |c: &&mut Check| c.outcome == Outcome::NotChecked;
        if let Some(check) = self.checks.iter_mut().find(open) {
            check.outcome = Outcome::Fail(seen.to_owned());
        }
    }

    /// All checks.
    #[must_use]
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// The first check that guests for this need and that did not pass.
    #[must_use]
    pub fn first_failed(&self, purpose: Purpose) -> Option<&Check> {
        let mut needed = self.checks.iter().filter(|check| check.is_needed(purpose));
        needed.find(|check| !check.passed())
    }

    /// What guests can do here, in a word for programs.
    fn verdict_name(&self) -> &'static str {
        let fit = |purpose| self.first_failed(purpose).is_none();
        if fit(Purpose::REPLICATION) {
            "fit"
        } else if fit(Purpose::Alone) {
            "fit-alone"
        } else {
            "unfit"
        }
    }

    /// What the other host of a pair is told, of a guest for this, and who replays a recording of it.
    #[must_use]
    pub fn for_peer(&self, purpose: Purpose) -> HostReport {
        HostReport::new(self.checks.iter().map(|check| HostCheck {
            name: check.id.to_owned(),
            outcome: match check.outcome {
                Outcome::Pass(_) => CheckOutcome::Passed,
                Outcome::Fail(_) => CheckOutcome::Failed,
                Outcome::NotChecked => CheckOutcome::NotChecked,
            },
            required: check.is_needed(purpose),
            measured: check.outcome.measured().to_owned(),
        }))
        .with_instructions(self.instructions.clone())
    }

    /// One JSON object.
    #[must_use]
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Json<'a> {
            verdict: &'a str,
            elapsed_ms: f64,
            checks: &'a [Check],
            /// Digests in hexadecimal; `null` where the processor does not know the instruction.
            instructions: BTreeMap<&'static str, Option<String>>,
        }
        let instructions = self
            .instructions
            .named()
            .map(|(name, result)| match result {
                InstructionResult::Undefined => (name, None),
                InstructionResult::Digest(digest) => (name, Some(format!("{digest:08x}"))),
            });
        serde_json::to_string(&Json {
            verdict: self.verdict_name(),
            elapsed_ms: self.elapsed_ms,
            checks: &self.checks,
            instructions: instructions.collect(),
        })
        .expect("a report is plain data")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.checks.iter().map(|c| c.title.chars().count()).max();
        let width = width.unwrap_or(0);
        for check in &self.checks {
            let mark = match check.outcome {
                Outcome::Pass(_) => '✓',
                Outcome::Fail(_) if check.needed_by != NeededBy::Nothing => '✗',
                Outcome::Fail(_) | Outcome::NotChecked => '-',
            };
            write!(f, "{mark} {:width$}  ", check.title)?;
            write!(f, "{}", check.outcome.measured())?;
            for (name, value) in &check.figures {
                write!(
                    f,
                    "; {}",
                    Figure {
                        name,
                        value: *value
                    }
                )?;
            }
            writeln!(f)?;
            let kind = check.needed_by.words();
            writeln!(f, "  {:width$}  {kind}: {}", "", check.meaning)?;
            if let Outcome::Fail(_) = check.outcome {
                writeln!(f, "  {:width$}  mend: {}", "", check.mend)?;
            }
        }
        let verdict = match self.verdict_name() {
            "fit" => "Guests can run on this host, and be replicated",
            "fit-alone" => "Guests can run on this host, but not be replicated or recorded",
            _ => "Guests cannot run on this host",
        };
        writeln!(f, "{verdict} (checked in {:.0} ms).", self.elapsed_ms)
    }
}

/// A figure for people: `longest_stop_us` as "longest stop 12.3 µs".
struct Figure<'a> {
    name: &'a str,
    value: f64,
}

impl fmt::Display for Figure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, unit) = self.name.rsplit_once('_').unwrap_or((self.name, ""));
        let unit = if unit == "us" { "µs" } else { unit };
        let (what, value) = (what.replace('_', " "), self.value);
        // Three digits are more than what such a measurement is good for.
        let digits = if value < 10.0 { 1 } else { 0 };
        write!(f, "{what} {value:.digits$} {unit}")
    }
}

/// An error with what caused it, on one line.
pub(super) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::purpose::PAGING;
    use super::*;

    fn pass() -> Result<Finding, String> {
        Ok("seen".into())
    }

    fn all(found: &Result<Finding, String>) -> Report {
        let mut report = Report::new();
        for entry in CATALOGUE {
            report.record(entry.id, found.clone());
        }
        report
    }

    #[test]
    fn required_checks_decide() {
        let mut report = all(&pass());
        let failed = |report: &Report, purpose| report.first_failed(purpose).map(|c| c.id);
        for purpose in [Purpose::Alone, Purpose::REPLICATION] {
            assert_eq!(failed(&report, purpose), None);
            let unseen = failed(&Report::new(), purpose);
            assert!(unseen.is_some(), "what was not checked is not there");
        }
        report.record("hardware_breakpoint", Err("none".into()));
        let optional = failed(&report, Purpose::REPLICATION);
        assert_eq!(optional, None, "an optional check does not");
        report.record("user_mode", Err("stays at CPL 3".into()));
        assert_eq!(failed(&report, Purpose::Alone), Some("user_mode"));
    }

    #[test]
    fn nested_paging_keeps_from_replicating_unless_it_is_allowed() {
        let allowed = Purpose::Replication {
            allow_nested_paging: true,
        };
        let mut report = all(&pass());
        report.record(PAGING, Err("nested".into()));
        assert!(report.verdict(Purpose::Alone).is_ok());
        assert!(report.verdict(allowed).is_ok());
        let refused = report.verdict(Purpose::REPLICATION).expect_err("nested");
        let words = refused.to_string();
        for part in [
            "cannot replicate, record",
            "nested",
            "--allow-nested-paging",
        ] {
            assert!(words.contains(part), "{part} in {words}");
        }
        let text = report.to_string();
        for part in [
            "✗ shadow paging",
            "needed to replicate and to record",
            "modprobe kvm_intel ept=0",
            "but not be replicated or recorded",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).expect("JSON");
        assert_eq!(json["verdict"], "fit-alone");

        // A pair needs it allowed on both hosts, also where one of them has shadow paging.
        let [nested, shadow] = [&report, &all(&pass())].map(|report| {
            (
                report.for_peer(Purpose::REPLICATION),
                report.for_peer(allowed),
            )
        });
        assert!(nested.1.shortfall(&nested.1).is_none());
        assert!(nested.1.shortfall(&shadow.1).is_none());
        assert!(nested.1.shortfall(&shadow.0).is_some());
        assert!(shadow.0.shortfall(&nested.1).is_some());

        // All else is needed as ever.
        report.record("exits", Err("run 2 differs".into()));
        assert!(report.verdict(allowed).is_err() && report.verdict(Purpose::Alone).is_err());
    }

    #[test]
    fn failures_come_with_a_way_to_mend_them() {
        let mut report = all(&pass());
        report.record("device", Err("absent".into()));
        let text = report.to_string();
        assert!(text.contains("✗ /dev/kvm opens"), "{text}");
        assert!(text.contains("load the kernel module"), "{text}");
        assert_eq!(text.matches("mend:").count(), 1);
    }

    #[test]
    fn json_is_one_object() {
        let json: serde_json::Value =
            serde_json::from_str(&all(&Err("no".into())).to_json()).expect("JSON");
        assert_eq!(json["verdict"], "unfit");
        assert_eq!(
            json["checks"].as_array().map(Vec::len),
            Some(CATALOGUE.len())
        );
        assert_eq!(json["checks"][0]["outcome"], "fail");
        assert_eq!(json["checks"][0]["measured"], "no");
    }

    #[test]
    fn figures_are_for_people_and_for_programs_but_not_for_the_peer() {
        let mut report = all(&pass());
        let finding = Finding::from("stops").with("longest_stop_us", 7.25);
        report.record("kick", Ok(finding.with("stop_us", 123.4)));
        let text = report.to_string();
        let line = "stops; longest stop 7.2 µs; stop 123 µs";
        assert!(text.contains(line), "{text}");
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).expect("JSON");
        let checks = json["checks"].as_array().expect("a list");
        let kick = checks.iter().find(|check| check["id"] == "kick");
        assert_eq!(kick.expect("there")["figures"]["stop_us"], 123.4);
        assert_eq!(
            report.for_peer(Purpose::REPLICATION).differences(&{
                report.record("kick", Ok(Finding::from("stops").with("stop_us", 1.0)));
                report.for_peer(Purpose::REPLICATION)
            }),
            []
        );
    }

    #[test]
    fn the_peer_and_programs_are_told_what_instructions_came_to() {
        let results = InstructionResults::new([
            ("RCPPS", InstructionResult::Digest(0x1a2b)),
            ("RDSEED", InstructionResult::Undefined),
        ]);
        let mut report = all(&pass());
        let finding = Finding::from("2 tried").with_instructions(results.clone());
        report.record("instructions", Ok(finding));
        report.record("hardware_breakpoint", pass());
        assert_eq!(
            report.for_peer(Purpose::REPLICATION).instructions(),
            &results
        );
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).expect("JSON");
        let told = serde_json::json!({"RCPPS": "00001a2b", "RDSEED": null});
        assert_eq!(json["instructions"], told);
    }

    #[test]
    fn the_peer_is_told_every_check() {
        let told = all(&pass()).for_peer(Purpose::REPLICATION);
        assert_eq!(told.checks().len(), CATALOGUE.len());
        for entry in CATALOGUE {
            assert!(told.passes(entry.id), "{} is cut", entry.id);
        }
        let mut unfit = all(&pass());
        unfit.record("exits", Err("run 2 differs".into()));
        assert!(
            told.shortfall(&unfit.for_peer(Purpose::REPLICATION))
                .is_some()
        );
        unfit = all(&pass());
        unfit.record("hardware_breakpoint", Err("none".into()));
        assert!(
            told.shortfall(&unfit.for_peer(Purpose::REPLICATION))
                .is_none()
        );
    }

    #[test]
    fn a_hang_is_blamed_on_the_check_under_way() {
        let mut report = Report::new();
        report.record("device", Ok("there".into()));
        report.fail_first_open("hung");
        assert_eq!(report.checks()[1].outcome, Outcome::Fail("hung".into()));
    }
}
