//! What a host can do, in short: what its doctor found, for the other host of a pair to compare.
//!
//! ```text
//!   report   count u8, at most 32 checks; results of instructions (see `instructions`)
//!   check    flags u8: bits 0 and 1: 0 passed, 1 failed, 2 not checked; bit 2: required
//!            name:     length u8, at most 32, UTF-8
//!            measured: length u8, at most 64, UTF-8
//! ```

use std::fmt;

use crate::bytes::{FieldError, Fields};
use crate::instructions::{InstructionResults, InstructionResultsError, MAX_RESULTS};
use crate::refusal::{Refusal, RefusalCode};

/// Most checks in a report.
pub const MAX_CHECKS: usize = 32;

/// Longest name of a check, in bytes.
pub const MAX_CHECK_NAME: usize = 32;

/// Longest text of what was measured, in bytes.
pub const MAX_MEASURED: usize = 64;

/// The longest report.
pub(crate) const MAX_REPORT: usize =
    1 + MAX_CHECKS * (3 + MAX_CHECK_NAME + MAX_MEASURED) + MAX_RESULTS;

/// Name of the check that the users of both hosts may do without, by `--allow-nested-paging`.
pub const PAGING: &str = "paging";

/// What to do where processors do not do the same.
pub const SAME_PROCESSORS: &str = "use two hosts whose processors have the same model, stepping and microcode, or, where hosts are \
     virtual machines, give both the same CPU type";

const OUTCOME_BITS: u8 = 0b011;
const REQUIRED: u8 = 0b100;

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CheckOutcome {
    /// The host can.
    Passed,
    /// The host cannot.
    Failed,
    /// Not tried.
    NotChecked,
}

impl fmt::Display for CheckOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passed => "yes",
            Self::Failed => "no",
            Self::NotChecked => "not checked",
        })
    }
}

/// One capability of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostCheck {
    /// Its name, the same on all hosts.
    pub name: String,
    /// What came of it.
    pub outcome: CheckOutcome,
    /// Whether guests need it.
    pub required: bool,
    /// What was measured, in a few words that are the same wherever it behaves the same: no times.
    pub measured: String,
}

/// What a host can do. Always fits a handshake message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostReport {
    checks: Vec<HostCheck>,
    instructions: InstructionResults,
}

/// Why bytes are not a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostReportError {
    /// The bytes end early.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// More than [`MAX_CHECKS`].
    #[error("{0} checks: at most {MAX_CHECKS} are allowed")]
    TooManyChecks(u8),
    /// A name or a text beyond its limit.
    #[error("a text of {0} bytes, where at most {1} are allowed")]
    TooLong(u8, usize),
    /// A name or a text that cannot be printed.
    #[error("a text is not UTF-8, or has control characters")]
    NotText,
    /// Flags that this version does not know.
    #[error("unknown flags {0:#04x} of a check")]
    UnknownFlags(u8),
    /// What instructions came to cannot be read.
    #[error("malformed results of instructions")]
    Instructions(#[from] InstructionResultsError),
}

/// A check with another outcome, or another text, on the other host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDifference {
    /// Name of the check.
    pub name: String,
    /// What it came to here, in words.
    pub here: String,
    /// What it came to there.
    pub there: String,
}

impl fmt::Display for HostDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, here, there } = self;
        write!(f, "{name}: here {here}, there {there}")
    }
}

impl HostReport {
    /// A report of `checks`, cut to what fits: the first [`MAX_CHECKS`], and the beginning of each
    /// text.
    #[must_use]
    pub fn new(checks: impl IntoIterator<Item = HostCheck>) -> Self {
        let checks = checks.into_iter().take(MAX_CHECKS).map(|check| HostCheck {
            name: cut(&check.name, MAX_CHECK_NAME),
            measured: cut(&check.measured, MAX_MEASURED),
            ..check
        });
        Self {
            checks: checks.collect(),
            instructions: InstructionResults::default(),
        }
    }

    /// The same, with what the table of instructions came to.
    #[must_use]
    pub fn with_instructions(self, instructions: InstructionResults) -> Self {
        Self {
            instructions,
            ..self
        }
    }

    /// What the table of instructions came to.
    #[must_use]
    pub fn instructions(&self) -> &InstructionResults {
        &self.instructions
    }

    /// The checks.
    #[must_use]
    pub fn checks(&self) -> &[HostCheck] {
        &self.checks
    }

    /// Whether the host passed the check of this name.
    #[must_use]
    pub fn passes(&self, name: &str) -> bool {
        let check = self.get(name);
        check.is_some_and(|check| check.outcome == CheckOutcome::Passed)
    }

    fn get(&self, name: &str) -> Option<&HostCheck> {
        self.checks.iter().find(|check| check.name == name)
    }

    /// Why `backup` cannot be the backup of this host's guest, or `None`: both hosts must pass every
    /// check that either of them requires, and their processors must do the same.
    #[must_use]
    pub fn shortfall(&self, backup: &HostReport) -> Option<Refusal> {
        let fails = |whose: &str, needs: &str, place: &str, (name, seen): (&str, &str)| {
            let or_else = match name {
                PAGING => "or start the primary and the backup both with --allow-nested-paging",
                _ => "install the same version of ftvm on both hosts",
            };
            Refusal {
                code: RefusalCode::HostUnfit,
                message: format!(
                    "{whose} host fails a check that {needs} needs, {name:?} ({seen}): `ftvm doctor` \
                     {place} says how to mend it; {or_else}"
                ),
            }
        };
        let there = self.unmet_by(backup).or_else(|| backup.unmet_by(backup));
        let here = || backup.unmet_by(self).or_else(|| self.unmet_by(self));
        there
            .map(|check| fails("the backup's", "this primary's guest", "there", check))
            .or_else(|| here().map(|check| fails("the primary's", "the backup", "here", check)))
            .or_else(|| self.other_processor(backup))
    }

    /// The first check that this host requires and the other one does not pass, and what was seen
    /// there.
    #[must_use]
    pub fn unmet_by<'a>(&'a self, other: &'a HostReport) -> Option<(&'a str, &'a str)> {
        let mut required = self.checks.iter().filter(|check| check.required);
        let HostCheck { name, .. } = required.find(|check| !other.passes(&check.name))?;
        let seen = other.get(name).map_or("not checked", HostCheck::words);
        Some((name, seen))
    }

    fn other_processor(&self, backup: &HostReport) -> Option<Refusal> {
        let difference = self.instructions.difference(&backup.instructions)?;
        Some(Refusal {
            code: RefusalCode::OtherProcessor,
            message: format!(
                "the backup's processor does not do as this primary's (here) does: {difference}; a \
                 guest that uses them would not be the same on both: {SAME_PROCESSORS}"
            ),
        })
    }

    /// Where `peer` differs.
    #[must_use]
    pub fn differences(&self, peer: &HostReport) -> Vec<HostDifference> {
        let only_there = peer.checks.iter().filter(|c| self.get(&c.name).is_none());
        (self.checks.iter().chain(only_there))
            .filter_map(|HostCheck { name, .. }| {
                let (here, there) = (self.describe(name), peer.describe(name));
                (here != there).then(|| HostDifference {
                    name: name.clone(),
                    here,
                    there,
                })
            })
            .collect()
    }

    fn describe(&self, name: &str) -> String {
        match self.get(name) {
            None => CheckOutcome::NotChecked.to_string(),
            Some(check) if check.measured.is_empty() => check.outcome.to_string(),
            Some(check) if check.outcome == CheckOutcome::NotChecked => check.outcome.to_string(),
            Some(check) => format!("{} ({})", check.outcome, check.measured),
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.checks.len() as u8);
        for check in &self.checks {
            let outcome = match check.outcome {
                CheckOutcome::Passed => 0,
                CheckOutcome::Failed => 1,
                CheckOutcome::NotChecked => 2,
            };
            out.push(outcome | if check.required { REQUIRED } else { 0 });
            for text in [&check.name, &check.measured] {
                out.push(text.len() as u8);
                out.extend_from_slice(text.as_bytes());
            }
        }
        self.instructions.encode(out);
    }

    pub(crate) fn decode(fields: &mut Fields<'_>) -> Result<Self, HostReportError> {
        let count = fields.u8()?;
        if usize::from(count) > MAX_CHECKS {
            return Err(HostReportError::TooManyChecks(count));
        }
        let checks = (0..count).map(|_| {
            let flags = fields.u8()?;
            let outcome = match flags & OUTCOME_BITS {
                0 => CheckOutcome::Passed,
                1 => CheckOutcome::Failed,
                2 => CheckOutcome::NotChecked,
                _ => return Err(HostReportError::UnknownFlags(flags)),
            };
            if flags & !(OUTCOME_BITS | REQUIRED) != 0 {
                return Err(HostReportError::UnknownFlags(flags));
            }
            Ok(HostCheck {
                name: text(fields, MAX_CHECK_NAME)?,
                outcome,
                required: flags & REQUIRED != 0,
                measured: text(fields, MAX_MEASURED)?,
            })
        });
        Ok(Self {
            checks: checks.collect::<Result<_, _>>()?,
            instructions: InstructionResults::decode(fields)?,
        })
    }
}

impl HostCheck {
    fn words(&self) -> &str {
        if self.outcome == CheckOutcome::NotChecked {
            "not checked"
        } else {
            &self.measured
        }
    }
}

/// The first bytes of `text`, at most `limit`, on one line.
fn cut(text: &str, limit: usize) -> String {
    let end = text.floor_char_boundary(limit);
    text[..end].replace(char::is_control, " ")
}

fn text(fields: &mut Fields<'_>, limit: usize) -> Result<String, HostReportError> {
    let len = fields.u8()?;
    if usize::from(len) > limit {
        return Err(HostReportError::TooLong(len, limit));
    }
    let bytes = fields.bytes(usize::from(len))?;
    match std::str::from_utf8(bytes) {
        // It goes into logs, and to terminals.
        Ok(text) if !text.contains(char::is_control) => Ok(text.to_owned()),
        _ => Err(HostReportError::NotText),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::instructions::InstructionResult;

    fn check(name: &str, outcome: CheckOutcome, required: bool, measured: &str) -> HostCheck {
        HostCheck {
            name: name.into(),
            outcome,
            required,
            measured: measured.into(),
        }
    }

    fn report() -> HostReport {
        HostReport::new([
            check("exits", CheckOutcome::Passed, true, "3 runs alike"),
            check("counter", CheckOutcome::Failed, false, "no PMU"),
            check("halt", CheckOutcome::NotChecked, false, ""),
        ])
        .with_instructions(results(1))
    }

    fn results(digest: u32) -> InstructionResults {
        InstructionResults::new([("RCPPS", InstructionResult::Digest(digest))])
    }

    fn with(change: impl FnOnce(&mut Vec<HostCheck>)) -> HostReport {
        let mut checks = report().checks;
        change(&mut checks);
        HostReport::new(checks).with_instructions(results(1))
    }

    fn encoded(report: &HostReport) -> Vec<u8> {
        let mut bytes = Vec::new();
        report.encode(&mut bytes);
        bytes
    }

    fn decoded(bytes: &[u8]) -> Result<HostReport, HostReportError> {
        HostReport::decode(&mut Fields::new(bytes))
    }

    #[test]
    fn it_survives_the_wire_and_its_prefixes_do_not() {
        let bytes = encoded(&report());
        assert_eq!(decoded(&bytes), Ok(report()));
        for len in 0..bytes.len() {
            assert!(decoded(&bytes[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn a_report_is_cut_to_what_fits() {
        let long = "é\n".repeat(200);
        let checks = vec![check(&long, CheckOutcome::Failed, true, &long); 200];
        let report = HostReport::new(checks);
        let bytes = encoded(&report);
        assert!(bytes.len() <= MAX_REPORT, "{}", bytes.len());
        assert_eq!(report.checks().len(), MAX_CHECKS);
        assert_eq!(decoded(&bytes), Ok(report));
    }

    #[test]
    fn what_passes_a_limit_is_refused() {
        assert_eq!(decoded(&[33]), Err(HostReportError::TooManyChecks(33)));
        for flags in [3, 8, 0x80] {
            let error = Err(HostReportError::UnknownFlags(flags));
            assert_eq!(decoded(&[1, flags, 0, 0]), error);
        }
        let long_name = [&[1, 0, 33][..], &[b'a'; 33], &[0]].concat();
        let error = HostReportError::TooLong(33, MAX_CHECK_NAME);
        assert_eq!(decoded(&long_name), Err(error));
        let long_text = [&[1, 0, 1, b'a', 65][..], &[b'a'; 65]].concat();
        let error = HostReportError::TooLong(65, MAX_MEASURED);
        assert_eq!(decoded(&long_text), Err(error));
        for bad in [0xff, 0x1b] {
            assert_eq!(decoded(&[1, 0, 1, bad, 0]), Err(HostReportError::NotText));
        }
    }

    #[test]
    fn both_hosts_must_pass_what_either_requires() {
        assert_eq!(report().shortfall(&report()), None);
        let none = HostReport::default();

        let failed = with(|checks| {
            checks[0].outcome = CheckOutcome::Failed;
            checks[0].measured = "run 2 differs".into();
        });
        for primary in [&report(), &none] {
            let refusal = primary.shortfall(&failed).expect("unfit");
            assert_eq!(refusal.code, RefusalCode::HostUnfit);
            for word in ["\"exits\"", "run 2 differs", "ftvm doctor"] {
                assert!(refusal.message.contains(word), "{word} in {refusal}");
            }
        }
        let silent = report().shortfall(&none).expect("unfit");
        assert!(silent.message.contains("not checked"), "{silent}");

        // One that goes on without, as its user wants it, with one that does not.
        let waived = with(|checks| {
            checks[0].outcome = CheckOutcome::Failed;
            checks[0].required = false;
        });
        assert_eq!(waived.shortfall(&waived), None);
        let refusal = waived.shortfall(&report()).expect("unfit");
        assert!(refusal.message.contains("the primary's host"), "{refusal}");
        let refusal = report().shortfall(&waived).expect("unfit");
        assert!(refusal.message.contains("the backup's host"), "{refusal}");
        assert!(!refusal.message.contains("--allow"), "{refusal}");

        let paging = |outcome, required| HostReport::new([check(PAGING, outcome, required, "")]);
        let (shadow, nested) = (
            paging(CheckOutcome::Passed, true),
            paging(CheckOutcome::Failed, false),
        );
        for (primary, backup) in [(&shadow, &nested), (&nested, &shadow)] {
            let refusal = primary.shortfall(backup).expect("unfit");
            let allow = "both with --allow-nested-paging";
            assert!(refusal.message.contains(allow), "{refusal}");
        }
    }

    #[test]
    fn a_backup_whose_processor_does_otherwise_is_refused_and_the_instruction_named() {
        let other = report().with_instructions(results(2));
        let refusal = report().shortfall(&other).expect("another processor");
        assert_eq!(refusal.code, RefusalCode::OtherProcessor);
        for word in ["other results of RCPPS;", "stepping and microcode"] {
            assert!(refusal.message.contains(word), "{word} in {refusal}");
        }
        let untried = report().with_instructions(InstructionResults::default());
        let refusal = report().shortfall(&untried).expect("not compared");
        assert!(refusal.message.contains("ftvm doctor"), "{refusal}");

        let renamed =
            with(|checks| checks.push(check("processor", CheckOutcome::Passed, false, "")));
        assert_eq!(report().shortfall(&renamed), None, "names alone");
    }

    #[test]
    fn differences_are_told_in_words() {
        assert_eq!(report().differences(&report()), []);
        let peer = with(|checks| {
            checks[1].outcome = CheckOutcome::Passed;
            checks[1].measured = "skid 10".into();
            checks.remove(2);
            checks.push(check("new", CheckOutcome::Passed, false, ""));
        });
        let told: Vec<String> = (report().differences(&peer).iter())
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            told,
            [
                "counter: here no (no PMU), there yes (skid 10)",
                "new: here not checked, there yes"
            ]
        );
        assert!(peer.passes("counter") && !report().passes("counter") && !peer.passes("?"));
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_a_report_or_an_error(bytes: Vec<u8>) {
            if let Ok(report) = decoded(&bytes) {
                prop_assert_eq!(&encoded(&report)[..], &bytes[..encoded(&report).len()]);
            }
        }
    }
}
