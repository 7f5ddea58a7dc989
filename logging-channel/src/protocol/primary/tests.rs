use super::*;
use crate::heartbeat::Arrivals;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A guest with a session, and a backup that executes as fast as the guest runs.
struct Race {
    end: PrimaryEnd,
    start: Instant,
    at: u64,
    /// Entries that the backup has executed, in parts of an entry.
    executed: f64,
    /// For how long the guest was held up, at most and in all.
    longest: u64,
    held: u64,
    holds: u64,
}

impl Race {
    fn new() -> Self {
        let start = Instant::now();
        Self {
            end: PrimaryEnd::new(&Settings::default(), ms(500), start),
            start,
            at: 0,
            executed: 0.0,
            longest: 0,
            held: 0,
            holds: 0,
        }
    }

    fn append(&mut self, payload: &Payload) {
        let appended = Appended {
            lsn: self.end.appended().next(),
            opens_batch: true,
        };
        let now = self.start + ms(self.at);
        self.end.append(appended, payload, || now);
    }

    /// For so many milliseconds, the guest appends an entry in each unless it is held up, and the
    /// backup executes `speed` entries.
    fn run(&mut self, millis: u64, speed: f64) {
        for _ in 0..millis {
            self.at += 1;
            if self.end.is_behind() {
                self.holds += 1;
                self.held += 1;
                self.longest = self.longest.max(self.holds);
            } else {
                self.holds = 0;
                self.append(&Payload::Progress);
            }
            let appended = self.end.appended();
            self.executed = (self.executed + speed).min(appended.0 as f64);
            let now = self.start + ms(self.at);
            if self.at.is_multiple_of(10) {
                let message = Control::Acknowledge {
                    received: appended,
                    executed: Lsn(self.executed as u64),
                    idle: Duration::ZERO,
                };
                self.end.hear([message], now).expect("a backup's");
            }
            self.end.look(now);
        }
    }

    fn lag(&self) -> Duration {
        self.end.lag(self.start + ms(self.at))
    }
}

/// It takes two seconds to take the state over: no reason for the guest to stand still for as long.
#[test]
fn a_guest_is_slowed_down_for_a_backup_that_has_joined_and_not_stopped() {
    for protects in [true, false] {
        let mut race = Race::new();
        if !protects {
            // It did before, and is repaired.
            race.append(&Payload::Progress);
            race.run(100, 1.0);
        }
        race.append(&Payload::State(StatePart::Begin(1)));
        race.run(100, 1.0);
        race.append(&Payload::State(StatePart::Commit(Vec::new())));
        race.run(2000, 0.0);
        assert!(!protects || race.held == 0, "nothing is protected");
        race.append(&Payload::Protected {
            clock: 0,
            wall_clock: 0,
        });
        race.run(6000, 1.0);
        assert!(race.longest <= 20, "{} ms", race.longest);
        assert!(race.held <= 2500, "{} ms", race.held);
        assert!(
            race.lag() <= Settings::default().max_lag,
            "{:?}",
            race.lag()
        );
    }
}

#[test]
fn a_guest_waits_for_a_backup_that_joined_and_never_catches_up() {
    let mut race = Race::new();
    race.append(&Payload::State(StatePart::Begin(1)));
    race.append(&Payload::State(StatePart::Commit(Vec::new())));
    race.run(1000, 0.0);
    race.run(10_000, 0.1);
    assert!(race.longest > 1000, "{} ms", race.longest);
}

/// It may have heard at once what was sent then, and nothing since.
#[test]
fn no_permit_outlives_the_silence_after_which_the_backup_goes_live() {
    let (start, timeout) = (Instant::now(), Duration::from_millis(500));
    let sent = start + ms(100);
    let mut end = PrimaryEnd::new(&Settings::default(), timeout, start);
    let round_trip = ms(200);
    let heard = Heard {
        released: Lsn(0),
        storage: None,
        sent: Some(sent),
        round_trip: Some(round_trip),
        arrivals: Arrivals::default(),
    };
    end.hear_heartbeat(&heard, sent + round_trip);
    assert_eq!(end.permit().until, Some(sent + timeout - timeout / 1000));
}
