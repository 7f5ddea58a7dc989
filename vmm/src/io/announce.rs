//! Tells the network where the guest now is: at once, several times over some seconds, and again when
//! somebody else speaks with its address, which a host does that had it before and does not know yet
//! that it lost. Switches believe the last who spoke.
//!
//! A host that may have lost itself is silent: it would take the guest's clients from the one that runs it, and
//! both would go on telling the network so.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use crate::threads;

/// When the address is announced again, counted from the first time. Close together at first, because
/// one may be lost; over seconds, because a switch may be busy with the failure that was the cause.
const ROUNDS: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
];

/// Least time between an announcement and one that answers what was heard: a network that gives back
/// what it gets must not be filled.
const SPACING: Duration = Duration::from_millis(250);

/// When to announce. No clock: time is an argument.
#[derive(Debug)]
struct Schedule {
    first: Instant,
    last: Instant,
    rounds: std::slice::Iter<'static, Duration>,
    heard: bool,
}

impl Schedule {
    /// The first announcement was made `now`.
    fn new(now: Instant) -> Self {
        Self {
            first: now,
            last: now,
            rounds: ROUNDS.iter(),
            heard: false,
        }
    }

    /// Somebody else speaks with the address.
    fn heard(&mut self) {
        self.heard = true;
    }

    /// When the next announcement is due, if one is.
    fn due(&self) -> Option<Instant> {
        let answer = self.heard.then(|| self.last + SPACING);
        let round = self
            .rounds
            .as_slice()
            .first()
            .map(|&after| self.first + after);
        [answer, round].into_iter().flatten().min()
    }

    /// It is announced `now`.
    fn announced(&mut self, now: Instant) {
        self.last = now;
        self.heard = false;
        let to_come = |after: &&Duration| self.first + **after > now;
        let passed = self
            .rounds
            .as_slice()
            .iter()
            .take_while(|after| !to_come(after));
        for _ in 0..passed.count() {
            self.rounds.next();
        }
    }
}

/// Announces an address for as long as this process lives.
#[derive(Debug)]
pub struct Announcer {
    mac: [u8; 6],
    heard: Sender<()>,
}

impl Announcer {
    /// Has `announce` called with the announcement of `mac` whenever it is due and this host `may`: now,
    /// and from a thread of its own later.
    #[must_use]
    pub fn start(
        mac: [u8; 6],
        may: impl Fn() -> bool + Send + 'static,
        announce: impl Fn(&[u8]) + Send + 'static,
    ) -> Self {
        let frame = announcement(mac);
        if may() {
            announce(&frame);
        }
        let schedule = Schedule::new(Instant::now());
        let (heard, hears) = crossbeam_channel::bounded(1);
        let again = move || run(schedule, &hears, may, || announce(&frame));
        if let Err(error) = threads::start("announce", &[], again) {
            log::warn!("the network is told only once where the guest is: {error}");
        }
        Self { mac, heard }
    }

    /// This frame came from outside. Waits for nothing.
    pub fn listen(&self, frame: &[u8]) {
        if frame.get(6..12) == Some(&self.mac) {
            // If it is full, the thread has not answered the last one yet.
            let _ = self.heard.try_send(());
        }
    }
}

fn run(mut schedule: Schedule, hears: &Receiver<()>, may: impl Fn() -> bool, announce: impl Fn()) {
    let mut told = false;
    loop {
        let heard = match schedule.due() {
            Some(due) => hears.recv_deadline(due),
            None => hears.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match heard {
            Ok(()) => schedule.heard(),
            Err(RecvTimeoutError::Timeout) => {
                if may() {
                    if schedule.heard && !told {
                        told = true;
                        log::warn!(
                            "another host speaks with the guest's address: telling the network again \
                             that the guest is here"
                        );
                    }
                    announce();
                }
                schedule.announced(Instant::now());
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

const ETHERTYPE_RARP: u16 = 0x8035;

/// Whether a frame is an [`announcement`] of this address.
pub(super) fn is_announcement(frame: &[u8], mac: [u8; 6]) -> bool {
    frame.get(6..12) == Some(&mac) && frame.get(12..14) == Some(&ETHERTYPE_RARP.to_be_bytes())
}

/// A RARP request from the guest's own address to everybody (RFC 903): any switch that sees it
/// learns the port behind which the address now is. It needs no IP address, so it works for every
/// guest; hypervisors use the same frame after a migration.
pub(super) fn announcement(mac: [u8; 6]) -> Vec<u8> {
    const REVERSE_REQUEST: u16 = 3;
    let mut frame = Vec::with_capacity(60);
    frame.extend_from_slice(&[0xff; 6]);
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&ETHERTYPE_RARP.to_be_bytes());
    frame.extend_from_slice(&1u16.to_be_bytes()); // hardware: Ethernet
    frame.extend_from_slice(&0x0800u16.to_be_bytes()); // protocol: IPv4
    frame.extend_from_slice(&[6, 4]); // address lengths
    frame.extend_from_slice(&REVERSE_REQUEST.to_be_bytes());
    for _sender_then_target in 0..2 {
        frame.extend_from_slice(&mac);
        frame.extend_from_slice(&[0; 4]);
    }
    frame.resize(60, 0); // shortest Ethernet frame without its checksum
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// The times of all announcements that are due, if each is made when it is.
    fn all(schedule: &mut Schedule, start: Instant) -> Vec<Duration> {
        std::iter::from_fn(|| {
            let due = schedule.due()?;
            schedule.announced(due);
            Some(due - start)
        })
        .collect()
    }

    #[test]
    fn comes_again_over_seconds_and_then_rests() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start);
        assert_eq!(all(&mut schedule, start), ROUNDS);
        assert_eq!(schedule.due(), None);
    }

    #[test]
    fn rounds_that_were_slept_through_are_one() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start);
        schedule.announced(start + ms(2000));
        assert_eq!(schedule.due(), Some(start + ms(3000)));
    }

    #[test]
    fn who_speaks_with_the_address_is_answered_but_not_at_any_rate() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start);
        all(&mut schedule, start);
        let spoke = start + ms(10_100);
        schedule.heard();
        schedule.heard();
        assert_eq!(schedule.due(), Some(start + ms(10_000) + SPACING));
        schedule.announced(spoke + SPACING);
        assert_eq!(schedule.due(), None);
        schedule.heard();
        assert_eq!(schedule.due(), Some(spoke + SPACING * 2));
    }

    #[test]
    fn only_the_own_address_from_outside_is_answered() {
        let mac = [0x52, 0x54, 0, 1, 2, 3];
        let (announced, announcements) = crossbeam_channel::unbounded();
        let announce = move |frame: &[u8]| {
            let _ = announced.send(frame.to_vec());
        };
        let announcer = Announcer::start(mac, || true, announce);
        let limit = ms(60_000);
        assert_eq!(announcements.try_recv(), Ok(announcement(mac)));
        announcer.listen(&[0xff; 60]);
        announcer.listen(&[0xff; 7]);
        assert!(announcer.heard.is_empty());
        announcer.listen(&announcement(mac));
        assert_eq!(announcements.recv_timeout(limit), Ok(announcement(mac)));
    }

    #[test]
    fn who_may_not_is_silent_until_it_may() {
        let mac = [0x52, 0x54, 0, 1, 2, 3];
        let (asked, questions) = crossbeam_channel::bounded(0);
        let (answer, answers) = crossbeam_channel::bounded(0);
        let may = move || asked.send(()).is_ok() && answers.recv() == Ok(true);
        let (announced, announcements) = crossbeam_channel::unbounded();
        let start = std::thread::spawn(move || {
            Announcer::start(mac, may, move |_: &[u8]| {
                let _ = announced.send(());
            })
        });
        let limit = ms(60_000);
        let decide = |may| {
            questions.recv_timeout(limit).expect("it asks");
            answer.send(may).expect("it waits for the answer");
        };
        decide(false);
        let announcer = start.join().expect("it starts");
        for _ in ROUNDS.iter().take(2) {
            announcer.listen(&announcement(mac));
            decide(false);
        }
        assert!(announcements.is_empty());
        announcer.listen(&announcement(mac));
        decide(true);
        assert_eq!(announcements.recv_timeout(limit), Ok(()));
    }

    #[test]
    fn is_a_broadcast_from_the_guest() {
        let mac = [0x52, 0x54, 0, 1, 2, 3];
        let frame = announcement(mac);
        assert_eq!(frame.len(), 60);
        assert_eq!(&frame[..6], &[0xff; 6]);
        assert_eq!(&frame[6..12], &mac);
        assert_eq!(&frame[12..14], &[0x80, 0x35]);
        assert_eq!(&frame[20..22], &[0, 3]);
        assert_eq!(&frame[32..38], &mac);
    }
}
