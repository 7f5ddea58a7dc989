//! What became of a guest.

use std::fmt;
use std::time::Duration;

/// How a guest got over something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What happened.
    pub name: &'static str,
    /// Where the guest ran before it was healed.
    pub meanwhile: String,
    /// The longest time without a reply; none where the guest is gone.
    pub silence: Option<Duration>,
    /// How long it took until it was protected again; none where it is not any more.
    pub unprotected: Option<Duration>,
    /// Where the guest runs in the end.
    pub finally: String,
    /// What the client lost.
    pub lost: String,
    /// What is not as it should be.
    pub reasons: Vec<String>,
}

impl Row {
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            meanwhile: String::new(),
            silence: None,
            unprotected: None,
            finally: String::new(),
            lost: String::new(),
            reasons: Vec::new(),
        }
    }

    pub(super) fn fail(&mut self, reason: String) {
        self.reasons.push(reason);
    }

    /// Whether all is as it should be.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.reasons.is_empty()
    }

    /// The figures as the matrix has them: the longest time without a reply, how long the guest was not
    /// protected, where it runs in the end, what was lost.
    #[must_use]
    pub fn cells(&self) -> [String; 4] {
        let told = |time: Option<Duration>| match time {
            None => "for ever".to_owned(),
            Some(Duration::ZERO) => "–".to_owned(),
            Some(time) => {
                let tenths = time.as_millis().div_ceil(100);
                format!("{}.{} s", tenths / 10, tenths % 10)
            }
        };
        [
            told(self.silence),
            told(self.unprotected),
            self.finally.clone(),
            self.lost.clone(),
        ]
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [silence, unprotected, finally, lost] = self.cells();
        write!(
            f,
            "{}: without a reply {silence}, unprotected {unprotected}; before the healing: {}; in the end: \
             {finally}; lost: {lost}",
            self.name, self.meanwhile
        )?;
        for reason in &self.reasons {
            write!(f, "\n   {reason}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_rounded_up() {
        let row = Row {
            silence: Some(Duration::from_millis(601)),
            unprotected: Some(Duration::ZERO),
            ..Row::new("a cut")
        };
        assert_eq!(row.cells()[..2], ["0.7 s", "–"]);
    }
}
