//! Single steps and breakpoints, as KVM's guest debugging has them.

use kvm_bindings::{
    KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, kvm_guest_debug,
};

use super::vcpu::{KvmCpu, Returned};
use crate::cpu::{CpuError, Exit};

impl KvmCpu {
    /// Switches single-stepping on for the next entry, or off.
    pub(super) fn single_step(&mut self, on: bool) -> Result<(), CpuError> {
        let control = if on {
            KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP
        } else {
            0
        };
        let debug = kvm_guest_debug {
            control,
            ..Default::default()
        };
        self.set_guest_debug(&debug, "single-step the guest")
    }

    fn set_guest_debug(
        &mut self,
        debug: &kvm_guest_debug,
        action: &'static str,
    ) -> Result<(), CpuError> {
        self.fd()
            .set_guest_debug(debug)
            .map_err(CpuError::failed_to(action))
    }

    /// Runs with a hardware breakpoint at `rip`. Returns the exit that came in its place, if one
    /// did.
    pub(super) fn run_to_breakpoint(&mut self, rip: u64) -> Result<Option<Exit>, CpuError> {
        const DR7_FIRST_EXECUTES: u64 = 0x402; // G0, and the bit that is always set
        let mut debug = kvm_guest_debug {
            control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP,
            ..Default::default()
        };
        debug.arch.debugreg[0] = rip;
        debug.arch.debugreg[7] = DR7_FIRST_EXECUTES;
        self.set_guest_debug(&debug, "set a breakpoint")?;
        let stop = self.run_once()?;
        self.single_step(false)?;
        Ok(unless_debug_stop(stop))
    }

    /// Steps over one instruction. Returns the exit that came in its place, if one did.
    pub(super) fn step(&mut self) -> Result<Option<Exit>, CpuError> {
        self.single_step(true)?;
        let stop = self.run_once()?;
        self.single_step(false)?;
        Ok(unless_debug_stop(stop))
    }
}

fn unless_debug_stop(stop: Returned) -> Option<Exit> {
    match stop {
        Returned::Stepped => None,
        Returned::Window => Some(Exit::InterruptWindow),
        Returned::Exit(exit) => Some(exit),
    }
}
