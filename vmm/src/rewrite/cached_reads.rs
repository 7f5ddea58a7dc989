//! Makes a kernel read its time stamp counter from a copy ([`crate::tsc_cache`]), where its reads
//! leave room for that.
//!
//! RDTSC has two bytes, and a jump has five. So these reads are replaced:
//!
//! - Those that Linux itself patches at boot ("alternatives": `rdtsc` with NOPs behind it, which
//!   becomes `lfence; rdtsc` or `rdtscp`): they have five bytes. It copies the replacement over
//!   the read, and corrects a jump on the way (`arch/x86/kernel/alternative.c`, `apply_alternatives`).
//! - Others with plain instructions behind them that can be moved along: nothing jumps to them,
//!   nothing patches them, and they do the same at any address.
//!
//! Each becomes a jump to a piece of code of its own, which reads the copy, or the counter if no
//! read is left, does what was moved along, and jumps back. It changes no flag and no register but
//! RAX and RDX, and takes sixteen bytes of the stack, of which the kernel has no red zone. An
//! interrupt or NMI anywhere in it, with reads of its own, is harmless: the value is read in one
//! access, and reads that are counted twice or not at all change only how many are left.
//!
//! The code goes where the linker has put nothing but INT3 between functions, and the copy into
//! the page of `.data_nosave`, which holds a variable or two. Both are searched for and checked;
//! what is not there, or looks otherwise, leaves the kernel with reads that exit.

use std::ops::Range;

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, Register};
use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, Object, ObjectSection, SectionFlags};

use super::disassembly::decoder;
use super::sites::{IN_EAX, Patch, RDTSC};
use crate::tsc_cache;

/// Section of the code that is never thrown away.
const TEXT: &str = ".text";
/// Section of the page that is left out of a hibernation image (Linux,
/// `include/asm-generic/vmlinux.lds.h`, `NOSAVE_DATA`).
const NOSAVE: &str = ".data_nosave";
/// Section that lists the places to patch at boot.
const ALTERNATIVES: &str = ".altinstructions";
/// Section that lists the instructions that may fault.
const MAY_FAULT: &str = "__ex_table";

const JMP_BYTES: usize = 5;
const NOP: u8 = 0x90;
const INT3: u8 = 0xcc;
const JMP: u8 = 0xe9;
/// `lfence; rdtsc` and `mfence; rdtsc`.
const FENCED: [[u8; JMP_BYTES]; 2] = [
    [0x0f, 0xae, 0xe8, 0x0f, 0x31],
    [0x0f, 0xae, 0xf0, 0x0f, 0x31],
];
const RDTSCP: [u8; 3] = [0x0f, 0x01, 0xf9];
/// INT3s to leave on both sides: what stops a processor that runs on behind a function.
const MARGIN: usize = 64;
/// Where in `.data_nosave` the copy goes: so far from its end.
const FROM_END: u64 = 64;
/// So far a read is followed, in instructions, to see what becomes of its upper half.
const FOLLOWED: usize = 16;

/// What is to be changed.
pub(super) struct Plan {
    pub(super) patches: Vec<Patch>,
    /// Reads that will use the copy.
    pub(super) reads: usize,
    /// Guest-physical address of the copy.
    pub(super) copy: u64,
}

/// Why no read can use a copy.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum NoCache {
    #[error("its list of alternatives is missing or of an unknown kind")]
    Alternatives,
    #[error("it has no free page of data ({NOSAVE})")]
    NoRoomForData,
    #[error("it has no {0} free bytes between its functions")]
    NoRoomForCode(usize),
    #[error("none of its counter reads is of a known kind")]
    NoReads,
}

/// What is known about the kernel.
pub(super) struct Kernel<'a> {
    pub(super) image: &'a [u8],
    pub(super) elf: &'a object::File<'a>,
    /// Addresses of RDTSC instructions, ascending.
    pub(super) reads: &'a [u64],
    /// Addresses of other instructions that are rewritten.
    pub(super) others: &'a [u64],
    /// Addresses behind reads that are jumped to.
    pub(super) targets: &'a [u64],
}

/// A read that can use the copy.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    address: u64,
    /// Bytes that are replaced.
    len: usize,
    /// Instructions that are moved along.
    moved: Vec<u8>,
    /// Places whose bytes are copied over the read at boot, or over which they are.
    copies: Vec<u64>,
    purpose: Purpose,
}

/// What a read is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// A time. So are reads of the lower half only, of which nobody expects much.
    Clock,
    /// Randomness: the whole counter, read without regard to the order of instructions.
    Sample,
}

/// An entry of the list of alternatives.
struct Alternative {
    place: u64,
    place_len: usize,
    replacement: u64,
    replacement_len: usize,
}

pub(super) fn plan(kernel: &Kernel<'_>) -> Result<Plan, NoCache> {
    let alternatives = kernel.alternatives().ok_or(NoCache::Alternatives)?;
    let (copy, copy_physical) = kernel.room_for_copy().ok_or(NoCache::NoRoomForData)?;
    let may_fault = kernel.may_fault();
    let reads: Vec<Read> = (kernel.reads.iter())
        .filter_map(|&address| {
            kernel
                .alternative_read(address, &alternatives)
                .or_else(|| kernel.plain_read(address, &alternatives, &may_fault))
        })
        .filter(|read| {
            let mut places = read.copies.iter().chain([&read.address]);
            places.all(|&place| is_near(place, copy))
        })
        .collect();
    if reads.is_empty() {
        return Err(NoCache::NoReads);
    }
    let needed = reads.iter().map(|read| code_of(read, 0, copy).len()).sum();
    let mut at = (kernel.room_for_code(needed))
        .filter(|&at| is_near(at, copy))
        .ok_or(NoCache::NoRoomForCode(needed))?;
    let mut patches = Vec::new();
    let mut put = |address: u64, bytes: Vec<u8>| {
        let offset = kernel.offset(address, bytes.len()).expect("seen before");
        patches.push(Patch { offset, bytes });
    };
    for read in &reads {
        let code = code_of(read, at, copy);
        for &place in read.copies.iter().chain([&read.address]) {
            put(place, jump(place, at).to_vec());
        }
        let rest = read.len - JMP_BYTES;
        put(read.address + JMP_BYTES as u64, vec![NOP; rest]);
        let len = code.len() as u64;
        put(at, code);
        at += len;
    }
    Ok(Plan {
        patches,
        reads: reads.len(),
        copy: copy_physical,
    })
}

/// `jmp` at `from` to `to`.
fn jump(from: u64, to: u64) -> [u8; JMP_BYTES] {
    let [a, b, c, d] = relative(from + JMP_BYTES as u64, to);
    [JMP, a, b, c, d]
}

/// Whether two addresses are near enough to `copy`, and so to each other, for distances of 32 bits.
fn is_near(address: u64, copy: u64) -> bool {
    address.abs_diff(copy) < 1 << 30
}

/// The distance from `from` to `to`, two places near the copy.
fn relative(from: u64, to: u64) -> [u8; 4] {
    (to.wrapping_sub(from) as i32).to_le_bytes()
}

/// The code that stands for `read`, at `at`, with the copy at `copy`. Its length does not depend
/// on the addresses.
fn code_of(read: &Read, at: u64, copy: u64) -> Vec<u8> {
    let left = copy
        + match read.purpose {
            Purpose::Clock => tsc_cache::CLOCK_READS,
            Purpose::Sample => tsc_cache::SAMPLES,
        };
    let mut code = Vec::new();
    let with_address = |code: &mut Vec<u8>, opcode: &[u8], address: u64| {
        code.extend_from_slice(opcode);
        let next = at + code.len() as u64 + 4;
        code.extend_from_slice(&relative(next, address));
    };
    code.push(0x51); // push rcx
    with_address(&mut code, &[0x8b, 0x0d], left); // mov ecx, [left]
    code.extend_from_slice(&[0xe3, 0]); // jrcxz: no read is left
    let none_left = code.len();
    code.extend_from_slice(&[0x8d, 0x49, 0xff]); // lea ecx, [rcx - 1]
    with_address(&mut code, &[0x89, 0x0d], left); // mov [left], ecx
    with_address(&mut code, &[0x48, 0x8b, 0x05], copy + tsc_cache::VALUE); // mov rax, [copy]
    code.push(0x50); // push rax
    code.extend_from_slice(&[0x8b, 0x54, 0x24, 0x04]); // mov edx, [rsp + 4]
    code.push(0x59); // pop rcx
    code.extend_from_slice(&[0x89, 0xc0]); // mov eax, eax
    code.extend_from_slice(&[0xeb, 0x02]); // jmp: over the read of the counter
    code[none_left - 1] = (code.len() - none_left) as u8;
    code.extend_from_slice(&IN_EAX);
    code.push(0x59); // pop rcx
    code.extend_from_slice(&read.moved);
    let back = jump(at + code.len() as u64, read.address + read.len as u64);
    code.extend_from_slice(&back);
    code
}

impl Kernel<'_> {
    /// Where `len` bytes at an address are in the file. `None` if a section that has contents does
    /// not hold all of them.
    fn offset(&self, address: u64, len: usize) -> Option<usize> {
        let end = address.checked_add(len as u64)?;
        self.elf.sections().find_map(|section| {
            let (offset, size) = section.file_range()?;
            let start = section.address();
            let is_loaded = matches!(section.flags(), SectionFlags::Elf { sh_flags }
                if sh_flags & u64::from(elf::SHF_ALLOC) != 0);
            let holds = is_loaded && start <= address && end <= start.checked_add(size)?;
            holds.then(|| (offset + (address - start)) as usize)
        })
    }

    fn bytes(&self, address: u64, len: usize) -> Option<&[u8]> {
        let offset = self.offset(address, len)?;
        self.image.get(offset..offset.checked_add(len)?)
    }

    /// The address and contents of a section.
    fn section(&self, name: &str) -> Option<(u64, &[u8])> {
        let section = self.elf.section_by_name(name)?;
        let (offset, len) = section.file_range()?;
        let (offset, len) = (offset as usize, len as usize);
        let contents = self.image.get(offset..offset.checked_add(len)?)?;
        Some((section.address(), contents))
    }

    /// The list of alternatives (Linux, `arch/x86/include/asm/alternative.h`, `struct alt_instr`):
    /// two offsets of 32 bits from themselves, to the place and to its replacement; a feature, and
    /// their lengths. The feature's size has changed over time, and a byte has come and gone
    /// behind the lengths: the kind is the one whose every entry makes sense.
    fn alternatives(&self) -> Option<Vec<Alternative>> {
        const KINDS: [(usize, usize); 3] = [(12, 10), (13, 10), (14, 12)]; // size, lengths at
        let (address, list) = self.section(ALTERNATIVES)?;
        let read_as = |(size, lengths_at): (usize, usize)| {
            let entries = list.chunks(size).zip((address..).step_by(size));
            entries
                .map(|(entry, at)| {
                    let offset = |n: usize| -> Option<u64> {
                        let bytes = entry.get(n..n + 4)?.try_into().ok()?;
                        let from = at + n as u64;
                        Some(from.wrapping_add_signed(i32::from_le_bytes(bytes).into()))
                    };
                    let len = |n: usize| entry.get(lengths_at + n).map(|&len| usize::from(len));
                    let alternative = Alternative {
                        place: offset(0)?,
                        place_len: len(0)?,
                        replacement: offset(4)?,
                        replacement_len: len(1)?,
                    };
                    let makes_sense = alternative.replacement_len <= alternative.place_len
                        && (self.bytes(alternative.place, alternative.place_len)).is_some()
                        && (self.bytes(alternative.replacement, alternative.replacement_len))
                            .is_some();
                    makes_sense.then_some(alternative)
                })
                .collect::<Option<Vec<_>>>()
        };
        KINDS.into_iter().find_map(read_as)
    }

    /// Addresses of instructions that may fault (Linux, `arch/x86/include/asm/extable.h`): three
    /// offsets of 32 bits each, the first one the instruction's, from itself.
    fn may_fault(&self) -> Vec<u64> {
        const ENTRY: usize = 12;
        let Some((address, table)) = self.section(MAY_FAULT) else {
            return Vec::new();
        };
        let entries = table.chunks_exact(ENTRY).zip((address..).step_by(ENTRY));
        entries
            .map(|(entry, at)| {
                let offset = entry[..4].try_into().expect("four bytes");
                at.wrapping_add_signed(i32::from_le_bytes(offset).into())
            })
            .collect()
    }

    /// Room for the copy, its virtual and its physical address.
    fn room_for_copy(&self) -> Option<(u64, u64)> {
        let section = self.elf.section_by_name(NOSAVE)?;
        let SectionFlags::Elf { sh_flags } = section.flags() else {
            return None;
        };
        let start = (section.address().checked_add(section.size())?).checked_sub(FROM_END)?;
        let is_free = start > section.address()
            && sh_flags & u64::from(elf::SHF_WRITE) != 0
            && start % FROM_END == 0
            && (self.bytes(start, FROM_END as usize)?.iter()).all(|byte| *byte == 0);
        let header = FileHeader64::<Endianness>::parse(self.image).ok()?;
        let endian = header.endian().ok()?;
        let segments = header.program_headers(endian, self.image).ok()?;
        let physical = segments.iter().find_map(|segment| {
            let first = segment.p_vaddr(endian);
            let end = first.checked_add(segment.p_filesz(endian))?;
            let is_loaded = segment.p_type(endian) == elf::PT_LOAD;
            (is_loaded && first <= start && start + FROM_END <= end)
                .then(|| segment.p_paddr(endian).checked_add(start - first))?
        })?;
        is_free.then_some((start, physical))
    }

    /// The address of `len` bytes in the longest row of INT3 between two functions.
    fn room_for_code(&self, len: usize) -> Option<u64> {
        let (address, text) = self.section(TEXT)?;
        let mut longest: Range<usize> = 0..0;
        let mut at = 0;
        while let Some(found) = memchr::memchr(INT3, &text[at..]) {
            let start = at + found;
            let rest = text[start..].iter();
            at = start + rest.take_while(|byte| **byte == INT3).count();
            if at - start > longest.len() {
                longest = start..at;
            }
        }
        let wanted = len.checked_add(2 * MARGIN)?;
        (longest.len() >= wanted).then(|| address + (longest.start + MARGIN) as u64)
    }

    /// The read at `address`, if it is one that is patched at boot.
    fn alternative_read(&self, address: u64, alternatives: &[Alternative]) -> Option<Read> {
        let own = || alternatives.iter().filter(|a| a.place == address);
        let len = own().next()?.place_len;
        let bytes = self.bytes(address, len)?;
        let (read, room) = bytes.split_at_checked(RDTSC.len())?;
        if read != RDTSC || len < JMP_BYTES || room.iter().any(|byte| *byte != NOP) {
            return None;
        }
        let mut copies = Vec::new();
        for alternative in own() {
            let replacement = self.bytes(alternative.replacement, alternative.replacement_len)?;
            if alternative.place_len != len {
                return None;
            } else if FENCED.iter().any(|fenced| replacement == fenced) {
                copies.push(alternative.replacement);
            } else if replacement != RDTSCP {
                // RDTSCP itself is never chosen: the processor does not have it.
                return None;
            }
        }
        Some(Read {
            address,
            len,
            moved: Vec::new(),
            copies,
            purpose: Purpose::Clock,
        })
    }

    /// The read at `address`, if what is behind it can be moved along.
    fn plain_read(
        &self,
        address: u64,
        alternatives: &[Alternative],
        may_fault: &[u64],
    ) -> Option<Read> {
        const LONGEST: usize = RDTSC.len() + 2 * 15; // of an instruction
        let code = self.bytes(address, LONGEST)?;
        let mut len = RDTSC.len();
        let mut decoder = decoder(&code[len..], address + len as u64);
        while len < JMP_BYTES {
            let instruction = decoder.decode();
            if !can_be_moved(&instruction) {
                return None;
            }
            len += instruction.len();
        }
        let end = address + len as u64;
        let within = |place: &u64| (address + 1..end).contains(place);
        let patched = |a: &Alternative| a.place < end && address < a.place + a.place_len as u64;
        let taken = [self.reads, self.others, self.targets, may_fault].concat();
        if taken.iter().any(within) || alternatives.iter().any(patched) {
            return None;
        }
        // A replacement is copied elsewhere.
        let is_copied = |a: &Alternative| {
            (a.replacement..a.replacement + a.replacement_len as u64).contains(&address)
        };
        if alternatives.iter().any(is_copied) {
            return None;
        }
        Some(Read {
            address,
            len,
            moved: code[RDTSC.len()..len].to_vec(),
            copies: Vec::new(),
            purpose: self.purpose(address + RDTSC.len() as u64),
        })
    }

    /// What a plain read is for, by what comes behind it.
    fn purpose(&self, behind: u64) -> Purpose {
        let code = self.bytes(behind, FOLLOWED * 15).unwrap_or_default();
        let mut factory = InstructionInfoFactory::new();
        for instruction in decoder(code, behind).iter().take(FOLLOWED) {
            let used = factory.info(&instruction).used_registers().iter();
            let accesses: Vec<OpAccess> = used
                .filter(|used| used.register().full_register() == Register::RDX)
                .map(iced_x86::UsedRegister::access)
                .collect();
            if accesses.iter().any(|access| *access != OpAccess::Write) {
                return Purpose::Sample;
            } else if !accesses.is_empty() {
                return Purpose::Clock;
            }
            if instruction.flow_control() != FlowControl::Next {
                return Purpose::Clock;
            }
        }
        Purpose::Sample
    }
}

/// Whether an instruction does the same at another address, and is none that Linux patches in
/// place: NOPs become jumps, calls other calls, and LOCK prefixes vanish.
fn can_be_moved(instruction: &Instruction) -> bool {
    matches!(
        instruction.mnemonic(),
        Mnemonic::Add
            | Mnemonic::And
            | Mnemonic::Mov
            | Mnemonic::Or
            | Mnemonic::Shl
            | Mnemonic::Sub
            | Mnemonic::Xor
    ) && !instruction.has_lock_prefix()
        && !instruction.is_ip_rel_memory_operand()
}

#[cfg(test)]
mod tests;
