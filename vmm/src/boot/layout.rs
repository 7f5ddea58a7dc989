//! Where things are in guest memory at boot.

use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::ram::GuestRam;

/// Boot parameters.
pub(super) const ZERO_PAGE: u64 = 0x7000;
/// Command line.
pub(super) const COMMAND_LINE: u64 = 0x2_0000;
/// Room for the command line, with its final NUL (the kernel's COMMAND_LINE_SIZE).
pub(super) const COMMAND_LINE_BYTES: usize = 2048;
/// The seed of the guest's random numbers.
pub(super) const RNG_SEED: u64 = COMMAND_LINE + COMMAND_LINE_BYTES as u64;
/// ACPI tables: where a BIOS would be, in memory that the kernel is not told to use.
pub(super) const ACPI_TABLES: u64 = 0xe_0000;
/// Start of memory above the legacy hole.
pub(super) const HIGH_MEMORY: u64 = 0x10_0000;

const GDT: u64 = 0x500;
const STACK: u64 = 0x8ff0;
const PML4: u64 = 0x9000;
const PDPT: u64 = 0xa000;
/// Four page directories: 4 GiB in 2 MiB pages.
const PD: u64 = 0xb000;
/// End of conventional memory; above it are the places where BIOSes live.
const LOW_MEMORY_END: u64 = 0x9_fc00;

/// Null, unused, 64-bit code at 0x10, data at 0x18: the selectors that the boot protocol names
/// (__BOOT_CS and __BOOT_DS).
const GDT_ENTRIES: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// Processor state at the kernel's entry point.
#[derive(Debug, Clone, Copy)]
pub struct EntryState {
    /// Entry point.
    pub rip: u64,
    /// Guest-physical address of the boot parameters ("zero page"), passed in RSI.
    pub boot_params: u64,
    /// Initial stack pointer.
    pub stack: u64,
    /// Guest-physical address of the GDT.
    pub gdt_address: u64,
    /// Limit of the GDT.
    pub gdt_limit: u16,
    /// Selector of the 64-bit code segment.
    pub code_selector: u16,
    /// Selector of the data segment.
    pub data_selector: u16,
    /// CR0.
    pub cr0: u64,
    /// CR3: identity map of the first 4 GiB.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
}

/// Usable RAM as (address, size).
pub(super) fn usable_ram(memory_bytes: u64) -> Vec<(u64, u64)> {
    vec![
        (0, LOW_MEMORY_END),
        (HIGH_MEMORY, memory_bytes.saturating_sub(HIGH_MEMORY)),
    ]
}

/// As high as possible, page aligned, above the kernel.
pub(super) fn initrd_address(memory_bytes: u64, kernel_end: u64, len: u64) -> Option<u64> {
    let address = memory_bytes.checked_sub(len)? & !0xfff;
    (address >= kernel_end).then_some(address)
}

/// Writes the GDT and page tables that identity-map the first 4 GiB.
pub(super) fn write_tables(memory: &GuestRam) -> Result<(), GuestMemoryError> {
    const TABLE: u64 = 0x3; // present, writable
    const LARGE_PAGE: u64 = 0x83; // present, writable, page size
    for (n, entry) in GDT_ENTRIES.iter().enumerate() {
        memory.write_obj(*entry, GuestAddress(GDT + 8 * n as u64))?;
    }
    memory.write_obj(PDPT | TABLE, GuestAddress(PML4))?;
    for gigabyte in 0..4u64 {
        let directory = PD + 0x1000 * gigabyte;
        memory.write_obj(directory | TABLE, GuestAddress(PDPT + 8 * gigabyte))?;
        for n in 0..512u64 {
            let page = (gigabyte << 30 | n << 21) | LARGE_PAGE;
            memory.write_obj(page, GuestAddress(directory + 8 * n))?;
        }
    }
    Ok(())
}

/// The state at the 64-bit entry point.
pub(super) fn entry_state(rip: u64) -> EntryState {
    EntryState {
        rip,
        boot_params: ZERO_PAGE,
        stack: STACK,
        gdt_address: GDT,
        gdt_limit: (GDT_ENTRIES.len() * 8 - 1) as u16,
        code_selector: 0x10,
        data_selector: 0x18,
        cr0: 0x8000_0011, // PG, ET, PE
        cr3: PML4,
        cr4: 0x20,   // PAE
        efer: 0x500, // LMA, LME
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initrd_lies_above_the_kernel_or_nowhere() {
        let mib = 1 << 20;
        assert_eq!(
            initrd_address(128 * mib, 48 * mib, 5),
            Some(128 * mib - 4096)
        );
        assert_eq!(initrd_address(64 * mib, 48 * mib, 17 * mib), None);
        assert_eq!(initrd_address(mib, 0, 2 * mib), None);
    }

    #[test]
    fn tables_do_not_overlap() {
        let areas = [
            (GDT, 0x20),
            (ZERO_PAGE, 0x1000),
            (PML4, 0x1000),
            (PDPT, 0x1000),
            (PD, 0x4000),
            (COMMAND_LINE, COMMAND_LINE_BYTES as u64),
            (RNG_SEED, 48),
        ];
        for pair in areas.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0);
        }
        assert!((ZERO_PAGE + 0x1000..PML4).contains(&STACK));
    }
}
