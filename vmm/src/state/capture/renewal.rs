//! The whole state beside the log: for who has all of the log, and would have less of it.

use std::time::{Duration, Instant};

use logging_channel::entry::StatePart;

use super::stop::Stop;
use crate::cpu::Look;
use crate::engine::{Moment, Step};
use crate::ram::PageSet;
use crate::state::hashes::ZERO;
use crate::state::patch::{Base, BlockWriter, PagePatch};
use crate::state::seal::Seal;
use crate::state::{AT_A_TIME, Baseline};

/// A transfer of the whole state that builds on nothing, beside a log that goes on: deltas and digests
/// build on the baseline meanwhile, as they would without it. Its end is a synchronisation point, for who
/// takes it over and for who follows the log through it.
pub(super) struct Renewal {
    /// Pages that are to be looked at.
    pub(super) due: PageSet,
    /// The hash of what was sent of each page.
    pub(super) sent: Vec<u64>,
    pub(super) seal: Seal,
}

/// All of what is sent.
pub(super) type Send<'a> = &'a mut dyn FnMut(StatePart) -> Step<()>;

impl Renewal {
    pub(super) fn send_memory(
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
