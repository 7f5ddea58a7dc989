//! Which values of CR4 are no fault.

use kvm_bindings::kvm_sregs;

/// Whether a MOV of `value` to CR4 is no #GP for a processor in this state (Intel SDM volume 2B, MOV
/// to control registers; AMD APM volume 2, section 3.1.3), but for bits that its model does not have:
/// KVM_SET_SREGS finds those, and takes other values that the instruction does not.
pub(super) fn allows(sregs: &kvm_sregs, value: u64) -> bool {
    const PAE: u64 = 1 << 5;
    const LA57: u64 = 1 << 12;
    const PCIDE: u64 = 1 << 17;
    const LONG_MODE_ACTIVE: u64 = 1 << 10;
    const PCID: u64 = 0xfff;
    let changed = sregs.cr4 ^ value;
    let long = sregs.efer & LONG_MODE_ACTIVE != 0;
    let in_kernel = sregs.ss.dpl == 0;
    let paging_stays = !long || (value & PAE != 0 && changed & LA57 == 0);
    let sets_pcide = changed & value & PCIDE != 0;
    in_kernel && paging_stays && (!sets_pcide || (long && sregs.cr3 & PCID == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cr4_takes_what_the_instruction_takes() {
        const LINUX: u64 = 0x6f0;
        let mut sregs = kvm_sregs {
            cr3: 0x1000,
            cr4: LINUX,
            efer: 0xd01,
            ..kvm_sregs::default()
        };
        let pcid = LINUX | 1 << 17;
        for (value, allowed) in [
            (LINUX, true),
            (LINUX | 1 << 2, true),
            (LINUX & !(1 << 5), false),
            (LINUX | 1 << 12, false),
            (pcid, true),
        ] {
            assert_eq!(allows(&sregs, value), allowed, "{value:#x}");
        }
        sregs.cr3 |= 1;
        assert!(!allows(&sregs, pcid));
        sregs.cr4 = pcid;
        assert!(allows(&sregs, pcid));
        sregs.ss.dpl = 3;
        assert!(!allows(&sregs, pcid), "not in a program");
        let in_32_bits = kvm_sregs::default();
        assert!(allows(&in_32_bits, 1 << 12));
        assert!(!allows(&in_32_bits, 1 << 17));
    }
}
