//! Makes a kernel's untrappable instructions exit.
//!
//! Stock KVM has no user-space exit for RDTSC, and a kernel built with CONFIG_X86_TSC reads the
//! counter even where CPUID hides it. So every two-byte `rdtsc` (0f 31) in the image's executable
//! sections becomes the two-byte `in eax, PORT` (e5 ib), which exits; the VMM answers with the low
//! half in EAX and the high half in EDX, as RDTSC would. RDTSCP is left alone: the CPU model hides
//! it, so the kernel never selects it.
//!
//! The three-byte `mov cr4, reg` becomes `out PORT, al; nop`, so that the VMM can keep CR4.TSD
//! set: that makes the counter fault in user mode, where programs read it directly
//! ([`crate::traps`]).
//!
//! Only instructions found by disassembly are touched: a search for the bytes alone also finds
//! constants and parts of other instructions.

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use object::{Object, ObjectSection, SectionFlags};

use super::micro_guest;

/// The port that stands for the time stamp counter. Nothing on a PC answers there.
pub const TSC_PORT: u16 = 0xec;

const RDTSC: [u8; 2] = [0x0f, 0x31];
const IN_EAX: [u8; 2] = [0xe5, TSC_PORT as u8];

/// First of eight ports that stand for writing CR4 from a register, by the register's number in
/// instruction encodings (RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI).
pub const CR4_PORT: u16 = 0xe0;

const MOV_TO_CR4_BYTES: usize = 3;
const NOP: u8 = 0x90;
const OUT_AL: u8 = 0xe6;

/// What was found and rewritten.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sites {
    /// Virtual addresses of time stamp counter reads.
    pub tsc: Vec<u64>,
    /// Virtual addresses of writes to CR4.
    pub cr4: Vec<u64>,
    /// Virtual address of an IRETQ, left as it is.
    pub iretq: Option<u64>,
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
pub fn rewrite(image: &mut [u8]) -> Result<Sites, RewriteError> {
    let sections = executable_sections(image)?;
    let mut sites = Sites::default();
    let mut patches = Vec::new();
    for section in &sections {
        let code = &image[section.offset..section.offset + section.len];
        for (at, found) in find(code, section.address) {
            let (address, offset) = (section.address + at as u64, section.offset + at);
            match found {
                Found::Rdtsc => {
                    sites.tsc.push(address);
                    patches.push((offset, IN_EAX.to_vec()));
                }
                Found::MovToCr4(register) => {
                    sites.cr4.push(address);
                    let port = CR4_PORT as u8 + register;
                    patches.push((offset, vec![OUT_AL, port, NOP]));
                }
                Found::Iretq => sites.iretq = sites.iretq.or(Some(address)),
            }
        }
    }
    if sites.tsc.is_empty() && !micro_guest::is_marked(image) {
        return Err(RewriteError::NoSites);
    }
    for (offset, bytes) in patches {
        image[offset..offset + bytes.len()].copy_from_slice(&bytes);
    }
    Ok(sites)
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

/// An instruction of interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Rdtsc,
    /// With the number of its source register.
    MovToCr4(u8),
    Iretq,
}

fn classify(instruction: &Instruction) -> Option<Found> {
    match instruction.mnemonic() {
        Mnemonic::Rdtsc if instruction.len() == RDTSC.len() => Some(Found::Rdtsc),
        Mnemonic::Iretq => Some(Found::Iretq),
        Mnemonic::Mov
            if instruction.len() == MOV_TO_CR4_BYTES
                && instruction.op0_kind() == OpKind::Register
                && instruction.op0_register() == Register::CR4 =>
        {
            let number = instruction.op1_register().number();
            Some(Found::MovToCr4(number as u8))
        }
        _ => None,
    }
}

/// Instructions of interest in a linear disassembly of `code`, by offset.
fn find(code: &[u8], address: u64) -> Vec<(usize, Found)> {
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
        found.extend(classify(&instruction).map(|what| (at, what)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_instructions_not_bytes() {
        // mov eax, 0x310f; rdtsc; shl rdx, 32; lfence; rdtsc; mov cr4, rdi; iretq; ret
        let code = [
            0xb8, 0x0f, 0x31, 0, 0, 0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x0f, 0xae, 0xe8, 0x0f,
            0x31, 0x0f, 0x22, 0xe7, 0x48, 0xcf, 0xc3,
        ];
        assert_eq!(
            find(&code, 0xffff_ffff_8100_0000),
            [
                (5, Found::Rdtsc),
                (14, Found::Rdtsc),
                (16, Found::MovToCr4(7)),
                (19, Found::Iretq)
            ]
        );
    }

    #[test]
    fn gets_into_step_again_after_data() {
        // An invalid opcode in 64-bit mode (06), then rdtsc.
        assert_eq!(
            find(&[0x06, 0x06, 0x0f, 0x31, 0xc3], 0x1000),
            [(2, Found::Rdtsc)]
        );
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
