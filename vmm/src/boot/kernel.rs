//! Where the parts of a kernel go in guest memory.

use std::ops::Range;

use object::Endianness;
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::layout;
use crate::ram::GuestRam;

/// A kernel's segments, by its ELF program headers.
#[derive(Debug, Clone)]
pub(super) struct Kernel {
    entry: u64,
    segments: Vec<Segment>,
}

/// Bytes of the file for guest memory. Zeros follow them up to `end`.
#[derive(Debug, Clone)]
struct Segment {
    file: Range<usize>,
    address: u64,
    end: u64,
}

impl Segment {
    fn parse<P>(header: &P, endian: P::Endian, image: &[u8]) -> Result<Self, String>
    where
        P: ProgramHeader<Word = u64>,
    {
        let address = header.p_paddr(endian);
        let (file, bytes) = (header.p_filesz(endian), header.p_memsz(endian));
        let wrong = |what: &str| Err(format!("its segment for address {address:#x} {what}"));
        let Some(end) = address.checked_add(bytes) else {
            return wrong("ends beyond all addresses");
        };
        if file > bytes {
            return wrong("has more bytes in the file than in memory");
        }
        if address < layout::HIGH_MEMORY {
            return wrong("lies below 1 MiB, where ftvm puts what the kernel is told");
        }
        let offset = header.p_offset(endian);
        match offset.checked_add(file) {
            Some(end_in_file) if end_in_file <= image.len() as u64 => Ok(Self {
                file: offset as usize..end_in_file as usize,
                address,
                end,
            }),
            _ => wrong("is cut"),
        }
    }

    /// Whether the file has the byte at `address`.
    fn holds(&self, address: u64) -> bool {
        address
            .checked_sub(self.address)
            .is_some_and(|at| at < self.file.len() as u64)
    }
}

impl Kernel {
    /// Reads the program headers of an ELF image.
    ///
    /// # Errors
    /// What is wrong with it, in words that follow "is not a complete kernel".
    pub(super) fn parse(image: &[u8]) -> Result<Self, String> {
        let words = |error: object::Error| error.to_string();
        let header = FileHeader64::<Endianness>::parse(image).map_err(words)?;
        let endian = header.endian().map_err(words)?;
        let headers = header.program_headers(endian, image).map_err(words)?;
        let segments = (headers.iter())
            .filter(|header| header.p_type(endian) == PT_LOAD && header.p_memsz(endian) > 0)
            .map(|header| Segment::parse(header, endian, image))
            .collect::<Result<Vec<_>, _>>()?;
        if segments.is_empty() {
            return Err("it has no segments to load".into());
        }
        let entry = header.e_entry(endian);
        if !segments.iter().any(|segment| segment.holds(entry)) {
            return Err(format!(
                "its entry point {entry:#x} is in none of its segments"
            ));
        }
        Ok(Self { entry, segments })
    }

    /// Guest-physical address of the 64-bit entry point.
    pub(super) fn entry(&self) -> u64 {
        self.entry
    }

    /// End of the guest memory that it takes, exclusive.
    pub(super) fn end(&self) -> u64 {
        let ends = self.segments.iter().map(|segment| segment.end);
        ends.max().expect("there is a segment")
    }

    /// Writes the segments of `image`, the one that was [parsed](Self::parse), to memory that is zero.
    ///
    /// # Errors
    /// When memory ends before them.
    pub(super) fn load(&self, image: &[u8], memory: &GuestRam) -> Result<(), GuestMemoryError> {
        for segment in &self.segments {
            memory.write_slice(&image[segment.file.clone()], GuestAddress(segment.address))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const HEADERS: u64 = 64 + 2 * 56;

    /// An ELF file with this entry point and two segments, whose fields are offset, address, bytes in the
    /// file and bytes in memory. Four bytes of code are behind the headers.
    fn image(entry: u64, segments: &[[u64; 4]; 2]) -> Vec<u8> {
        let mut image = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
        image.resize(16, 0);
        image.extend_from_slice(&[2, 0, 62, 0, 1, 0, 0, 0]); // executable, x86-64, version
        for field in [entry, 64, 0] {
            image.extend_from_slice(&field.to_le_bytes()); // entry, program and section headers
        }
        image.extend_from_slice(&[0; 4]);
        for half in [64_u16, 56, 2, 64, 0, 0] {
            image.extend_from_slice(&half.to_le_bytes());
        }
        for [offset, address, file, bytes] in segments {
            image.extend_from_slice(&[1, 0, 0, 0, 5, 0, 0, 0]); // PT_LOAD, readable and executable
            for field in [*offset, *address, *address, *file, *bytes, 0] {
                image.extend_from_slice(&field.to_le_bytes());
            }
        }
        assert_eq!(image.len() as u64, HEADERS);
        image.extend_from_slice(b"code");
        image
    }

    const NONE: [u64; 4] = [0; 4];

    #[test]
    fn segments_are_where_the_file_says() {
        let image = image(
            MIB + 2,
            &[[HEADERS, MIB, 4, 0x2000], [HEADERS + 1, 2 * MIB, 2, 2]],
        );
        let kernel = Kernel::parse(&image).expect("a kernel");
        assert_eq!((kernel.entry(), kernel.end()), (MIB + 2, 2 * MIB + 2));
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), 4 << 20)]).expect("memory");
        kernel.load(&image, &memory).expect("it fits");
        let mut read = [0; 5];
        memory
            .read_slice(&mut read, GuestAddress(MIB))
            .expect("memory");
        assert_eq!(&read, b"code\0");
        memory
            .read_slice(&mut read, GuestAddress(2 * MIB))
            .expect("memory");
        assert_eq!(&read, b"od\0\0\0");
    }

    #[test]
    fn what_no_kernel_has_is_refused() {
        let whole = [HEADERS, MIB, 4, 4];
        for (entry, segments, told) in [
            (MIB, [NONE, NONE], "no segments"),
            (u64::MAX, [whole, NONE], "entry point 0xffffffffffffffff"),
            (MIB + 4, [whole, NONE], "entry point"),
            (0, [whole, NONE], "entry point 0x0"),
            (MIB, [whole, [HEADERS, 0x7000, 4, 4]], "below 1 MiB"),
            (MIB, [whole, [HEADERS, 2 * MIB, 5, 5]], "is cut"),
            (MIB, [whole, [u64::MAX, 2 * MIB, 4, 4]], "is cut"),
            (
                MIB,
                [whole, [HEADERS, 2 * MIB, 4, 3]],
                "more bytes in the file",
            ),
            (
                MIB,
                [whole, [HEADERS, u64::MAX - 2, 4, 4]],
                "beyond all addresses",
            ),
        ] {
            let error = Kernel::parse(&image(entry, &segments)).expect_err(told);
            assert!(error.contains(told), "{error}");
        }
        let whole = image(MIB, &[whole, NONE]);
        assert!(Kernel::parse(&whole).is_ok());
        for len in 0..whole.len() {
            assert!(Kernel::parse(&whole[..len]).is_err(), "cut at {len}");
        }
    }
}
