//! Blocks of guest memory, as memory streams carry them.
//!
//! ```text
//!   1 byte   0: the body as it is; 1: compressed, as one LZ4 block behind its length
//!   body     the contents, a page each; the table: u64 guest frame number, u64 hash, for each page; then
//!            u64 hash of the table
//! ```
//!
//! Whoever takes a page hashes it anyway, to know it later: the hash in the block says whether it is what
//! was read on the other host.

use std::borrow::Cow;
use std::time::Duration;

use logging_channel::memory::MAX_BLOCK;
use xxhash_rust::xxh64::xxh64;

use crate::ram::PAGE;
use crate::state::hashes::hash;
use crate::state::patch::PatchError;

/// Most pages of a block.
pub(super) const MOST_PAGES: usize = 32;

/// What a page takes in the table.
const ENTRY: usize = 16;

const HASH: usize = 8;

const LARGEST_BODY: usize = HASH + MOST_PAGES * (ENTRY + PAGE);

const _: () = assert!(LARGEST_BODY + LARGEST_BODY / 100 + 64 < MAX_BLOCK);

const PLAIN: u8 = 0;
const PACKED: u8 = 1;

/// Pages for a block, which are put together where they are sent from.
#[derive(Debug)]
pub(super) struct Body {
    /// Guest frame numbers and hashes.
    pub(super) pages: Vec<(u64, u64)>,
    /// The block: [`PLAIN`], and the contents of the pages.
    block: Box<[u8]>,
}

impl Default for Body {
    fn default() -> Self {
        Self {
            pages: Vec::with_capacity(MOST_PAGES),
            block: vec![PLAIN; 1 + LARGEST_BODY].into(),
        }
    }
}

impl Body {
    /// Adds a page with the content that `read` puts into its place, unless the other side has it, whose
    /// page has the hash `theirs`. Whether it was added.
    ///
    /// # Panics
    /// If it has [`MOST_PAGES`].
    pub(super) fn push(
        &mut self,
        page: u64,
        theirs: u64,
        read: impl FnOnce(&mut [u8; PAGE]),
    ) -> bool {
        assert!(self.pages.len() < MOST_PAGES, "the block is full");
        let end = self.end();
        let content = self.block[end..].first_chunk_mut();
        let content = content.expect("there is room for that many");
        read(content);
        let hash = hash(content);
        let is_other = hash != theirs;
        if is_other {
            self.pages.push((page, hash));
        }
        is_other
    }

    pub(super) fn is_full(&self) -> bool {
        self.pages.len() == MOST_PAGES
    }

    /// Where the contents end.
    fn end(&self) -> usize {
        1 + self.pages.len() * PAGE
    }

    fn plain(&mut self) -> &[u8] {
        let table = self.end()..self.end() + self.pages.len() * ENTRY;
        let (numbers, _) = self.block[table.clone()].as_chunks_mut::<8>();
        let values = self.pages.iter().flat_map(|&(page, hash)| [page, hash]);
        for (bytes, value) in numbers.iter_mut().zip(values) {
            *bytes = value.to_le_bytes();
        }
        let hash = xxh64(&self.block[table.clone()], 0);
        let end = table.end + HASH;
        self.block[table.end..end].copy_from_slice(&hash.to_le_bytes());
        &self.block[..end]
    }
}

fn pack(plain: &[u8]) -> Vec<u8> {
    let mut block = lz4_flex::block::compress_prepend_size(&plain[1..]);
    block.insert(0, PACKED);
    block
}

/// Packs blocks where the network is what takes the time: where it takes them as they are faster than they
/// are packed, nobody waits for this host's processor.
///
/// How long the thread waits for its processor is no matter: a guest that leaves it little of that would have
/// it do more work, and leave the guest less.
#[derive(Debug, Default)]
pub(super) struct Packer {
    blocks: u32,
    /// Nanoseconds of the thread's own time for a byte: to send it, and to pack it. Mean values, of late.
    sending: f64,
    packing: f64,
    /// Packed bytes for each.
    ratio: f64,
}

impl Packer {
    /// Of every so many blocks the beginning is packed, to see what that would bring,
    const EVERY: u32 = 32;
    /// and this much of it.
    const SAMPLE: usize = 4 * PAGE;

    /// The block of `body`; `now` is the thread's own clock.
    pub(super) fn block<'a>(
        &mut self,
        body: &'a mut Body,
        now: impl Fn() -> Duration,
    ) -> Cow<'a, [u8]> {
        let plain = body.plain();
        let is_sample = self.blocks.is_multiple_of(Self::EVERY);
        self.blocks = self.blocks.wrapping_add(1);
        // Clearly faster, or a network that is shared with the log would get the processor's work.
        let pays = self.packing + self.ratio * self.sending < self.sending / 1.5;
        let some = match (pays, is_sample) {
            (true, _) => plain,
            (false, true) => &plain[..plain.len().min(Self::SAMPLE)],
            (false, false) => return plain.into(),
        };
        let since = now();
        let packed = pack(some);
        let took = now().saturating_sub(since);
        let bytes = some.len() as f64;
        blend(&mut self.packing, took.as_nanos() as f64 / bytes);
        blend(&mut self.ratio, packed.len() as f64 / bytes);
        if pays && packed.len() < plain.len() {
            packed.into()
        } else {
            plain.into()
        }
    }

    /// Sending so many bytes took so long.
    pub(super) fn sent(&mut self, bytes: usize, took: Duration) {
        blend(&mut self.sending, took.as_nanos() as f64 / bytes as f64);
    }
}

/// Makes `value` part of a mean value.
fn blend(mean: &mut f64, value: f64) {
    const SHARE: f64 = 1.0 / 8.0;
    if *mean == 0.0 {
        *mean = value;
    }
    *mean += (value - *mean) * SHARE;
}

/// The pages of a block: each one's number, hash, and content.
///
/// # Errors
/// [`PatchError`]: it is not a block, or not what was sent.
pub(super) fn read(
    block: &[u8],
    mut take: impl FnMut(u64, u64, &[u8; PAGE]) -> Result<(), PatchError>,
) -> Result<(), PatchError> {
    let malformed = |what: &str| PatchError::Malformed(what.into());
    let unpacked;
    let body = match block.split_first() {
        Some((&PLAIN, body)) => body,
        Some((&PACKED, body)) => {
            unpacked = crate::state::patch::unpack(body, LARGEST_BODY)?;
            &unpacked
        }
        _ => return Err(malformed("it is packed in no known way")),
    };
    let short = || malformed("it is cut off");
    let (rest, sent) = body.split_last_chunk::<HASH>().ok_or_else(short)?;
    let count = rest.len() / (ENTRY + PAGE);
    let (contents, table) = rest.split_at_checked(count * PAGE).ok_or_else(short)?;
    if table.len() != count * ENTRY {
        return Err(short());
    }
    let (contents, _) = contents.as_chunks::<PAGE>();
    if xxh64(table, 0) != u64::from_le_bytes(*sent) {
        return Err(malformed("its table is damaged"));
    }
    let (numbers, _) = table.as_chunks::<8>();
    for (entry, content) in numbers.chunks_exact(2).zip(contents) {
        let [page, sent] = [entry[0], entry[1]].map(u64::from_le_bytes);
        if hash(content) != sent {
            return Err(PatchError::Page { page });
        }
        take(page, sent, content)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    fn body(pages: &[(u64, u8)]) -> Body {
        let mut body = Body::default();
        for (page, byte) in pages {
            let mut content = [0; PAGE];
            content[..2000].fill(*byte);
            let theirs = !hash(&content);
            assert!(body.push(*page, theirs, |room| *room = content));
            assert!(!body.push(*page, !theirs, |room| *room = content));
        }
        body
    }

    fn read_all(block: &[u8]) -> Result<Vec<(u64, u8)>, PatchError> {
        let mut pages = Vec::new();
        read(block, |page, _, content| {
            pages.push((page, content[0]));
            Ok(())
        })?;
        Ok(pages)
    }

    proptest! {
        #[test]
        fn blocks_carry_pages(pages in prop::collection::vec(any::<(u64, u8)>(), 0..MOST_PAGES)) {
            let mut body = body(&pages);
            let plain = body.plain();
            let packed = pack(plain);
            prop_assert!(plain.len() <= MAX_BLOCK && packed.len() <= MAX_BLOCK);
            prop_assert_eq!(&read_all(plain).expect("a block"), &pages);
            prop_assert_eq!(&read_all(&packed).expect("a block"), &pages);
        }

        #[test]
        fn damage_is_found(
            pages in prop::collection::vec(any::<(u64, u8)>(), 1..4),
            packed: bool,
            at: prop::sample::Index,
            bit in 0u8..8,
        ) {
            let mut body = body(&pages);
            let plain = body.plain();
            let mut block = if packed { pack(plain) } else { plain.to_vec() };
            let at = at.index(block.len());
            block[at] ^= 1 << bit;
            // A bit of what LZ4 leaves open makes no difference.
            if let Ok(read) = read_all(&block) {
                prop_assert!(packed);
                prop_assert_eq!(read, pages);
            }
        }

        #[test]
        fn any_bytes_are_a_block_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
            let _ = read_all(&bytes);
        }
    }

    #[test]
    fn blocks_are_packed_where_the_network_is_slow() {
        let mut body = body(&[(1, 7), (2, 8), (3, 9)]);
        let plain = body.plain().len();
        let (mut packer, clock) = (Packer::default(), Cell::new(Duration::ZERO));
        let now = || clock.replace(clock.get() + Duration::from_micros(20));
        let mut sizes = |nanos_a_byte: u64| -> Vec<usize> {
            let send = |_| {
                let block = packer.block(&mut body, now);
                packer.sent(
                    block.len(),
                    Duration::from_nanos(nanos_a_byte * block.len() as u64),
                );
                block.len()
            };
            (0..64).map(send).collect()
        };
        let few = |sizes: Vec<usize>| sizes.iter().filter(|size| **size < plain).count();
        assert!(few(sizes(0)) <= 1);
        let slow = sizes(10_000);
        assert!(few(slow) > 50);
        for _ in 0..3 {
            sizes(0);
        }
        assert!(few(sizes(0)) <= 1, "and no more when it is fast again");
    }
}
