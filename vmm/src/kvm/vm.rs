//! A virtual machine on KVM: memory, CPU model, MSR filter, and its one vCPU.

use std::path::Path;

use kvm_bindings::{
    CpuId, KVM_API_VERSION, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_MSR_EXIT_REASON_FILTER,
    KVM_MSR_EXIT_REASON_INVAL, kvm_enable_cap, kvm_regs, kvm_segment,
};
use kvm_ioctls::{Cap, Kvm};

use super::cpu_model::{CpuModel, CpuModelError};
use super::memory_slot::{keep_shadow_pages, map_memory};
use super::vcpu::KvmCpu;
use crate::boot::EntryState;
use crate::config::Clock;
use crate::devices::apic;
use crate::ram::{self, GuestRam, RamError};

/// Where Intel's KVM keeps its task state segment: below 4 GiB, outside RAM.
const TSS_ADDRESS: usize = 0xfffb_d000;

/// A virtual machine on KVM.
pub struct Machine {
    cpu: KvmCpu,
    memory: GuestRam,
    model: CpuModel,
}

/// Why a virtual machine could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// `/dev/kvm` cannot be opened.
    #[error(
        "cannot open /dev/kvm: {}",
        if Path::new("/dev/kvm").exists() {
            "run as root or as a member of group kvm"
        } else {
            "load the kernel module kvm_intel or kvm_amd (and enable virtualisation in the firmware)"
        }
    )]
    Open(#[source] kvm_ioctls::Error),
    /// KVM speaks another API.
    #[error("/dev/kvm speaks API version {0}, ftvm needs {KVM_API_VERSION}")]
    ApiVersion(i32),
    /// KVM lacks a capability.
    #[error("this host's KVM lacks {0}: use Linux 5.10 or newer")]
    Capability(&'static str),
    /// The CPU model cannot be had.
    #[error(transparent)]
    CpuModel(#[from] CpuModelError),
    /// An operation failed.
    #[error("KVM failed to {action}")]
    Failed {
        /// What was tried.
        action: &'static str,
        /// KVM's answer.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// Guest memory cannot be allocated.
    #[error("cannot allocate {bytes} bytes of guest memory")]
    Memory {
        /// Size asked for.
        bytes: u64,
        /// Why not.
        source: RamError,
    },
}

pub(super) fn failed(action: &'static str) -> impl Fn(kvm_ioctls::Error) -> MachineError {
    move |source| MachineError::Failed { action, source }
}

/// Makes something, again where a signal came in between: KVM_CREATE_VM gives up then, and the kick of
/// a check before this one may come late.
fn uninterrupted<T>(
    mut make: impl FnMut() -> Result<T, kvm_ioctls::Error>,
) -> Result<T, kvm_ioctls::Error> {
    loop {
        match make() {
            Err(error) if error.errno() == libc::EINTR => {}
            made => return made,
        }
    }
}

impl Machine {
    /// Makes a virtual machine with `memory_bytes` of RAM from guest-physical address 0, whose
    /// processor offers this clock.
    ///
    /// # Errors
    /// [`MachineError`] says what the host lacks.
    pub fn new(memory_bytes: u64, clock: Clock) -> Result<Self, MachineError> {
        let kvm = Self::open()?;
        let model = CpuModel::for_host(&kvm)?.with_clock(clock);
        Self::with_model(&kvm, model, memory_bytes)
    }

    /// Opens KVM and sees that it has what is needed.
    pub(super) fn open() -> Result<Kvm, MachineError> {
        let kvm = Kvm::new().map_err(MachineError::Open)?;
        match kvm.get_api_version() {
            version if version == KVM_API_VERSION as i32 => {}
            version => return Err(MachineError::ApiVersion(version)),
        }
        for (cap, name) in [
            (
                Cap::SyncRegs,
                "registers in the shared page (KVM_CAP_SYNC_REGS)",
            ),
            (
                Cap::X86UserSpaceMsr,
                "user-space MSR exits (KVM_CAP_X86_USER_SPACE_MSR)",
            ),
            (Cap::X86MsrFilter, "MSR filters (KVM_CAP_X86_MSR_FILTER)"),
            (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
        ] {
            if !kvm.check_extension(cap) {
                return Err(MachineError::Capability(name));
            }
        }
        if kvm.check_extension_raw(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.into()) == 0 {
            let name = "a dirty log that is cleared by hand (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2)";
            return Err(MachineError::Capability(name));
        }
        Ok(kvm)
    }

    pub(super) fn with_model(
        kvm: &Kvm,
        model: CpuModel,
        memory_bytes: u64,
    ) -> Result<Self, MachineError> {
        let memory = ram::allocate(memory_bytes).map_err(|source| MachineError::Memory {
            bytes: memory_bytes,
            source,
        })?;
        Ok(Self {
            cpu: processor(kvm, &model.to_cpuid(), &memory)?,
            memory,
            model,
        })
    }

    /// Guest memory.
    #[must_use]
    pub fn memory(&self) -> &GuestRam {
        &self.memory
    }

    /// The processor that the guest sees.
    #[must_use]
    pub fn cpu_model(&self) -> &CpuModel {
        &self.model
    }

    /// The vCPU. It keeps the virtual machine and its memory alive by itself: the kernel counts a
    /// vCPU's file as a user of its machine.
    #[must_use]
    pub fn into_cpu(self) -> KvmCpu {
        self.cpu
    }

    /// Puts the vCPU at a kernel's 64-bit entry point.
    ///
    /// # Errors
    /// [`MachineError::Failed`] when KVM refuses the state.
    pub fn enter_at(&mut self, entry: &EntryState) -> Result<(), MachineError> {
        let fd = self.cpu.fd();
        let mut sregs = fd
            .get_sregs()
            .map_err(failed("read the control registers"))?;
        let code = segment(entry.code_selector, 0xb);
        let data = segment(entry.data_selector, 0x3);
        sregs.cs = code;
        sregs.ds = data;
        sregs.es = data;
        sregs.fs = data;
        sregs.gs = data;
        sregs.ss = data;
        sregs.gdt.base = entry.gdt_address;
        sregs.gdt.limit = entry.gdt_limit;
        sregs.idt.base = 0;
        sregs.idt.limit = 0;
        sregs.cr0 = entry.cr0;
        sregs.cr3 = entry.cr3;
        sregs.cr4 = entry.cr4;
        sregs.efer = entry.efer;
        fd.set_sregs(&sregs)
            .map_err(failed("set the control registers"))?;
        let regs = kvm_regs {
            rip: entry.rip,
            rsi: entry.boot_params,
            rsp: entry.stack,
            rflags: 2,
            ..Default::default()
        };
        fd.set_regs(&regs).map_err(failed("set the registers"))
    }
}

/// A processor with this CPU model in a new virtual machine with this memory.
pub(super) fn processor(
    kvm: &Kvm,
    cpuid: &CpuId,
    memory: &GuestRam,
) -> Result<KvmCpu, MachineError> {
    let vm = uninterrupted(|| kvm.create_vm()).map_err(failed("create a virtual machine"))?;
    vm.set_tss_address(TSS_ADDRESS)
        .map_err(failed("set the TSS address"))?;
    map_memory(&vm, memory, 0).map_err(failed("map guest memory"))?;
    keep_shadow_pages(&vm, memory).map_err(failed("make room for shadow pages"))?;
    let user_space_msr = kvm_enable_cap {
        cap: Cap::X86UserSpaceMsr as u32,
        args: [
            u64::from(KVM_MSR_EXIT_REASON_FILTER | KVM_MSR_EXIT_REASON_INVAL),
            0,
            0,
            0,
        ],
        ..Default::default()
    };
    vm.enable_cap(&user_space_msr)
        .map_err(failed("enable user-space MSR exits"))?;
    super::msrs::install_filter(&vm).map_err(failed("install the MSR filter"))?;

    let fd = vm.create_vcpu(0).map_err(failed("create the vCPU"))?;
    fd.set_cpuid2(cpuid).map_err(failed("set the CPU model"))?;
    // KVM has no local APIC here, but what CPUID says of one follows this register.
    let mut sregs = fd
        .get_sregs()
        .map_err(failed("read the control registers"))?;
    sregs.apic_base = apic::BASE_VALUE;
    fd.set_sregs(&sregs)
        .map_err(failed("set the control registers"))?;
    Ok(KvmCpu::new(fd, vm, memory.clone()))
}

/// A flat segment of the kernel, as the GDT of [`crate::boot`] describes it. `kind` is the
/// descriptor's type; with bit 3 set it is 64-bit code.
pub(super) fn segment(selector: u16, kind: u8) -> kvm_segment {
    let code = kind & 8 != 0;
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_: kind,
        present: 1,
        dpl: 0,
        db: u8::from(!code),
        s: 1,
        l: u8::from(code),
        g: 1,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_does_not_keep_a_machine_from_being_made() {
        let mut answers = [libc::EINTR, libc::EINTR, 0, libc::ENOMEM].into_iter();
        let mut make = || match answers.next() {
            Some(0) => Ok("a machine"),
            other => Err(kvm_ioctls::Error::new(other.expect("asked no more often"))),
        };
        assert_eq!(uninterrupted(&mut make), Ok("a machine"));
        let refused = uninterrupted(&mut make).expect_err("KVM refuses");
        assert_eq!(refused.errno(), libc::ENOMEM);
    }
}
