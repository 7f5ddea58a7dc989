//! A guest's page tables, as they are in its memory.
//!
//! Looking changes nothing. The hypervisor's own walks (KVM_TRANSLATE) mark the entries that they go
//! through as accessed, and the guest can see that: they are no way to look at a guest on one host only.

use vm_memory::{Bytes, GuestAddress};

use crate::ram::{GuestRam, PAGE, PageSet, page_count};

// An entry of a page table (AMD APM volume 2, section 5.3).
const PRESENT: u64 = 1 << 0;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

// Control registers (AMD APM volume 2, chapter 3).
const CR0_PG: u64 = 1 << 31;
const CR4_LA57: u64 = 1 << 12;
const EFER_LMA: u64 = 1 << 10;

const ENTRIES: u64 = (PAGE / 8) as u64;

/// Bits of an address that a table's entry stands for, by the table's level.
const ENTRY_BITS: [u32; 5] = [12, 21, 30, 39, 48];
/// The level of CR3's table, of four levels.
const TOP: usize = 3;
/// Tables that may have large pages, which end the walk.
const WITH_LARGE_PAGES: std::ops::RangeInclusive<usize> = 1..=2;

/// What an entry leads to.
enum Entry {
    Nothing,
    Table(u64),
    /// A page of as many bytes as the table's entries stand for.
    Page(u64),
}

impl Entry {
    /// As it is in a table of this level.
    fn of(entry: u64, level: usize) -> Self {
        let is_page = level == 0 || WITH_LARGE_PAGES.contains(&level) && entry & LARGE != 0;
        match (entry & PRESENT != 0, is_page) {
            (false, _) => Self::Nothing,
            (true, false) => Self::Table(entry & ADDRESS),
            (true, true) => Self::Page(entry & ADDRESS & !offsets(level)),
        }
    }
}

/// The bits of an address that an entry of this level leaves as they are.
fn offsets(level: usize) -> u64 {
    (1 << ENTRY_BITS[level]) - 1
}

/// The registers that say how addresses are translated.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Control {
    pub(crate) cr0: u64,
    pub(crate) cr3: u64,
    pub(crate) cr4: u64,
    pub(crate) efer: u64,
}

/// The guest-physical address of a linear one, if it is mapped, for whomever. It may lie outside of
/// memory. Only the page tables of 64-bit mode are known, in which guests begin.
pub(crate) fn translate(memory: &GuestRam, control: Control, linear: u64) -> Option<u64> {
    if control.cr0 & CR0_PG == 0 {
        return Some(linear);
    }
    if control.efer & EFER_LMA == 0 {
        return None;
    }
    let top = TOP + usize::from(control.cr4 & CR4_LA57 != 0);
    let unused = 64 - 9 - ENTRY_BITS[top];
    let is_canonical = ((linear << unused) as i64 >> unused) as u64 == linear;
    if !is_canonical {
        return None;
    }
    let index = |_, level: usize| Some(linear >> ENTRY_BITS[level] & (ENTRIES - 1));
    let leaf = descend(memory, control.cr3 & ADDRESS, top, index)?;
    Some(leaf.page | linear & offsets(leaf.level))
}

/// The entry of a page.
struct Leaf {
    /// Where it is.
    #[cfg_attr(not(feature = "sabotage"), expect(dead_code, reason = "for sabotage"))]
    at: GuestAddress,
    page: u64,
    level: usize,
}

/// Goes down from a table of level `top` to a page, in each table by the entry that `index` gives for it
/// and its level.
fn descend(
    memory: &GuestRam,
    mut table: u64,
    top: usize,
    mut index: impl FnMut(u64, usize) -> Option<u64>,
) -> Option<Leaf> {
    for level in (0..=top).rev() {
        let at = GuestAddress(table + 8 * index(table, level)?);
        match Entry::of(memory.read_obj(at).ok()?, level) {
            Entry::Nothing => return None,
            Entry::Table(next) => table = next,
            Entry::Page(page) => return Some(Leaf { at, page, level }),
        }
    }
    None
}

/// Flips the accessed bit of some page of the kernel's half below CR3's table, as `choose` says: one of so
/// many. `None` if the way down leads nowhere. (Of a page: the processor soon sets those of whole tables
/// again.)
#[cfg(feature = "sabotage")]
pub(crate) fn flip_accessed_bit(
    memory: &GuestRam,
    cr3: u64,
    mut choose: impl FnMut(u64) -> u64,
) -> Option<()> {
    const ACCESSED: u64 = 1 << 5;
    let some = |table, level| {
        let first = if level == TOP { ENTRIES / 2 } else { 0 };
        let is_there = |n: &u64| {
            let entry = memory.read_obj(GuestAddress(table + 8 * n));
            entry.is_ok_and(|entry: u64| entry & PRESENT != 0)
        };
        let there: Vec<u64> = (first..ENTRIES).filter(is_there).collect();
        let chosen = choose(there.len().max(1) as u64);
        there.get(chosen as usize).copied()
    };
    let leaf = descend(memory, cr3 & ADDRESS, TOP, some)?;
    let entry: u64 = memory.read_obj(leaf.at).ok()?;
    memory.write_obj(entry ^ ACCESSED, leaf.at).ok()
}

/// So many entries and pages are looked at: a program that has all that a guest can have takes a
/// tenth. A guest may have made tables that never end.
const MOST: u64 = 1 << 24;

/// Pages of an address space, by what they are for: to say where a guest differs.
pub(crate) struct AddressSpace {
    /// Its page tables.
    pub(crate) tables: PageSet,
    /// What a program has mapped.
    pub(crate) program: PageSet,
}

impl AddressSpace {
    /// The one whose page tables, of four levels, begin where CR3 says: the CPU model has no fifth. What
    /// lies outside of memory is left out.
    pub(crate) fn of(memory: &GuestRam, cr3: u64) -> Self {
        let count = page_count(memory);
        let mut space = Self {
            tables: PageSet::empty(count),
            program: PageSet::empty(count),
        };
        let mut waiting = vec![(cr3 & ADDRESS, TOP, true)];
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
                match Entry::of(entry, level) {
                    Entry::Table(next) => waiting.push((next, level - 1, is_program)),
                    Entry::Page(page) if is_program => {
                        let first = page / PAGE as u64;
                        let mapped = 1u64 << (ENTRY_BITS[level] - ENTRY_BITS[0]);
                        looked_at += mapped;
                        let pages = first..(first + mapped).min(count);
                        pages.for_each(|page| space.program.insert(page));
                    }
                    Entry::Page(_) | Entry::Nothing => {}
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

    /// Page tables of a program at 0x1000, with one page, or a large one, of each size.
    fn tables() -> (GuestRam, Control) {
        let memory = memory(&[
            (0x1000, 0x2000 | ALL),
            (0x1800, 0x2000 | ALL), // the first half of the upper half of addresses
            (0x2000, 0x3000 | ALL),
            (0x2008, 0x4000_0000 | 1 << 12 | LARGE | ALL), // 1 GiB; bit 12 is PAT
            (0x3000, 0x4000 | ALL),
            (0x3008, 0x40_0000 | 1 << 12 | LARGE | ALL), // 2 MiB
            (0x4000, 0x10_0000 | 1 << 63 | KERNEL),      // execution is disabled
            (0x4008, 0x10_1000 | USER),                  // not present
            (0x4010, 0xffff_f000 | ALL),                 // outside
            (0x3010, 0x80_0000_0000 | ALL),              // a table outside
            (0x7000, 0x1000 | ALL),                      // a fifth level
        ]);
        let control = Control {
            cr0: CR0_PG | 1,
            cr3: 0x1000 | 1 << 3,
            cr4: 1 << 5,
            efer: EFER_LMA,
        };
        (memory, control)
    }

    #[test]
    fn addresses_are_translated_through_pages_of_every_size() {
        let (memory, control) = tables();
        for (linear, physical) in [
            (0x123, Some(0x10_0123)),
            (0xffff_8000_0000_0123, Some(0x10_0123)),
            (0x0000_8000_0000_0123, None), // not canonical
            (0xffff_0000_0000_0123, None),
            (0x1123, None),
            (0x2123, Some(0xffff_f123)),
            (0x20_1123, Some(0x40_1123)),
            (0x3f_ffff, Some(0x5f_ffff)),
            (0x4000_1123, Some(0x4000_1123)),
            (0x40_0000, None), // its table lies outside
            (0x80_0000_0000, None),
        ] {
            assert_eq!(translate(&memory, control, linear), physical, "{linear:#x}");
        }
        let five_levels = Control {
            cr3: 0x7000,
            cr4: control.cr4 | CR4_LA57,
            ..control
        };
        for (linear, physical) in [
            (0x123, Some(0x10_0123)),
            (0x0000_8000_0000_0123, Some(0x10_0123)),
            (0x0100_0000_0000_0123, None),
        ] {
            let found = translate(&memory, five_levels, linear);
            assert_eq!(found, physical, "{linear:#x} of five levels");
        }
        let unpaged = Control { cr0: 1, ..control };
        assert_eq!(translate(&memory, unpaged, 0x1123), Some(0x1123));
        let legacy = Control { efer: 0, ..control };
        assert_eq!(translate(&memory, legacy, 0x123), None);
    }

    /// No bit of an entry changes, accessed or other.
    #[test]
    fn looking_marks_nothing() {
        let (memory, control) = tables();
        let contents = || {
            let mut bytes = vec![0u8; 0x8000];
            let read = memory.read_slice(&mut bytes, GuestAddress(0));
            read.expect("it is memory");
            bytes
        };
        let before = contents();
        for linear in [0x123, 0x2123, 0x20_1123, 0x4000_1123] {
            assert!(translate(&memory, control, linear).is_some());
        }
        AddressSpace::of(&memory, control.cr3);
        assert_eq!(contents(), before);
    }

    #[cfg(feature = "sabotage")]
    #[test]
    fn the_accessed_bit_of_one_page_of_the_kernels_half_is_flipped() {
        let (memory, control) = tables();
        let entry = || {
            memory
                .read_obj::<u64>(GuestAddress(0x4000))
                .expect("memory")
        };
        let before = entry();
        let first = |_| 0;
        flip_accessed_bit(&memory, control.cr3, first).expect("a way down");
        assert_eq!(entry(), before ^ 1 << 5);
        assert_eq!(flip_accessed_bit(&memory, 0x5000, first), None);
    }
}
