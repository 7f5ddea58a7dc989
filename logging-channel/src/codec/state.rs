//! The contents of state transfers and digests, written and read.
//!
//! ```text
//!   state part    1 byte: 0 begin, 1 pages, 2 commit, 3 rest, 4 memory; then
//!                 begin: u32 number of the transfer; memory: varint number of its blocks;
//!                 others: varint length and data
//!   page digests  varint first page and number of pages that are covered; varint count; each:
//!                 varint step from the page before (the first: from the first page covered, later
//!                 ones at least 1), u32
//!   part digests  varint count; each: u32
//! ```

use super::error::{EncodeError, EntryError};
use super::limits::{MAX_PAGE_DIGESTS, MAX_PART_DIGESTS, MAX_STATE_PART};
use crate::bytes::{Fields, put_varint};
use crate::entry::{PageDigest, StateDigest, StatePart};

const BEGIN: u8 = 0;
const PAGES: u8 = 1;
const COMMIT: u8 = 2;
const REST: u8 = 3;
const MEMORY: u8 = 4;

/// Whether `digest` fits an entry.
pub(super) fn admit(digest: &StateDigest) -> Result<(), EncodeError> {
    let pages = digest.pages.len();
    let parts = digest.last.as_ref().map_or(0, |last| last.parts.len());
    if pages > MAX_PAGE_DIGESTS || parts > MAX_PART_DIGESTS {
        return Err(EncodeError::LargeDigest { pages, parts });
    }
    let ascend = digest.pages.is_sorted_by(|a, b| a.page < b.page);
    let (first, last) = (digest.pages.first(), digest.pages.last());
    let is_covered = |page: &PageDigest| digest.range.contains(&page.page);
    if digest.range.start > digest.range.end
        || !ascend
        || !first.is_none_or(is_covered)
        || !last.is_none_or(is_covered)
    {
        return Err(EncodeError::UnorderedPages);
    }
    Ok(())
}

pub(super) fn write_part(part: &StatePart, out: &mut Vec<u8>) {
    let (number, data) = match part {
        StatePart::Begin(transfer) => {
            out.push(BEGIN);
            return out.extend_from_slice(&transfer.to_le_bytes());
        }
        StatePart::Memory(blocks) => {
            out.push(MEMORY);
            return put_varint(out, *blocks);
        }
        StatePart::Pages(data) => (PAGES, data),
        StatePart::Rest(data) => (REST, data),
        StatePart::Commit(data) => (COMMIT, data),
    };
    out.push(number);
    put_varint(out, data.len() as u64);
    out.extend_from_slice(data);
}

pub(super) fn read_part(fields: &mut Fields<'_>) -> Result<StatePart, EntryError> {
    let number = fields.u8()?;
    let part = match number {
        BEGIN => return Ok(StatePart::Begin(fields.u32()?)),
        MEMORY => return Ok(StatePart::Memory(fields.varint()?)),
        PAGES => StatePart::Pages,
        REST => StatePart::Rest,
        COMMIT => StatePart::Commit,
        other => return Err(EntryError::UnknownPart(other)),
    };
    let len = fields.varint()?;
    if len > MAX_STATE_PART as u64 {
        return Err(EntryError::StateTooLong(len));
    }
    Ok(part(fields.bytes(len as usize)?.to_vec()))
}

pub(super) fn write_pages(digest: &StateDigest, out: &mut Vec<u8>) {
    let StateDigest { range, pages, .. } = digest;
    put_varint(out, range.start);
    put_varint(out, range.end - range.start);
    put_varint(out, pages.len() as u64);
    let mut last = range.start;
    for PageDigest { page, digest } in pages {
        put_varint(out, page - last);
        out.extend_from_slice(&digest.to_le_bytes());
        last = *page;
    }
}

/// A digest without its last part.
pub(super) fn read_pages(fields: &mut Fields<'_>) -> Result<StateDigest, EntryError> {
    let start = fields.varint()?;
    let end = start.checked_add(fields.varint()?);
    let range = start..end.ok_or(EntryError::UnorderedPages)?;
    let count = count(fields, MAX_PAGE_DIGESTS)?;
    let mut pages = Vec::new();
    let mut last = start;
    for n in 0..count {
        let step = fields.varint()?;
        if n > 0 && step == 0 {
            return Err(EntryError::UnorderedPages);
        }
        let page = last.checked_add(step).filter(|page| range.contains(page));
        last = page.ok_or(EntryError::UnorderedPages)?;
        pages.push(PageDigest {
            page: last,
            digest: fields.u32()?,
        });
    }
    Ok(StateDigest {
        range,
        pages,
        last: None,
    })
}

pub(super) fn write_digests(digests: &[u32], out: &mut Vec<u8>) {
    put_varint(out, digests.len() as u64);
    for digest in digests {
        out.extend_from_slice(&digest.to_le_bytes());
    }
}

pub(super) fn read_digests(fields: &mut Fields<'_>) -> Result<Vec<u32>, EntryError> {
    let count = count(fields, MAX_PART_DIGESTS)?;
    (0..count).map(|_| Ok(fields.u32()?)).collect()
}

fn count(fields: &mut Fields<'_>, limit: usize) -> Result<u64, EntryError> {
    let count = fields.varint()?;
    if count > limit as u64 {
        return Err(EntryError::TooManyDigests(count));
    }
    Ok(count)
}
