//! The whole state beside the log, for a backup that keeps the log and has too much of it.

use std::time::{Duration, Instant};

use logging_channel::entry::{ExecutionPoint, Payload};

use super::stages::Renewing;
use super::{StateKeeper, send};
use crate::engine::{Moment, Step};
use crate::sources::log_sink::{LogSink, Sent};

/// Time until a state that could not be taken is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// The guest runs this many times as long as it is stopped.
const GUEST_SHARE: u32 = 3;

/// A stop is at most 2^4 times as long as the first ones.
const LONGEST: u32 = 4;

impl StateKeeper {
    /// The backup keeps the log, and asks for the whole state beside it.
    pub(in crate::sources) fn renew(
        &mut self,
        at: &mut Moment<'_>,
        now: Duration,
        log: &mut dyn LogSink,
    ) -> Step<()> {
        if self.whole.is_wanted() || self.renewing.is_some() {
            return Ok(());
        }
        log::info!("the cold backup has much to replay: sending it the whole state anew");
        let mut bytes = 0;
        self.capture
            .begin_renewal(&mut send(log, at.point, &mut bytes, Payload::Renewal))?;
        self.renewing = Some(Renewing {
            next: now,
            is_ready: false,
            level: 0,
            round: u64::MAX,
            looked_at: (0, Duration::ZERO),
            sent: Sent::default(),
        });
        Ok(())
    }

    /// Nobody is there any more for whom it is.
    pub(super) fn give_renewal_up(&mut self) {
        if self.renewing.take().is_some() {
            self.capture.abandon_renewal();
        }
    }

    /// Sends memory if the guest, which stands at an exit, has run for long enough.
    pub(super) fn renew_if_due(
        &mut self,
        at: &mut Moment<'_>,
        now: Duration,
        log: &mut dyn LogSink,
    ) -> Step<()> {
        let Some(renewing) = self.renewing.as_mut() else {
            return Ok(());
        };
        if renewing.is_ready || now < renewing.next || !log.has_room() {
            return Ok(());
        }
        let since = Instant::now();
        let left = self.capture.renewal_left();
        let slice = self.pace.digest_slice * (1 << renewing.level.min(LONGEST));
        let time = (!renewing.fits(left, self.pace.transfer.max_pause)).then_some(slice);
        let mut bytes = 0;
        let progress = self.capture.send_renewal_memory(
            at,
            time,
            &mut send(log, at.point, &mut bytes, Payload::Renewal),
        )?;
        let took = since.elapsed();
        self.counters.transfer_bytes(bytes);
        renewing.sent.bytes += bytes;
        renewing.sent.rounds += u64::from(progress.round.is_some());
        renewing.sent.pause = took;
        renewing.is_ready = progress.is_all;
        renewing.next = now + took + took * GUEST_SHARE;
        match progress.round {
            None => {
                let looked_at = left - self.capture.renewal_left();
                renewing.looked_at.0 += looked_at;
                renewing.looked_at.1 += took;
            }
            Some(pages) => {
                renewing.level += u32::from(pages > renewing.round / 2);
                renewing.round = pages;
            }
        }
        Ok(())
    }

    /// Sends some memory while the guest is halted. Whether there is more, and room for it.
    pub(super) fn renew_in_idle_time(
        &mut self,
        at: &mut Moment<'_>,
        now: Duration,
        log: &mut dyn LogSink,
    ) -> Step<bool> {
        let Some(renewing) = self.renewing.as_mut() else {
            return Ok(false);
        };
        renewing.next = now;
        self.renew_if_due(at, now, log)?;
        let is_underway = self
            .renewing
            .as_ref()
            .is_some_and(|renewing| !renewing.is_ready);
        Ok(is_underway && !self.whole.is_wanted() && log.has_room())
    }

    /// Completes it before the guest goes on from the exit at which all of memory was sent. Whether it was
    /// completed: the guest stands at the next exit then.
    pub(in crate::sources) fn commit_renewal(
        &mut self,
        at: &mut Moment<'_>,
        log: &mut dyn LogSink,
    ) -> Step<bool> {
        let Some(renewing) = self.renewing.as_mut().filter(|renewing| renewing.is_ready) else {
            return Ok(false);
        };
        let since = Instant::now();
        let mut bytes = 0;
        let point = ExecutionPoint::at_exit(at.point.exits + 1);
        let committed = self
            .capture
            .commit_renewal(at, &mut send(log, point, &mut bytes, Payload::Renewal))?;
        if !committed {
            renewing.is_ready = false;
            renewing.next += AGAIN;
            return Ok(false);
        }
        let mut sent = renewing.sent;
        sent.bytes += bytes;
        sent.pause += since.elapsed();
        self.renewing = None;
        self.counters.transfer_bytes(bytes);
        self.counters.transfer();
        log.flush();
        log.state_sent(sent);
        log::info!(
            "the cold backup has the whole state anew: {:.1} MB, the guest stood still for {:.0} ms at the end",
            sent.bytes as f64 / 1e6,
            sent.pause.as_secs_f64() * 1e3
        );
        Ok(true)
    }
}
