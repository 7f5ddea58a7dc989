//! What debuggers need, on KVM.
//!
//! Places to stop at are marked by [tripwires](super::out_stop::Tripwires), which change nothing that
//! a guest sees but the byte itself.

use std::io;

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_dtable, kvm_segment};

use super::vcpu::KvmCpu;
use super::vm;
use crate::cpu::debug::{DebugCpu, FloatRegisters, Segment, SystemRegisters, Table};
use crate::cpu::{CpuError, CpuState, Exit, GuestCpu};
use crate::ram::GuestRam;

impl KvmCpu {
    /// The last exit was a tripwire's: the processor stands before the instruction again, and the
    /// OUT was never there.
    pub(super) fn stand_at_tripwire(&mut self) -> Result<(), CpuError> {
        let before = self.registers()?;
        self.complete_access()?;
        self.set_registers(&before)?;
        // Registers set in the shared page are taken over with the next entry only.
        self.complete_access()
    }
}

fn segment(s: &kvm_segment) -> Segment {
    Segment {
        selector: s.selector,
        base: s.base,
        limit: s.limit,
        kind: s.type_,
        dpl: s.dpl,
        long: s.l != 0,
        usable: s.unusable == 0,
    }
}

fn table(t: &kvm_dtable) -> Table {
    Table {
        base: t.base,
        limit: t.limit,
    }
}

impl KvmCpu {
    /// See [`GuestCpu::twin`].
    pub(super) fn twin_with(&mut self, memory: &GuestRam) -> Result<Self, CpuError> {
        let cpuid = self
            .fd_ref()
            .get_cpuid2(KVM_MAX_CPUID_ENTRIES)
            .map_err(CpuError::failed_to("read the CPU model"))?;
        let mut twin = vm::Machine::open()
            .and_then(|kvm| vm::processor(&kvm, &cpuid, memory))
            .map_err(io::Error::other)
            .map_err(CpuError::failed_to("make a machine for the debugger"))?;
        twin.load(&self.save()?)?;
        let wants_window = self.fd().get_kvm_run().request_interrupt_window != 0;
        twin.request_interrupt_window(wants_window);
        Ok(twin)
    }
}

impl DebugCpu for KvmCpu {
    fn system_registers(&mut self) -> Result<SystemRegisters, CpuError> {
        let s = self
            .fd_ref()
            .get_sregs()
            .map_err(CpuError::failed_to("read the control registers"))?;
        Ok(SystemRegisters {
            cs: segment(&s.cs),
            ss: segment(&s.ss),
            ds: segment(&s.ds),
            es: segment(&s.es),
            fs: segment(&s.fs),
            gs: segment(&s.gs),
            tr: segment(&s.tr),
            ldtr: segment(&s.ldt),
            gdtr: table(&s.gdt),
            idtr: table(&s.idt),
            cr0: s.cr0,
            cr2: s.cr2,
            cr3: s.cr3,
            cr4: s.cr4,
            cr8: s.cr8,
            efer: s.efer,
        })
    }

    fn float_registers(&mut self) -> Result<FloatRegisters, CpuError> {
        let fpu = self
            .fd_ref()
            .get_fpu()
            .map_err(CpuError::failed_to("read the FPU registers"))?;
        Ok(FloatRegisters {
            st: fpu
                .fpr
                .map(|st| *st.first_chunk().expect("16 bytes hold 10")),
            control: fpu.fcw,
            status: fpu.fsw,
            used: fpu.ftwx,
            xmm: fpu.xmm.map(u128::from_le_bytes),
            mxcsr: fpu.mxcsr,
        })
    }

    fn step(&mut self) -> Result<Option<Exit>, CpuError> {
        KvmCpu::step(self)
    }

    fn set_tripwires(&mut self, addresses: &[u64]) -> Result<(), CpuError> {
        let memory = self.memory().clone();
        let mut wires = std::mem::take(self.tripwires());
        wires.clear(&memory);
        for &linear in addresses {
            if let Some(physical) = self.translate(linear) {
                wires.add(&memory, linear, physical);
            }
        }
        *self.tripwires() = wires;
        Ok(())
    }
}
