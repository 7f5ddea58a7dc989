//! Guests of a few kilobytes that are booted like a kernel without being one.
//!
//! The project's own tests use them (`guest-images/micro`). An ELF file says that it is one with a
//! note (System V ABI, "Note Section"): owner `ftvm`, type 1, contents `micro-guest`. What makes
//! sure that a file is a Linux kernel is not asked of it.

use object::Endianness;
use object::elf::FileHeader64;
use object::read::elf::{FileHeader, SectionHeader};

const OWNER: &[u8] = b"ftvm";
const KIND: u32 = 1;
const CONTENTS: &[u8] = b"micro-guest\0";

/// Whether the ELF image carries the note of a micro-guest. An image that cannot be read does not.
pub(crate) fn is_marked(image: &[u8]) -> bool {
    has_note(image).unwrap_or(false)
}

fn has_note(image: &[u8]) -> object::Result<bool> {
    let header = FileHeader64::<Endianness>::parse(image)?;
    let endian = header.endian()?;
    for section in header.section_headers(endian, image)? {
        let Some(mut notes) = section.notes(endian, image)? else {
            continue;
        };
        while let Some(note) = notes.next()? {
            if note.name() == OWNER && note.n_type(endian) == KIND && note.desc() == CONTENTS {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER_BYTES: u64 = 64;

    /// An ELF file with one section, which is a note.
    fn image(owner: &[u8; 5], kind: u32, contents: &[u8; 12]) -> Vec<u8> {
        let mut note = Vec::new();
        for word in [5, 12, kind] {
            note.extend_from_slice(&word.to_le_bytes());
        }
        note.extend_from_slice(owner);
        note.extend_from_slice(&[0; 3]);
        note.extend_from_slice(contents);

        let mut image = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
        image.resize(16, 0);
        image.extend_from_slice(&[2, 0, 62, 0, 1, 0, 0, 0]); // executable, x86-64, version
        let sections = HEADER_BYTES + note.len() as u64;
        for field in [0, 0, sections] {
            image.extend_from_slice(&field.to_le_bytes()); // entry, program and section headers
        }
        image.extend_from_slice(&[0; 4]);
        for half in [HEADER_BYTES as u16, 56, 0, 64, 2, 0] {
            image.extend_from_slice(&half.to_le_bytes());
        }
        image.extend_from_slice(&note);
        image.extend_from_slice(&[0; 64]); // section 0 is null
        image.extend_from_slice(&[0, 0, 0, 0, 7, 0, 0, 0]); // no name, SHT_NOTE
        for field in [0, 0, HEADER_BYTES, note.len() as u64, 0, 4, 0] {
            image.extend_from_slice(&field.to_le_bytes());
        }
        image
    }

    #[test]
    fn the_note_tells() {
        let marked = image(b"ftvm\0", 1, b"micro-guest\0");
        assert!(is_marked(&marked));
        assert!(!is_marked(&image(b"else\0", 1, b"micro-guest\0")));
        assert!(!is_marked(&image(b"ftvm\0", 2, b"micro-guest\0")));
        assert!(!is_marked(&image(b"ftvm\0", 1, b"macro-guest\0")));
        for len in 0..marked.len() {
            assert!(!is_marked(&marked[..len]), "cut at {len}");
        }
    }

    #[test]
    fn the_words_alone_do_not() {
        assert!(!is_marked(b"ftvm micro-guest"));
        assert!(!is_marked(&[]));
    }
}
