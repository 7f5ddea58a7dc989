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
//! VMCALL and VMMCALL (three bytes) become `out PORT, al; nop` as well. KVM answers these by itself,
//! and some answers are the host's: KVM_HC_CLOCK_PAIRING writes its clock into guest memory, and no
//! CPUID bit hides that (Linux, `Documentation/virt/kvm/x86/hypercalls.rst`).
//!
//! Where a read leaves room for it, and exactness is not asked for, it is made a jump to code that
//! exits only now and then (`cached_reads`).
//!
//! Only instructions found by disassembly are touched: a search for the bytes alone also finds
//! constants and parts of other instructions.
//!
//! A kernel module ([`rewrite_module`]) is treated in the same way. It is not linked yet, so the
//! bytes that a relocation will fill are known not to be such an instruction, which has no operand
//! in memory and no immediate.

mod cached_reads;
mod disassembly;
pub(crate) mod micro_guest;
mod sections;
mod sites;
#[cfg(test)]
pub(crate) mod tests;

use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use object::{Object, ObjectKind};

use self::disassembly::{Disassembly, Targets};
use self::sections::{CodeSection, code_sections, parse};
pub use self::sites::{
    CR4_PORT, HYPERCALL_PORT, KernelReads, RewriteError, Sites, TSC_PORT, TscCopy,
};
use self::sites::{IN_EAX, Patch, RDTSC};

/// VMCALL and VMMCALL, Intel's and AMD's.
const HYPERCALLS: [[u8; 3]; 2] = [[0x0f, 0x01, 0xc1], [0x0f, 0x01, 0xd9]];

/// Opcode of MOV to a control register.
const MOV_TO_CR: [u8; 2] = [0x0f, 0x22];
const MOV_TO_CR4_BYTES: usize = 3;
const IRETQ: [u8; 2] = [0x48, 0xcf];
const NOP: u8 = 0x90;
const OUT_AL: u8 = 0xe6;

/// Section that every kernel module has, and nothing else: its `struct module`.
const MODULE_SECTION: &str = ".gnu.linkonce.this_module";
/// Ends a file with an appended signature (Linux, `include/linux/module_signature.h`).
const SIGNATURE_MARK: &[u8] = b"~Module signature appended~\n";

/// Rewrites a kernel, an ELF image, in place. A kernel whose reads cannot be cached gets exact
/// ones.
///
/// # Errors
/// [`RewriteError`]; the image is unchanged then.
pub fn rewrite(image: &mut [u8], reads: KernelReads) -> Result<Sites, RewriteError> {
    let elf = parse(image)?;
    let sections = code_sections(&elf, image.len())?;
    let mut code = disassemblies(image, &sections);
    let (mut sites, mut patches) = plan(&sections, &mut code);
    if sites.tsc.is_empty() && !micro_guest::is_marked(image) {
        return Err(RewriteError::NoSites);
    }
    if reads == KernelReads::Cached {
        let kernel = cached_reads::Kernel {
            image,
            elf: &elf,
            reads: &sites.tsc,
            others: &[&sites.cr4[..], &sites.hypercalls].concat(),
            targets: &jumps_behind(&sites.tsc, &mut code),
        };
        match cached_reads::plan(&kernel) {
            Ok(plan) => {
                patches.extend(plan.patches);
                sites.copy = Some(TscCopy {
                    address: plan.copy,
                    reads: plan.reads,
                });
            }
            Err(why) => {
                log::info!("every time stamp counter read of the kernel will be an exit: {why}");
            }
        }
    }
    apply(image, &patches);
    Ok(sites)
}

/// Rewrites a kernel module in place. `None`: the file is no module, and no ELF file perhaps.
///
/// The signature of a module that is changed is taken away: a kernel refuses a module whose
/// signature is wrong, and takes one without (it marks itself tainted) unless it enforces
/// signatures (Linux, `kernel/module/signing.c`).
///
/// # Errors
/// [`RewriteError::NotElf`] for a module that is cut; it is unchanged then.
pub fn rewrite_module(file: &mut [u8]) -> Result<Option<Sites>, RewriteError> {
    let Ok(elf) = parse(file) else {
        return Ok(None);
    };
    if elf.kind() != ObjectKind::Relocatable || elf.section_by_name(MODULE_SECTION).is_none() {
        return Ok(None);
    }
    let sections = match code_sections(&elf, file.len()) {
        Err(RewriteError::NoCode) => return Ok(Some(Sites::default())),
        sections => sections?,
    };
    let (sites, patches) = plan(&sections, &mut disassemblies(file, &sections));
    apply(file, &patches);
    if !patches.is_empty()
        && let Some(signed) = file.len().checked_sub(SIGNATURE_MARK.len())
        && file[signed..] == *SIGNATURE_MARK
    {
        file[signed..].fill(0);
    }
    Ok(Some(sites))
}

fn disassemblies<'a>(image: &'a [u8], sections: &[CodeSection]) -> Vec<Disassembly<'a>> {
    let sections = sections.iter();
    sections
        .map(|section| {
            let code = &image[section.offset..section.offset + section.len];
            Disassembly::new(code, section.address)
        })
        .collect()
}

/// What is to be rewritten in `sections`, whose code is `code`, and how.
fn plan(sections: &[CodeSection], code: &mut [Disassembly<'_>]) -> (Sites, Vec<Patch>) {
    let mut sites = Sites::default();
    let mut patches = Vec::new();
    for (section, code) in sections.iter().zip(code) {
        for (at, found) in find(code) {
            let address = section.address + at as u64;
            let (list, bytes) = match found {
                Found::Iretq => {
                    sites.iretqs.push(address);
                    continue;
                }
                Found::Rdtsc => (&mut sites.tsc, IN_EAX.to_vec()),
                Found::MovToCr4(register) => {
                    let port = CR4_PORT as u8 + register;
                    (&mut sites.cr4, vec![OUT_AL, port, NOP])
                }
                Found::Hypercall => (
                    &mut sites.hypercalls,
                    vec![OUT_AL, HYPERCALL_PORT as u8, NOP],
                ),
            };
            if section.is_filled_later(at..at + bytes.len()) {
                log::debug!(
                    "what looks like {found:?} at {address:#x} has a relocation: it is not"
                );
                continue;
            }
            list.push(address);
            let offset = section.offset + at;
            patches.push(Patch { offset, bytes });
        }
    }
    sites.tsc.sort_unstable();
    sites.iretqs.sort_unstable();
    (sites, patches)
}

/// The addresses shortly behind `reads` that are jumped to.
fn jumps_behind(reads: &[u64], code: &mut [Disassembly<'_>]) -> Vec<u64> {
    // Further than a read and what has to make room for a jump: 2 and 15 bytes.
    const SHORTLY: u64 = 32;
    let targets = Targets::behind(reads, SHORTLY);
    let jumps = code.iter_mut();
    jumps.flat_map(|code| code.jumps_to(&targets)).collect()
}

fn apply(image: &mut [u8], patches: &[Patch]) {
    for Patch { offset, bytes } in patches {
        image[*offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

/// An instruction of interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Rdtsc,
    /// With the number of its source register.
    MovToCr4(u8),
    Hypercall,
    Iretq,
}

fn classify(instruction: &Instruction) -> Option<Found> {
    match instruction.mnemonic() {
        Mnemonic::Rdtsc if instruction.len() == RDTSC.len() => Some(Found::Rdtsc),
        Mnemonic::Iretq if instruction.len() == IRETQ.len() => Some(Found::Iretq),
        Mnemonic::Vmcall | Mnemonic::Vmmcall if instruction.len() == HYPERCALLS[0].len() => {
            Some(Found::Hypercall)
        }
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

/// The instructions of interest in code, by offset, ascending.
fn find(disassembly: &mut Disassembly<'_>) -> Vec<(usize, Found)> {
    let code = disassembly.code();
    let mut look = |place: usize| {
        let instruction = disassembly.instruction_at(place)?;
        Some((place, classify(&instruction)?))
    };
    let places = |bytes: &'static [u8]| memchr::memmem::find_iter(code, bytes);
    let mut found: Vec<(usize, Found)> = places(&RDTSC).filter_map(&mut look).collect();
    found.extend(places(&MOV_TO_CR).filter_map(&mut look));
    for hypercall in &HYPERCALLS {
        found.extend(places(hypercall).filter_map(&mut look));
    }
    found.extend(places(&IRETQ).filter_map(&mut look));
    found.sort_unstable_by_key(|(place, _)| *place);
    found
}
