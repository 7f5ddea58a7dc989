//! Takes the guest's state for the log: deltas where a stop has no other name, digests at
//! intervals, and the whole of it when the replay asks for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use logging_channel::codec::MAX_PAGE_DIGESTS;
use logging_channel::entry::{Entry, ExecutionPoint, Lsn, Payload, StateDigest, StatePart};

use super::pace::{NextStop, Pace, StateCounters};
use super::recorder::LogSink;
use super::repairs::{MANY, Repairs};
use crate::engine::{Moment, Step};
use crate::state::{Baseline, Capture, Progress, digest};

/// While the whole state is sent, about one part in this many of the guest's time is spent on it.
const TRANSFER_SHARE: u32 = 4;

/// It is spent in slices of at most this many times the least one: a guest that made no exit for a
/// while has something to do when it makes one.
const LONGEST_SLICE: u32 = 4;

/// Time until a whole state that could not be taken is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Takes the guest's state for the log.
pub struct StateKeeper {
    capture: Capture,
    pace: Pace,
    counters: Arc<StateCounters>,
    /// Guest time of the next digest, in nanoseconds.
    next_digest: u64,
    whole: WholeState,
    repairs: Repairs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WholeState {
    NotWanted,
    /// Not sent before then.
    Wanted {
        not_before: Instant,
    },
    /// Sent since then, in slices.
    Sending {
        last_slice: Instant,
    },
    /// Little is left.
    Ready,
}

/// Appends a part of the state at `point`.
fn send<'a>(
    log: &'a mut dyn LogSink,
    point: ExecutionPoint,
    bytes: &'a mut u64,
) -> impl FnMut(StatePart) -> Step<()> + 'a {
    move |part| {
        if let StatePart::Pages(data) | StatePart::Rest(data) | StatePart::Commit(data) = &part {
            *bytes += data.len() as u64;
        }
        log.append(Entry {
            point,
            check: None,
            payload: Payload::State(part),
        })
        .map(|_| ())
    }
}

impl StateKeeper {
    /// For a guest that begins with `baseline`.
    #[must_use]
    pub fn new(baseline: Baseline, pace: Pace, counters: Arc<StateCounters>) -> Self {
        Self {
            capture: Capture::new(baseline),
            pace,
            counters,
            next_digest: pace.digest_interval.as_nanos() as u64,
            whole: WholeState::NotWanted,
            repairs: Repairs::default(),
        }
    }

    /// Logs what changed since the last synchronisation point, for the next exit. Returns when to
    /// stop the guest next; `None` if its state cannot be taken right here.
    pub(super) fn delta(
        &mut self,
        at: &mut Moment<'_>,
        log: &mut dyn LogSink,
    ) -> Step<Option<NextStop>> {
        if self.whole != WholeState::NotWanted {
            // The replay does not follow: nothing to agree on.
            return Ok(Some(self.pace.next_stop(Duration::ZERO)));
        }
        if !at.cpu.at_rest()? {
            return Ok(None);
        }
        let since = Instant::now();
        let mut bytes = 0;
        let point = ExecutionPoint::at_exit(at.point.exits + 1);
        self.capture.delta(at, &mut send(log, point, &mut bytes))?;
        let cost = since.elapsed();
        let next = self.pace.next_stop(cost);
        self.counters.delta(bytes, cost, next);
        log::debug!(
            "state delta at {point}: {bytes} bytes in {} us",
            cost.as_micros()
        );
        Ok(Some(next))
    }

    /// The backup differs at log entry `lsn`: it gets the whole state, at once unless it differs again
    /// and again.
    pub(super) fn repair(&mut self, lsn: Lsn, log: &mut dyn LogSink) {
        let now = Instant::now();
        let divergences = self.repairs.diverged(now);
        let wait = self.repairs.wait(now);
        self.whole = WholeState::Wanted {
            not_before: now + wait,
        };
        if divergences >= MANY {
            log::warn!(
                "the backup differs at log entry {lsn}, for the {divergences}th time in ten \
                 minutes: the pair is NOT PROTECTED, and the backup gets the whole state in {:.1} s, \
                 so that the guest keeps nine tenths of its time; the backup's log names the likely \
                 cause",
                wait.as_secs_f64()
            );
        } else {
            log::warn!("the backup differs at log entry {lsn}: sending it the whole state");
        }
        log.is_unprotected(divergences, wait);
    }

    /// Begins to send the whole state.
    fn begin_whole(&mut self, at: &mut Moment<'_>, log: &mut dyn LogSink) -> Step<()> {
        let since = Instant::now();
        self.repairs.begins(since);
        let mut bytes = 0;
        self.capture
            .begin_whole(at, &mut send(log, at.point, &mut bytes))?;
        self.whole = WholeState::Sending {
            last_slice: Instant::now(),
        };
        self.repairs.costs(since.elapsed());
        Ok(())
    }

    /// Whether [`StateKeeper::commit_whole`] is to be called before the guest goes on.
    pub(super) fn is_whole_ready(&self) -> bool {
        self.whole == WholeState::Ready
    }

    /// Sends the rest of the whole state, for the next exit. `false` if that has to wait, and the
    /// guest goes on from where it is.
    pub(super) fn commit_whole(
        &mut self,
        at: &mut Moment<'_>,
        log: &mut dyn LogSink,
    ) -> Step<bool> {
        let since = Instant::now();
        let mut bytes = 0;
        let point = ExecutionPoint::at_exit(at.point.exits + 1);
        let sent = self
            .capture
            .commit_whole(at, &mut send(log, point, &mut bytes))?;
        if !sent {
            log::warn!(
                "the devices hold more at {} than a transfer of the whole state carries: the \
                 backup gets it later, and is not protected until then",
                at.point
            );
            self.whole = WholeState::Sending {
                last_slice: since + AGAIN,
            };
            return Ok(false);
        }
        self.whole = WholeState::NotWanted;
        self.repairs.costs(since.elapsed());
        self.counters.transfer_bytes(bytes);
        self.counters.transfer();
        log.state_sent();
        log::info!(
            "the whole state was sent; the guest stood still for {} ms at the end",
            since.elapsed().as_millis()
        );
        Ok(true)
    }

    /// Does what is due at guest time `now`.
    pub(super) fn keep_up(
        &mut self,
        at: &mut Moment<'_>,
        now: u64,
        log: &mut dyn LogSink,
    ) -> Step<()> {
        match self.whole {
            WholeState::Ready => Ok(()),
            WholeState::Wanted { not_before } if Instant::now() < not_before => Ok(()),
            WholeState::Wanted { .. } => self.begin_whole(at, log),
            WholeState::Sending { last_slice } => self.slice(at, last_slice, log),
            WholeState::NotWanted if now >= self.next_digest => self.digest(at, now, log),
            WholeState::NotWanted => Ok(()),
        }
    }

    /// The guest ended: one more digest, so that nothing that it did goes without one.
    pub(super) fn last_digest(&mut self, at: &mut Moment<'_>, log: &mut dyn LogSink) -> Step<()> {
        match self.whole {
            WholeState::NotWanted => self.digest(at, self.next_digest, log),
            WholeState::Wanted { .. } | WholeState::Sending { .. } | WholeState::Ready => Ok(()),
        }
    }

    /// The guest is halted: its time is free. Whether there was something to do with it.
    pub(super) fn use_idle_time(
        &mut self,
        at: &mut Moment<'_>,
        log: &mut dyn LogSink,
    ) -> Step<bool> {
        let WholeState::Sending { last_slice } = self.whole else {
            return Ok(false);
        };
        if last_slice > Instant::now() {
            return Ok(false);
        }
        self.send_for(at, self.pace.transfer_slice, log)?;
        Ok(true)
    }

    fn slice(
        &mut self,
        at: &mut Moment<'_>,
        last_slice: Instant,
        log: &mut dyn LogSink,
    ) -> Step<()> {
        let least = self.pace.transfer_slice;
        let share = last_slice.elapsed() / TRANSFER_SHARE;
        if share < least {
            return Ok(());
        }
        let since = Instant::now();
        self.send_for(at, share.min(least * LONGEST_SLICE), log)?;
        self.repairs.costs(since.elapsed());
        Ok(())
    }

    /// Sends pages for about `share` of time.
    fn send_for(
        &mut self,
        at: &mut Moment<'_>,
        share: Duration,
        log: &mut dyn LogSink,
    ) -> Step<()> {
        let mut bytes = 0;
        let point = at.point;
        let progress = self
            .capture
            .continue_whole(at, share, &mut send(log, point, &mut bytes))?;
        self.counters.transfer_bytes(bytes);
        self.whole = match progress {
            Progress::More => WholeState::Sending {
                last_slice: Instant::now(),
            },
            Progress::Ready => WholeState::Ready,
        };
        Ok(())
    }

    fn digest(&mut self, at: &mut Moment<'_>, now: u64, log: &mut dyn LogSink) -> Step<()> {
        let since = Instant::now();
        let (pages, parts) = digest(self.capture.baseline(), at)?;
        let chunks = pages.chunks(MAX_PAGE_DIGESTS);
        let mut entries: Vec<StateDigest> = chunks
            .map(|pages| StateDigest {
                pages: pages.to_vec(),
                last: None,
            })
            .collect();
        match entries.last_mut() {
            Some(entry) => entry.last = Some(parts),
            None => entries.push(StateDigest {
                pages: Vec::new(),
                last: Some(parts),
            }),
        }
        for entry in entries {
            log.append(Entry {
                point: at.point,
                check: None,
                payload: Payload::Digest(Box::new(entry)),
            })?;
        }
        let cost = since.elapsed();
        self.next_digest = now + self.pace.digest_after(cost).as_nanos() as u64;
        self.counters.digest(cost);
        log::debug!("digest at {}: {} us", at.point, cost.as_micros());
        Ok(())
    }
}
