//! Takes the guest's state for the log: deltas where a stop has no other name, digests at
//! intervals, and the whole of it when the replay asks for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use logging_channel::entry::{Entry, ExecutionPoint, Lsn, Payload, StatePart};

use super::convergence::Convergence;
use super::log_sink::{LogSink, Sent};
use super::pace::{NextStop, Pace, StateCounters};
use super::repairs::{MANY, Repairs};
use crate::engine::{Moment, Step};
use crate::state::{Baseline, Capture, digest, digest_rest};

/// Time until a whole state that could not be taken is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Takes the guest's state for the log.
pub struct StateKeeper {
    capture: Capture,
    pace: Pace,
    counters: Arc<StateCounters>,
    /// Guest time of the next part of a digest.
    next_digest: Duration,
    /// The first page of that part.
    digested: u64,
    whole: WholeState,
    delta: Option<Delta>,
    /// A delta was given up, and neither a digest nor another delta came since.
    gave_up: bool,
    repairs: Repairs,
    /// What was sent of the whole state; the pause is the last stop's.
    sent: Sent,
    /// To be told to the watchdog.
    next_stop: Option<NextStop>,
}

/// A delta that took more than one stop so far. An exit makes an end of it.
struct Delta {
    convergence: Convergence,
    /// For how long the guest stood still for it.
    cost: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WholeState {
    NotWanted,
    /// Not sent before this guest time.
    Wanted {
        not_before: Duration,
    },
    /// Memory is sent, the last time at this guest time.
    Sending {
        convergence: Convergence,
        last_stop: Duration,
    },
    /// Memory was sent, as it is until the guest runs on.
    Ready,
}

/// Guest time, which passes while the guest is held up as well.
pub(super) type Clock<'a> = &'a dyn Fn() -> Duration;

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
            next_digest: pace.digest_interval,
            digested: 0,
            whole: WholeState::NotWanted,
            delta: None,
            gave_up: false,
            repairs: Repairs::default(),
            sent: Sent::default(),
            next_stop: None,
        }
    }

    /// When to stop the guest next, if that is another time than before.
    pub(super) fn next_stop(&mut self) -> Option<NextStop> {
        self.next_stop.take()
    }

    /// Logs what changed since the last synchronisation point, for the next exit, which the place
    /// becomes where the guest was stopped. `false` if it does not: the guest's state cannot be taken
    /// right here, or it has changed so much that the guest is to run on for a little while.
    ///
    /// Under shadow paging each round of a delta is all that was written since the last look that the
    /// other host shares, and never shrinks. Where that is too much for one stop, the delta is given up
    /// once: the guest runs on, to an exit in most cases, where inputs get in and a digest is such a
    /// look. A guest that makes no exit until it is stopped again stands still for as long as it takes:
    /// without that, nothing would ever get in.
    pub(super) fn delta(&mut self, at: &mut Moment<'_>, log: &mut dyn LogSink) -> Step<bool> {
        if !at.cpu.at_rest()? {
            return Ok(false);
        }
        if self.whole != WholeState::NotWanted {
            // The replay does not follow: nothing to agree on.
            return Ok(true);
        }
        let since = Instant::now();
        let mut delta = self.delta.take().unwrap_or(Delta {
            convergence: Convergence::at_once(),
            cost: Duration::ZERO,
        });
        let mut bytes = 0;
        let time = delta.convergence.stop(&self.pace);
        if time.is_none() && !self.gave_up {
            log::debug!(
                "the state delta at {} is given up: too much was written",
                at.point
            );
            self.delta = Some(delta);
            self.abandon();
            self.gave_up = true;
            self.next_digest = Duration::ZERO;
            return Ok(false);
        }
        let progress =
            self.capture
                .send_delta_memory(at, time, &mut send(log, at.point, &mut bytes))?;
        let mut faults_in = false;
        if progress.is_all {
            let point = ExecutionPoint::at_exit(at.point.exits + 1);
            faults_in = self
                .capture
                .commit_delta(at, &mut send(log, point, &mut bytes))?;
        }
        self.counters.delta_bytes(bytes);
        delta.cost += since.elapsed();
        log::debug!(
            "state delta at {}: {bytes} bytes, {} us so far, complete: {}",
            at.point,
            delta.cost.as_micros(),
            progress.is_all
        );
        if progress.is_all {
            self.gave_up = false;
            let next = match faults_in {
                true => self.pace.next_stop_with_faults(delta.cost),
                false => self.pace.next_stop(delta.cost),
            };
            self.counters.delta(delta.cost, next);
            self.next_stop = Some(next);
        } else {
            if let Some(pages) = progress.round {
                delta.convergence.begin_round(pages);
            }
            self.next_stop = Some(NextStop::after(delta.convergence.run(&self.pace)));
            self.delta = Some(delta);
        }
        Ok(progress.is_all)
    }

    /// The guest made an exit: what waited for the end of a delta does not any more.
    pub(super) fn at_exit(&mut self) {
        self.abandon();
    }

    fn abandon(&mut self) {
        if let Some(delta) = self.delta.take() {
            self.capture.abandon_delta();
            self.next_stop = Some(self.pace.next_stop(delta.cost));
        }
    }

    /// The backup differs at log entry `lsn`: it gets the whole state, at once unless it differs again
    /// and again.
    pub(super) fn repair(&mut self, lsn: Lsn, now: Duration, log: &mut dyn LogSink) {
        let divergences = self.repairs.diverged(now);
        let wait = self.repairs.wait(now);
        self.whole = WholeState::Wanted {
            not_before: now + wait,
        };
        // The guest may be held up for a transfer that is of no use any more.
        self.next_stop = Some(self.pace.next_stop(Duration::ZERO));
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

    /// A replay begins that knows nothing: it gets the whole state, from here on.
    pub(super) fn join(
        &mut self,
        at: &mut Moment<'_>,
        clock: Clock<'_>,
        log: &mut dyn LogSink,
    ) -> Step<()> {
        self.abandon();
        self.repairs = Repairs::default();
        self.begin_whole(at, clock(), clock, log)
    }

    /// Begins to send the whole state, at the time `since`.
    fn begin_whole(
        &mut self,
        at: &mut Moment<'_>,
        since: Duration,
        clock: Clock<'_>,
        log: &mut dyn LogSink,
    ) -> Step<()> {
        self.repairs.begins(since);
        self.sent = Sent::default();
        let mut bytes = 0;
        self.capture
            .begin_whole(at, &mut send(log, at.point, &mut bytes))?;
        let now = clock();
        self.send_again(Convergence::at_leisure(), now);
        self.repairs.costs(now.saturating_sub(since));
        Ok(())
    }

    fn send_again(&mut self, convergence: Convergence, last_stop: Duration) {
        self.next_stop = Some(NextStop::after(convergence.run(&self.pace)));
        self.whole = WholeState::Sending {
            convergence,
            last_stop,
        };
    }

    /// Whether [`StateKeeper::commit_whole`] is to be called before the guest goes on.
    pub(super) fn is_whole_ready(&self) -> bool {
        self.whole == WholeState::Ready
    }

    /// Nobody replays the log any more.
    pub(super) fn give_up(&mut self) {
        if self.whole != WholeState::NotWanted {
            self.whole = WholeState::NotWanted;
            self.next_stop = Some(self.pace.next_stop(Duration::ZERO));
        }
    }

    /// Sends the rest of the whole state, for the next exit. `false` if that has to wait, and the
    /// guest goes on from where it is.
    pub(super) fn commit_whole(
        &mut self,
        at: &mut Moment<'_>,
        clock: Clock<'_>,
        log: &mut dyn LogSink,
    ) -> Step<bool> {
        if !self.is_whole_ready() {
            return Ok(false);
        }
        let since = clock();
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
            // The guest gets its time back until then, and what it writes is no reason to hold it
            // up the more when it comes to that.
            self.send_again(Convergence::at_leisure(), since + AGAIN);
            return Ok(false);
        }
        self.whole = WholeState::NotWanted;
        let cost = clock().saturating_sub(since);
        self.next_stop = Some(self.pace.next_stop(cost));
        self.repairs.costs(cost);
        self.counters.transfer_bytes(bytes);
        self.counters.transfer();
        self.sent.bytes += bytes;
        self.sent.pause += cost;
        log.state_sent(self.sent);
        log::info!("the whole state was sent");
        Ok(true)
    }

    /// Does what is due `now`.
    pub(super) fn keep_up(
        &mut self,
        at: &mut Moment<'_>,
        now: Duration,
        clock: Clock<'_>,
        log: &mut dyn LogSink,
    ) -> Step<()> {
        match self.whole {
            WholeState::Ready => Ok(()),
            WholeState::Wanted { not_before } if now < not_before => Ok(()),
            WholeState::Wanted { .. } => self.begin_whole(at, now, clock, log),
            WholeState::Sending { .. } => self.send_if_due(at, now, clock, log),
            WholeState::NotWanted if now >= self.next_digest => {
                let cost = self.digest(at, Some(self.pace.transfer_slice), log)?;
                let is_last = self.digested == 0;
                self.next_digest = now + self.pace.digest_after(cost, is_last);
                Ok(())
            }
            WholeState::NotWanted => Ok(()),
        }
    }

    /// The guest ended: one more digest, so that nothing that it did goes without one.
    pub(super) fn last_digest(&mut self, at: &mut Moment<'_>, log: &mut dyn LogSink) -> Step<()> {
        if self.whole != WholeState::NotWanted {
            return Ok(());
        }
        self.digested = 0;
        loop {
            self.digest(at, None, log)?;
            if self.digested == 0 {
                return Ok(());
            }
        }
    }

    /// The guest is halted: its time is free. Whether there was something to do with it.
    pub(super) fn use_idle_time(
        &mut self,
        at: &mut Moment<'_>,
        clock: Clock<'_>,
        log: &mut dyn LogSink,
    ) -> Step<bool> {
        let WholeState::Sending {
            convergence,
            last_stop,
        } = self.whole
        else {
            return Ok(false);
        };
        if last_stop > clock() || !log.has_room() {
            return Ok(false);
        }
        // An input that comes meanwhile waits for it.
        let time = Some(self.pace.transfer_slice);
        self.send_for(at, convergence, time, clock, log)?;
        Ok(true)
    }

    /// The host stopped the guest at a place that nothing else makes an exit.
    pub(super) fn kicked(
        &mut self,
        at: &mut Moment<'_>,
        clock: Clock<'_>,
        log: &mut dyn LogSink,
    ) -> Step<()> {
        // It may be the last stop, after which the state is taken.
        if matches!(self.whole, WholeState::Sending { .. }) && at.cpu.at_rest()? {
            self.send_if_due(at, clock(), clock, log)?;
        }
        Ok(())
    }

    /// Sends memory if the guest has run for long enough from the last time to `since`.
    fn send_if_due(
        &mut self,
        at: &mut Moment<'_>,
        since: Duration,
        clock: Clock<'_>,
        log: &mut dyn LogSink,
    ) -> Step<()> {
        let WholeState::Sending {
            convergence,
            last_stop,
        } = self.whole
        else {
            return Ok(());
        };
        if since < last_stop + convergence.run(&self.pace) || !log.has_room() {
            return Ok(());
        }
        let time = convergence.stop(&self.pace);
        self.send_for(at, convergence, time, clock, log)?;
        self.repairs.costs(clock().saturating_sub(since));
        Ok(())
    }

    /// Sends memory for about `time`.
    fn send_for(
        &mut self,
        at: &mut Moment<'_>,
        mut convergence: Convergence,
        time: Option<Duration>,
        clock: Clock<'_>,
        log: &mut dyn LogSink,
    ) -> Step<()> {
        let (mut bytes, since) = (0, clock());
        let point = at.point;
        let progress =
            self.capture
                .send_whole_memory(at, time, &mut send(log, point, &mut bytes))?;
        let now = clock();
        self.counters.transfer_bytes(bytes);
        self.sent.bytes += bytes;
        self.sent.rounds += u64::from(progress.round.is_some());
        self.sent.pause = now.saturating_sub(since);
        let baseline = self.capture.baseline();
        log.state_left(baseline.suspects(), baseline.pages());
        if progress.is_all {
            self.whole = WholeState::Ready;
            return Ok(());
        }
        if let Some(pages) = progress.round {
            convergence.begin_round(pages);
        }
        self.send_again(convergence, now);
        Ok(())
    }

    /// The next part of a digest, of as many pages as `time` allows. For how long the guest stood
    /// still for it.
    fn digest(
        &mut self,
        at: &mut Moment<'_>,
        time: Option<Duration>,
        log: &mut dyn LogSink,
    ) -> Step<Duration> {
        let since = Instant::now();
        self.gave_up = false;
        let baseline = self.capture.baseline();
        let pages = baseline.pages();
        let mut part = digest(baseline, at, self.digested..pages, time)?;
        let is_last = part.range.end == pages;
        if is_last {
            part.last = Some(digest_rest(at)?);
        }
        self.digested = if is_last { 0 } else { part.range.end };
        log.append(Entry {
            point: at.point,
            check: None,
            payload: Payload::Digest(Box::new(part)),
        })?;
        let cost = since.elapsed();
        self.counters.digest(cost, is_last);
        log::debug!("digest at {}: {} us", at.point, cost.as_micros());
        Ok(cost)
    }
}

#[cfg(test)]
mod tests;
