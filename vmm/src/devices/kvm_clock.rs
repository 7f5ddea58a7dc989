//! KVM's paravirtual clock (Linux, `Documentation/virt/kvm/x86/msr.rst`): the guest reads its time
//! stamp counter and turns it into nanoseconds with factors that it finds in its memory, and asks
//! for the wall clock with a write to a register.
//!
//! The guest's counter counts nanoseconds since reset on every host ([`TSC_KHZ`]) and is logged at
//! every read. So the factors never change, not even when another host goes on with the guest, and
//! the page that they are in is written once. A page that the VMM keeps up to date with the time
//! itself would be no clock: between two exits it stands still.
//!
//! [`TSC_KHZ`]: crate::sources::TSC_KHZ

use vm_memory::{Bytes, GuestAddress};

use crate::ram::GuestRam;

/// Register that asks for the wall clock: MSR_KVM_WALL_CLOCK_NEW.
pub const WALL_CLOCK: u32 = 0x4b56_4d00;
/// Register that says where the factors are to be: MSR_KVM_SYSTEM_TIME_NEW.
pub const SYSTEM_TIME: u32 = 0x4b56_4d01;

/// Bit 0 of what is written to [`SYSTEM_TIME`]: the clock is wanted.
const ENABLE: u64 = 1;
/// `pvclock_vcpu_time_info.flags`: programs may use the factors without asking the kernel.
const COUNTER_IS_STABLE: u8 = 1;

/// Where the guest wants the factors, and they are put there; nowhere if it has had enough of
/// them. An address outside memory is ignored, as KVM does.
///
/// With `for_programs`, the kernel lets programs read the counter themselves, which costs two exits
/// ([`crate::traps`]). Without, they ask it with a system call, which costs none where the kernel
/// reads a copy ([`crate::tsc_cache`]).
pub fn set_system_time(memory: &GuestRam, value: u64, for_programs: bool) {
    if value & ENABLE != 0 {
        // A failure is an address outside memory.
        let _ = memory.write_slice(&factors(for_programs), GuestAddress(value & !ENABLE));
    }
}

/// `pvclock_vcpu_time_info`:
///
/// ```text
///  0 version u32, even: complete     16 system_time u64: ns at tsc_timestamp
///  4 padding                         24 tsc_to_system_mul u32: ns per count, in 2^-32
///  8 tsc_timestamp u64               28 tsc_shift i8: counts are shifted left before
///                                    29 flags u8, and padding
/// ```
fn factors(for_programs: bool) -> [u8; 32] {
    // One nanosecond a count: count * 2^1 * 2^31 / 2^32.
    const MULTIPLIER: u32 = 1 << 31;
    const SHIFT: u8 = 1;
    let mut page = [0; 32];
    page[0] = 2;
    page[24..28].copy_from_slice(&MULTIPLIER.to_le_bytes());
    page[28] = SHIFT;
    page[29] = if for_programs { COUNTER_IS_STABLE } else { 0 };
    page
}

/// Puts the wall clock at the guest's reset, `unix_nanos`, where the guest wants it
/// (`pvclock_wall_clock`: version, seconds, nanoseconds, 32 bits each). The guest adds its own time
/// to it.
pub fn set_wall_clock(memory: &GuestRam, address: u64, unix_nanos: u64) {
    let mut page = [0; 12];
    page[0] = 2;
    page[4..8].copy_from_slice(&((unix_nanos / 1_000_000_000) as u32).to_le_bytes());
    page[8..].copy_from_slice(&((unix_nanos % 1_000_000_000) as u32).to_le_bytes());
    // A failure is an address outside memory.
    let _ = memory.write_slice(&page, GuestAddress(address));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> GuestRam {
        GuestRam::from_ranges(&[(GuestAddress(0), 0x1000)]).expect("memory")
    }

    fn word(memory: &GuestRam, at: u64) -> u32 {
        memory.read_obj(GuestAddress(at)).expect("in memory")
    }

    /// As Linux does it (`arch/x86/include/asm/pvclock.h`, `__pvclock_read_cycles`).
    fn nanos(page: &[u8], count: u64) -> u64 {
        let number = |at: usize| u64::from_le_bytes(page[at..at + 8].try_into().expect("eight"));
        let delta = (count - number(8)) << page[28];
        let multiplier = u32::from_le_bytes(page[24..28].try_into().expect("four"));
        number(16) + ((u128::from(delta) * u128::from(multiplier)) >> 32) as u64
    }

    #[test]
    fn a_count_is_a_nanosecond() {
        let memory = memory();
        set_system_time(&memory, 0x140 | ENABLE, true);
        let mut page = [0; 32];
        memory
            .read_slice(&mut page, GuestAddress(0x140))
            .expect("in memory");
        for count in [0, 1, 999, 1_000_000_007, 1 << 40, (1 << 62) + 3] {
            assert_eq!(nanos(&page, count), count);
        }
        assert_eq!(page[0] % 2, 0, "complete");
    }

    #[test]
    fn whether_programs_may_read_it_is_in_the_flags() {
        for (for_programs, flags) in [(true, COUNTER_IS_STABLE), (false, 0)] {
            let memory = memory();
            set_system_time(&memory, 0x140 | ENABLE, for_programs);
            let page = memory.read_obj::<[u8; 32]>(GuestAddress(0x140));
            assert_eq!(page.expect("in memory")[29], flags);
        }
    }

    #[test]
    fn a_clock_that_is_switched_off_writes_nothing() {
        let memory = memory();
        set_system_time(&memory, 0x140, true);
        assert_eq!(word(&memory, 0x140), 0);
    }

    #[test]
    fn the_wall_clock_is_split_into_seconds() {
        let memory = memory();
        set_wall_clock(&memory, 0x80, 1_767_225_600_250_013_377);
        assert_eq!(word(&memory, 0x84), 1_767_225_600);
        assert_eq!(word(&memory, 0x88), 250_013_377);
    }

    #[test]
    fn addresses_outside_memory_do_no_harm() {
        let memory = memory();
        for address in [0xff8, 0x1000, !ENABLE] {
            set_system_time(&memory, address | ENABLE, true);
            set_wall_clock(&memory, address, 1);
        }
    }
}
