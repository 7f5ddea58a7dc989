//! Which model specific registers the guest may touch directly.
//!
//! Everything else exits to the VMM, which answers by one table on every host
//! ([`crate::devices::msr`]), so that two hosts with different kernels behave the same. The time
//! stamp counter is not in the list: reads of it are logged. Neither are the local APIC's: that is a
//! device of ours. KVM does not filter these, but refuses them where the APIC is not its own, and
//! what it refuses exits as well. Nor are memory type ranges (MTRRs): the CPU model hides them, because
//! what KVM makes of them is another thing in every other kernel, and nothing in this machine.
//!
//! A write to IA32_TSC_DEADLINE does not exit everywhere. KVM has a short way for it that asks neither
//! the filter nor whether the APIC is its own, in which case it drops the value
//! (`handle_fastpath_set_tscdeadline` and `kvm_set_lapic_tscdeadline_msr` in Linux's
//! `arch/x86/kvm/x86.c` and `lapic.c`): where the processor has a timer for it, Intel's, and in newer
//! kernels always. CPUID hides the register, so that only a guest comes upon it that writes to what is
//! not there. The doctor's check `msr_filter` says which way a host takes.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::{MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VcpuFd, VmFd};

use crate::cpu::CpuError;

/// First register and number of registers.
const DIRECT: &[(u32, u32)] = &[
    (0x174, 3),       // SYSENTER CS, ESP, EIP
    (0x277, 1),       // IA32_PAT
    (0xc000_0080, 5), // EFER, STAR, LSTAR, CSTAR, SFMASK
    (0xc000_0100, 3), // FS base, GS base, kernel GS base
];

/// SYSENTER's stack and instruction pointer.
pub(super) const SYSENTER_ADDRESSES: [u32; 2] = [0x175, 0x176];

/// All registers of the list.
pub(super) fn direct() -> impl Iterator<Item = u32> {
    DIRECT.iter().flat_map(|&(base, count)| base..base + count)
}

/// Installs the filter.
pub(super) fn install_filter(vm: &VmFd) -> Result<(), kvm_ioctls::Error> {
    const ALL: [u8; 2] = [0xff; 2];
    let ranges: Vec<MsrFilterRange<'_>> = DIRECT
        .iter()
        .map(|&(base, msr_count)| MsrFilterRange {
            flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
            base,
            msr_count,
            bitmap: &ALL,
        })
        .collect();
    vm.set_msr_filter(MsrFilterDefaultAction::DENY, &ranges)
}

/// The registers of the MSR filter's list that are part of a vCPU's state: those that this host's
/// KVM gives back as they were set. Of the others, some cannot be written, and two are cut to 32
/// bits where the processor has no SYSENTER in 64-bit mode and so no use for them (AMD).
pub(super) fn known(fd: &VcpuFd) -> Vec<u32> {
    direct()
        .filter(|&index| is_kept(fd, index).unwrap_or(false))
        .collect()
}

fn is_kept(fd: &VcpuFd, index: u32) -> Result<bool, CpuError> {
    const KERNEL_ADDRESS: u64 = 0xffff_ffff_8000_0000;
    let [(_, value)] = read(fd, &[index])?[..] else {
        return Ok(false);
    };
    let set = |value| {
        fd.set_msrs(&list(&[(index, value)]))
            .map_err(CpuError::failed_to("set model specific registers"))
    };
    if SYSENTER_ADDRESSES.contains(&index) {
        set(KERNEL_ADDRESS)?;
        let kept = read(fd, &[index])? == [(index, KERNEL_ADDRESS)];
        set(value)?;
        return Ok(kept);
    }
    Ok(set(value)? == 1)
}

pub(super) fn list(values: &[(u32, u64)]) -> Msrs {
    let entries: Vec<kvm_msr_entry> = values
        .iter()
        .map(|&(index, data)| kvm_msr_entry {
            index,
            data,
            ..Default::default()
        })
        .collect();
    Msrs::from_entries(&entries).expect("the list of registers is short")
}

pub(super) fn read(fd: &VcpuFd, indices: &[u32]) -> Result<Vec<(u32, u64)>, CpuError> {
    let wanted: Vec<(u32, u64)> = indices.iter().map(|&index| (index, 0)).collect();
    let mut msrs = list(&wanted);
    let count = fd
        .get_msrs(&mut msrs)
        .map_err(CpuError::failed_to("read model specific registers"))?;
    let read = &msrs.as_slice()[..count];
    Ok(read.iter().map(|entry| (entry.index, entry.data)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_fit_the_bitmap_and_keep_the_hosts_clocks_out() {
        // KVM's clock pages, old and new, and all else that is KVM's; Hyper-V's.
        const PARAVIRTUAL: [(u32, u32); 3] = [(0x11, 2), (0x4b56_4d00, 256), (0x4000_0000, 4096)];
        for index in direct() {
            let mut theirs = PARAVIRTUAL.iter();
            assert!(!theirs.any(|(base, count)| (*base..base + count).contains(&index)));
        }
        for &(base, count) in DIRECT {
            assert!(count <= 16, "{base:#x}: the bitmap has 16 bits");
            assert!(!(base..base + count).contains(&0x10), "IA32_TSC must exit");
            let mtrrs = [0xfe, 0x200, 0x20f, 0x250, 0x258, 0x259, 0x268, 0x26f, 0x2ff];
            assert!(!mtrrs.iter().any(|mtrr| (base..base + count).contains(mtrr)));
        }
        assert!(DIRECT.len() <= kvm_bindings::KVM_MSR_FILTER_MAX_RANGES as usize);
    }
}
