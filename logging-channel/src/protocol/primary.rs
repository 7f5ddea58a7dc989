//! The primary's end of a session, as a machine.

mod ages;
mod catch_up;
mod lag;
mod lease;
mod permit;
mod standstill;

use std::time::{Duration, Instant};

use self::ages::Unacknowledged;
use self::catch_up::CatchUp;
use self::lag::LagMeter;
use self::lease::Lease;
pub use self::permit::Permit;
use self::standstill::{Seen, Standstill, look_interval};
use super::pulse::Heard;
use crate::control::Control;
use crate::entry::{Lsn, Payload, StatePart};
use crate::loss::LossReason;
use crate::settings::Settings;
use crate::times::Times;

/// What a primary knows of its session: how far the backup has acknowledged the log and executed it,
/// what may leave and until when, and whether the backup gets on.
#[derive(Debug)]
pub struct PrimaryEnd {
    max_lag: Duration,
    look_interval: Duration,
    appended: Lsn,
    acked: Lsn,
    executed: Lsn,
    released: Lsn,
    unacknowledged: Unacknowledged,
    lease: Lease,
    lag: LagMeter,
    /// Since the backup has taken the whole state over, until it has caught up.
    catch_up: Option<CatchUp>,
    behind: bool,
    round_trip: Option<Duration>,
    /// Since when the guest is held up, for the backup or for room in the buffer.
    held: Option<Instant>,
    /// The session began with a transfer of the whole state, and does not protect the guest yet: no
    /// output waits for it.
    joining: bool,
    transfer: Transfer,
    standstill: Standstill,
    /// Entry at which the backup differed, if it asked for the state since that was taken.
    state_wanted: Option<Lsn>,
    /// The backup asks for the state, though it has all that it needs.
    renewal_wanted: bool,
    takes_counts: bool,
    storage_answered: Option<Instant>,
    storage_silent: Option<Instant>,
    finishing: bool,
}

/// A transfer of the whole state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transfer {
    None,
    UnderWay,
    /// Sent with this entry; the backup takes it over when it executes that.
    Sent(Lsn),
}

/// What an entry that is appended means to the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Its number: one more than that of the entry before.
    pub lsn: Lsn,
    /// It is the first of a batch, which is sent after it.
    pub opens_batch: bool,
}

impl PrimaryEnd {
    /// Of a session that begins `now`, with the timeout of its heartbeats.
    #[must_use]
    pub fn new(settings: &Settings, heartbeat_timeout: Duration, now: Instant) -> Self {
        let look_interval = look_interval(settings);
        Self {
            max_lag: settings.max_lag,
            look_interval,
            appended: Lsn(0),
            acked: Lsn(0),
            executed: Lsn(0),
            released: Lsn(0),
            unacknowledged: Unacknowledged::default(),
            lease: Lease::new(heartbeat_timeout, now),
            lag: LagMeter::new(),
            catch_up: None,
            behind: false,
            round_trip: None,
            held: None,
            joining: false,
            transfer: Transfer::None,
            standstill: Standstill::new(settings, look_interval, now),
            state_wanted: None,
            renewal_wanted: false,
            takes_counts: true,
            storage_answered: None,
            storage_silent: None,
            finishing: false,
        }
    }

    /// How often [`PrimaryEnd::look`] is to be called.
    #[must_use]
    pub fn look_interval(&self) -> Duration {
        self.look_interval
    }

    /// An entry was appended, and is not sent yet. The time is asked for only where it matters.
    pub fn append(&mut self, appended: Appended, payload: &Payload, now: impl Fn() -> Instant) {
        let Appended { lsn, opens_batch } = appended;
        self.appended = lsn;
        if opens_batch {
            let now = now();
            self.lag.appended(lsn, now);
            self.unacknowledged.batches.appended(lsn, now);
        }
        match payload {
            Payload::Output(_) if !self.joining => {
                self.unacknowledged.outputs.appended(lsn, now());
            }
            Payload::Protected { .. } => {
                self.joining = false;
                self.lease.begin(now());
            }
            Payload::State(StatePart::Begin(_)) => {
                self.transfer = Transfer::UnderWay;
                self.joining |= lsn == Lsn::FIRST;
            }
            Payload::State(StatePart::Commit(_)) if self.transfer == Transfer::UnderWay => {
                self.transfer = Transfer::Sent(lsn);
            }
            _ => {}
        }
    }

    /// Messages of the backup's come. Says whether they have news.
    ///
    /// # Errors
    /// They are none that a backup sends: in which way.
    pub fn hear(
        &mut self,
        messages: impl IntoIterator<Item = Control>,
        now: Instant,
    ) -> Result<bool, String> {
        let mut latest = (self.acked, self.executed);
        let mut idle = Duration::ZERO;
        for message in messages {
            match message {
                Control::Acknowledge {
                    received,
                    executed,
                    idle: since,
                } if received >= latest.0 && executed >= latest.1 => {
                    (latest, idle) = ((received, executed), since);
                }
                Control::Acknowledge { .. } => return Err("acknowledgements that go back".into()),
                Control::NeedState {
                    differed,
                    uncounted,
                } if differed <= self.appended => {
                    self.takes_counts &= !uncounted;
                    self.state_wanted = self.state_wanted.max(Some(differed));
                }
                Control::Renew => self.renewal_wanted = true,
                other => return Err(format!("a backup that sends {other:?}")),
            }
        }
        let (acked, executed) = latest;
        if acked > self.appended || executed > acked {
            return Err("acknowledgement of entries that were not sent".into());
        }
        let news = latest != (self.acked, self.executed);
        if executed > self.executed {
            self.executed = executed;
            let then = now.checked_sub(idle).unwrap_or(now);
            self.lag.executed(executed, self.appended, then);
            if matches!(self.transfer, Transfer::Sent(lsn) if executed >= lsn) {
                self.transfer = Transfer::None;
                let lag = self.lag.lag(now);
                self.catch_up = Some(CatchUp::new(self.appended, executed, lag, now));
            }
            self.judge_lag(now);
        }
        if news {
            // All of it was sent after it was appended.
            if let Some(appended) = self.unacknowledged.acknowledged(acked) {
                self.lease.prove(appended, now);
            }
            self.acked = acked;
        }
        Ok(news)
    }

    /// A heartbeat of the backup's comes.
    pub fn hear_heartbeat(&mut self, heard: &Heard, now: Instant) {
        self.storage_answered = self.storage_answered.max(heard.storage);
        if let Some(sent) = heard.sent {
            self.lease.prove(sent, now);
        }
        self.round_trip = heard.round_trip.or(self.round_trip);
    }

    /// What may leave, and until when.
    #[must_use]
    pub fn permit(&self) -> Permit {
        Permit {
            up_to: self.acked,
            until: Some(self.lease.end()),
        }
    }

    /// Every output up to `lsn` has left.
    pub fn note_released(&mut self, lsn: Lsn) {
        self.released = self.released.max(lsn);
    }

    /// The guest is held up since then, or not any more.
    pub fn note_held(&mut self, since: Option<Instant>) {
        self.held = since;
    }

    /// Since when the disk server that the replay reads does not answer this host.
    pub fn note_storage_silent(&mut self, since: Option<Instant>) {
        self.storage_silent = since;
    }

    /// Looks how the backup gets on. Gives the loss, if it does not.
    pub fn look(&mut self, now: Instant) -> Option<LossReason> {
        // A backup that stands still reports nothing: time alone must show the lag.
        self.judge_lag(now);
        let seen = Seen {
            awaited: self.unacknowledged.outputs.oldest(),
            held: self.held,
            appended: self.appended,
            acked: self.acked,
            executed: self.executed,
            repairing: self.transfer != Transfer::None,
            joining: self.joining,
            sent: matches!(self.transfer, Transfer::Sent(_)),
            disk_silent: self.storage_silent,
            proven_until: (!self.joining).then(|| self.lease.held()),
        };
        self.standstill.tick(now, &seen)
    }

    /// Whether the guest is to be held up. What the network takes is not the backup's fault: with it in
    /// the bound, a guest behind a slow network would be held up all the time. And a backup that takes the
    /// whole state over can execute nothing.
    fn judge_lag(&mut self, now: Instant) {
        let bound = self.max_lag + self.round_trip.unwrap_or_default();
        let lags = self.lag.lag(now) > bound && self.transfer == Transfer::None;
        if !lags && self.transfer == Transfer::None {
            self.catch_up = None;
        }
        let allowed = |it: CatchUp| it.allows(self.appended, self.executed, now);
        self.behind = lags && !self.catch_up.is_some_and(allowed);
    }

    /// The last word is about to be sent: the backup ends the connection when it has read it.
    pub fn finish(&mut self) {
        self.finishing = true;
    }

    /// The connection has ended.
    #[must_use]
    pub fn closed(&self) -> LossReason {
        match self.finishing {
            true => LossReason::Orderly,
            false => LossReason::Closed,
        }
    }

    /// The guest is to be held up, because the backup is too far behind.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.behind
    }

    /// The backup differs: it asks for the whole state, or gets it, and does not take over before it has it.
    #[must_use]
    pub fn is_repairing(&self) -> bool {
        !self.joining && (self.state_wanted.is_some() || self.transfer != Transfer::None)
    }

    /// Age of the oldest entry that the backup has not executed.
    #[must_use]
    pub fn lag(&self, now: Instant) -> Duration {
        self.lag.lag(now)
    }

    /// The lag at each of the backup's reports.
    pub fn lags(&mut self) -> &mut Times {
        self.lag.times()
    }

    /// The entry at which the backup differed, if it asks for the whole state; given out once.
    pub fn take_state_wanted(&mut self) -> Option<Lsn> {
        self.state_wanted.take()
    }

    /// Whether the backup asks for the whole state.
    #[must_use]
    pub fn wants_state(&self) -> bool {
        self.state_wanted.is_some()
    }

    /// Whether a backup that has all that it needs asks for the state; given out once.
    pub fn take_renewal_wanted(&mut self) -> bool {
        std::mem::take(&mut self.renewal_wanted)
    }

    /// Whether it does.
    #[must_use]
    pub fn wants_renewal(&self) -> bool {
        self.renewal_wanted
    }

    /// Whether the backup finds counted stops.
    #[must_use]
    pub fn takes_counts(&self) -> bool {
        self.takes_counts
    }

    /// What the network takes there and back.
    #[must_use]
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// When the disk server answered the backup; not later than it did.
    #[must_use]
    pub fn storage_answered(&self) -> Option<Instant> {
        self.storage_answered
    }

    /// Last entry appended.
    #[must_use]
    pub fn appended(&self) -> Lsn {
        self.appended
    }

    /// Last entry that the backup has in its memory.
    #[must_use]
    pub fn acked(&self) -> Lsn {
        self.acked
    }

    /// Last entry that the backup has executed.
    #[must_use]
    pub fn executed(&self) -> Lsn {
        self.executed
    }

    /// Last entry whose output has left.
    #[must_use]
    pub fn released(&self) -> Lsn {
        self.released
    }
}

#[cfg(test)]
mod tests;
