//! Digests of the guest's state.

use logging_channel::entry::{PageDigest, PartDigests};

use super::Baseline;
use crate::engine::{Moment, Step};
use crate::ram::PAGE;

/// Digest of a page. Every step is a bijection of the 64-bit state, so pages that differ in one
/// word differ before the fold to 32 bits.
#[must_use]
pub fn page_digest(content: &[u8; PAGE]) -> u32 {
    let words = content.as_chunks::<8>().0;
    crate::cpu::fold(words.iter().map(|word| u64::from_le_bytes(*word)))
}

/// The guest's state at this moment: pages that changed since the last synchronisation point, and
/// the rest. This is the next synchronisation point.
///
/// Beside the pages that are known to have been written, some others are looked at, by turns: one
/// of those can only differ from the baseline if a fault of the hardware changed it.
///
/// # Errors
/// [`crate::engine::Interruption::Cpu`].
pub fn digest(
    baseline: &mut Baseline,
    at: &mut Moment<'_>,
) -> Step<(Vec<PageDigest>, PartDigests)> {
    let mut pages = Vec::new();
    baseline.suspect_written(at.cpu)?;
    baseline.suspect_some();
    let mut unchanged = baseline.no_pages();
    while let Some(page) = baseline.next_suspect() {
        match baseline.take_changed(page) {
            None => unchanged.insert(page),
            Some(content) => pages.push(PageDigest {
                page,
                digest: page_digest(&content),
            }),
        }
    }
    at.cpu.found_unchanged(&unchanged);
    let parts = part_digests(at)?.into_iter().map(|(_, digest)| digest);
    let parts = PartDigests {
        parts: parts.collect(),
        registers: at.registers()?,
    };
    Ok((pages, parts))
}

/// Digests of the parts of processor and devices, with their names.
pub(crate) fn part_digests(at: &mut Moment<'_>) -> Step<Vec<(&'static str, u32)>> {
    let mut parts = at.cpu.part_digests()?;
    parts.extend(at.devices.digests());
    Ok(parts)
}
