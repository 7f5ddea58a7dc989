//! What pages of guest memory are for, as the page tables there tell: to say where a guest differs.

use vm_memory::{Bytes, GuestAddress};

use crate::ram::{GuestRam, PAGE, PageSet, page_count};

// An entry of a page table (AMD APM volume 2, section 5.3).
const PRESENT: u64 = 1 << 0;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

const ENTRIES: u64 = (PAGE / 8) as u64;

/// Bits of an address that a table's entry stands for, by the table's level.
const ENTRY_BITS: [u32; 4] = [12, 21, 30, 39];
/// Tables that may have large pages, which end the walk.
const WITH_LARGE_PAGES: std::ops::RangeInclusive<usize> = 1..=2;

/// So many entries and pages are looked at: a program that has all that a guest can have takes a
/// tenth. A guest may have made tables that never end.
const MOST: u64 = 1 << 24;

/// Pages of an address space, by what they are for.
pub(super) struct AddressSpace {
    /// Its page tables.
    pub(super) tables: PageSet,
    /// What a program has mapped.
    pub(super) program: PageSet,
}

impl AddressSpace {
    /// The one whose page tables, of four levels, begin where CR3 says. What lies outside of memory is
    /// left out.
    pub(super) fn of(memory: &GuestRam, cr3: u64) -> Self {
        let count = page_count(memory);
        let mut space = Self {
            tables: PageSet::empty(count),
            program: PageSet::empty(count),
        };
        let top = ENTRY_BITS.len() - 1;
        let mut waiting = vec![(cr3 & ADDRESS, top, true)];
        let mut looked_at = 0;
        while looked_at < MOST
            && let Some((table, level, is_program)) = waiting.pop()
        {
            looked_at += ENTRIES;
            space.tables.insert(table / PAGE as u64);
            let mut entries = [0; PAGE];
            if (memory.read_slice(&mut entries, GuestAddress(table))).is_err() {
                continue;
            }
            for entry in entries.as_chunks().0 {
                let entry = u64::from_le_bytes(*entry);
                let is_program = is_program && entry & USER != 0;
                if entry & PRESENT == 0 {
                    continue;
                }
                let is_large = WITH_LARGE_PAGES.contains(&level) && entry & LARGE != 0;
                if level > 0 && !is_large {
                    waiting.push((entry & ADDRESS, level - 1, is_program));
                } else if is_program {
                    let mapped = 1u64 << (ENTRY_BITS[level] - ENTRY_BITS[0]);
                    let first = (entry & ADDRESS) / PAGE as u64 / mapped * mapped;
                    let pages = first..(first + mapped).min(count);
                    looked_at += mapped;
                    pages.for_each(|page| space.program.insert(page));
                }
            }
        }
        space
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL: u64 = PRESENT;
    const ALL: u64 = PRESENT | USER;

    fn memory(entries: &[(u64, u64)]) -> GuestRam {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), 8 << 20)]).expect("memory");
        for &(address, entry) in entries {
            memory
                .write_obj(entry, GuestAddress(address))
                .expect("it lies in memory");
        }
        memory
    }

    #[test]
    fn tables_and_a_programs_pages_are_told_apart() {
        let memory = memory(&[
            (0x1000, 0x2000 | ALL),
            (0x1ff8, 0x8000 | KERNEL),
            (0x2000, 0x3000 | ALL),
            (0x3000, 0x4000 | ALL),
            (0x3008, 0x40_0000 | LARGE | ALL), // from 4 to 6 MiB
            (0x4000, 0x10_0000 | ALL),
            (0x4008, 0x10_1000 | KERNEL),
            (0x4010, 0x10_2000 | USER),     // not present
            (0x4018, 0xffff_f000 | ALL),    // outside
            (0x8000, 0x9000 | ALL),         // below an entry that is the kernel's
            (0x9000, 0x40_0000_0000 | ALL), // a table outside
            (0x9008, 0x20_0000 | LARGE | ALL),
        ]);
        let space = AddressSpace::of(&memory, 0x1000 | 1 << 3);
        let tables: Vec<u64> = space.tables.iter().collect();
        assert_eq!(tables, [1, 2, 3, 4, 8, 9]);
        let program: Vec<u64> = space.program.iter().collect();
        let expected: Vec<u64> = [0x100].into_iter().chain(0x400..0x600).collect();
        assert_eq!(program, expected);
    }

    /// Every entry leads back to the table that it is in.
    #[test]
    fn tables_that_never_end_are_left() {
        let entries: Vec<_> = (0..512).map(|n| (0x1000 + 8 * n, 0x1000 | ALL)).collect();
        let space = AddressSpace::of(&memory(&entries), 0x1000);
        assert_eq!((space.tables.len(), space.program.len()), (1, 1));
    }
}
