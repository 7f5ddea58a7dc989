//! What is logged where there is no guest: for those who measure the channel.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use parking_lot::Mutex;

use crate::codec::BatchEncoder;
use crate::entry::{Entry, ExecutionPoint, Lsn, OutputChannel, OutputMarker, Payload};
use crate::sender::{Permit, Sender};
use crate::times::{TimeFigures, Times};

/// A log that is the same thing again and again.
#[derive(Debug, Clone, Copy)]
pub struct Stretch(fn(u64) -> Payload);

/// How often somebody who waits looks whether it still should.
const LOOK: Duration = Duration::from_millis(100);

/// Frames as an Ethernet of the usual size brings them, with 1448 bytes of data.
pub const FRAMES: Stretch = Stretch(|_| Payload::NetRx(vec![0xa5; 1448]));

/// Frames of 64 KiB, as a bridge hands them on that a sender did not have cut.
pub const LARGE_FRAMES: Stretch = Stretch(|_| Payload::NetRx(vec![0xa5; 64 * 1024]));

/// Reads of the time stamp counter.
pub const SMALL: Stretch = Stretch(|exit| Payload::Tsc(exit * 60_000));

impl Stretch {
    /// Its entry at the exit `exit`.
    #[must_use]
    pub fn entry(&self, exit: u64) -> Entry {
        entry(exit, (self.0)(exit))
    }
}

/// What an output waits for.
#[must_use]
pub fn marker(exit: u64) -> Entry {
    let marker = OutputMarker {
        channel: OutputChannel::Net,
        len: 66,
        hash: exit as u32,
    };
    entry(exit, Payload::Output(marker))
}

/// The bytes with which a marker crosses that is sent by itself.
///
/// # Panics
/// Never.
#[must_use]
pub fn marker_bytes() -> Vec<u8> {
    let mut encoder = BatchEncoder::new(Lsn::FIRST);
    encoder.push(&marker(1)).expect("a valid entry");
    encoder.take().expect("it has an entry").seal()
}

/// As most entries, it has a digest of the registers.
fn entry(exit: u64, payload: Payload) -> Entry {
    Entry {
        point: ExecutionPoint::at_exit(exit),
        check: Some(exit as u32),
        payload,
    }
}

/// Markers of outputs that follow each other: where the output of one may leave, the next one is appended, as the
/// thread that pings sends its next ping.
#[derive(Debug)]
pub struct Turns {
    turn: Mutex<Turn>,
    /// When the last one was over.
    over: Receiver<Instant>,
}

#[derive(Debug, Default)]
struct Turn {
    /// The marker that is on its way, and since when.
    waits: Option<(Lsn, Instant)>,
    exit: u64,
    /// How many follow it.
    left: u64,
    times: Times,
}

impl Turns {
    /// On this sender, whose outputs they are from then on.
    #[must_use]
    pub fn of(sender: &Arc<Sender>) -> Arc<Self> {
        let (told, over) = crossbeam_channel::unbounded();
        let turns = Arc::new(Self {
            turn: Mutex::default(),
            over,
        });
        // Who is called by the sender does not keep it.
        let (own, weak) = (Arc::clone(&turns), Arc::downgrade(sender));
        sender.release_with(Box::new(move |permit: Permit| {
            let mut turn = own.turn.lock();
            let (waits, since) = turn.waits?;
            if waits > permit.up_to {
                return None;
            }
            let now = Instant::now();
            turn.times.note(now - since);
            match turn.left.checked_sub(1) {
                Some(left) => {
                    turn.left = left;
                    turn.append(&weak, now);
                }
                None => {
                    turn.waits = None;
                    let _ = told.send(now);
                }
            }
            Some(waits)
        }));
        turns
    }

    /// So many, behind the exit `exit`, each at one of its own. Gives when the last one was over; `None` if
    /// `gives_up`, which is asked now and then, says so before.
    ///
    /// # Panics
    /// If there are to be none.
    pub fn run(
        &self,
        sender: &Arc<Sender>,
        exit: u64,
        turns: u64,
        mut gives_up: impl FnMut() -> bool,
    ) -> Option<Instant> {
        {
            let mut turn = self.turn.lock();
            turn.exit = exit;
            turn.left = turns.checked_sub(1).expect("one at least");
            turn.append(&Arc::downgrade(sender), Instant::now());
        }
        loop {
            if let Ok(end) = self.over.recv_timeout(LOOK) {
                return Some(end);
            }
            if gives_up() {
                // The sender's own thread has no handle of it from then on, so never the last one.
                self.turn.lock().waits = None;
                return None;
            }
        }
    }

    /// How long they took, from the append to where the output may leave, and how many there were.
    #[must_use]
    pub fn times(&self) -> (TimeFigures, u64) {
        let turn = self.turn.lock();
        (turn.times.figures(), turn.times.count())
    }
}

impl Turn {
    /// Appends the next marker, and sends it. No more of them, if the session is over.
    fn append(&mut self, sender: &Weak<Sender>, now: Instant) {
        let Some(sender) = sender.upgrade() else {
            return;
        };
        self.exit += 1;
        self.waits = Some((sender.append_and_flush(marker(self.exit)), now));
    }
}
