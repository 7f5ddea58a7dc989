//! ACPI tables (ACPI 6.5, chapter 5): they tell the kernel of its local APIC, the PM timer, how to
//! switch the machine off, and that there is a PCI bus, with functions that firmware has placed.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Name, Package, ResourceTemplate,
};
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::madt::{EnabledStatus, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::devices::{pci, pm_timer, power};
use crate::ram::GuestRam;

const OEM: [u8; 6] = *b"FTVM  ";
const OEM_TABLE: [u8; 8] = *b"FTVM    ";
const OEM_REVISION: u32 = 1;
/// Length of a table's header.
const HEADER_BYTES: u32 = 36;
/// The firmware control structure has to begin at a multiple of this; the others like it.
const ALIGNMENT: u64 = 64;

/// Where the local APIC would be in memory.
const APIC_ADDRESS: u32 = 0xfee0_0000;

/// FADT, IA-PC boot architecture flags (table 5.12): there are devices on an ISA bus, and no VGA.
const LEGACY_DEVICES: u16 = 1;
const NO_VGA: u16 = 1 << 2;

/// Writes the tables to guest memory from `at` on, and returns the address of the root pointer.
pub(super) fn write(memory: &GuestRam, at: u64) -> Result<u64, GuestMemoryError> {
    let mut next = at;
    let mut put = |table: &dyn Aml| {
        let mut bytes = Vec::new();
        table.to_aml_bytes(&mut bytes);
        let address = next;
        next = (next + bytes.len() as u64).next_multiple_of(ALIGNMENT);
        memory.write_slice(&bytes, GuestAddress(address))?;
        Ok(address)
    };
    let facs = put(&FACS::new())?;
    let dsdt = put(&dsdt())?;
    let fadt = put(&fadt(facs as u32, dsdt as u32))?;
    let madt = put(&madt())?;
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = put(&xsdt)?;
    put(&Rsdp::new(OEM, xsdt))
}

/// Which kind of sleep is "off", and the PCI bus. Of interrupt pins nothing is said: where the
/// kernel finds no routing it takes the line that is in the function's configuration space.
fn dsdt() -> Sdt {
    let mut table = Sdt::new(*b"DSDT", HEADER_BYTES, 6, OEM, OEM_TABLE, OEM_REVISION);
    let off = Package::new(vec![&power::OFF, &0u8, &0u8, &0u8]);
    let (first, last) = (pci::ADDRESS_PORT, pci::DATA_PORT + 3);
    let bus = AddressSpace::new_bus_number(0u16, 0);
    let configuration = IO::new(first, first, 1, 8);
    let ports_below = AddressSpace::new_io(0u16, first - 1, None);
    let ports_above = AddressSpace::new_io(last + 1, 0xffffu16, None);
    let memory = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        pci::MEMORY_WINDOW.base,
        pci::MEMORY_WINDOW.base + (pci::MEMORY_WINDOW.size - 1),
        None,
    );
    let windows = ResourceTemplate::new(vec![
        &bus,
        &configuration,
        &ports_below,
        &ports_above,
        &memory,
    ]);
    let kind = EISAName::new("PNP0A03");
    let [id, unique_id, resources] = [
        Name::new("_HID".into(), &kind),
        Name::new("_UID".into(), &0u8),
        Name::new("_CRS".into(), &windows),
    ];
    let mut bytes = Vec::new();
    Name::new("_S5_".into(), &off).to_aml_bytes(&mut bytes);
    Device::new("_SB_.PCI0".into(), vec![&id, &unique_id, &resources]).to_aml_bytes(&mut bytes);
    table.append_slice(&bytes);
    table
}

fn fadt(facs: u32, dsdt: u32) -> impl Aml {
    let mut table = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .firmware_ctrl_32(facs)
        .dsdt_32(dsdt)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        // These two say that there is none.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc);
    table.sci_int = u16::from(power::LINE).into();
    table.pm1a_evt_blk = u32::from(power::EVENT_PORT).into();
    table.pm1_evt_len = 4;
    table.pm1a_cnt_blk = u32::from(power::CONTROL_PORT).into();
    table.pm1_cnt_len = 2;
    table.pm_tmr_blk = u32::from(pm_timer::PORT).into();
    table.pm_tmr_len = 4;
    // No such processor states: latencies above these say so.
    table.p_lvl2_lat = 101.into();
    table.p_lvl3_lat = 1001.into();
    table.iapc_boot_arch = (LEGACY_DEVICES | NO_VGA).into();
    table.finalize()
}

fn madt() -> MADT {
    let mut table = MADT::new(
        OEM,
        OEM_TABLE,
        OEM_REVISION,
        LocalInterruptController::Address(APIC_ADDRESS),
    );
    table.add_structure(ProcessorLocalApic::new(0, 0, EnabledStatus::Enabled));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: u64 = 0x1000;

    fn read(memory: &GuestRam, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    /// A table with its header, whose checksum is right.
    fn table(memory: &GuestRam, at: u64) -> Vec<u8> {
        let len: u32 = memory.read_obj(GuestAddress(at + 4)).unwrap();
        let bytes = read(memory, at, len as usize);
        assert_eq!(bytes.iter().fold(0u8, |sum, b| sum.wrapping_add(*b)), 0);
        bytes
    }

    #[test]
    fn everything_is_found_from_the_root_pointer() {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), 0x4000)]).expect("memory");
        let root = write(&memory, AT).unwrap();
        assert_eq!(read(&memory, root, 8), b"RSD PTR ");
        let xsdt: u64 = memory.read_obj(GuestAddress(root + 24)).unwrap();
        let xsdt = table(&memory, xsdt);
        let entries: Vec<u64> = xsdt[36..]
            .as_chunks()
            .0
            .iter()
            .map(|bytes| u64::from_le_bytes(*bytes))
            .collect();
        let [fadt, madt] = entries[..] else {
            panic!("{entries:x?}")
        };
        let fadt = table(&memory, fadt);
        assert_eq!(&fadt[..4], b"FACP");
        let word = |at: usize| u32::from_le_bytes(fadt[at..at + 4].try_into().unwrap());
        assert_eq!(read(&memory, word(36).into(), 4), b"FACS");
        assert_eq!(word(36) % 64, 0);
        let dsdt = table(&memory, word(40).into());
        assert_eq!(&dsdt[..4], b"DSDT");
        assert_eq!(dsdt[36..41], *b"\x08_S5_");
        let madt = table(&memory, madt);
        assert_eq!(&madt[..4], b"APIC");
        assert_eq!(
            madt[44..],
            [0, 8, 0, 0, 1, 0, 0, 0],
            "one enabled processor"
        );
    }
}
