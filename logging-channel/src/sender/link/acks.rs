//! What the thread does that reads acknowledgements.

use std::io::{self, Read};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Shared;
use crate::codec::HEADER_LEN;
use crate::control::Control;
use crate::entry::Lsn;
use crate::loss::LossReason;

impl Shared {
    /// Reads acknowledgements until the session is over.
    pub(in crate::sender) fn ack_loop(&self) {
        let mut buffer = [0; HEADER_LEN * 64];
        let mut have = 0;
        loop {
            match (&self.stream).read(&mut buffer[have..]) {
                Ok(0) => break,
                Ok(n) => have += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            }
            self.traffic.set();
            let (messages, rest) = buffer[..have].as_chunks();
            if let Err(what) = self.take_acks(messages) {
                return self.lose(LossReason::Protocol(what));
            }
            let (taken, left) = (messages.len() * HEADER_LEN, rest.len());
            buffer.copy_within(taken..have, 0);
            have = left;
        }
        self.lose(if self.finishing.load(Ordering::Acquire) {
            LossReason::Orderly
        } else {
            LossReason::Closed
        });
    }

    fn take_acks(&self, messages: &[[u8; HEADER_LEN]]) -> Result<(), String> {
        let before = (
            self.acked.load(Ordering::Relaxed),
            self.executed.load(Ordering::Relaxed),
        );
        let mut latest = before;
        let mut idle = Duration::ZERO;
        for message in messages {
            let message = Control::decode(message).map_err(|error| error.to_string())?;
            let (received, executed) = match message {
                Control::Acknowledge {
                    received,
                    executed,
                    idle: since,
                } => {
                    idle = since;
                    (received, executed)
                }
                Control::NeedState {
                    differed,
                    uncounted,
                } if differed.0 <= self.appended.load(Ordering::Relaxed) => {
                    self.uncounted.fetch_or(uncounted, Ordering::Relaxed);
                    self.state_wanted.fetch_max(differed.0, Ordering::AcqRel);
                    continue;
                }
                other => return Err(format!("a backup that sends {other:?}")),
            };
            if received.0 < latest.0 || executed.0 < latest.1 {
                return Err("acknowledgements that go back".into());
            }
            latest = (received.0, executed.0);
        }
        if latest.0 > self.appended.load(Ordering::Relaxed) || latest.1 > latest.0 {
            return Err("acknowledgement of entries that were not sent".into());
        }
        if latest.1 > before.1 {
            self.executed.store(latest.1, Ordering::Release);
            // `appended` is read after the lock is taken. An append stores it before it takes the
            // lock for its sample: so if the meter has the sample, this sees its LSN.
            let mut lag = self.lock_lag();
            let appended = Lsn(self.appended.load(Ordering::Relaxed));
            let now = Instant::now();
            lag.executed(
                Lsn(latest.1),
                appended,
                now.checked_sub(idle).unwrap_or(now),
            );
            self.judge_lag(lag.lag(now));
        }
        if latest != before {
            self.take_proof(Lsn(latest.0));
            self.acked.store(latest.0, Ordering::Release);
            // Also what an acknowledgement did not let out that had come too late by itself.
            self.release(self.permit());
            self.announce_progress();
        }
        Ok(())
    }

    /// Whether the guest is to be held up. What the network takes is not the backup's fault: with it in
    /// the bound, a guest behind a slow network would be held up all the time.
    pub(super) fn judge_lag(&self, lag: Duration) {
        let bound = self.settings.max_lag + self.round_trip().unwrap_or_default();
        self.behind.store(lag > bound, Ordering::Relaxed);
    }
}
