//! Where an ELF file has its code, and which bytes of that are filled in later.

use std::ops::Range;

use object::{Object, ObjectSection, SectionFlags};

use super::sites::RewriteError;

/// Longest field that a relocation for x86-64 fills, in bytes.
const LONGEST_FIELD: u64 = 8;

/// Code in a file.
pub(super) struct CodeSection {
    /// Virtual address.
    pub(super) address: u64,
    /// Where it is in the file.
    pub(super) offset: usize,
    pub(super) len: usize,
    /// Bytes that relocations fill, by offset in the section, in order of their starts.
    fields: Vec<Range<u64>>,
}

impl CodeSection {
    /// Whether a relocation fills one of the bytes of `range`.
    pub(super) fn is_filled_later(&self, range: Range<usize>) -> bool {
        let (start, end) = (range.start as u64, range.end as u64);
        // No field that starts later reaches back, and none is longer than LONGEST_FIELD.
        let first =
            (self.fields).partition_point(|f| f.start.saturating_add(LONGEST_FIELD) <= start);
        (self.fields[first..].iter())
            .take_while(|field| field.start < end)
            .any(|field| field.end > start)
    }
}

/// An ELF file for x86-64.
pub(super) fn parse(image: &[u8]) -> Result<object::File<'_>, RewriteError> {
    let elf = object::File::parse(image).map_err(|e| RewriteError::NotElf(e.to_string()))?;
    if elf.architecture() != object::Architecture::X86_64
        || elf.format() != object::BinaryFormat::Elf
    {
        return Err(RewriteError::NotElf("not an ELF file for x86-64".into()));
    }
    Ok(elf)
}

/// The executable sections of a file of `image_len` bytes.
pub(super) fn code_sections(
    elf: &object::File<'_>,
    image_len: usize,
) -> Result<Vec<CodeSection>, RewriteError> {
    let mut sections = Vec::new();
    for section in elf.sections() {
        let SectionFlags::Elf { sh_flags } = section.flags() else {
            continue;
        };
        if sh_flags & u64::from(object::elf::SHF_EXECINSTR) == 0 {
            continue;
        }
        let Some((offset, len)) = section.file_range() else {
            continue;
        };
        let (offset, len) = (offset as usize, len as usize);
        if offset.checked_add(len).is_none_or(|end| end > image_len) {
            return Err(RewriteError::NotElf(
                "cut: a section lies beyond the end of the file".into(),
            ));
        }
        let mut fields: Vec<Range<u64>> = section
            .relocations()
            .map(|(at, relocation)| {
                let bytes = match u64::from(relocation.size()) / 8 {
                    0 => LONGEST_FIELD, // a kind that `object` does not know
                    bytes => bytes.min(LONGEST_FIELD),
                };
                at..at.saturating_add(bytes)
            })
            .collect();
        fields.sort_by_key(|field| field.start);
        sections.push(CodeSection {
            address: section.address(),
            offset,
            len,
            fields,
        });
    }
    if sections.is_empty() {
        return Err(RewriteError::NoCode);
    }
    Ok(sections)
}
