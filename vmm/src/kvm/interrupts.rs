//! When an interrupt can be injected.
//!
//! KVM's word for it depends on what the host did in some places, and there it is not taken: an
//! interrupt must be deliverable at the same places in every run.

use std::io;

use kvm_bindings::kvm_interrupt;
use vm_memory::{Bytes, GuestAddress};

use super::KvmCpu;
use crate::cpu::{CpuError, GuestCpu, RFLAGS_TF};

/// The opcode of STI.
const STI: u8 = 0xfb;
/// An instruction of a compiler's has no more prefixes before its opcode: two for sizes, REP, a
/// segment's, REX.
const MOST_PREFIXES: u64 = 6;

/// Whether the instruction with these bytes is INS.
fn is_string_input(mut code: impl Iterator<Item = u8>) -> bool {
    let is_prefix = |byte: &u8| {
        let segment = [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65];
        let size_or_repeat = [0x66, 0x67, 0xf2, 0xf3];
        segment.contains(byte) || size_or_repeat.contains(byte) || byte & 0xf0 == 0x40
    };
    matches!(code.find(|byte| !is_prefix(byte)), Some(0x6c | 0x6d))
}

impl KvmCpu {
    /// Whether an interrupt can be injected here ([`GuestCpu::ready_for_interrupt`]).
    pub(super) fn takes_interrupt(&mut self) -> bool {
        let run = self.fd().get_kvm_run();
        let ready = run.ready_for_interrupt_injection != 0 && run.if_flag != 0;
        // Where an instruction in STI's shadow exits, KVM says that no interrupt can be taken; but
        // when a host interrupt has hit the shadow before, it says the opposite (seen once in some
        // thousand). There interrupts always wait for the window, which opens right behind the
        // instruction either way. They wait as well where completing the exit may raise an exception
        // (see `hold_interrupts`), and where something else waits to be delivered: KVM before Linux 5.14
        // does not look.
        ready
            && !self.behind_sti()
            && !self.may_fault()
            && self.event_on_its_way().is_ok_and(|waits| !waits)
    }

    /// Has KVM deliver the interrupt `vector` at the next entry.
    pub(super) fn queue_interrupt(&mut self, vector: u8) -> Result<(), CpuError> {
        // kvm-ioctls has no KVM_INTERRUPT, which only makes sense without an in-kernel irqchip.
        vmm_sys_util::ioctl_iow_nr!(KVM_INTERRUPT, kvm_bindings::KVMIO, 0x86, kvm_interrupt);
        let interrupt = kvm_interrupt {
            irq: u32::from(vector),
        };
        // SAFETY: the file descriptor is a vCPU's and KVM only reads the structure.
        let result = unsafe {
            vmm_sys_util::ioctl::ioctl_with_ref(self.fd_ref(), KVM_INTERRUPT(), &interrupt)
        };
        if result < 0 {
            return Err(CpuError::failed_to("inject an interrupt")(
                io::Error::last_os_error(),
            ));
        }
        // One at a time: a second KVM_INTERRUPT before the next entry would replace the first
        // without a word, and its line would stay in service for ever.
        self.hold_interrupts();
        Ok(())
    }

    /// Whether the instruction before RIP may be STI, in which case the window could have been
    /// reported inside STI's interrupt shadow.
    pub(super) fn behind_sti(&mut self) -> bool {
        let Some(before) = self.synced().rip.checked_sub(1) else {
            return false;
        };
        let physical = self.translate(before).map(GuestAddress);
        physical.is_some_and(|at| self.memory().read_obj(at).is_ok_and(|byte: u8| byte == STI))
    }

    /// Whether completing the last exit may raise an exception that no VMM asked for: where the guest
    /// single-steps itself, and where a string instruction stores what it read.
    fn may_fault(&mut self) -> bool {
        let registers = self.synced();
        let reads_port = self.reads_port();
        registers.rflags & RFLAGS_TF != 0
            || reads_port
                && is_string_input((0..MOST_PREFIXES).map_while(|n| {
                    let physical = self.translate(registers.rip.wrapping_add(n))?;
                    self.memory().read_obj(GuestAddress(physical)).ok()
                }))
    }

    /// No interrupt can be injected before the next exit, which sets the flag anew.
    ///
    /// Used where completing the exit may raise an exception: KVM then delivers the exception and
    /// forgets an interrupt that was queued beside it (seen with a refused RDMSR, Linux 6.1).
    pub(super) fn hold_interrupts(&mut self) {
        self.fd().get_kvm_run().ready_for_interrupt_injection = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn string_input_is_told_from_other_reads_of_ports() {
        for (code, expected) in [
            (&[0x6c][..], true),
            (&[0xf3, 0x6d], true),
            (&[0xf3, 0x66, 0x48, 0x6d], true),
            (&[0xe4, 0x6c], false), // in al, 0x6c
            (&[0x66, 0xed], false), // in ax, dx
            (&[0xf3, 0x6f], false), // rep outsd
            (&[0xf3], false),
            (&[], false),
        ] {
            assert_eq!(is_string_input(code.iter().copied()), expected, "{code:x?}");
        }
    }
}
