//! What a selftest found, for its user and for us: without names, addresses or paths of the host.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::host::HostFacts;
use super::load::{self, Load};
use crate::events::Compared;

/// In one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Verdict {
    /// Everything was equal.
    #[serde(rename = "PASS")]
    Pass,
    /// Something differed, or did not go as it must.
    #[serde(rename = "FAIL")]
    Fail,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
        })
    }
}

/// What came of a round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(super) enum Outcome {
    /// All of this was compared.
    Equal(Compared),
    /// The replay differs from its recording.
    Differs {
        difference: String,
        /// The most likely cause.
        cause: String,
        /// What was wrong with the guest when it was recorded, if something was.
        #[serde(skip_serializing_if = "Option::is_none")]
        before: Option<String>,
    },
    /// Something else went wrong.
    Failed { what: String },
}

/// One round.
#[derive(Debug, Clone, Serialize)]
pub(super) struct RoundReport {
    pub(super) round: usize,
    pub(super) guest: String,
    /// What the guest says that it did.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) load: String,
    /// How long it took to record it here; nothing if another host did.
    pub(super) recorded_s: Option<f64>,
    pub(super) replayed_s: Option<f64>,
    #[serde(flatten)]
    pub(super) outcome: Outcome,
}

/// Rounds of one guest, or of all, together.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Total {
    rounds: usize,
    equal: usize,
    #[serde(flatten)]
    compared: Compared,
}

/// All that was found.
#[derive(Debug, Serialize)]
pub struct Report {
    verdict: Verdict,
    /// Why nothing was tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    /// How long it took.
    pub(super) seconds: f64,
    pub(super) host: HostFacts,
    /// The host that made the recordings, if they were made before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) recorded_on: Option<HostFacts>,
    total: Total,
    guests: BTreeMap<String, Total>,
    load: Load,
    /// What the load was to do and did in no round: nothing is known of that.
    missing: Vec<&'static str>,
    rounds: Vec<RoundReport>,
}

impl Total {
    fn add(&mut self, outcome: &Outcome) {
        self.rounds += 1;
        if let Outcome::Equal(compared) = outcome {
            self.equal += 1;
            self.compared.add(compared);
        }
    }
}

impl Report {
    /// Of a host, of which nothing is known yet.
    pub(super) fn new(host: HostFacts) -> Self {
        Self {
            verdict: Verdict::Fail,
            refused: None,
            seconds: 0.0,
            host,
            recorded_on: None,
            total: Total::default(),
            guests: BTreeMap::new(),
            load: Load::new(),
            missing: load::missing(&Load::new()).collect(),
            rounds: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, round: RoundReport) {
        self.total.add(&round.outcome);
        let guest = self.guests.entry(round.guest.clone()).or_default();
        guest.add(&round.outcome);
        load::add(&mut self.load, &round.load);
        self.missing = load::missing(&self.load).collect();
        self.rounds.push(round);
        self.verdict = if self.total.equal == self.total.rounds && self.missing.is_empty() {
            Verdict::Pass
        } else {
            Verdict::Fail
        };
    }

    /// This host is not fit to be tried.
    pub(super) fn refuse(&mut self, why: impl fmt::Display) {
        self.verdict = Verdict::Fail;
        self.refused = Some(why.to_string());
    }

    /// In one word.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Why this host was not tried, or not to the end: it is not fit.
    #[must_use]
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// Whether a replay differed from its recording.
    #[must_use]
    pub fn differs(&self) -> bool {
        let differs = |round: &RoundReport| matches!(round.outcome, Outcome::Differs { .. });
        self.rounds.iter().any(differs)
    }

    /// One JSON object.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a report is plain data")
    }
}

impl fmt::Display for RoundReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "round {}, {}: ", self.round, self.guest)?;
        match &self.outcome {
            Outcome::Equal(compared) => write!(
                f,
                "equal: {} exits, {} digests of the state, {} pages",
                compared.exits, compared.states, compared.pages
            )?,
            Outcome::Differs {
                difference,
                cause,
                before,
            } => {
                write!(f, "differs {difference}; most likely: {cause}")?;
                if let Some(what) = before {
                    write!(f, "; before that, {what}")?;
                }
            }
            Outcome::Failed { what } => write!(f, "failed: {what}")?,
        }
        if let Some(seconds) = self.recorded_s {
            write!(f, "; recorded in {seconds:.1} s")?;
        }
        if let Some(seconds) = self.replayed_s {
            write!(f, "; replayed in {seconds:.1} s")?;
        }
        Ok(())
    }
}

impl fmt::Display for HostFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "ftvm {}, paging: {}, {} × {}",
            self.ftvm, self.paging, self.processors, self.processor
        )?;
        for check in &self.checks {
            let mark = match (check.passed, check.required) {
                (true, _) => '✓',
                (false, true) => '✗',
                (false, false) => '-',
            };
            writeln!(f, "  {mark} {}: {}", check.id, check.measured)?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.host)?;
        if let Some(other) = &self.recorded_on {
            write!(f, "recorded by {other}")?;
        }
        let width = self
            .guests
            .keys()
            .map(String::len)
            .max()
            .unwrap_or(0)
            .max(5);
        writeln!(
            f,
            "\n{:width$} {:>6} {:>6} {:>11} {:>11} {:>8} {:>8} {:>10}",
            "guest", "rounds", "equal", "exits", "registers", "digests", "deltas", "pages"
        )?;
        let all = "all".to_owned();
        for (name, total) in self.guests.iter().chain([(&all, &self.total)]) {
            let Compared {
                exits,
                registers,
                states,
                deltas,
                pages,
                ..
            } = total.compared;
            writeln!(
                f,
                "{name:width$} {:>6} {:>6} {exits:>11} {registers:>11} {states:>8} {deltas:>8} \
                 {pages:>10}",
                total.rounds, total.equal
            )?;
        }
        if !self.load.is_empty() {
            let counts = self
                .load
                .iter()
                .map(|(name, count)| format!("{name} {count}"));
            writeln!(f, "\nload: {}", counts.collect::<Vec<_>>().join(", "))?;
        }
        let wrong = |round: &&RoundReport| !matches!(round.outcome, Outcome::Equal(_));
        for round in self.rounds.iter().filter(wrong) {
            writeln!(f, "{round}")?;
        }
        match &self.refused {
            Some(why) => writeln!(f, "\n{why}")?,
            None if !self.missing.is_empty() => {
                let missing = self.missing.join(", ");
                writeln!(
                    f,
                    "\nthe load did nothing of: {missing}; try more --minutes"
                )?;
            }
            None => {}
        }
        writeln!(f, "\n{:.1} minutes\n{}", self.seconds / 60.0, self.verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor;

    fn round(number: usize, outcome: Outcome) -> RoundReport {
        RoundReport {
            round: number,
            guest: "linux".into(),
            load: "mix: forks 5, execs 1, signals 1, faults 1, floats 1, aged 1, compiled 1, reclaimed 1, \
                   pswpin 1, pswpout 7, wrong 0"
                .into(),
            recorded_s: Some(1.0),
            replayed_s: Some(2.0),
            outcome,
        }
    }

    fn report() -> Report {
        let checks = doctor::examine(doctor::Effort::Needed);
        Report::new(HostFacts::of_this_host(&checks))
    }

    fn equal() -> Outcome {
        Outcome::Equal(Compared {
            exits: 100,
            pages: 32,
            ..Compared::default()
        })
    }

    #[test]
    fn one_difference_fails_and_is_told_with_its_cause() {
        let mut report = report();
        assert_eq!(report.verdict(), Verdict::Fail, "nothing was compared");
        report.add(round(1, equal()));
        assert_eq!(report.verdict(), Verdict::Pass);
        let text = report.to_string();
        assert!(text.ends_with("\nPASS\n"), "{text}");
        report.add(round(
            2,
            Outcome::Differs {
                difference: "at exit 7".into(),
                cause: "dust".into(),
                before: Some("the guest says `mix: WRONG`".into()),
            },
        ));
        report.add(round(3, equal()));
        assert!(report.differs());
        let text = report.to_string();
        assert!(text.ends_with("\nFAIL\n"), "{text}");
        assert!(
            text.contains("differs at exit 7; most likely: dust; before that, the guest says"),
            "{text}"
        );
        assert!(text.contains("forks 15, pswpin 3, pswpout 21"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).expect("JSON");
        assert_eq!(json["verdict"], "FAIL");
        assert_eq!(json["total"]["exits"], 200);
        assert_eq!(json["load"]["pswpout"], 21);
        assert_eq!(json["rounds"][1]["outcome"], "differs");
        assert_eq!(json["rounds"][1]["cause"], "dust");
    }

    #[test]
    fn a_load_that_did_not_swap_proves_nothing() {
        let mut report = report();
        let mut round = round(1, equal());
        round.load = round.load.replace("pswpout 7", "pswpout 0");
        report.add(round);
        assert_eq!(report.verdict(), Verdict::Fail);
        assert!(!report.differs());
        let text = report.to_string();
        assert!(text.contains("did nothing of: pswpout;"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).expect("JSON");
        assert_eq!(json["missing"], serde_json::json!(["pswpout"]));
    }

    #[test]
    fn what_is_not_fit_fails_and_says_why() {
        let mut report = report();
        report.refuse("no KVM");
        let text = report.to_string();
        assert!(
            text.contains("no KVM") && text.ends_with("\nFAIL\n"),
            "{text}"
        );
    }

    #[test]
    fn what_went_wrong_otherwise_is_no_difference() {
        let mut report = report();
        let what = "the recording: it hangs".into();
        report.add(round(1, Outcome::Failed { what }));
        assert_eq!(report.verdict(), Verdict::Fail);
        assert!(!report.differs());
    }
}
