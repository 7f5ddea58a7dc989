//! Whether a thread that is to go round does so.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::exporter::Health;

/// Longer than what a round takes where others do not answer.
const LONGEST: Duration = Duration::from_secs(60);

/// When a thread went round last. A handle.
#[derive(Debug, Clone)]
pub struct Pulse(Arc<Mutex<Instant>>);

impl Pulse {
    /// It goes round now.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    /// It goes round again.
    pub fn beat(&self) {
        *self.0.lock() = Instant::now();
    }

    /// How a program is whose work is that: unwell where it was not done for a minute. `remedy` says what to do.
    #[must_use]
    pub fn health(&self, what: &str, remedy: &str) -> Health {
        Self::health_after(self.0.lock().elapsed(), what, remedy)
    }

    fn health_after(since: Duration, what: &str, remedy: &str) -> Health {
        match since > LONGEST {
            true => Health::Unwell(format!("{what} for {} s: {remedy}", since.as_secs())),
            false => Health::Well,
        }
    }
}

impl Default for Pulse {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_go_round_is_unwell() {
        let told = |since| Pulse::health_after(since, "no ping was sent", "restart it");
        assert_eq!(told(LONGEST), Health::Well);
        let unwell = Health::Unwell("no ping was sent for 61 s: restart it".into());
        assert_eq!(told(LONGEST + Duration::from_secs(1)), unwell);
        assert_eq!(Pulse::new().health("", ""), Health::Well);
    }
}
