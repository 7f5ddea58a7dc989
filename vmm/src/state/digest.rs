//! Digests of the guest's state.

use std::ops::Range;
use std::time::{Duration, Instant};

use logging_channel::codec::MAX_PAGE_DIGESTS;
use logging_channel::entry::{PageDigest, PartDigests, StateDigest};

use super::{AT_A_TIME, Baseline};
use crate::cpu::{Look, fold};
use crate::engine::{Moment, Step};

/// The pages of `range` that changed since the last synchronisation point, as far as one entry of the
/// log holds them and `time` allows, and the pages that were looked at for that. This is their next
/// synchronisation point: both sides look at the same pages at the same place.
///
/// Beside the pages that are known to have been written, some others are looked at, by turns: one
/// of those can only differ from the baseline if a fault of the hardware changed it.
///
/// # Errors
/// [`crate::engine::Interruption::Cpu`].
pub fn digest(
    baseline: &mut Baseline,
    at: &mut Moment<'_>,
    range: Range<u64>,
    time: Option<Duration>,
) -> Step<StateDigest> {
    let since = Instant::now();
    let is_late = || time.is_some_and(|time| since.elapsed() >= time);
    baseline.suspect_written(at.cpu, Look::Open)?;
    if range.start == 0 {
        baseline.suspect_some();
    }
    let mut unchanged = baseline.no_pages();
    let mut digest = StateDigest {
        range,
        ..StateDigest::default()
    };
    let mut rest = digest.range.clone();
    let mut looked_at = 0;
    while let Some(page) = baseline.next_suspect_in(rest.clone()) {
        rest.start = page + 1;
        match baseline.take_changed(page) {
            None => unchanged.insert(page),
            Some(hash) => digest.pages.push(PageDigest {
                page,
                digest: fold(hash),
            }),
        }
        looked_at += 1;
        if digest.pages.len() == MAX_PAGE_DIGESTS || looked_at % AT_A_TIME == 0 && is_late() {
            digest.range.end = rest.start;
            break;
        }
    }
    at.cpu
        .looked_at(Look::Open, digest.range.clone(), &unchanged);
    Ok(digest)
}

/// The guest's state at this moment, but for its memory.
///
/// # Errors
/// [`crate::engine::Interruption::Cpu`].
pub(crate) fn digest_rest(at: &mut Moment<'_>) -> Step<PartDigests> {
    let parts = part_digests(at)?.into_iter().map(|(_, digest)| digest);
    Ok(PartDigests {
        parts: parts.collect(),
        registers: at.registers()?.compared(),
    })
}

/// Digests of the parts of processor and devices, with their names.
pub(crate) fn part_digests(at: &mut Moment<'_>) -> Step<Vec<(&'static str, u32)>> {
    let mut parts = at.cpu.part_digests()?;
    parts.extend(at.devices.digests());
    Ok(parts)
}
