//! Transfers of the whole state: for a replay that begins, and for one that differs.

use std::thread;
use std::time::Duration;

use logging_channel::entry::{ExecutionPoint, Lsn, Payload};

use super::rounds::{Next, Rounds};
use super::stages::Stage;
use super::{Clock, StateKeeper, send};
use crate::engine::{Moment, Step};
use crate::sources::log_sink::{LogSink, Sent};
use crate::sources::pace::NextStop;
use crate::sources::repairs::{MANY, Repairs};
use crate::state::{Committed, Limit, MemorySender};

/// Time until a whole state that could not be taken is tried again.
const AGAIN: Duration = Duration::from_secs(1);

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
            log::warn!("the backup differs at log entry {lsn}: sending it the whole state");
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
        self.renewing = None;
        let whole = &mut self.whole;
        let baseline = self.capture.baseline();
        let memory = whole.memory.get_or_insert_with(|| {
            let limit = self.pace.transfer.limit.map(Limit::new);
            MemorySender::start(baseline, log.memory_streams(), limit, log.waker())
        });
        log.memory_is_sent(memory.progress());
        whole.repairs.begins(now);
        whole.transfer += 1;
        whole.sent = Sent::default();
        whole.rounds = Rounds::new(self.pace.transfer);
        (whole.round_began, whole.ran_since) = (now, now);
        let mut bytes = 0;
        let mut send = send(log, at.point, &mut bytes, Payload::State);
        self.capture
            .begin_whole(at, whole.transfer, memory, &mut send)?;
        whole.repairs.costs(clock().saturating_sub(now));
        self.send_on();
        Ok(())
    }

    fn send_on(&mut self) {
        self.whole.stage = Stage::Sending;
        let run = self.whole.rounds.throttle().map(|(run, _)| run);
        self.next_stop = Some(NextStop::after(run.unwrap_or(LOOK_INTERVAL)));
    }

    /// Nobody replays the log any more.
    pub(in crate::sources) fn give_up(&mut self) {
        self.give_renewal_up();
        self.whole.memory = None;
        if self.whole.is_wanted() {
            self.whole.stage = Stage::NotWanted;
            self.next_stop = Some(self.pace.next_stop(Duration::ZERO));
        }
    }

    /// The guest is halted, or has not run yet: goes on with a transfer that is under way. Whether there is
    /// more to do at once.
    pub(in crate::sources) fn use_idle_time(
        &mut self,
        at: &mut Moment<'_>,
        clock: Clock<'_>,
        log: &mut dyn LogSink,
    ) -> Step<bool> {
        self.go_on_with_whole(at, clock(), clock, log)?;
        self.renew_in_idle_time(at, clock(), log)
    }

    /// The host stopped the guest at a place that nothing else makes an exit.
    pub(in crate::sources) fn kicked(
        &mut self,
        at: &mut Moment<'_>,
        clock: Clock<'_>,
        log: &mut dyn LogSink,
    ) -> Step<()> {
        // It may be the last stop, after which the state is taken.
        if self.whole.stage == Stage::Sending && at.cpu.at_rest()? {
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
            whole.repairs.costs(hold);
            whole.ran_since = clock();
        }
    }

    /// Sends the rest of the whole state, for the next exit, if all but that was sent. `false` if not, or
    /// if that has to wait: the guest goes on from where it is.
    pub(in crate::sources) fn commit_whole(
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
        let committed = self.capture.commit_whole(
            at,
            self.pace.transfer.max_pause * MOST_PAUSES,
            memory,
            &mut send(log, point, &mut bytes, Payload::State),
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
                    "the devices hold more at {} than a transfer of the whole state carries: the \
                     backup gets it later, and is not protected until then",
                    at.point
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
        whole.stage = Stage::NotWanted;
        whole.repairs.costs(pause);
        whole.sent = Sent {
            bytes,
            rounds: u64::from(whole.rounds.count()),
            pause,
        };
        self.next_stop = Some(self.pace.next_stop(pause));
        self.counters.transfer_bytes(bytes);
        self.counters.transfer();
        log.state_sent(whole.sent);
        log::info!("the whole state was sent");
        Ok(true)
    }
}
