//! Sends the whole state beside the log.

use std::time::Duration;

use logging_channel::entry::StatePart;

use super::renewal::{Renewal, Send};
use super::stop::Stop;
use super::{Capture, send_rest};
use crate::engine::{Moment, Step};
use crate::ram::PageSet;
use crate::state::Baseline;
use crate::state::parts::LARGEST_DEVICES;
use crate::state::seal::Seal;

impl Capture {
    /// Begins to send the whole state beside the log.
    ///
    /// # Errors
    /// [`Interruption`](crate::engine::Interruption), also of `send`.
    pub fn begin_renewal(&mut self, send: Send<'_>) -> Step<()> {
        let pages = self.baseline.pages();
        self.baseline.watch_writes();
        self.renewal = Some(Renewal {
            due: PageSet::full(pages),
            sent: vec![Baseline::hash_of_zeros(); pages as usize],
            seal: Seal::default(),
        });
        send(StatePart::Begin(0))
    }

    /// How many pages of that are to be looked at yet, as far as that is known.
    #[must_use]
    pub fn renewal_left(&self) -> u64 {
        self.renewal.as_ref().map_or(0, |renewal| renewal.due.len())
    }

    /// Sends pages of that for about `time`; without a limit, all of them. Who follows the log does not look
    /// here.
    ///
    /// # Errors
    /// [`Interruption`](crate::engine::Interruption), also of `send`.
    pub fn send_renewal_memory(
        &mut self,
        at: &mut Moment<'_>,
        time: Option<Duration>,
        send: Send<'_>,
    ) -> Step<Stop> {
        match &mut self.renewal {
            Some(renewal) => renewal.send_memory(&mut self.baseline, at, time, send),
            None => Ok(Stop::default()),
        }
    }

    /// Completes that, for a guest that stands at an exit whose access is not completed yet; it is then.
    /// `false` if the devices hold more at the moment than a transfer carries: nothing has happened then,
    /// and it stays under way.
    ///
    /// # Errors
    /// [`Interruption`](crate::engine::Interruption), also of `send`.
    pub fn commit_renewal(&mut self, at: &mut Moment<'_>, send: Send<'_>) -> Step<bool> {
        let devices = at.devices.save();
        if devices.len() > LARGEST_DEVICES {
            return Ok(false);
        }
        at.cpu.complete_access()?;
        self.send_renewal_memory(at, None, send)?;
        let cpu = at.cpu.save()?;
        self.baseline.agree(at.cpu)?;
        // Who takes the state over knows nothing of a delta that came to nothing.
        self.looked_at.clear();
        self.seal.begin();
        if let Some(mut renewal) = self.renewal.take() {
            send_rest(&mut renewal.seal, cpu, Some(devices), send)?;
        }
        self.abandon_renewal();
        Ok(true)
    }

    /// It comes to nothing.
    pub fn abandon_renewal(&mut self) {
        self.renewal = None;
        self.baseline.watch_no_writes();
    }
}
