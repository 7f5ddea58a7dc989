//! A replayed guest that does not come to its next exit.

use std::time::{Duration, Instant};

use super::watchdog::Watchdog;

/// How long the guest may run without an exit while the log has a later one, unless said
/// otherwise. A primary stops its guest once a second of guest time at least, and needs no input for
/// that: see [`super::Recorder`]. A host whose processors or disks others use may take many times as long
/// as the primary did, and nobody waits for a replay.
const PATIENCE: Duration = Duration::from_secs(15);

/// The watchdog of a replay bites this often.
pub const REPLAY_WATCH: Duration = Duration::from_secs(1);

/// So often it bites before a guest is taken for lost: time alone also passes for a guest whose host
/// stands still.
const BITES: u32 = 5;

/// Knows since when the guest has run without an exit.
pub(super) struct Overdue {
    pub(super) watchdog: Option<Watchdog>,
    pub(super) patience: Duration,
    departed: Option<Departure>,
}

/// The guest runs.
#[derive(Debug, Clone, Copy)]
struct Departure {
    /// From this exit on.
    exits: u64,
    since: Instant,
    /// So often it was stopped by the host since.
    bites: u32,
}

impl Default for Overdue {
    fn default() -> Self {
        Self {
            watchdog: None,
            patience: PATIENCE,
            departed: None,
        }
    }
}

impl Overdue {
    /// The guest runs on after so many exits. A stop by the host that came to nothing does not begin
    /// anew.
    pub(super) fn departs(&mut self, exits: u64) {
        let Some(watchdog) = &self.watchdog else {
            return;
        };
        let anew = Departure {
            exits,
            since: Instant::now(),
            bites: 0,
        };
        let before = self.departed.filter(|departure| departure.exits == exits);
        self.departed = before.or(Some(anew));
        watchdog.enter();
    }

    /// The guest made an exit.
    pub(super) fn stops(&self) {
        if let Some(watchdog) = &self.watchdog {
            watchdog.leave();
        }
    }

    /// The guest stands at a window, which is no exit but where the log has something.
    pub(super) fn at_window(&mut self) {
        self.departed = None;
        self.stops();
    }

    /// The host stopped the guest between two exits. Whether it should have come to one by now.
    pub(super) fn is_bitten(&mut self) -> bool {
        let Some(departure) = &mut self.departed else {
            return false;
        };
        departure.bites += 1;
        departure.bites >= BITES && departure.since.elapsed() >= self.patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(patience: Duration) -> Overdue {
        let watchdog = Watchdog::start(Duration::from_secs(3600)).expect("a watchdog");
        Overdue {
            watchdog: Some(watchdog),
            patience,
            departed: None,
        }
    }

    /// How often it is bitten until it is overdue, if it is within `most`.
    fn bites(overdue: &mut Overdue, most: u32) -> Option<u32> {
        (1..=most).find(|_| overdue.is_bitten())
    }

    #[test]
    fn time_alone_makes_no_guest_overdue() {
        let mut overdue = watched(Duration::ZERO);
        overdue.departs(7);
        assert_eq!(bites(&mut overdue, 2 * BITES), Some(BITES));
    }

    #[test]
    fn bites_alone_make_no_guest_overdue() {
        let mut overdue = watched(Duration::from_secs(3600));
        overdue.departs(7);
        assert_eq!(bites(&mut overdue, 2 * BITES), None);
    }

    #[test]
    fn only_an_exit_or_a_window_begins_anew() {
        let mut overdue = watched(Duration::ZERO);
        overdue.departs(7);
        assert_eq!(bites(&mut overdue, BITES - 1), None);
        overdue.departs(7);
        assert_eq!(bites(&mut overdue, BITES), Some(1), "no exit since");
        overdue.stops();
        overdue.departs(8);
        assert_eq!(bites(&mut overdue, BITES), Some(BITES), "an exit");
        overdue.at_window();
        assert_eq!(bites(&mut overdue, BITES), None, "it does not run");
        overdue.departs(8);
        assert_eq!(bites(&mut overdue, BITES), Some(BITES), "a window");
    }

    #[test]
    fn nobody_is_overdue_whom_nobody_watches() {
        let mut overdue = Overdue::default();
        overdue.departs(7);
        assert_eq!(bites(&mut overdue, 2 * BITES), None);
    }
}
