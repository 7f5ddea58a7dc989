//! The heartbeats of one end, as a machine.

use std::time::{Duration, Instant};

use crate::entry::Lsn;
use crate::heartbeat::{Arrivals, FailureDetector, Heartbeat, Liveness, Role, RoundTrip};
use crate::loss::LossReason;
use crate::settings::heartbeat_interval;

/// Sends heartbeats, hears the peer's, and finds silence.
#[derive(Debug)]
pub struct Pulse {
    role: Role,
    session: u64,
    interval: Duration,
    detector: FailureDetector,
    round_trip: RoundTrip,
    sequence: u64,
    /// Number of the peer's last heartbeat.
    heard: u64,
    arrivals: Arrivals,
}

/// What a heartbeat of the peer's says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// How far its outputs were released.
    pub released: Lsn,
    /// When the disk server answered it.
    pub storage: Option<Instant>,
    /// When that was sent which it has heard of this end, the latest.
    pub sent: Option<Instant>,
    /// What the network takes there and back, as it is estimated now.
    pub round_trip: Option<Duration>,
    /// How it and those before it arrived.
    pub arrivals: Arrivals,
}

impl Pulse {
    /// Of an end of the session of this number, which takes its peer as heard `now`.
    #[must_use]
    pub fn new(role: Role, session: u64, timeout: Duration, now: Instant) -> Self {
        let interval = heartbeat_interval(timeout);
        Self {
            role,
            session,
            interval,
            detector: FailureDetector::new(timeout, interval, now),
            round_trip: RoundTrip::default(),
            sequence: 0,
            heard: 0,
            arrivals: Arrivals::default(),
        }
    }

    /// How often [`Pulse::beat`] and [`Pulse::tick`] are to be called.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// The heartbeat to be sent now, which says how far outputs were `released`, and how long ago the
    /// disk server answered this host.
    pub fn beat(&mut self, now: Instant, released: Lsn, storage: Option<Duration>) -> Heartbeat {
        self.sequence += 1;
        let beat = Heartbeat {
            role: self.role,
            session: self.session,
            sequence: self.sequence,
            released,
            echo: self.round_trip.echo(now),
            storage,
        };
        self.round_trip.sent(self.sequence, now);
        beat
    }

    /// A heartbeat comes. Gives what it says, if it is the peer's and newer than all before: one that comes
    /// again says nothing, whoever sends it.
    pub fn hear(&mut self, beat: &Heartbeat, now: Instant) -> Option<Heard> {
        if beat.session != self.session || beat.role == self.role || beat.sequence <= self.heard {
            return None;
        }
        self.heard = beat.sequence;
        self.detector.heard(now);
        let echoed = beat.echo.map(|echo| echo.sequence);
        let sent = echoed.and_then(|sequence| self.round_trip.sent_at(sequence));
        let round_trip = self.round_trip.heard(beat.sequence, beat.echo, now);
        let measured = round_trip.and_then(|_| self.round_trip.latest());
        self.arrivals.note(beat.sequence, measured);
        Some(Heard {
            released: beat.released,
            storage: beat.storage.and_then(|age| now.checked_sub(age)),
            sent,
            round_trip,
            arrivals: self.arrivals,
        })
    }

    /// Something came over the connection at `at`.
    pub fn hear_log(&mut self, at: Instant) {
        self.detector.heard(at);
    }

    /// Time has passed, and all that came was heard. Gives the loss, if the peer is silent.
    pub fn tick(&mut self, now: Instant) -> Option<LossReason> {
        match self.detector.tick(now) {
            Liveness::Silent { for_ } => Some(LossReason::Silent { for_ }),
            Liveness::Alive | Liveness::Unsure => None,
        }
    }
}
