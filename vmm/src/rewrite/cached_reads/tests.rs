//! Small kernels with counter reads of all kinds.

use super::*;
use crate::rewrite::{KernelReads, Sites, rewrite};

const TEXT_AT: u64 = 0xffff_ffff_8100_0000;
const REPLACEMENTS_AT: u64 = 0xffff_ffff_8200_0000;
const LIST_AT: u64 = 0xffff_ffff_8210_0000;
const FAULTS_AT: u64 = 0xffff_ffff_8220_0000;
const NOSAVE_AT: u64 = 0xffff_ffff_8230_0000;
const COPY_AT: u64 = NOSAVE_AT + 0x1000 - FROM_END;
/// What the kernel is loaded at below its addresses.
const LINKED_ABOVE: u64 = 0xffff_ffff_8000_0000;

const ORDERED: [u8; 5] = [0x0f, 0x31, 0x90, 0x90, 0x90];
/// rdtsc; shl rdx, 32; or rax, rdx; ret
const WHOLE: [u8; 10] = [0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, 0xc3];
/// rdtsc; xor ecx, eax; mov [rsi + 0x1478], ecx; ret: Linux's offset of the stack
const LOW_HALF: [u8; 11] = [0x0f, 0x31, 0x31, 0xc1, 0x89, 0x8e, 0x78, 0x14, 0, 0, 0xc3];

/// A kernel to be made.
struct Parts {
    text: Vec<u8>,
    replacements: Vec<u8>,
    /// Place, its length, replacement, its length.
    list: Vec<(u64, u8, u64, u8)>,
    entry_bytes: usize,
    may_fault: Vec<u64>,
    nosave: Vec<u8>,
    int3s: usize,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            text: Vec::new(),
            replacements: Vec::new(),
            list: Vec::new(),
            entry_bytes: 12,
            may_fault: Vec::new(),
            nosave: vec![0; 0x1000],
            int3s: 4096,
        }
    }
}

/// Code with an ordered read at its start.
fn with_ordered_read() -> Parts {
    let fenced = REPLACEMENTS_AT;
    Parts {
        text: [&ORDERED[..], &[0xc3]].concat(),
        replacements: [&FENCED[0][..], &RDTSCP].concat(),
        list: vec![(TEXT_AT, 5, fenced, 5), (TEXT_AT, 5, fenced + 5, 3)],
        ..Parts::default()
    }
}

fn with_code(code: &[u8]) -> Parts {
    Parts {
        text: code.to_vec(),
        ..Parts::default()
    }
}

impl Parts {
    fn alternatives(&self) -> Vec<u8> {
        let mut list = Vec::new();
        for &(place, place_len, replacement, replacement_len) in &self.list {
            let at = LIST_AT + list.len() as u64;
            list.extend_from_slice(&relative(at, place));
            list.extend_from_slice(&relative(at + 4, replacement));
            let lengths_at = if self.entry_bytes == 14 { 4 } else { 2 };
            list.resize(list.len() + lengths_at, 0x55);
            list.extend_from_slice(&[place_len, replacement_len]);
            list.resize((at - LIST_AT) as usize + self.entry_bytes, 0);
        }
        list
    }

    fn faults(&self) -> Vec<u8> {
        let mut table = Vec::new();
        for &address in &self.may_fault {
            let at = FAULTS_AT + table.len() as u64;
            table.extend_from_slice(&relative(at, address));
            table.extend_from_slice(&[0; 8]);
        }
        table
    }

    /// An ELF file with a loaded segment for each section.
    fn image(&self) -> Vec<u8> {
        const WRITE: u64 = elf::SHF_WRITE as u64;
        const CODE: u64 = elf::SHF_EXECINSTR as u64;
        let text = [&self.text[..], &vec![INT3; self.int3s]].concat();
        let sections = [
            (TEXT, TEXT_AT, CODE, text),
            (
                ".altinstr_replacement",
                REPLACEMENTS_AT,
                CODE,
                self.replacements.clone(),
            ),
            (ALTERNATIVES, LIST_AT, 0, self.alternatives()),
            (MAY_FAULT, FAULTS_AT, 0, self.faults()),
            (NOSAVE, NOSAVE_AT, WRITE, self.nosave.clone()),
        ];
        let mut names = vec![0];
        let mut section_headers = vec![0; 64];
        let mut segments = Vec::new();
        let mut contents = Vec::new();
        let contents_at = (64 + 56 * sections.len()) as u64;
        for (name, address, flags, bytes) in &sections {
            let (offset, len) = (contents_at + contents.len() as u64, bytes.len() as u64);
            let flags = flags | u64::from(elf::SHF_ALLOC);
            let header = [names.len() as u64 | u64::from(elf::SHT_PROGBITS) << 32];
            let rest = [flags, *address, offset, len, 0, 1, 0];
            section_headers.extend(
                [&header[..], &rest]
                    .concat()
                    .iter()
                    .flat_map(|w| w.to_le_bytes()),
            );
            let load = [elf::PT_LOAD as u64 | 7 << 32, offset, *address];
            let rest = [address - LINKED_ABOVE, len, len, 1];
            segments.extend(
                [&load[..], &rest]
                    .concat()
                    .iter()
                    .flat_map(|w| w.to_le_bytes()),
            );
            names.extend_from_slice(name.as_bytes());
            names.push(0);
            contents.extend_from_slice(bytes);
        }
        let names_at = contents_at + contents.len() as u64;
        let header = [u64::from(elf::SHT_STRTAB) << 32, 0, 0, names_at];
        let rest = [names.len() as u64, 0, 1, 0];
        section_headers.extend([header, rest].concat().iter().flat_map(|w| w.to_le_bytes()));
        let headers_at = names_at + names.len() as u64;

        let mut image = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
        image.resize(16, 0);
        image.extend_from_slice(&[2, 0, 62, 0, 1, 0, 0, 0]); // executable, x86-64, version
        for field in [0, 64, headers_at] {
            image.extend_from_slice(&field.to_le_bytes()); // entry, program and section headers
        }
        image.extend_from_slice(&[0; 4]);
        let count = sections.len() as u16;
        for half in [64, 56, count, 64, count + 2, count + 1] {
            image.extend_from_slice(&half.to_le_bytes());
        }
        [image, segments, contents, names, section_headers].concat()
    }

    /// Rewrites it, and gives what it is then.
    fn rewritten(&self) -> Rewritten {
        let mut image = self.image();
        let len = image.len();
        let sites = rewrite(&mut image, KernelReads::Cached).expect("a kernel");
        assert_eq!(image.len(), len);
        Rewritten { image, sites }
    }
}

struct Rewritten {
    image: Vec<u8>,
    sites: Sites,
}

impl Rewritten {
    fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let elf = object::File::parse(&self.image[..]).expect("an ELF file");
        let kernel = Kernel {
            image: &self.image,
            elf: &elf,
            reads: &[],
            others: &[],
            targets: &[],
        };
        kernel.bytes(address, len).expect("in a section").to_vec()
    }

    fn reads_cached(&self) -> usize {
        self.sites.copy.map_or(0, |copy| copy.reads)
    }

    /// Where the jump at an address goes. `None` if none is there.
    fn jump_at(&self, address: u64) -> Option<u64> {
        let bytes = self.bytes(address, JMP_BYTES);
        let instruction = decoder(&bytes, address).decode();
        (bytes[0] == JMP).then(|| instruction.near_branch_target())
    }

    /// The instructions that run from `address` on to the jump that leaves the row of INT3s, in
    /// words; `none_left` says whether no read is left.
    fn run(&self, address: u64, none_left: bool) -> (Vec<String>, u64) {
        let mut at = address;
        let mut words = Vec::new();
        loop {
            let bytes = self.bytes(at, 15);
            let instruction = decoder(&bytes, at).decode();
            assert!(!instruction.is_invalid(), "{at:#x}: {bytes:x?}");
            at = instruction.next_ip();
            match instruction.mnemonic() {
                Mnemonic::Jmp if instruction.len() == JMP_BYTES => {
                    return (words, instruction.near_branch_target());
                }
                Mnemonic::Jmp => at = instruction.near_branch_target(),
                Mnemonic::Jrcxz if none_left => at = instruction.near_branch_target(),
                Mnemonic::Jrcxz => {}
                mnemonic => {
                    let memory = match instruction.is_ip_rel_memory_operand() {
                        true => format!(" {:#x}", instruction.ip_rel_memory_address()),
                        false => String::new(),
                    };
                    words.push(format!("{mnemonic:?}{memory}").to_lowercase());
                }
            }
        }
    }
}

#[test]
fn a_read_that_is_patched_at_boot_becomes_a_jump_in_all_its_forms() {
    for entry_bytes in [12, 13, 14] {
        let rewritten = Parts {
            entry_bytes,
            ..with_ordered_read()
        }
        .rewritten();
        assert_eq!(rewritten.reads_cached(), 1, "{entry_bytes}");
        let to = rewritten.jump_at(TEXT_AT).expect("a jump");
        assert_eq!(rewritten.jump_at(REPLACEMENTS_AT), Some(to));
        assert_eq!(rewritten.bytes(REPLACEMENTS_AT + 5, 3), RDTSCP);
        let (_, back) = rewritten.run(to, false);
        assert_eq!(back, TEXT_AT + 5);
    }
}

#[test]
fn the_copy_is_read_while_reads_are_left_and_then_the_counter() {
    let rewritten = with_ordered_read().rewritten();
    let copy = rewritten.sites.copy.expect("cached");
    assert_eq!(copy.address, COPY_AT - LINKED_ABOVE);
    let to = rewritten.jump_at(TEXT_AT).expect("a jump");
    let left = COPY_AT + tsc_cache::CLOCK_READS;
    let value = COPY_AT + tsc_cache::VALUE;
    let (cached, _) = rewritten.run(to, false);
    let expected = format!(
        "push, mov {left:#x}, lea, mov {left:#x}, mov {value:#x}, push, mov, pop, mov, pop"
    );
    assert_eq!(cached.join(", "), expected);
    let (exits, back) = rewritten.run(to, true);
    assert_eq!(exits.join(", "), format!("push, mov {left:#x}, in, pop"));
    assert_eq!(back, TEXT_AT + 5);
}

#[test]
fn what_makes_room_for_the_jump_is_moved_along() {
    for (code, taken, moved, left) in [
        (&WHOLE[..], 6, "shl", tsc_cache::SAMPLES),
        (&LOW_HALF[..], 10, "xor, mov", tsc_cache::CLOCK_READS),
    ] {
        let rewritten = with_code(code).rewritten();
        assert_eq!(rewritten.reads_cached(), 1, "{moved}");
        let to = rewritten.jump_at(TEXT_AT).expect("a jump");
        let rest = rewritten.bytes(TEXT_AT + 5, taken - 5);
        assert!(rest.iter().all(|byte| *byte == NOP), "{rest:x?}");
        let left = COPY_AT + left;
        for (none_left, read) in [(false, "pop, mov, pop"), (true, "in, pop")] {
            let (words, back) = rewritten.run(to, none_left);
            let words = words.join(", ");
            assert!(words.contains(&format!("{left:#x}")), "{words}");
            assert!(words.ends_with(&format!("{read}, {moved}")), "{words}");
            assert_eq!(back, TEXT_AT + taken as u64);
        }
    }
}

#[test]
fn every_read_has_code_of_its_own() {
    let code = [&WHOLE[..], &LOW_HALF, &WHOLE].concat();
    let rewritten = with_code(&code).rewritten();
    assert_eq!(rewritten.reads_cached(), 3);
    for (at, taken) in [(0, 6), (10, 10), (21, 6)] {
        let to = rewritten.jump_at(TEXT_AT + at).expect("a jump");
        let (_, back) = rewritten.run(to, true);
        assert_eq!(back, TEXT_AT + at + taken);
    }
}

/// Checks that the read at the start of the text is an exit, as exact ones are.
fn assert_exact(parts: &Parts, what: &str) {
    let rewritten = parts.rewritten();
    assert_eq!(rewritten.bytes(TEXT_AT, 2), IN_EAX, "{what}");
    let rest = rewritten.bytes(TEXT_AT + 2, parts.text.len() - 2);
    assert_eq!(rest, parts.text[2..], "{what}");
}

#[test]
fn what_cannot_be_moved_stays() {
    for (behind, what) in [
        (&[0xe8, 0, 0, 0, 0][..], "a call"),
        (
            &[0x0f, 0x1f, 0x44, 0, 0][..],
            "a NOP that may become a jump",
        ),
        (&[0xf0, 0x01, 0x48, 0x10][..], "a LOCK prefix"),
        (&[0x8b, 0x05, 0, 0, 0, 0][..], "an address from here"),
        (
            &[0x90, 0x90, 0x90, 0xc3][..],
            "NOPs that are no alternative's",
        ),
        (&[0x89, 0xc1, 0x0f, 0x31, 0x90][..], "another read"),
        (&[0x89, 0xc1, 0x0f, 0x22, 0xe0][..], "a write of CR4"),
        (&[0x89, 0xc1, 0xc3][..], "a return"),
    ] {
        let code = [&RDTSC[..], behind, &[0xc3; 40]].concat();
        let rewritten = with_code(&code).rewritten();
        assert_eq!(rewritten.bytes(TEXT_AT, 2), IN_EAX, "{what}");
    }
}

#[test]
fn what_is_jumped_to_or_patched_or_may_fault_stays() {
    // The read, and behind it a jump to the SHL.
    let jumped_to = [&WHOLE[..], &[0xeb, 0xf6]].concat();
    assert_exact(&with_code(&jumped_to), "a target of a jump");
    // To the read itself, and behind what is moved.
    for distance in [0xf4, 0xfa] {
        let code = [&WHOLE[..], &[0xeb, distance]].concat();
        assert_eq!(with_code(&code).rewritten().reads_cached(), 1);
    }
    let faulting = Parts {
        may_fault: vec![TEXT_AT + 0x100, TEXT_AT + 2],
        ..with_code(&WHOLE)
    };
    assert_exact(&faulting, "may fault");
    let patched = Parts {
        list: vec![(TEXT_AT + 5, 4, TEXT_AT + 4, 0)],
        ..with_code(&WHOLE)
    };
    assert_exact(&patched, "patched");
    let copied = Parts {
        list: vec![(TEXT_AT + 20, 10, TEXT_AT, 10)],
        ..with_code(&WHOLE)
    };
    assert_exact(&copied, "copied elsewhere");
}

#[test]
fn an_unknown_replacement_leaves_the_read_alone() {
    let mut parts = with_ordered_read();
    parts.replacements[0] = 0x90;
    assert_exact(&parts, "not a fence");
    let mut parts = with_ordered_read();
    parts.list[1].1 = 6;
    assert_exact(&parts, "two lengths");
    let mut parts = with_ordered_read();
    parts.text[3] = 0xc3;
    assert_exact(&parts, "something else in the place");
}

#[test]
fn a_kernel_without_room_gets_exact_reads() {
    let mut full = with_ordered_read();
    full.nosave[0xfc0] = 1;
    assert_exact(&full, "a page that is used");
    let mut small = with_ordered_read();
    small.nosave.truncate(0x40);
    assert_exact(&small, "a section that is too small");
    let mut crowded = with_ordered_read();
    crowded.int3s = 2 * MARGIN + 10;
    assert_exact(&crowded, "no room between functions");
    let mut strange = with_ordered_read();
    strange.list[0].0 = 0x1000;
    assert_exact(&strange, "a list that makes no sense");
}

#[test]
fn exact_reads_are_left_as_they_are() {
    let mut image = with_ordered_read().image();
    let before = image.clone();
    let sites = rewrite(&mut image, KernelReads::Exact).expect("a kernel");
    assert_eq!((sites.copy, sites.tsc.len()), (None, 2));
    let changed = image.iter().zip(&before).filter(|(a, b)| a != b).count();
    assert_eq!(changed, 2 * IN_EAX.len());
}
