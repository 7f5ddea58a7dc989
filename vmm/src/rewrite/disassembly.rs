//! Disassembles code where it is asked for, and gives what a disassembly of all of it would.
//!
//! Where an instruction begins depends on where the disassembly did. Here it goes on linearly from
//! the beginning of a section, and one byte on where there is no instruction. A kernel has millions
//! of them, and a hundred are looked for: so their bytes are searched for, and of each place it is
//! asked whether the disassembly comes by there.
//!
//! That is found out from nearby. No instruction has more than fifteen bytes, so of fifteen places
//! in a row the disassembly comes by one at least. Begun at each of fifteen, disassemblies are soon
//! in step with one another; and what all of them come by, that from the beginning of the section
//! comes by. Where they do not get in step, it goes on from the last place that it is known to come
//! by.

use std::collections::BTreeSet;
use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, Instruction};

/// Most bytes of an instruction (SDM, volume 2, section 2.3.11).
const LONGEST: usize = 15;
/// How far before a place it is begun to disassemble, in one attempt after the other.
const BACK: [usize; 3] = [64, 256, 1024];
/// How far from its end a jump with a displacement of a byte goes.
const SHORT: u64 = 128;
/// Opcode of a call with a displacement of four bytes.
const CALL: u8 = 0xe8;
/// Opcode of a jump with one.
const JUMP: u8 = 0xe9;
/// First byte of opcodes that have two, as those of conditional jumps with a displacement of four.
const TWO_BYTES: u8 = 0x0f;
/// Opcode of XBEGIN, the one jump that can have a displacement of two bytes.
const XBEGIN: [u8; 2] = [0xc7, 0xf8];

/// A section of code.
pub(super) struct Disassembly<'a> {
    code: &'a [u8],
    address: u64,
    /// Places that a disassembly from the beginning comes by.
    known: BTreeSet<usize>,
}

/// Addresses to which jumps are looked for.
pub(super) struct Targets {
    /// Ascending, none overlapping.
    ranges: Vec<Range<u64>>,
}

impl Targets {
    /// The addresses that follow each of `places`, which are ascending, up to `reach` bytes on.
    pub(super) fn behind(places: &[u64], reach: u64) -> Self {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for &place in places {
            let (start, end) = (place.saturating_add(1), place.saturating_add(reach));
            match ranges.last_mut() {
                Some(last) if start <= last.end => last.end = end,
                _ => ranges.push(start..end),
            }
        }
        Self { ranges }
    }

    fn contains(&self, address: u64) -> bool {
        let after = (self.ranges).partition_point(|range| range.start <= address);
        after > 0 && self.ranges[after - 1].contains(&address)
    }
}

impl<'a> Disassembly<'a> {
    /// Of `code`, whose first byte is at `address`.
    pub(super) fn new(code: &'a [u8], address: u64) -> Self {
        let known = BTreeSet::from([0]);
        Self {
            code,
            address,
            known,
        }
    }

    /// The code.
    pub(super) fn code(&self) -> &'a [u8] {
        self.code
    }

    /// Decodes what is at an offset. It may be invalid.
    fn decode(&self, place: usize) -> Instruction {
        let (code, address) = (&self.code[place..], self.address.wrapping_add(place as u64));
        decoder(code, address).decode()
    }

    /// The instruction at an offset, if the disassembly comes by one there.
    pub(super) fn instruction_at(&mut self, place: usize) -> Option<Instruction> {
        let instruction = self.decode(place);
        (!instruction.is_invalid() && self.comes_by(place)).then_some(instruction)
    }

    /// The place to which the disassembly goes from `place`.
    fn next(&self, place: usize) -> usize {
        let instruction = self.decode(place);
        match instruction.is_invalid() {
            // Data, or padding between functions.
            true => place + 1,
            false => place + instruction.len(),
        }
    }

    fn comes_by(&mut self, place: usize) -> bool {
        let known = self.known.range(..=place).next_back();
        let known = known.copied().unwrap_or(0);
        let attempts = BACK.into_iter().filter(|back| known + back < place);
        let comes = attempts
            .into_iter()
            .find_map(|back| self.all_come_by(place, place - back));
        let comes = comes.unwrap_or_else(|| {
            let mut at = known;
            while at < place {
                at = self.next(at);
            }
            self.known.insert(at);
            at == place
        });
        if comes {
            self.known.insert(place);
        }
        comes
    }

    /// Whether disassemblies that begin at `start` and at the places behind it come by `place`:
    /// `None` if not all of them do the same.
    fn all_come_by(&self, place: usize, start: usize) -> Option<bool> {
        let mut seen: Vec<Option<bool>> = vec![None; place - start];
        let mut path = Vec::new();
        let mut verdict = None;
        for begin in start..start + LONGEST {
            let mut at = begin;
            let comes = loop {
                match seen.get(at - start) {
                    None => break at == place,
                    Some(Some(comes)) => break *comes,
                    Some(None) => path.push(at),
                }
                at = self.next(at);
            };
            for at in path.drain(..) {
                seen[at - start] = Some(comes);
            }
            if *verdict.get_or_insert(comes) != comes {
                return None;
            }
        }
        verdict
    }

    /// Those of `targets` to which jumps and calls of this code go.
    pub(super) fn jumps_to(&mut self, targets: &Targets) -> Vec<u64> {
        // In the encoding of each, the displacement from its end comes last, and before that the
        // opcode.
        let mut ends = BTreeSet::new();
        for at in memchr::memchr3_iter(CALL, JUMP, TWO_BYTES, self.code) {
            let opcode = match self.code[at..] {
                [TWO_BYTES, 0x80..=0x8f, ..] => 2,
                [TWO_BYTES, ..] => continue,
                _ => 1,
            };
            let Some(displacement) = self.code[at + opcode..].first_chunk() else {
                continue;
            };
            let displacement = i32::from_le_bytes(*displacement);
            let end = at + opcode + 4;
            let end_address = self.address.wrapping_add(end as u64);
            // First, because of a million places few are left.
            if targets.contains(end_address.wrapping_add_signed(displacement.into())) {
                ends.insert(end);
            }
        }
        for range in &targets.ranges {
            let offset = |address: u64| {
                let offset = address.saturating_sub(self.address) as usize;
                offset.min(self.code.len())
            };
            let near =
                offset(range.start.saturating_sub(SHORT))..offset(range.end.saturating_add(SHORT));
            ends.extend(near.map(|place| place + 1).filter(|&end| {
                let displacement = i64::from(self.code[end - 1] as i8);
                let end_address = self.address.wrapping_add(end as u64);
                end > 1
                    && is_opcode_of_short_jump(self.code[end - 2])
                    && targets.contains(end_address.wrapping_add_signed(displacement))
            }));
        }
        let xbegins = memchr::memmem::find_iter(self.code, &XBEGIN);
        ends.extend(xbegins.flat_map(|at| [2, 4].map(|bytes| at + XBEGIN.len() + bytes)));

        let is_jump = |instruction: &Instruction| {
            let target = instruction.near_branch_target(); // 0: it is no jump
            !instruction.is_invalid() && targets.contains(target)
        };
        let mut found = Vec::new();
        for end in ends.range(..=self.code.len()) {
            for place in end.saturating_sub(LONGEST)..*end {
                let instruction = self.decode(place);
                if is_jump(&instruction)
                    && place + instruction.len() == *end
                    && self.comes_by(place)
                {
                    found.push(instruction.near_branch_target());
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// Decodes `code`, whose first byte is at `address`.
pub(super) fn decoder(code: &[u8], address: u64) -> Decoder<'_> {
    Decoder::with_ip(64, code, address, DecoderOptions::NONE)
}

/// Whether this byte is the opcode of a jump with a displacement of one byte.
fn is_opcode_of_short_jump(byte: u8) -> bool {
    matches!(byte, 0x70..=0x7f | 0xe0..=0xe3 | 0xeb)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ADDRESS: u64 = 0xffff_ffff_8100_0000;

    /// All that a disassembly from the beginning comes by, and the targets of its jumps.
    fn all(code: &[u8]) -> (BTreeSet<usize>, Vec<u64>) {
        let mut decoder = decoder(code, ADDRESS);
        let (mut places, mut targets) = (BTreeSet::new(), Vec::new());
        while decoder.can_decode() {
            let at = decoder.position();
            let instruction = decoder.decode();
            if instruction.is_invalid() {
                decoder.set_position(at + 1).expect("within");
                decoder.set_ip(ADDRESS + at as u64 + 1);
                continue;
            }
            places.insert(at);
            targets.push(instruction.near_branch_target());
        }
        (places, targets)
    }

    fn is_like_all(code: &[u8], places: &[usize], reach: u64) -> Result<(), TestCaseError> {
        let (expected, jumps) = all(code);
        let mut disassembly = Disassembly::new(code, ADDRESS);
        for &place in places {
            let found = disassembly.instruction_at(place).is_some();
            prop_assert_eq!(found, expected.contains(&place), "{}", place);
        }
        let mut behind: Vec<u64> = places.iter().map(|&at| ADDRESS + at as u64).collect();
        behind.sort_unstable();
        let mut wanted: Vec<u64> = jumps
            .into_iter()
            .filter(|jump| {
                behind
                    .iter()
                    .any(|at| (1..reach).contains(&jump.wrapping_sub(*at)))
            })
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        let found = Disassembly::new(code, ADDRESS).jumps_to(&Targets::behind(&behind, reach));
        prop_assert_eq!(found, wanted);
        Ok(())
    }

    /// Bytes that are often jumps, with displacements that are often short.
    fn code() -> impl Strategy<Value = Vec<u8>> {
        let jump = prop_oneof![
            Just(vec![0xe8]),
            Just(vec![0xe9]),
            Just(vec![0xeb]),
            Just(vec![0x74]),
            Just(vec![0xe2]),
            Just(vec![0x0f, 0x84]),
            Just(XBEGIN.to_vec()),
            Just(vec![0x66, 0xc7, 0xf8]),
        ];
        let piece = prop_oneof![
            any::<Vec<u8>>(),
            prop::collection::vec(Just(0), 0..100),
            prop::collection::vec(Just(0xcc), 0..100),
            (jump, -2000..2000i32).prop_map(|(opcode, displacement)| {
                [opcode, displacement.to_le_bytes().to_vec()].concat()
            }),
        ];
        prop::collection::vec(piece, 1..60).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_a_whole_disassembly_finds(
            code in code().prop_filter("some", |code| !code.is_empty()),
            places in prop::collection::vec(any::<prop::sample::Index>(), 1..40),
            reach in 2u64..40,
        ) {
            let places: Vec<usize> = places.iter().map(|place| place.index(code.len())).collect();
            is_like_all(&code, &places, reach)?;
        }
    }

    #[test]
    fn what_never_gets_in_step_is_found_too() {
        // Instructions of two bytes, which can be read one byte off as well.
        for (len, there) in [(40_000, true), (40_001, false)] {
            let mut code = vec![0; len];
            code.extend([0x0f, 0x31, 0xc3]);
            let mut disassembly = Disassembly::new(&code, ADDRESS);
            assert_eq!(disassembly.all_come_by(len, len - 1024), None);
            assert_eq!(disassembly.instruction_at(len).is_some(), there);
        }
    }

    #[test]
    fn targets_far_apart_are_all_found() {
        let far = ADDRESS - (1 << 40);
        let places = [far, ADDRESS];
        let targets = Targets::behind(&places, 8);
        assert!(targets.contains(far + 7));
        assert!(!targets.contains(far + 8));
        assert!(!targets.contains(ADDRESS) && targets.contains(ADDRESS + 1));
    }
}
