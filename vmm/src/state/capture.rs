//! The sending side of state transfers.

mod stop;

use std::time::{Duration, Instant};

use logging_channel::entry::StatePart;

pub use self::stop::Stop;
use super::parts::{LARGEST_DEVICES, PIECE, Rest};
use super::patch::BlockWriter;
use super::seal::Seal;
use super::streams::{MemorySender, Waited};
use super::{AT_A_TIME, Baseline, NoRoom};
use crate::cpu::Look;
use crate::engine::{Moment, Step};
use crate::ram::PageSet;

/// How a transfer of the whole state looks for what the guest writes, unless it is a renewal. The guest may
/// notice: nobody follows it, and the end of the transfer has both hosts begin anew.
const TRANSFER: Look = Look::Open;

/// Takes the guest's state for the other side.
///
/// A transfer is memory, and then the rest of the state in the stop in which the last of memory is sent. A
/// *delta* builds on the guest of the other side, and sends memory in as many stops of the guest as that
/// takes. A transfer of the *whole* state builds on nothing, and its memory is sent beside the guest: in the
/// place of the log, or as a *renewal* beside it.
pub struct Capture {
    baseline: Baseline,
    seal: Seal,
    /// Pages that were looked at for a delta that is not complete. The other side does not know: it
    /// looks at them for the next digest, and so does this side.
    looked_at: PageSet,
    /// Number of the transfer of the whole state that is under way beside the log.
    renewal: Option<u32>,
}

/// What became of the end of a transfer of the whole state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// It was sent.
    Sent,
    /// The devices hold more at the moment than a transfer carries: nothing has happened, and the
    /// transfer stays under way.
    NotNow,
    /// The last of memory takes longer than the guest may stand still: it is another round.
    Late,
    /// Nobody takes memory any more.
    Never,
}

impl Capture {
    /// For a guest whose state at the last synchronisation point was `baseline`.
    #[must_use]
    pub fn new(baseline: Baseline) -> Self {
        Self {
            looked_at: baseline.no_pages(),
            baseline,
            seal: Seal::default(),
            renewal: None,
        }
    }

    /// The baseline, for digests.
    pub fn baseline(&mut self) -> &mut Baseline {
        &mut self.baseline
    }

    /// Begins a transfer of the whole state, in place of one that may be under way: all of memory is due.
    ///
    /// # Errors
    /// [`Interruption`](crate::engine::Interruption), also of `send`.
    pub fn begin_whole(
        &mut self,
        at: &mut Moment<'_>,
        transfer: u32,
        memory: &MemorySender,
        send: &mut dyn FnMut(StatePart) -> Step<()>,
    ) -> Step<()> {
        self.abandon_renewal();
        self.looked_at.clear();
        send(StatePart::Begin(transfer))?;
        // Nobody follows the guest any more.
        self.baseline.suspect_written(at.cpu, TRANSFER)?;
        memory.begin(transfer, || {
            self.baseline.begin_whole();
            self.baseline.hashes()
        });
        Ok(())
    }

    /// Begins a *renewal*: a transfer of the whole state beside the log, for whoever keeps that and would have
    /// less of it. The log is followed meanwhile, by deltas and digests too, as it would be without. So only
    /// the end is in it, and looks are hidden.
    ///
    /// # Errors
    /// [`Interruption`](crate::engine::Interruption).
    pub fn begin_renewal(
        &mut self,
        at: &mut Moment<'_>,
        transfer: u32,
        memory: &MemorySender,
    ) -> Step<Result<(), NoRoom>> {
        self.baseline.suspect_written(at.cpu, Look::Hidden)?;
        Ok(self.baseline.begin_beside().map(|hashes| {
            self.renewal = Some(transfer);
            memory.begin(transfer, || hashes);
        }))
    }

    /// A renewal comes to nothing.
    pub fn abandon_renewal(&mut self) {
        self.renewal = None;
        self.baseline.end_beside();
    }

    /// The round that memory is in is over, and of its pages these were `unchanged`. How many may have been
    /// written meanwhile.
    ///
    /// # Errors
    /// [`Interruption`](crate::engine::Interruption).
    pub fn end_round(&mut self, at: &mut Moment<'_>, unchanged: &PageSet) -> Step<u64> {
        if self.renewal.is_none() {
            // Otherwise others look at them as well.
            let pages = self.baseline.pages();
            at.cpu.looked_at(TRANSFER, 0..pages, unchanged);
        }
        self.baseline.suspect_written(at.cpu, self.look())?;
        Ok(self.baseline.due())
    }

    /// The next round: of the pages that were written during the last one.
    pub fn begin_round(&mut self, memory: &MemorySender) {
        memory.round(self.baseline.take_due());
    }

    /// Sends pages of a delta that the other side does not have as they are, and makes them part of the
    /// baseline, for about `time`; without a limit, all of them. The look is hidden: the other side's guest
    /// may yet come this way, and it does not stop here.
    ///
    /// # Errors
    /// [`Interruption`](crate::engine::Interruption), also of `send`.
    pub fn send_delta_memory(
        &mut self,
        at: &mut Moment<'_>,
        time: Option<Duration>,
        send: &mut dyn FnMut(StatePart) -> Step<()>,
    ) -> Step<Stop> {
        if self.baseline.begin_delta(at.point.exits) {
            self.seal.begin_delta(at.point.exits);
        }
        let look = Look::Hidden;
        let since = Instant::now();
        let mut progress = Stop {
            is_all: false,
            round: None,
        };
        let mut writer = BlockWriter::default();
        let mut unchanged = self.baseline.no_pages();
        let mut looked_at = 0;
        let end = loop {
            let Some(page) = self.baseline.next_suspect() else {
                if progress.round.is_some() {
                    progress.is_all = true;
                    break self.baseline.pages();
                }
                at.cpu.looked_at(look, 0..self.baseline.pages(), &unchanged);
                unchanged.clear();
                self.baseline.suspect_written(at.cpu, look)?;
                progress.round = Some(self.baseline.suspects());
                continue;
            };
            looked_at += 1;
            self.looked_at.insert(page);
            let change = self.baseline.take_change(page);
            if !change.is_other {
                unchanged.insert(page);
            }
            if let Some(patch) = change.patch
                && let Some(block) = writer.push(&patch)
            {
                self.send_block(block, send)?;
                looked_at = AT_A_TIME;
            }
            if looked_at >= AT_A_TIME {
                looked_at = 0;
                if time.is_some_and(|time| since.elapsed() >= time) {
                    break page + 1;
                }
            }
        };
        if let Some(block) = writer.finish() {
            self.send_block(block, send)?;
        }
        at.cpu.looked_at(look, 0..end, &unchanged);
        Ok(progress)
    }

    /// Completes a delta: all of memory was sent while the guest stands here. Devices change only at
    /// exits, which the other side has seen too. Returns whether the guest has to fault its memory in
    /// again from here on.
    ///
    /// # Errors
    /// [`Interruption`](crate::engine::Interruption), also of `send`.
    pub fn commit_delta(
        &mut self,
        at: &mut Moment<'_>,
        send: &mut dyn FnMut(StatePart) -> Step<()>,
    ) -> Step<bool> {
        let cpu = at.cpu.save()?;
        self.looked_at.clear();
        let is_faulted_in = at.cpu.drop_translations()?;
        send_rest(&mut self.seal, cpu, None, send)?;
        Ok(is_faulted_in)
    }

    /// A delta comes to nothing: what was sent of it belongs to the baseline all the same, and the guest
    /// of the other side may have something else there.
    pub fn abandon_delta(&mut self) {
        self.baseline.suspect(&self.looked_at);
        self.looked_at.clear();
    }

    /// Completes a transfer of the whole state, devices included, of a guest whose last exit's access
    /// is not completed yet; it is then. The last round has to be over. Waits for the rest of memory for
    /// `time` at most. The end of a renewal is a synchronisation point, for who takes it over and for who
    /// follows the log through it.
    ///
    /// # Errors
    /// [`Interruption`](crate::engine::Interruption), also of `send`.
    pub fn commit_whole(
        &mut self,
        at: &mut Moment<'_>,
        time: Duration,
        memory: &MemorySender,
        send: &mut dyn FnMut(StatePart) -> Step<()>,
    ) -> Step<Committed> {
        let devices = at.devices.save();
        if devices.len() > LARGEST_DEVICES {
            return Ok(Committed::NotNow);
        }
        // Inputs may have come since, and the access itself may write to memory.
        at.cpu.complete_access()?;
        self.baseline.suspect_written(at.cpu, self.look())?;
        self.begin_round(memory);
        let blocks = match memory.wait(time) {
            Waited::Sent { blocks } => blocks,
            Waited::Late => return Ok(Committed::Late),
            Waited::Over => return Ok(Committed::Never),
        };
        let renewal = self.renewal.take();
        if let Some(transfer) = renewal {
            send(StatePart::Begin(transfer))?;
        }
        send(StatePart::Memory(blocks))?;
        let cpu = at.cpu.save()?;
        match renewal {
            Some(_) => {
                self.baseline.end_beside();
                self.baseline.adopt(memory.hashes());
                self.baseline.agree(at.cpu)?;
                // Who takes the state over knows nothing of a delta that came to nothing.
                self.looked_at.clear();
            }
            None => {
                at.cpu.drop_translations()?;
            }
        }
        self.seal.begin();
        send_rest(&mut self.seal, cpu, Some(devices), send)?;
        Ok(Committed::Sent)
    }

    /// How the transfer of the whole state that is under way looks for what the guest writes.
    fn look(&self) -> Look {
        match self.renewal {
            Some(_) => Look::Hidden,
            None => TRANSFER,
        }
    }

    fn send_block(
        &mut self,
        block: Vec<u8>,
        send: &mut dyn FnMut(StatePart) -> Step<()>,
    ) -> Step<()> {
        self.seal.add(&block);
        send(StatePart::Pages(block))
    }
}

/// Sends what is not memory, and with it the end of the transfer.
fn send_rest(
    seal: &mut Seal,
    cpu: Vec<u8>,
    devices: Option<Vec<u8>>,
    send: &mut dyn FnMut(StatePart) -> Step<()>,
) -> Step<()> {
    let devices = devices.map(Into::into);
    let packed = Rest { cpu, devices }.pack();
    let mut pieces = packed.chunks(PIECE);
    let last = pieces.next_back().unwrap_or_default();
    for piece in pieces {
        seal.add(piece);
        send(StatePart::Rest(piece.to_vec()))?;
    }
    send(StatePart::Commit(seal.close(last)))
}
