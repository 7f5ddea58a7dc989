//! What the doctor found, for people and for programs.

use std::error::Error;
use std::fmt;

use serde::Serialize;

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

impl From<Result<String, String>> for Outcome {
    fn from(result: Result<String, String>) -> Self {
        match result {
            Ok(measured) => Self::Pass(measured),
            Err(seen) => Self::Fail(seen),
        }
    }
}

/// One capability.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Name for programs.
    pub id: &'static str,
    /// Name for people.
    pub title: &'static str,
    /// Whether guests need it.
    pub required: bool,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// What it is needed for.
    pub meaning: &'static str,
    /// What to do when it fails.
    pub mend: &'static str,
}

impl Check {
    fn passed(&self) -> bool {
        matches!(self.outcome, Outcome::Pass(_))
    }
}

/// All that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    checks: Vec<Check>,
    /// How long it took.
    pub elapsed_ms: f64,
}

const LOAD_KVM: &str = "load the kernel module kvm_intel or kvm_amd and enable virtualisation \
                        (VT-x, SVM) in the firmware; in a virtual machine, enable nested \
                        virtualisation on its host; as a plain user, join the group kvm";
const UPGRADE: &str = "use Linux 5.10 or newer on the host";
const OTHER_KVM: &str = "this KVM does not behave as Linux's does with hardware support: use a \
                         machine with VT-x or SVM and the kernel's own KVM";
const CPU_TYPE: &str = "use a processor with x86-64-v2 and AES; where the host is a virtual \
                        machine, give it the CPU type of its host";

/// Every check: id, title, required, meaning, mend. In the order of examination.
const CATALOGUE: &[(&str, &str, bool, &str, &str)] = &[
    (
        "device",
        "/dev/kvm opens",
        true,
        "guests run on KVM",
        LOAD_KVM,
    ),
    (
        "api",
        "API and capabilities",
        true,
        "exits and registers are read through them",
        UPGRADE,
    ),
    (
        "cpu_model",
        "CPU model",
        true,
        "both hosts of a pair must show the guest the same processor",
        CPU_TYPE,
    ),
    (
        "long_mode",
        "64-bit mode",
        true,
        "guests are 64-bit kernels",
        OTHER_KVM,
    ),
    (
        "user_mode",
        "user mode and system calls",
        true,
        "without it Linux stops at its first program",
        OTHER_KVM,
    ),
    (
        "cpuid",
        "CPUID is the model's",
        true,
        "features that cannot be replayed must be hidden from the guest",
        OTHER_KVM,
    ),
    (
        "exits",
        "exits are deterministic",
        true,
        "their ordinal is the clock of the log",
        OTHER_KVM,
    ),
    (
        "halt",
        "HLT exits",
        true,
        "an idle guest waits for its inputs there",
        OTHER_KVM,
    ),
    (
        "interrupts",
        "interrupts come in place",
        true,
        "a replay must deliver each at the instruction where the recording did",
        OTHER_KVM,
    ),
    (
        "msr_filter",
        "MSR accesses exit",
        true,
        "the time stamp counter's value comes from the log",
        UPGRADE,
    ),
    (
        "single_step",
        "single step",
        true,
        "brings an interrupt window that opened early to its place",
        OTHER_KVM,
    ),
    (
        "tsc_trap",
        "user-mode RDTSC traps",
        true,
        "programs read the counter, and a replay must give them the logged value",
        OTHER_KVM,
    ),
    (
        "hardware_breakpoint",
        "hardware breakpoints",
        false,
        "would find an execution point without rewriting the guest's code",
        "nothing to mend: ftvm does without",
    ),
];

impl Report {
    pub(super) fn new() -> Self {
        let checks = CATALOGUE
            .iter()
            .map(|&(id, title, required, meaning, mend)| Check {
                id,
                title,
                required,
                outcome: Outcome::NotChecked,
                meaning,
                mend,
            })
            .collect();
        Self {
            checks,
            elapsed_ms: 0.0,
        }
    }

    pub(super) fn record(&mut self, id: &str, outcome: Outcome) {
        let check = self.checks.iter_mut().find(|c| c.id == id);
        check.expect("every check is in the catalogue").outcome = outcome;
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

    /// The first required check that did not pass.
    #[must_use]
    pub fn first_failed(&self) -> Option<&Check> {
        self.checks.iter().find(|c| c.required && !c.passed())
    }

    /// Whether guests can run here.
    #[must_use]
    pub fn is_fit(&self) -> bool {
        self.first_failed().is_none()
    }

    /// One JSON object.
    #[must_use]
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Json<'a> {
            verdict: &'a str,
            elapsed_ms: f64,
            checks: &'a [Check],
        }
        let verdict = if self.is_fit() { "fit" } else { "unfit" };
        serde_json::to_string(&Json {
            verdict,
            elapsed_ms: self.elapsed_ms,
            checks: &self.checks,
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
                Outcome::Fail(_) if check.required => '✗',
                Outcome::Fail(_) | Outcome::NotChecked => '-',
            };
            writeln!(
                f,
                "{mark} {:width$}  {}",
                check.title,
                check.outcome.measured()
            )?;
            if let Outcome::Fail(_) = check.outcome {
                let kind = if check.required { "needed" } else { "optional" };
                writeln!(f, "  {:width$}  {kind}: {}", "", check.meaning)?;
                writeln!(f, "  {:width$}  mend: {}", "", check.mend)?;
            }
        }
        let verdict = if self.is_fit() {
            "Guests can run on this host"
        } else {
            "Guests cannot run on this host"
        };
        writeln!(f, "{verdict} (checked in {:.0} ms).", self.elapsed_ms)
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
    use super::*;

    fn all(outcome: &Outcome) -> Report {
        let mut report = Report::new();
        for (id, ..) in CATALOGUE {
            report.record(id, outcome.clone());
        }
        report
    }

    #[test]
    fn required_checks_decide() {
        let mut report = all(&Outcome::Pass("seen".into()));
        assert!(report.is_fit());
        report.record("hardware_breakpoint", Outcome::Fail("none".into()));
        assert!(report.is_fit(), "an optional check does not");
        report.record("user_mode", Outcome::Fail("stays at CPL 3".into()));
        assert_eq!(report.first_failed().map(|c| c.id), Some("user_mode"));
        assert!(!Report::new().is_fit(), "what was not checked is not there");
    }

    #[test]
    fn failures_come_with_a_way_to_mend_them() {
        let mut report = all(&Outcome::Pass("seen".into()));
        report.record("device", Outcome::Fail("absent".into()));
        let text = report.to_string();
        assert!(text.contains("✗ /dev/kvm opens"), "{text}");
        assert!(text.contains("load the kernel module"), "{text}");
        assert_eq!(text.matches("mend:").count(), 1);
    }

    #[test]
    fn json_is_one_object() {
        let json: serde_json::Value =
            serde_json::from_str(&all(&Outcome::Fail("no".into())).to_json()).expect("JSON");
        assert_eq!(json["verdict"], "unfit");
        assert_eq!(
            json["checks"].as_array().map(Vec::len),
            Some(CATALOGUE.len())
        );
        assert_eq!(json["checks"][0]["outcome"], "fail");
        assert_eq!(json["checks"][0]["measured"], "no");
    }

    #[test]
    fn a_hang_is_blamed_on_the_check_under_way() {
        let mut report = Report::new();
        report.record("device", Outcome::Pass("there".into()));
        report.fail_first_open("hung");
        assert_eq!(report.checks()[1].outcome, Outcome::Fail("hung".into()));
    }
}
