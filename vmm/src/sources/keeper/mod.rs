//! Takes the guest's state for the log: deltas where a stop has no other name, digests at
//! intervals, and the whole of it ([`whole`]) for a replay that begins, or that asks for it.

mod rounds;
mod stages;
mod whole;

use std::sync::Arc;
use std::time::{Duration, Instant};

use logging_channel::entry::{Entry, ExecutionPoint, Payload, StatePart};

use self::stages::Whole;
use super::convergence::Convergence;
use super::log_sink::LogSink;
use super::pace::{NextStop, Pace, StateCounters};
use crate::engine::{Moment, Step};
use crate::state::{Baseline, Capture, digest, digest_rest};

/// Takes the guest's state for the log.
pub struct StateKeeper {
    capture: Capture,
    pace: Pace,
    counters: Arc<StateCounters>,
    /// Guest time of the next part of a digest.
    next_digest: Duration,
    /// The first page of that part.
    digested: u64,
    whole: Whole,
    /// The guest has not run on from its last exit.
    is_at_exit: bool,
    delta: Option<Delta>,
    /// A delta was given up, and neither a digest nor another delta came since.
    gave_up: bool,
    /// To be told to the watchdog.
    next_stop: Option<NextStop>,
}

/// A delta that took more than one stop so far. An exit makes an end of it.
struct Delta {
    convergence: Convergence,
    /// For how long the guest stood still for it.
    cost: Duration,
}

/// Guest time, which passes while the guest is held up as well.
pub(super) type Clock<'a> = &'a dyn Fn() -> Duration;

/// Appends parts of the state at `point`, each as a `payload`.
fn send<'a>(
    log: &'a mut dyn LogSink,
    point: ExecutionPoint,
    bytes: &'a mut u64,
    payload: fn(StatePart) -> Payload,
) -> impl FnMut(StatePart) -> Step<()> + 'a {
    move |part| {
        if let StatePart::Pages(data) | StatePart::Rest(data) | StatePart::Commit(data) = &part {
            *bytes += data.len() as u64;
        }
        log.append(Entry {
            point,
            check: None,
            payload: payload(part),
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
            whole: Whole::new(&pace),
            is_at_exit: false,
            delta: None,
            gave_up: false,
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
        if self.whole.replaces_log() {
            // The replay does not follow: nothing to agree on.
            return Ok(true);
        }
        let since = Instant::now();
        let mut delta = self.delta.take().unwrap_or(Delta {
            convergence: Convergence::default(),
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
        let progress = self.capture.send_delta_memory(
            at,
            time,
            &mut send(log, at.point, &mut bytes, Payload::State),
        )?;
        let mut faults_in = false;
        if progress.is_all {
            let point = ExecutionPoint::at_exit(at.point.exits + 1);
            faults_in = self
                .capture
                .commit_delta(at, &mut send(log, point, &mut bytes, Payload::State))?;
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
            self.next_stop = Some(NextStop::after(delta.convergence.run()));
            self.delta = Some(delta);
        }
        Ok(progress.is_all)
    }

    /// The guest made an exit: what waited for the end of a delta does not any more.
    pub(super) fn at_exit(&mut self) {
        self.is_at_exit = true;
        self.abandon();
    }

    fn abandon(&mut self) {
        if let Some(delta) = self.delta.take() {
            self.capture.abandon_delta();
            self.next_stop = Some(self.pace.next_stop(delta.cost));
        }
    }

    /// Does what is due `now`.
    pub(super) fn keep_up(
        &mut self,
        at: &mut Moment<'_>,
        now: Duration,
        clock: Clock<'_>,
        log: &mut dyn LogSink,
    ) -> Step<()> {
        self.go_on_with_whole(at, now, clock, log)?;
        if !self.whole.replaces_log() && now >= self.next_digest {
            let cost = self.digest(at, Some(self.pace.digest_slice), log)?;
            let is_last = self.digested == 0;
            self.next_digest = now + self.pace.digest_after(cost, is_last);
        }
        Ok(())
    }

    /// The guest ended: one more digest, so that nothing that it did goes without one.
    pub(super) fn last_digest(&mut self, at: &mut Moment<'_>, log: &mut dyn LogSink) -> Step<()> {
        if self.whole.replaces_log() {
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
