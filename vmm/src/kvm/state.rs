//! A vCPU's state as a whole (Linux, Documentation/virt/kvm/api.rst).

use std::ops::Range;

use kvm_bindings::{kvm_debugregs, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave};
use serde::{Deserialize, Serialize};

use super::msrs;
use super::paging::Paging;
use super::vcpu::{KvmCpu, Returned};
use crate::cpu::{CpuError, CpuState, Exit, Look, digest, digest_of};
use crate::ram::PageSet;

/// The XSAVE area's header begins with XSTATE_BV, which says what is not in its initial
/// configuration (Intel SDM volume 1, section 13.4.2). In 32-bit words.
const XSTATE_BV: usize = 512 / 4;
/// x87 and SSE state.
const LEGACY_STATE: u32 = 0b11;
/// The last x87 instruction's opcode, in the upper half of its word, and the addresses of it and of
/// its operand (Intel SDM volume 1, table 10-2). In 32-bit words.
const X87_OPCODE: usize = 1;
const X87_POINTERS: std::ops::Range<usize> = 2..6;

/// What of the FPU's state a replay must have as well: all contents, whether they count as initial or
/// not. But not the pointers to the last x87 instruction: where the processor does not keep them over
/// an exit (the doctor's check `x87_pointers`), they are the host's, and only FNSTENV would show them.
fn fpu_contents(xsave: &kvm_xsave) -> impl Iterator<Item = u64> {
    let mut words = xsave.region;
    words[XSTATE_BV] = 0;
    words[XSTATE_BV + 1] = 0;
    words[X87_OPCODE] &= 0xffff;
    words[X87_POINTERS].fill(0);
    words.into_iter().map(u64::from)
}

#[derive(Serialize, Deserialize)]
struct VcpuState {
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: kvm_xsave,
    xcrs: kvm_xcrs,
    msrs: Vec<(u32, u64)>,
    debug: kvm_debugregs,
    events: kvm_vcpu_events,
}

impl KvmCpu {
    fn read_state(&self) -> Result<VcpuState, CpuError> {
        let fd = self.fd_ref();
        let msrs = msrs::read(fd, self.msrs())?;
        Ok(VcpuState {
            regs: fd
                .get_regs()
                .map_err(CpuError::failed_to("read the general registers"))?,
            sregs: fd
                .get_sregs()
                .map_err(CpuError::failed_to("read the control registers"))?,
            xsave: fd
                .get_xsave()
                .map_err(CpuError::failed_to("read the FPU state"))?,
            xcrs: fd
                .get_xcrs()
                .map_err(CpuError::failed_to("read the extended control registers"))?,
            msrs,
            debug: fd
                .get_debug_regs()
                .map_err(CpuError::failed_to("read the debug registers"))?,
            events: fd
                .get_vcpu_events()
                .map_err(CpuError::failed_to("read the pending events"))?,
        })
    }

    fn write_state(&mut self, mut state: VcpuState) -> Result<(), CpuError> {
        let msrs = msrs::list(&state.msrs);
        // A processor may call a component "initial" that another saved as used with the same
        // content. The content is always there, so let it be used: with the bits clear, another
        // MXCSR came out.
        state.xsave.region[XSTATE_BV] |= LEGACY_STATE;
        let fd = self.fd();
        fd.set_sregs(&state.sregs)
            .map_err(CpuError::failed_to("set the control registers"))?;
        fd.set_regs(&state.regs)
            .map_err(CpuError::failed_to("set the general registers"))?;
        // The shared page has it too, and that is what KVM takes at the next entry.
        fd.get_kvm_run().cr8 = state.sregs.cr8;
        fd.set_xcrs(&state.xcrs)
            .map_err(CpuError::failed_to("set the extended control registers"))?;
        // SAFETY: KVM reads the 4 KiB of a kvm_xsave, because no guest has dynamically enabled
        // XSAVE features: the CPU model offers none.
        unsafe { fd.set_xsave(&state.xsave) }.map_err(CpuError::failed_to("set the FPU state"))?;
        let written = fd
            .set_msrs(&msrs)
            .map_err(CpuError::failed_to("set model specific registers"))?;
        if let Some((index, value)) = state.msrs.get(written) {
            return Err(CpuError::State(format!(
                "KVM refuses to set model specific register {index:#x} to {value:#x}"
            )));
        }
        fd.set_debug_regs(&state.debug)
            .map_err(CpuError::failed_to("set the debug registers"))?;
        // Last: setting registers drops pending exceptions.
        fd.set_vcpu_events(&state.events)
            .map_err(CpuError::failed_to("set the pending events"))
    }

    /// Has #GP with error code 0 delivered to the instruction at `rip`. Not while an access waits to
    /// be completed.
    pub(super) fn inject_general_protection(&mut self, rip: u64) -> Result<(), CpuError> {
        const VECTOR_GP: u8 = 13;
        let fd = self.fd();
        let mut regs = fd
            .get_regs()
            .map_err(CpuError::failed_to("read the general registers"))?;
        regs.rip = rip;
        fd.set_regs(&regs)
            .map_err(CpuError::failed_to("set the general registers"))?;
        fd.get_kvm_run().s.regs.regs = regs;
        let mut events = fd
            .get_vcpu_events()
            .map_err(CpuError::failed_to("read the pending events"))?;
        events.exception.injected = 1;
        events.exception.nr = VECTOR_GP;
        events.exception.has_error_code = 1;
        events.exception.error_code = 0;
        // Last: setting registers drops pending exceptions.
        fd.set_vcpu_events(&events)
            .map_err(CpuError::failed_to("set the pending events"))
    }

    /// Whether an interrupt or a fault was injected and not delivered yet.
    pub(super) fn event_on_its_way(&self) -> Result<bool, CpuError> {
        let events = self
            .fd_ref()
            .get_vcpu_events()
            .map_err(CpuError::failed_to("read the pending events"))?;
        Ok(events.interrupt.injected != 0 || events.exception.injected != 0)
    }

    /// Enters KVM without running the guest: finishes the last exit's access, and brings
    /// registers and interrupt readiness in the shared page up to date.
    pub(super) fn enter_without_running(&mut self) -> Result<Returned, CpuError> {
        self.fd().set_kvm_immediate_exit(1);
        let stop = self.run_once();
        self.fd().set_kvm_immediate_exit(0);
        stop
    }
}

impl CpuState for KvmCpu {
    fn complete_access(&mut self) -> Result<(), CpuError> {
        // A string instruction may need several turns, each an exit that is not answered any
        // more.
        while self.enter_without_running()? != Returned::Exit(Exit::Kicked) {}
        Ok(())
    }

    fn at_rest(&mut self) -> Result<bool, CpuError> {
        let events = self
            .fd()
            .get_vcpu_events()
            .map_err(CpuError::failed_to("read the pending events"))?;
        Ok(events.exception.injected == 0
            && events.exception.pending == 0
            && events.interrupt.injected == 0
            && events.interrupt.shadow == 0
            && events.nmi.injected == 0)
    }

    fn save(&mut self) -> Result<Vec<u8>, CpuError> {
        let state = self.read_state()?;
        Ok(postcard::to_allocvec(&state).expect("a vector takes everything"))
    }

    fn load(&mut self, state: &[u8]) -> Result<(), CpuError> {
        let state: VcpuState =
            postcard::from_bytes(state).map_err(|error| CpuError::State(error.to_string()))?;
        if !state
            .msrs
            .iter()
            .map(|(index, _)| index)
            .eq(self.msrs().iter())
        {
            return Err(CpuError::State(
                "its host's KVM knows other model specific registers: use the same kernel on both"
                    .into(),
            ));
        }
        self.write_state(state)?;
        self.forget_register_changes();
        self.complete_access()
    }

    fn part_digests(&mut self) -> Result<Vec<(&'static str, u32)>, CpuError> {
        let state = self.read_state()?;
        let sregs = &state.sregs;
        let segments = [
            sregs.cs, sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss, sregs.tr, sregs.ldt,
        ];
        let segments = segments.iter().flat_map(|s| {
            // Of an unusable segment only the selector is architectural.
            let used = u64::from(s.unusable == 0);
            [
                u64::from(s.selector),
                used * s.base,
                used * u64::from(s.limit),
                used * (u64::from(s.type_) << 8 | u64::from(s.dpl) << 4 | u64::from(s.l)),
            ]
        });
        let tables = [sregs.gdt, sregs.idt];
        let tables = tables.iter().flat_map(|t| [t.base, u64::from(t.limit)]);
        let control = [
            sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4, sregs.cr8, sregs.efer,
        ];
        let debug = &state.debug;
        Ok(vec![
            ("segments", digest_of(segments.chain(tables))),
            ("control registers", digest(&control)),
            ("FPU", digest_of(fpu_contents(&state.xsave))),
            (
                "model specific registers",
                digest_of(state.msrs.iter().map(|&(_, value)| value)),
            ),
            (
                "debug registers",
                digest_of(debug.db.iter().copied().chain([debug.dr6, debug.dr7])),
            ),
        ])
    }

    fn track_writes(&mut self) -> Result<(), CpuError> {
        self.log_writes()
    }

    fn take_written_pages(&mut self, look: Look, into: &mut PageSet) -> Result<(), CpuError> {
        self.take_writes(look, into)
    }

    fn looked_at(&mut self, look: Look, range: Range<u64>, unchanged: &PageSet) {
        if let Some(log) = self.write_log() {
            log.looked_at(look, range, unchanged);
        }
    }

    fn drop_translations(&mut self) -> Result<bool, CpuError> {
        match self.paging() {
            Paging::Shadow => self.drop_shadow_pages().map(|()| true),
            Paging::Nested => self.flush_tlb().map(|()| false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fpu_is_compared_without_the_pointers_to_its_last_instruction() {
        let digest = |at: usize| {
            let mut xsave = kvm_xsave::default();
            let word = &mut xsave.region[at / 4];
            *word |= 1 << (at % 4 * 8);
            digest_of(fpu_contents(&xsave))
        };
        let none = digest_of(fpu_contents(&kvm_xsave::default()));
        // FOP, FIP, FDP (FXSAVE's layout)
        for at in (6..24).chain([512]) {
            assert_eq!(digest(at), none, "byte {at}");
        }
        // FCW, FSW, FTW, MXCSR, the first and the last register
        for at in [0, 2, 4, 24, 32, 415] {
            assert_ne!(digest(at), none, "byte {at}");
        }
    }
}
