//! Transfers of the whole state: for a replay that begins, for one that differs, and for whoever keeps the
//! log and has too much of it.

use std::thread;
use std::time::Duration;

use logging_channel::entry::{ExecutionPoint, Lsn, Payload};
use logging_channel::memory::next_transfer;

use super::rounds::{Next, Rounds};
use super::stages::{Purpose, Stage};
use super::{Clock, StateKeeper, send};
use crate::engine::{Moment, Step};
use crate::sources::log_sink::{LogSink, Sent};
use crate::sources::pace::NextStop;
use crate::sources::repairs::{MANY, Repairs};
use crate::state::{Committed, Limit, MemorySender};

/// Time until a whole state that could not be taken is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// The same where this host has no room for it.
const NO_ROOM: Duration = Duration::from_secs(60);

/// The guest never stands still for longer than so many times what was asked for.
const MOST_PAUSES: u32 = 10;

/// How often a guest that makes no exits is stopped to see how far its memory is sent.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

impl StateKeeper {
    /// The backup differs at log entry `lsn`: it gets the whole state, at once unless it differs again
    /// and again.
    pub(in crate::sources) fn repair(&mut self, lsn: Lsn, now: Duration, log: &mut dyn LogSink) {
        let repairs = &mut self.whole.repairs;
        let divergences = repairs.diverged(now);
        let wait = repairs.wait(now);
        self.whole.purpose = Purpose::Replay;
        self.whole.stage = Stage::Wanted {
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
            log::warn!("the backup cannot go on at log entry {lsn}: sending it the whole state");
        }
        log.is_unprotected(divergences, wait);
    }

    /// A replay begins that knows nothing: it gets the whole state, from here on.
    pub(in crate::sources) fn join(
        &mut self,
        at: &mut Moment<'_>,
        clock: Clock<'_>,
        log: &mut dyn LogSink,
    ) -> Step<()> {
        self.abandon();
        self.whole.repairs = Repairs::default();
        self.whole.memory = None;
        self.whole.purpose = Purpose::Replay;
        self.begin_whole(at, clock(), clock, log)
    }

    /// Whoever keeps the log has too much of it, and asks for the whole state.
    pub(in crate::sources) fn renew(
        &mut self,
        at: &mut Moment<'_>,
        clock: Clock<'_>,
        log: &mut dyn LogSink,
    ) -> Step<()> {
        if self.whole.is_wanted() {
            return Ok(());
        }
        log::info!("the cold backup has much to replay: sending it the whole state anew");
        self.whole.purpose = Purpose::Renewal;
        self.begin_whole(at, clock(), clock, log)
    }

    /// Begins to send the whole state, at the time `now`.
    fn begin_whole(
        &mut self,
        at: &mut Moment<'_>,
        now: Duration,
        clock: Clock<'_>,
        log: &mut dyn LogSink,
    ) -> Step<()> {
        let whole = &mut self.whole;
        let memory = match &whole.memory {
            Some(memory) => memory,
            None => {
                let limit = self.pace.transfer.limit.map(Limit::new);
                let (streams, wake) = (log.memory_streams(), log.waker());
                match MemorySender::start(self.capture.baseline(), streams, limit, wake) {
                    Ok(memory) => whole.memory.insert(memory),
                    Err(error) => {
                        log.lose_replay(&error);
                        return Ok(());
                    }
                }
            }
        };
        log.memory_is_sent(memory.progress());
        let is_renewal = whole.purpose == Purpose::Renewal;
        whole.transfer = next_transfer(whole.transfer, is_renewal);
        whole.sent = Sent::default();
        whole.rounds = Rounds::new(self.pace.transfer);
        (whole.round_began, whole.ran_since) = (now, now);
        if is_renewal {
            if let Err(error) = self.capture.begin_renewal(at, whole.transfer, memory)? {
                log::error!("the cold backup does not get the state anew yet: {error}");
                whole.stage = Stage::Wanted {
                    not_before: now + NO_ROOM,
                };
                return Ok(());
            }
        } else {
            let mut bytes = 0;
            let mut send = send(log, at.point, &mut bytes, Payload::State);
            whole.repairs.begins(now);
            self.capture
                .begin_whole(at, whole.transfer, memory, &mut send)?;
            whole.repairs.costs(clock().saturating_sub(now));
        }
        self.send_on();
        Ok(())
    }

    fn send_on(&mut self) {
        self.whole.stage = Stage::Sending;
        let run = self.whole.rounds.throttle().map(|(run, _)| run);
        // The end of a renewal needs an exit, and is none.
        let look = (!self.whole.is_renewal()).then_some(LOOK_INTERVAL);
        if let Some(time) = run.or(look) {
            self.next_stop = Some(NextStop::after(time));
        }
    }

    /// Nobody replays the log any more.
    pub(in crate::sources) fn give_up(&mut self) {
        self.capture.abandon_renewal();
        self.whole.memory = None;
        if self.whole.is_wanted() {
            self.whole.stage = Stage::NotWanted;
            self.next_stop = Some(self.pace.next_stop(Duration::ZERO));
        }
    }

    /// The guest is halted, or has not run yet: goes on with a transfer that is under way. Whether it was
    /// completed: the guest stands at the next exit then. A renewal is not: whoever follows the log is halted as
    /// well.
    pub(in crate::sources) fn use_idle_time(
        &mut self,
        at: &mut Moment<'_>,
        clock: Clock<'_>,
        log: &mut dyn LogSink,
    ) -> Step<bool> {
        self.go_on_with_whole(at, clock(), clock, log)?;
        if self.whole.is_renewal() {
            return Ok(false);
        }
        self.commit_whole(at, clock, log)
    }

    /// The guest is about to run on. Whether a transfer was completed: the guest stands at the next exit then.
    pub(in crate::sources) fn departs(
        &mut self,
        at: &mut Moment<'_>,
        clock: Clock<'_>,
        log: &mut dyn LogSink,
    ) -> Step<bool> {
        let is_at_exit = std::mem::take(&mut self.is_at_exit);
        if self.whole.is_renewal() && !is_at_exit {
            return Ok(false);
        }
        self.commit_whole(at, clock, log)
    }

    /// The host stopped the guest at a place that nothing else makes an exit.
    pub(in crate::sources) fn kicked(
        &mut self,
        at: &mut Moment<'_>,
        clock: Clock<'_>,
        log: &mut dyn LogSink,
    ) -> Step<()> {
        if self.whole.is_renewal() {
            self.throttle(clock(), clock);
        } else if self.whole.stage == Stage::Sending && at.cpu.at_rest()? {
            // It may be the last stop, after which the state is taken.
            self.go_on_with_whole(at, clock(), clock, log)?;
        }
        Ok(())
    }

    /// Does what is due `now` for a transfer of the whole state.
    pub(super) fn go_on_with_whole(
        &mut self,
        at: &mut Moment<'_>,
        now: Duration,
        clock: Clock<'_>,
        log: &mut dyn LogSink,
    ) -> Step<()> {
        match self.whole.stage {
            Stage::Wanted { not_before } if now >= not_before => {
                self.begin_whole(at, now, clock, log)
            }
            Stage::Sending => {
                self.look_at_round(at, now, log)?;
                self.throttle(now, clock);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Begins the next round if the last one is over, or finds that the rest fits the pause.
    fn look_at_round(
        &mut self,
        at: &mut Moment<'_>,
        now: Duration,
        log: &mut dyn LogSink,
    ) -> Step<()> {
        let whole = &mut self.whole;
        let Some(memory) = &whole.memory else {
            return Ok(());
        };
        let Some((round, unchanged)) = memory.finished() else {
            return Ok(());
        };
        let written = self.capture.end_round(at, &unchanged)?;
        let time = now.saturating_sub(whole.round_began);
        let next = whole.rounds.over(&round, written, time, now);
        log::debug!(
            "round {}: {} pages looked at, {} sent, {} bytes, {:.3} s, of which it took {:.3} s to look at \
             them and {:.3} s to send them; {written} were written meanwhile: {next:?}",
            whole.rounds.count(),
            round.looked_at,
            round.sent,
            round.bytes,
            time.as_secs_f64(),
            round.looking.as_secs_f64(),
            round.sending.as_secs_f64(),
        );
        match next {
            Next::Stop => {
                whole.stage = Stage::Ready {
                    not_before: Duration::ZERO,
                };
                return Ok(());
            }
            Next::Round => {}
            Next::DoesNotConverge { guest, network } => log.does_not_converge(guest, network),
        }
        whole.round_began = now;
        self.capture.begin_round(memory);
        if whole.is_renewal() {
            // Under shadow paging each round has all that was written since both hosts looked last: which is
            // for a digest.
            self.next_digest = self.next_digest.min(now);
        }
        self.send_on();
        Ok(())
    }

    /// Holds a guest up that is to be slowed down.
    fn throttle(&mut self, now: Duration, clock: Clock<'_>) {
        let whole = &mut self.whole;
        if whole.stage != Stage::Sending {
            return;
        }
        if let Some((run, hold)) = whole.rounds.throttle()
            && now >= whole.ran_since + run
        {
            thread::sleep(hold);
            whole.costs(hold);
            whole.ran_since = clock();
        }
    }

    /// Sends the rest of the whole state, for the next exit, if all but that was sent. `false` if not, or
    /// if that has to wait: the guest goes on from where it is.
    pub(super) fn commit_whole(
        &mut self,
        at: &mut Moment<'_>,
        clock: Clock<'_>,
        log: &mut dyn LogSink,
    ) -> Step<bool> {
        let (Stage::Ready { not_before }, Some(memory)) = (self.whole.stage, &self.whole.memory)
        else {
            return Ok(false);
        };
        let since = clock();
        if since < not_before {
            return Ok(false);
        }
        let mut bytes = 0;
        let point = ExecutionPoint::at_exit(at.point.exits + 1);
        let payload = match self.whole.purpose {
            Purpose::Replay => Payload::State,
            Purpose::Renewal => Payload::Renewal,
        };
        let committed = self.capture.commit_whole(
            at,
            self.pace.transfer.max_pause * MOST_PAUSES,
            memory,
            &mut send(log, point, &mut bytes, payload),
        )?;
        match committed {
            Committed::Sent => {}
            Committed::Late => {
                log::warn!(
                    "the last of the guest's memory is not taken as fast as what came before: the guest runs \
                     on, and the backup gets it later"
                );
                self.whole.round_began = since;
                self.send_on();
                return Ok(false);
            }
            Committed::Never => {
                self.give_up();
                return Ok(false);
            }
            Committed::NotNow => {
                log::warn!(
                    "the devices hold more at {} than a transfer of the whole state carries: the backup gets \
                     it later{}",
                    at.point,
                    match self.whole.purpose {
                        Purpose::Replay => ", and the guest is not protected until then",
                        Purpose::Renewal => "",
                    }
                );
                self.whole.stage = Stage::Ready {
                    not_before: since + AGAIN,
                };
                self.next_stop = Some(self.pace.next_stop(Duration::ZERO));
                return Ok(false);
            }
        }
        bytes += memory.progress().bytes();
        let whole = &mut self.whole;
        let pause = clock().saturating_sub(since);
        whole.costs(pause);
        whole.stage = Stage::NotWanted;
        whole.sent = Sent {
            bytes,
            rounds: u64::from(whole.rounds.count()),
            pause,
        };
        self.next_stop = Some(self.pace.next_stop(pause));
        self.counters.transfer_bytes(bytes);
        self.counters.transfer();
        log.flush();
        log.state_sent(whole.sent);
        log::info!(
            "the whole state was sent: {:.1} MB in {} rounds, and the guest stood still for {:.0} ms at the end",
            bytes as f64 / 1e6,
            whole.sent.rounds,
            pause.as_secs_f64() * 1e3
        );
        Ok(true)
    }
}
