//! The whole state beside the log: for who has all of the log, and would have less of it.

use std::time::{Duration, Instant};

use logging_channel::entry::StatePart;

use super::{Capture, Stop, send_rest};
use crate::cpu::Look;
use crate::engine::{Moment, Step};
use crate::ram::{PAGE, PageSet};
use crate::state::parts::LARGEST_DEVICES;
use crate::state::patch::{Base, BlockWriter, PagePatch};
use crate::state::seal::Seal;
use crate::state::{AT_A_TIME, Baseline};

static ZERO: [u8; PAGE] = [0; PAGE];

/// A transfer of the whole state that builds on nothing, beside a log that goes on: deltas and digests
/// build on the baseline meanwhile, as they would without it. Its end is a synchronisation point, for who
/// takes it over and for who follows the log through it.
pub(super) struct Renewal {
    /// Pages that are to be looked at.
    due: PageSet,
    /// The hash of what was sent of each page.
    sent: Vec<u64>,
    seal: Seal,
}

/// All of what is sent.
type Send<'a> = &'a mut dyn FnMut(StatePart) -> Step<()>;

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

impl Renewal {
    fn send_memory(
        &mut self,
        baseline: &mut Baseline,
        at: &mut Moment<'_>,
        time: Option<Duration>,
        send: Send<'_>,
    ) -> Step<Stop> {
        let since = Instant::now();
        let mut progress = Stop::default();
        let mut writer = BlockWriter::default();
        let mut looked_at = 0;
        loop {
            let Some(page) = self.due.take_first() else {
                if progress.round.is_some() {
                    progress.is_all = true;
                    break;
                }
                baseline.suspect_written(at.cpu, Look::Hidden)?;
                baseline.take_watched(&mut self.due);
                progress.round = Some(self.due.len());
                continue;
            };
            looked_at += 1;
            let (content, hash) = baseline.look_at(page);
            if std::mem::replace(&mut self.sent[page as usize], hash) != hash {
                let patch = PagePatch::between(page, Base::Zeros, &ZERO, content);
                if let Some(block) = writer.push(&patch) {
                    self.send_block(block, send)?;
                    looked_at = AT_A_TIME;
                }
            }
            if looked_at >= AT_A_TIME {
                looked_at = 0;
                if time.is_some_and(|time| since.elapsed() >= time) {
                    break;
                }
            }
        }
        if let Some(block) = writer.finish() {
            self.send_block(block, send)?;
        }
        Ok(progress)
    }

    fn send_block(&mut self, block: Vec<u8>, send: Send<'_>) -> Step<()> {
        self.seal.add(&block);
        send(StatePart::Pages(block))
    }
}
