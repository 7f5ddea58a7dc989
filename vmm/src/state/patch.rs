//! Changed parts of pages, and how they are packed.
//!
//! A block is a list of [`PagePatch`]es (postcard), each with the step from the page before, compressed as
//! one LZ4 block behind its length. Blocks are independent of each other; one fits an entry of the log.

use logging_channel::codec::MAX_STATE_PART;
use serde::{Deserialize, Serialize};

use crate::ram::PAGE;

/// Patches are collected until a block has this many bytes before compression. With the largest
/// patch on top it fits an entry even if it cannot be compressed.
const BLOCK_BYTES: usize = 48 * 1024;

/// More than a patch of a whole page takes, packed: each run has at most 5 bytes of overhead, and
/// runs are at least [`GAP`] apart.
const LARGEST_PATCH: usize = 2 * PAGE;

/// Most bytes of a block before compression: bounds what hostile bytes unfold to.
const LARGEST_BLOCK: usize = BLOCK_BYTES + LARGEST_PATCH;

const _: () = assert!(LARGEST_BLOCK + LARGEST_BLOCK / 100 + 64 < MAX_STATE_PART);

/// Runs of changed bytes closer than this are one run: each run costs a few bytes.
const GAP: usize = 8;

/// Changed parts of one page; none if it has to become what it builds on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PagePatch {
    /// Guest frame number.
    pub(super) page: u64,
    /// What it is a change of.
    pub(super) base: Base,
    /// Ascending, within the page.
    pub(super) runs: Vec<Run>,
}

/// What a patch builds on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Base {
    /// A page of zeros.
    Zeros,
    /// What both sides have cached of the page.
    Cached,
}

/// Bytes that are now these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    /// Offset in the page.
    pub(super) at: u16,
    #[serde(with = "serde_bytes")]
    pub(super) bytes: Vec<u8>,
}

/// Why a block cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// It cannot be decompressed.
    #[error("a block of changed memory cannot be decompressed: {0}")]
    Compression(String),
    /// It is too large, compressed or not.
    #[error("part of a state transfer has {bytes} bytes: at most {limit} are allowed")]
    TooLarge {
        /// How large it says it is, or is.
        bytes: usize,
        /// How large it may be.
        limit: usize,
    },
    /// The parts of a transfer are not those that were sent.
    #[error(
        "the checksum over the parts that came is {came:08x}, and over those that were sent \
         {sent:08x}"
    )]
    Checksum {
        /// CRC-32 of what was sent.
        sent: u32,
        /// CRC-32 of what came.
        came: u32,
    },
    /// It is not a list of patches.
    #[error("a block of changed memory is damaged: {0}")]
    Malformed(String),
    /// A page is not what was sent.
    #[error("page {page:#x} came damaged")]
    Page {
        /// Guest frame number.
        page: u64,
    },
    /// It builds on something else than this side has.
    #[error("a changed part of page {page:#x} builds on what this side has not kept of it")]
    Base {
        /// Guest frame number.
        page: u64,
    },
    /// A patch lies outside of guest memory or of its page.
    #[error("a changed part of page {page:#x} lies outside of it or of guest memory")]
    OutOfRange {
        /// Guest frame number.
        page: u64,
    },
}

impl PagePatch {
    /// What turns `old`, which is the `base`, into `new`.
    pub(super) fn between(page: u64, base: Base, old: &[u8; PAGE], new: &[u8; PAGE]) -> Self {
        let mut ranges: Vec<(usize, usize)> = Vec::new();
        let words = old.as_chunks::<8>().0.iter().zip(new.as_chunks::<8>().0);
        for (word, (old, new)) in words.enumerate() {
            let changed = u64::from_le_bytes(*old) ^ u64::from_le_bytes(*new);
            if changed == 0 {
                continue;
            }
            let first = word * 8 + changed.trailing_zeros() as usize / 8;
            let end = word * 8 + 8 - changed.leading_zeros() as usize / 8;
            match ranges.last_mut() {
                Some((_, last)) if first - *last < GAP => *last = end,
                _ => ranges.push((first, end)),
            }
        }
        let runs = ranges.into_iter().map(|(first, end)| Run {
            at: first as u16,
            bytes: new[first..end].to_vec(),
        });
        Self {
            page,
            base,
            runs: runs.collect(),
        }
    }

    /// Changes `page_bytes`, the content of its page.
    pub(super) fn apply(&self, page_bytes: &mut [u8]) -> Result<(), PatchError> {
        let out_of_range = PatchError::OutOfRange { page: self.page };
        for run in &self.runs {
            let start = usize::from(run.at);
            let target = page_bytes.get_mut(start..start + run.bytes.len());
            target
                .ok_or_else(|| out_of_range.clone())?
                .copy_from_slice(&run.bytes);
        }
        Ok(())
    }
}

/// Packs patches into blocks.
#[derive(Debug, Default)]
pub(super) struct BlockWriter {
    open: Vec<u8>,
    /// The page of the last patch in it.
    last: u64,
}

/// A patch in a block: the step from the last one's page, what it builds on, and its runs.
type Packed<R> = (i64, Base, R);

impl BlockWriter {
    /// Adds a patch. Returns a block when one is full.
    pub(super) fn push(&mut self, patch: &PagePatch) -> Option<Vec<u8>> {
        let open = std::mem::take(&mut self.open);
        let step = patch.page.wrapping_sub(self.last).cast_signed();
        let packed: Packed<&[Run]> = (step, patch.base, &patch.runs);
        self.open = postcard::to_extend(&packed, open).expect("a vector takes everything");
        self.last = patch.page;
        if self.open.len() < BLOCK_BYTES {
            return None;
        }
        self.finish()
    }

    /// The block with what is left.
    pub(super) fn finish(&mut self) -> Option<Vec<u8>> {
        if self.open.is_empty() {
            return None;
        }
        let block = lz4_flex::block::compress_prepend_size(&self.open);
        *self = Self::default();
        Some(block)
    }
}

/// Unpacks a block.
pub(super) fn read_block(block: &[u8]) -> Result<Vec<PagePatch>, PatchError> {
    let raw = unpack(block, LARGEST_BLOCK)?;
    let mut rest = raw.as_slice();
    let mut patches = Vec::new();
    let mut page = 0u64;
    while !rest.is_empty() {
        let (packed, tail) = postcard::take_from_bytes::<Packed<Vec<Run>>>(rest)
            .map_err(|error| PatchError::Malformed(error.to_string()))?;
        let (step, base, runs) = packed;
        page = page.wrapping_add_signed(step);
        patches.push(PagePatch { page, base, runs });
        rest = tail;
    }
    Ok(patches)
}

/// Decompresses what `compress_prepend_size` made, up to `limit` bytes.
pub(super) fn unpack(block: &[u8], limit: usize) -> Result<Vec<u8>, PatchError> {
    let (len, data) = lz4_flex::block::uncompressed_size(block)
        .map_err(|error| PatchError::Compression(error.to_string()))?;
    if len > limit {
        return Err(PatchError::TooLarge { bytes: len, limit });
    }
    lz4_flex::block::decompress(data, len)
        .map_err(|error| PatchError::Compression(error.to_string()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dice::Dice;

    /// One byte in `share` is not zero.
    fn page() -> impl Strategy<Value = Box<[u8; PAGE]>> {
        (any::<u64>(), 1u64..9).prop_map(|(seed, share)| {
            let mut dice = Dice(seed);
            let bytes = (0..PAGE).map(|_| dice.roll(256 * share));
            let bytes: Vec<u8> = bytes.map(|n| if n < 256 { n as u8 } else { 0 }).collect();
            bytes.try_into().expect("a page")
        })
    }

    fn changes() -> impl Strategy<Value = Vec<(usize, Vec<u8>)>> {
        let bytes = prop::collection::vec(any::<u8>(), 1..40);
        prop::collection::vec((0..PAGE, bytes), 0..20)
    }

    proptest! {
        #[test]
        fn a_patch_turns_old_into_new(old in page(), changes in changes()) {
            let mut new = old.clone();
            for (at, bytes) in changes {
                let end = PAGE.min(at + bytes.len());
                new[at..end].copy_from_slice(&bytes[..end - at]);
            }
            let patch = PagePatch::between(7, Base::Cached, &old, &new);
            prop_assert!(patch.runs.is_sorted_by_key(|run| run.at));
            prop_assert_eq!(patch.runs.is_empty(), old == new);
            let mut made = old.clone();
            patch.apply(&mut made[..]).expect("in the page");
            prop_assert_eq!(made, new);
        }

        #[test]
        fn blocks_carry_patches(pages in prop::collection::vec(page(), 1..30)) {
            let zero = [0; PAGE];
            let patches: Vec<PagePatch> = (0..)
                .zip(&pages)
                .map(|(n, page)| PagePatch::between(n, Base::Zeros, &zero, page))
                .collect();
            let mut writer = BlockWriter::default();
            let mut blocks: Vec<Vec<u8>> =
                patches.iter().filter_map(|patch| writer.push(patch)).collect();
            blocks.extend(writer.finish());
            let mut read = Vec::new();
            for block in blocks {
                prop_assert!(block.len() <= MAX_STATE_PART);
                read.extend(read_block(&block).expect("reads"));
            }
            prop_assert_eq!(read, patches);
        }

        #[test]
        fn any_bytes_are_patches_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
            let _ = read_block(&bytes);
            let _ = read_block(&lz4_flex::block::compress_prepend_size(&bytes));
        }
    }

    #[test]
    fn the_worst_page_fits() {
        // A change in every other word, as many runs as there can be, of random bytes.
        let old = [0; PAGE];
        let mut new = [0; PAGE];
        let mut value = 1u64;
        for (n, byte) in new.iter_mut().enumerate() {
            value = value
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            *byte = if n % 16 == 0 {
                (value >> 33) as u8 | 1
            } else {
                0
            };
        }
        let patch = PagePatch::between(u64::MAX, Base::Zeros, &old, &new);
        assert_eq!(patch.runs.len(), PAGE / 16);
        let mut writer = BlockWriter::default();
        assert!(writer.push(&patch).is_none());
        assert!(writer.open.len() < LARGEST_PATCH);
    }

    #[test]
    fn claims_are_checked_before_room_is_made() {
        let mut block = lz4_flex::block::compress_prepend_size(&[0; 100]);
        block[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(
            read_block(&block),
            Err(PatchError::TooLarge {
                bytes: u32::MAX as usize,
                limit: LARGEST_BLOCK,
            })
        );
    }

    #[test]
    fn runs_outside_the_page_are_refused() {
        let patch = PagePatch {
            page: 3,
            base: Base::Zeros,
            runs: vec![Run {
                at: PAGE as u16 - 1,
                bytes: vec![1, 2],
            }],
        };
        assert_eq!(
            patch.apply(&mut [0; PAGE]),
            Err(PatchError::OutOfRange { page: 3 })
        );
    }
}
