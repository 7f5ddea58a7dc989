//! The backup's end of a session, as a machine.

use std::time::{Duration, Instant};

use crate::control::Control;
use crate::entry::Lsn;

/// How long entries that nobody waits for are not acknowledged, for others to come with them, and
/// how long executed entries wait to be reported while execution moves on.
pub(crate) const REPORT: Duration = Duration::from_millis(10);

/// The longest that is when nothing moved for a while: an idle guest's replay trails by an entry
/// all the time, and looking for its progress must not cost more than that.
const REPORT_IDLE: Duration = Duration::from_millis(40);

/// What a backup has received, and what it has told its primary of it.
#[derive(Debug)]
pub struct BackupEnd {
    received: Lsn,
    told: Told,
    /// How long to wait for the next report.
    report: Duration,
    /// When the first entries came that are not acknowledged.
    owed: Option<Instant>,
    /// The primary waits for one of them.
    awaited: bool,
}

/// What the primary was told.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    received: Lsn,
    executed: Lsn,
}

/// What a message of the primary's says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FromPrimary {
    /// Its outputs up to this entry have left.
    Released(Lsn),
    /// Its guest has used so much of a processor.
    Used(Duration),
    /// The log has ended in order.
    End,
}

impl Default for BackupEnd {
    fn default() -> Self {
        Self {
            received: Lsn(0),
            told: Told::default(),
            report: REPORT,
            owed: None,
            awaited: false,
        }
    }
}

impl BackupEnd {
    /// Entries up to `last` are in this host's memory; the primary waits for one of the new ones, or
    /// not.
    pub fn receive(&mut self, last: Lsn, awaited: bool, now: Instant) {
        self.received = last;
        self.owed.get_or_insert(now);
        self.awaited |= awaited;
    }

    /// A message comes that is no batch.
    ///
    /// # Errors
    /// It is none that a primary sends here: in which way.
    pub fn hear(&self, message: Control) -> Result<FromPrimary, String> {
        match message {
            Control::Released(lsn) => Ok(FromPrimary::Released(lsn)),
            Control::Used(used) => Ok(FromPrimary::Used(used)),
            Control::Goodbye(last) if last == self.received => Ok(FromPrimary::End),
            Control::Goodbye(last) => Err(format!(
                "a goodbye after LSN {last}, but the last entry has LSN {}",
                self.received
            )),
            Control::Acknowledge { .. } | Control::NeedState { .. } | Control::Renew => {
                Err(format!("a primary that sends {message:?}"))
            }
        }
    }

    /// Whether something is to be acknowledged now.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        self.awaited || self.until_owed(now).is_some_and(|left| left.is_zero())
    }

    /// Time until progress is to be looked at; `None` for as long as nothing comes. Something else
    /// may be `unsaid`.
    #[must_use]
    pub fn next_report(&self, now: Instant, unsaid: bool) -> Option<Duration> {
        let behind = self.told.executed < self.received || unsaid;
        // What is owed is never later than a report.
        self.until_owed(now).or(behind.then_some(self.report))
    }

    /// Time until what is owed is acknowledged at the latest.
    fn until_owed(&self, now: Instant) -> Option<Duration> {
        let owed = self.owed?;
        Some(REPORT.saturating_sub(now.saturating_duration_since(owed)))
    }

    /// What to tell the primary, which does not know it: entries received, and those `executed`. If it
    /// cannot be told now, then with the next report. A session that is over is not `open`: nothing is
    /// acknowledged once this side took the primary for lost, because it may go live.
    pub fn report(&mut self, executed: Lsn, open: bool) -> Option<(Lsn, Lsn)> {
        let executed = executed.min(self.received).max(self.told.executed);
        let news = executed > self.told.executed || self.received > self.told.received;
        self.report = if news {
            REPORT
        } else {
            (self.report * 2).min(REPORT_IDLE)
        };
        self.owed = None;
        self.awaited = false;
        if !(news && open) {
            return None;
        }
        self.told = Told {
            received: self.received,
            executed,
        };
        Some((self.received, executed))
    }

    /// Last entry received.
    #[must_use]
    pub fn received(&self) -> Lsn {
        self.received
    }
}
