//! Makes a kernel's RDTSC instructions exit.
//!
//! Stock KVM has no user-space exit for RDTSC, and a kernel built with CONFIG_X86_TSC reads the
//! counter even where CPUID hides it. So every two-byte `rdtsc` (0f 31) in the image's executable
//! sections becomes the two-byte `in eax, PORT` (e5 ib), which exits; the VMM answers with the low
//! half in EAX and the high half in EDX, as RDTSC would. Only instructions found by disassembly
//! are touched: a search for the two bytes alone also finds constants and parts of others.
//!
//! RDTSCP is left alone: the CPU model hides it, so the kernel never selects it.

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic};
use object::{Object, ObjectSection, SectionFlags};

/// The port that stands for the time stamp counter. Nothing on a PC answers there.
pub const TSC_PORT: u16 = 0xec;

const RDTSC: [u8; 2] = [0x0f, 0x31];
const IN_EAX: [u8; 2] = [0xe5, TSC_PORT as u8];

/// Where TSC reads were found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TscSites {
    /// Virtual addresses of rewritten instructions.
    pub addresses: Vec<u64>,
}

/// Why an image cannot be rewritten.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    /// It is not a (whole) ELF file.
    #[error("{0}")]
    NotElf(String),
    /// It has no executable sections.
    #[error(
        "the image has no section headers or no executable sections, so its instructions cannot \
         be found: use the vmlinux of a distribution's kernel, not a stripped copy"
    )]
    NoCode,
    /// It reads the TSC nowhere.
    #[error(
        "the image has no rdtsc instruction: it is not a Linux kernel for x86-64, or it was \
         rewritten before"
    )]
    NoSites,
}

/// Rewrites the ELF image in place.
///
/// # Errors
/// [`RewriteError`]; the image is unchanged then.
pub fn rewrite(image: &mut [u8]) -> Result<TscSites, RewriteError> {
    let sections = executable_sections(image)?;
    let mut addresses = Vec::new();
    let mut places = Vec::new();
    for section in &sections {
        let code = &image[section.offset..section.offset + section.len];
        for at in find_rdtsc(code, section.address) {
            addresses.push(section.address + at as u64);
            places.push(section.offset + at);
        }
    }
    if places.is_empty() {
        return Err(RewriteError::NoSites);
    }
    for place in places {
        image[place..place + IN_EAX.len()].copy_from_slice(&IN_EAX);
    }
    Ok(TscSites { addresses })
}

struct CodeSection {
    address: u64,
    offset: usize,
    len: usize,
}

fn executable_sections(image: &[u8]) -> Result<Vec<CodeSection>, RewriteError> {
    let not_elf = |reason: String| RewriteError::NotElf(reason);
    let elf = object::File::parse(image).map_err(|e| not_elf(e.to_string()))?;
    if elf.architecture() != object::Architecture::X86_64
        || elf.format() != object::BinaryFormat::Elf
    {
        return Err(not_elf("not an ELF file for x86-64".into()));
    }
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
        if offset.checked_add(len).is_none_or(|end| end > image.len()) {
            return Err(not_elf(
                "cut: a section lies beyond the end of the file".into(),
            ));
        }
        sections.push(CodeSection {
            address: section.address(),
            offset,
            len,
        });
    }
    if sections.is_empty() {
        return Err(RewriteError::NoCode);
    }
    Ok(sections)
}

/// Offsets of `rdtsc` instructions in a linear disassembly of `code`.
fn find_rdtsc(code: &[u8], address: u64) -> Vec<usize> {
    let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    let mut found = Vec::new();
    while decoder.can_decode() {
        let at = decoder.position();
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            // Data or padding between functions: try again one byte on, until in step again.
            let _ = decoder.set_position(at + 1);
            decoder.set_ip(address + at as u64 + 1);
            continue;
        }
        if instruction.mnemonic() == Mnemonic::Rdtsc && instruction.len() == RDTSC.len() {
            found.push(at);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_instructions_not_bytes() {
        // mov eax, 0x310f; rdtsc; shl rdx, 32; lfence; rdtsc; ret
        let code = [
            0xb8, 0x0f, 0x31, 0, 0, 0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x0f, 0xae, 0xe8, 0x0f,
            0x31, 0xc3,
        ];
        assert_eq!(find_rdtsc(&code, 0xffff_ffff_8100_0000), vec![5, 14]);
    }

    #[test]
    fn gets_into_step_again_after_data() {
        // An invalid opcode in 64-bit mode (06), then rdtsc.
        assert_eq!(find_rdtsc(&[0x06, 0x06, 0x0f, 0x31, 0xc3], 0x1000), vec![2]);
    }

    #[test]
    fn refuses_what_is_no_elf() {
        assert!(matches!(rewrite(&mut []), Err(RewriteError::NotElf(_))));
        assert!(matches!(
            rewrite(&mut [0x7f; 4096]),
            Err(RewriteError::NotElf(_))
        ));
    }
}
