//! The sending side of state transfers.

use std::time::{Duration, Instant};

use logging_channel::entry::StatePart;

use super::parts::{LARGEST_DEVICES, PIECE, Rest};
use super::patch::BlockWriter;
use super::seal::Seal;
use super::{Baseline, PageSet};
use crate::engine::{Moment, Step};

/// Rounds of sending again what the guest changed meanwhile, before it is stopped for the rest.
const ROUNDS: u32 = 4;

/// So many pages are looked at between two looks at the clock: also pages that have not changed, of
/// which nothing is sent, take time.
const AT_A_TIME: u32 = 64;

/// So few changed pages do not need another round.
const FEW_PAGES: u64 = 256;

/// Takes the guest's state for the other side.
pub struct Capture {
    baseline: Baseline,
    whole: Option<Whole>,
    seal: Seal,
}

/// A transfer of the whole state under way: memory is sent while the guest runs.
struct Whole {
    /// Pages to be sent in this round.
    left: PageSet,
    round: u32,
    /// Pages of the last round.
    last: u64,
}

/// What one step of a transfer of the whole state came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// There is more to send while the guest runs.
    More,
    /// The rest is little: stop the guest and [`Capture::commit_whole`].
    Ready,
}

impl Capture {
    /// For a guest whose state at the last synchronisation point was `baseline`.
    #[must_use]
    pub fn new(baseline: Baseline) -> Self {
        Self {
            baseline,
            whole: None,
            seal: Seal::default(),
        }
    }

    /// The baseline, for digests.
    pub fn baseline(&mut self) -> &mut Baseline {
        &mut self.baseline
    }

    /// Whether a transfer of the whole state is under way, so that the other side has no state
    /// that a delta or digest could build on.
    #[must_use]
    pub fn is_whole_under_way(&self) -> bool {
        self.whole.is_some()
    }

    /// Sends what changed since the last synchronisation point, and the processor. Devices change
    /// only at exits, which the other side has seen too.
    ///
    /// # Errors
    /// [`Interruption`](crate::engine::Interruption), also of `send`.
    pub fn delta(
        &mut self,
        at: &mut Moment<'_>,
        send: &mut dyn FnMut(StatePart) -> Step<()>,
    ) -> Step<()> {
        let written = self.baseline.take_written(at.cpu)?;
        let unchanged = self.send_changes(written.iter(), send)?;
        at.cpu.found_unchanged(&unchanged);
        let cpu = at.cpu.save()?;
        self.send_rest(cpu, None, send)
    }

    /// Begins a transfer of the whole state, in place of one that may be under way.
    ///
    /// # Errors
    /// [`Interruption`](crate::engine::Interruption), also of `send`.
    pub fn begin_whole(
        &mut self,
        at: &mut Moment<'_>,
        send: &mut dyn FnMut(StatePart) -> Step<()>,
    ) -> Step<()> {
        self.baseline.take_written(at.cpu)?;
        self.baseline.forget();
        self.whole = Some(Whole {
            left: PageSet::full(self.baseline.pages()),
            round: 1,
            last: self.baseline.pages(),
        });
        self.seal.begin();
        send(StatePart::Begin)
    }

    /// Sends pages of a transfer under way for about `share` of time.
    ///
    /// # Errors
    /// [`Interruption`](crate::engine::Interruption), also of `send`.
    pub(crate) fn continue_whole(
        &mut self,
        at: &mut Moment<'_>,
        share: Duration,
        send: &mut dyn FnMut(StatePart) -> Step<()>,
    ) -> Step<Progress> {
        let Some(mut whole) = self.whole.take() else {
            return Ok(Progress::More);
        };
        let since = Instant::now();
        let mut writer = BlockWriter::default();
        let mut looked_at = 0;
        while let Some(page) = whole.left.take_first() {
            looked_at += 1;
            if let Some(patch) = self.baseline.take_change(page)
                && let Some(block) = writer.push(&patch)
            {
                self.send_block(block, send)?;
                looked_at = AT_A_TIME;
            }
            if looked_at >= AT_A_TIME {
                looked_at = 0;
                if since.elapsed() >= share {
                    break;
                }
            }
        }
        if let Some(block) = writer.finish() {
            self.send_block(block, send)?;
        }
        let mut progress = Progress::More;
        if whole.left.is_empty() {
            whole.left = self.baseline.take_written(at.cpu)?;
            let changed = whole.left.len();
            // Another round is worth its while only as long as rounds get shorter.
            if changed <= FEW_PAGES || whole.round >= ROUNDS || changed > whole.last / 2 {
                progress = Progress::Ready;
            }
            whole.last = changed;
            whole.round += 1;
        }
        self.whole = Some(whole);
        Ok(progress)
    }

    /// Sends the rest of the state, devices included, of a guest whose last exit's access is not
    /// completed yet; it is then. Both sides have the same state. `false` if the devices hold more
    /// at the moment than a transfer carries: nothing has happened then, and the transfer stays
    /// under way.
    ///
    /// # Errors
    /// [`Interruption`](crate::engine::Interruption), also of `send`.
    pub fn commit_whole(
        &mut self,
        at: &mut Moment<'_>,
        send: &mut dyn FnMut(StatePart) -> Step<()>,
    ) -> Step<bool> {
        let devices = at.devices.save();
        if devices.len() > LARGEST_DEVICES {
            return Ok(false);
        }
        at.cpu.complete_access()?;
        let left = self.whole.take().map(|whole| whole.left);
        let written = self.baseline.take_written(at.cpu)?;
        let mut pages = left.unwrap_or_else(|| self.baseline.no_pages());
        written.iter().for_each(|page| pages.insert(page));
        self.send_changes(pages.iter(), send)?;
        let cpu = at.cpu.save()?;
        self.send_rest(cpu, Some(devices), send)?;
        Ok(true)
    }

    /// Sends what changed in these pages. Returns those that did not change.
    fn send_changes(
        &mut self,
        pages: impl Iterator<Item = u64>,
        send: &mut dyn FnMut(StatePart) -> Step<()>,
    ) -> Step<PageSet> {
        let mut writer = BlockWriter::default();
        let mut unchanged = self.baseline.no_pages();
        for page in pages {
            match self.baseline.take_change(page) {
                None => unchanged.insert(page),
                Some(patch) => {
                    if let Some(block) = writer.push(&patch) {
                        self.send_block(block, send)?;
                    }
                }
            }
        }
        if let Some(block) = writer.finish() {
            self.send_block(block, send)?;
        }
        Ok(unchanged)
    }

    fn send_block(
        &mut self,
        block: Vec<u8>,
        send: &mut dyn FnMut(StatePart) -> Step<()>,
    ) -> Step<()> {
        self.seal.add(&block);
        send(StatePart::Pages(block))
    }

    fn send_rest(
        &mut self,
        cpu: Vec<u8>,
        devices: Option<Vec<u8>>,
        send: &mut dyn FnMut(StatePart) -> Step<()>,
    ) -> Step<()> {
        let devices = devices.map(Into::into);
        let packed = Rest { cpu, devices }.pack();
        let mut pieces = packed.chunks(PIECE);
        let last = pieces.next_back().unwrap_or_default();
        for piece in pieces {
            self.seal.add(piece);
            send(StatePart::Rest(piece.to_vec()))?;
        }
        send(StatePart::Commit(self.seal.close(last)))
    }
}
