//! The logging channel as the replayer's log.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use logging_channel::LossReason;
use logging_channel::entry::{DiskOutcome, Lsn, Payload};
use logging_channel::receiver::{Next, Peek, Receiver, ReceiverHandle};
use parking_lot::Mutex;

use super::go_live::GoLive;
use crate::disk::followed::Followed;
use crate::elsewhere::DroppedElsewhere;
use crate::engine::{Difference, Divergence, Interruption, Step};
use crate::events::{Event, Events};
use crate::gates::Unreleased;
use crate::protocol::follower::{AtEnd, Follower};
use crate::roles::peer_report::likely_cause;
use crate::roles::tenure::{Standing, Verdict};
use crate::sources::{ClockTrace, Head, LogSource, MANY, Repairs, StateFollower};
use crate::state::Baseline;

/// How long to wait for the next entry before looking around.
const PATIENCE: Duration = Duration::from_millis(200);

/// What is told of the `divergences`th divergence in ten minutes: also why, where it is one of many, or
/// where that was to be expected.
fn told(divergence: &Divergence, divergences: usize, nested_paging: bool) -> Event {
    let many = divergences >= MANY;
    let likely_cause = (many || nested_paging).then(|| likely_cause(divergence, nested_paging));
    if let Some(cause) = &likely_cause {
        log::error!("the likely cause: {cause}");
    }
    if many {
        log::error!(
            "that is the {divergences}th time in ten minutes: the primary spaces repairs out, and the \
             pair is not protected in between"
        );
    }
    Event::Diverged {
        lsn: divergence.lsn.0,
        difference: divergence.to_string(),
        divergences,
        likely_cause,
    }
}

/// Whether the replay of this entry reads the shared disk.
fn reads_the_disk(payload: &Payload) -> bool {
    matches!(
        payload,
        Payload::DiskDone {
            outcome: DiskOutcome::Shared { .. },
            ..
        }
    )
}

/// The logging channel as the replayer's log.
pub(super) struct ChannelSource {
    pub(super) receiver: DroppedElsewhere<Receiver>,
    pub(super) handle: ReceiverHandle,
    pub(super) clock: ClockTrace,
    pub(super) standing: Standing,
    pub(super) next: Option<GoLive>,
    /// What this host's guest is compared with, once the log has ended.
    pub(super) baseline: Option<Baseline>,
    /// It replays what a cold backup has kept.
    pub(super) is_cold: bool,
    /// Whether this host may go on with the guest.
    pub(super) protocol: Arc<Mutex<Follower>>,
    /// The log, or the guest, ended before this host had joined.
    pub(super) cut: Rc<Cell<bool>>,
    /// The entry whose part of the shared disk is being read.
    pub(super) reading: Option<Lsn>,
    pub(super) unreleased: Unreleased,
    pub(super) followed: Option<Followed>,
    pub(super) forgotten: Instant,
    pub(super) began: Instant,
    pub(super) repairs: Repairs,
    /// One of the two hosts has it.
    pub(super) nested_paging: bool,
    pub(super) events: Events,
}

impl LogSource for ChannelSource {
    fn head(&mut self) -> Step<Head<'_>> {
        if let Some(lsn) = self.reading.take() {
            self.receiver.executed(lsn);
        }
        loop {
            match self.receiver.peek(PATIENCE) {
                Peek::Entry(..) => break,
                Peek::Ended(_) => return Ok(Head::Ended),
                Peek::Damaged(how) => return Err(Interruption::Failed(how)),
                Peek::TimedOut => {}
            }
        }
        if self.is_cold && !self.receiver.is_cold() {
            self.is_cold = false;
            if self.handle.lost().is_none() {
                log::info!("this backup is hot");
                self.events.emit(&Event::Hot);
            }
        }
        match self.receiver.peek(Duration::ZERO) {
            Peek::Entry(lsn, entry) => Ok(Head::Entry(lsn, entry)),
            Peek::TimedOut | Peek::Ended(_) | Peek::Damaged(_) => {
                Err(Interruption::Failed("the log's head vanished".into()))
            }
        }
    }

    fn advance(&mut self) {
        if let Next::Entry(lsn, entry) = self.receiver.next(Duration::ZERO) {
            let arrived = self.receiver.arrived();
            self.clock
                .note(&entry.payload, arrived.unwrap_or_else(Instant::now));
            if let (Some(disk), Payload::DiskDone { id, outcome }) =
                (&self.followed, &entry.payload)
            {
                let failed = matches!(outcome, DiskOutcome::Failed | DiskOutcome::Unsupported);
                disk.completed(*id, !failed);
            }
            if reads_the_disk(&entry.payload) {
                // The primary lets that part of the disk change when this entry is executed, and
                // it is not before the disk was read: when the log is looked at again.
                self.reading = Some(lsn);
            } else {
                self.receiver.executed(lsn);
            }
            if matches!(entry.payload, Payload::Protected { .. })
                && !self.protocol.lock().is_protecting()
            {
                self.protocol.lock().protect();
                log::info!("this host goes on with the guest if the primary is lost");
                self.events.emit(&Event::Joined);
            }
            if matches!(entry.payload, Payload::Output(_)) && self.forgotten.elapsed() > PATIENCE {
                self.unreleased.forget(self.handle.released());
                self.forgotten = Instant::now();
            }
        }
    }

    fn after_end(&mut self) -> Interruption {
        let reason = self.receiver.lost().unwrap_or(LossReason::Closed);
        let failed = |reason: &str| Interruption::Failed(reason.into());
        match self.protocol.lock().at_end(&reason) {
            AtEnd::Claim => {}
            AtEnd::Discard => {
                self.cut.set(true);
                return failed("the log ended before this backup had joined");
            }
            AtEnd::Refuse => return failed("the log ended while this backup differed"),
            AtEnd::End => return failed("the primary ended the log in order, but not the guest"),
        }
        // Only a backup that has replayed everything without a difference may ask for the right to
        // run. The wait for an answer takes as long as it takes.
        self.standing.ready();
        let verdict = loop {
            if let Some(verdict) = self.standing.wait(PATIENCE) {
                break verdict;
            }
        };
        let (epoch, lost_at) = match verdict {
            Verdict::Won { epoch, lost_at } => (epoch, lost_at),
            Verdict::Lost(reason) => return Interruption::Halt(reason),
        };
        let (Some(next), Some(baseline)) = (self.next.take(), self.baseline.take()) else {
            return Interruption::Failed("the log ended twice".into());
        };
        match next.take_over(baseline, (epoch, lost_at), &self.clock, &self.handle) {
            Ok(role) => Interruption::Handover(Box::new(role)),
            Err(error) => Interruption::Failed(error.to_string()),
        }
    }

    fn keep_state(&mut self, state: StateFollower) {
        self.baseline = Some(state.into_baseline());
    }

    fn differs(&mut self, divergence: &Divergence) -> bool {
        if !self.protocol.lock().is_protecting() && self.is_over() {
            self.cut.set(true);
            return false;
        }
        if !self.protocol.lock().executes() {
            // It has no guest that could differ: it did not get one.
            log::warn!(
                "the state that came is of no use, {divergence}: asking the primary for it again"
            );
            self.receiver.need_state(divergence.lsn, false);
            return true;
        }
        log::error!(
            "this backup {} the primary, {divergence}; it must not go live until the primary has \
             sent it the whole state",
            if divergence.difference.is_of_counter() {
                "cannot follow"
            } else {
                "differs from"
            }
        );
        let divergences = self.repairs.diverged(self.began.elapsed());
        self.events
            .emit(&told(divergence, divergences, self.nested_paging));
        let uncounted = matches!(divergence.difference, Difference::CounterLost(_));
        self.protocol.lock().differ();
        self.receiver.need_state(divergence.lsn, uncounted);
        true
    }

    fn is_repaired(&mut self) {
        log::info!("this backup has the primary's state");
        let mut protocol = self.protocol.lock();
        protocol.take_over();
        match &self.followed {
            Some(disk) if protocol.is_protecting() => disk.repaired(),
            Some(disk) => disk.joined(),
            None => {}
        }
        // One that joins says so when it protects the guest.
        if protocol.is_protecting() && !self.is_cold {
            self.events.emit(&Event::Repaired);
        }
    }
}

impl ChannelSource {
    /// Nothing more comes for a backup that joins.
    fn is_over(&mut self) -> bool {
        match self.receiver.peek(Duration::ZERO) {
            Peek::Ended(_) => true,
            Peek::Entry(_, entry) => matches!(entry.payload, Payload::Shutdown(_)),
            Peek::TimedOut | Peek::Damaged(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use logging_channel::entry::{ExecutionPoint, StatePart};

    use super::*;
    use crate::engine::StateDifference;
    use crate::roles::sessions::tests::{entry, session};
    use crate::roles::tenure::tests::{primary, wait_until};

    /// What of a log, of which this was to be executed, differs.
    fn divergence(difference: Difference) -> Divergence {
        Divergence {
            point: ExecutionPoint::at_exit(1),
            lsn: Lsn(2),
            difference,
        }
    }

    #[test]
    fn a_state_that_does_not_come_is_no_divergence() {
        let scene = primary();
        let (sender, receiver) = session(&scene);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        let events = Events::open(Some(&path)).unwrap();
        let told = || {
            events.drain();
            fs::read_to_string(&path).unwrap()
        };
        let mut source = ChannelSource {
            handle: receiver.handle(),
            receiver: DroppedElsewhere::new(receiver),
            clock: ClockTrace::default(),
            standing: scene.tenure.standing(),
            next: None,
            baseline: None,
            is_cold: false,
            protocol: Arc::default(),
            cut: Rc::default(),
            reading: None,
            unreleased: Unreleased::default(),
            followed: None,
            forgotten: Instant::now(),
            began: Instant::now(),
            repairs: Repairs::default(),
            nested_paging: false,
            events: events.clone(),
        };
        for part in [StatePart::Begin(1), StatePart::Memory(1)] {
            sender.append_and_flush(entry(Payload::State(part)));
        }
        assert!(matches!(source.head(), Ok(Head::Entry(Lsn(1), _))));
        source.advance();
        assert!(matches!(source.head(), Ok(Head::Entry(Lsn(2), _))));
        // The stream of memory has ended, and the log has not yet.
        let lost = || divergence(Difference::Transfer("no memory comes".into()));
        assert!(source.differs(&lost()));
        wait_until("it is asked for again", || sender.wants_state());
        assert_eq!(told(), "");

        // One that has it all, and executes something else.
        source.protocol.lock().take_over();
        let event = Difference::Seek("it is elsewhere".into());
        assert!(source.differs(&divergence(event)));
        assert_eq!(told().matches("\"diverged\"").count(), 1);
        source.advance();
        drop(sender);
        assert!(matches!(source.head(), Ok(Head::Ended)));
        assert!(!source.differs(&lost()));
        assert!(source.cut.get(), "it had not joined");
        assert_eq!(told().matches("\"diverged\"").count(), 1);
        scene.tenure.end();
    }

    /// A host that flips a bit once is no cause that stays.
    #[test]
    fn the_third_divergence_names_its_cause() {
        let divergence = Divergence {
            point: ExecutionPoint::at_exit(5000),
            lsn: Lsn(900),
            difference: Difference::State(Box::new(StateDifference {
                pages: vec![7],
                ..StateDifference::default()
            })),
        };
        let mut repairs = Repairs::default();
        let causes: Vec<Option<String>> = (0..4)
            .map(|minute| {
                let count = repairs.diverged(Duration::from_secs(60 * minute));
                let event =
                    serde_json::to_value(told(&divergence, count, false)).expect("plain data");
                assert_eq!(
                    (&event["event"], &event["lsn"]),
                    (&"diverged".into(), &900.into())
                );
                assert_eq!(event["divergences"], count);
                event["likely_cause"].as_str().map(str::to_owned)
            })
            .collect();
        let cause = Some(divergence.likely_cause());
        assert_eq!(causes, [None, None, cause.clone(), cause]);

        // Where it was to be expected, so does the first one.
        let event = serde_json::to_value(told(&divergence, 1, true)).expect("plain data");
        let cause = event["likely_cause"].as_str().expect("a cause");
        assert!(cause.starts_with("nested paging"), "{cause}");
    }
}
