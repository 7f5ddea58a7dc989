//! One virtual processor on KVM.

use std::time::Instant;

use kvm_bindings::{KVM_EXIT_IO_OUT, KVM_SYNC_X86_REGS, KVM_SYNC_X86_SREGS, kvm_regs, kvm_sregs};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress};

use super::cr4::allows;
use super::memory_slot;
use super::out_stop::Tripwires;
use super::paging::Paging;
use super::registers;
use super::write_log::WriteLog;
use crate::cpu::{
    CpuError, CpuState, Exit, GuestCpu, Look, PortAccess, Registers, register_digest,
};
use crate::page_tables;
use crate::ram::{GuestRam, PAGE, PageSet};

/// Where the bytes of the pending access are.
#[derive(Clone, Copy)]
enum PendingAccess {
    None,
    /// In the I/O page behind `kvm_run`.
    Port {
        offset: usize,
        len: usize,
        write: bool,
    },
    /// In `kvm_run.mmio`.
    Mmio {
        len: usize,
    },
}

/// Why one KVM_RUN returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Returned {
    Exit(Exit),
    /// The interrupt window is open, or nearly.
    Window,
    /// One instruction was stepped over.
    Stepped,
}

/// A vCPU of KVM.
pub struct KvmCpu {
    fd: VcpuFd,
    vm: VmFd,
    memory: GuestRam,
    pending: PendingAccess,
    /// Model specific registers that are part of the state.
    msrs: Vec<u32>,
    /// Where a debugger wants it to stop.
    tripwires: Tripwires,
    /// Which pages the guest writes, if anybody wants to know.
    writes: Option<WriteLog>,
    paging: Paging,
}

impl KvmCpu {
    pub(super) fn new(mut fd: VcpuFd, vm: VmFd, memory: GuestRam) -> Self {
        // Registers travel in the shared kvm_run page at every exit: no ioctl for a digest.
        fd.get_kvm_run().kvm_valid_regs = u64::from(KVM_SYNC_X86_REGS);
        let msrs = super::msrs::known(&fd);
        Self {
            fd,
            vm,
            memory,
            pending: PendingAccess::None,
            msrs,
            tripwires: Tripwires::default(),
            writes: None,
            paging: Paging::of_host(),
        }
    }

    pub(super) fn memory(&self) -> &GuestRam {
        &self.memory
    }

    pub(super) fn tripwires(&mut self) -> &mut Tripwires {
        &mut self.tripwires
    }

    pub(super) fn msrs(&self) -> &[u32] {
        &self.msrs
    }

    /// Begins to log the guest's writes.
    pub(super) fn log_writes(&mut self) -> Result<(), CpuError> {
        self.writes = Some(WriteLog::start(&self.vm, &self.memory, self.paging)?);
        Ok(())
    }

    /// Adds the pages that the guest wrote since the last open look.
    ///
    /// # Panics
    /// If they are not logged.
    pub(super) fn take_writes(&mut self, look: Look, into: &mut PageSet) -> Result<(), CpuError> {
        let log = self.writes.as_mut().expect("writes are logged");
        log.take(&self.vm, look, into)
    }

    /// Who translates the guest's addresses.
    pub(super) fn paging(&self) -> Paging {
        self.paging
    }

    /// The log of the guest's writes, if there is one.
    pub(super) fn write_log(&mut self) -> Option<&mut WriteLog> {
        self.writes.as_mut()
    }

    /// Has the processor forget its TLB: KVM has it do so where CR3 changes.
    pub(super) fn flush_tlb(&mut self) -> Result<(), CpuError> {
        let sregs = self.sregs()?;
        let elsewhere = kvm_sregs {
            cr3: sregs.cr3 ^ PAGE as u64,
            ..sregs
        };
        self.set_control_registers(&elsewhere)?;
        self.set_control_registers(&sregs)
    }

    /// Has KVM begin anew with its shadow pages, and with the log of the guest's writes, which
    /// write-protects them.
    pub(super) fn drop_shadow_pages(&mut self) -> Result<(), CpuError> {
        let since = Instant::now();
        memory_slot::drop_shadow_pages(&self.vm, &self.memory)
            .map_err(CpuError::failed_to("drop the shadow pages"))?;
        let dropped = since.elapsed();
        if let Some(log) = &mut self.writes {
            log.forget(&self.vm)?;
        }
        log::debug!(
            "shadow pages dropped in {} us, the write log begun anew after {} us",
            dropped.as_micros(),
            since.elapsed().as_micros()
        );
        Ok(())
    }

    /// What was set in the shared page is not for the next entry any more.
    pub(super) fn forget_register_changes(&mut self) {
        self.fd.get_kvm_run().kvm_dirty_regs = 0;
    }

    /// Also brings the control registers along with every exit: for recordings that are verified
    /// at every exit, where [`GuestCpu::registers`] is called all the time.
    pub fn sync_control_registers(&mut self) {
        self.fd.get_kvm_run().kvm_valid_regs |= u64::from(KVM_SYNC_X86_SREGS);
    }

    pub(super) fn fd(&mut self) -> &mut VcpuFd {
        &mut self.fd
    }

    pub(super) fn fd_ref(&self) -> &VcpuFd {
        &self.fd
    }

    /// Segments and control registers at the last exit. Cheap with
    /// [`KvmCpu::sync_control_registers`].
    pub(super) fn control_registers(&mut self) -> Result<kvm_sregs, CpuError> {
        let run = self.fd.get_kvm_run();
        if run.kvm_valid_regs & u64::from(KVM_SYNC_X86_SREGS) == 0 {
            return self.sregs();
        }
        // SAFETY: KVM_SYNC_X86_SREGS is in kvm_valid_regs, so KVM filled the field.
        let sregs = unsafe { run.s.regs.sregs };
        Ok(kvm_sregs {
            // KVM sets bits for interrupts on their way in the shared page and never clears them.
            // Given back to it, an interrupt would come twice.
            interrupt_bitmap: [0; 4],
            ..sregs
        })
    }

    /// The general registers at the last exit.
    pub(super) fn synced(&mut self) -> kvm_regs {
        // SAFETY: the union's `regs` is filled by KVM at every exit because KVM_SYNC_X86_REGS is
        // set in kvm_valid_regs; all bit patterns are valid for it.
        unsafe { self.fd.get_kvm_run().s.regs.regs }
    }

    /// Whether the last exit waits for what a port is to answer.
    pub(super) fn reads_port(&self) -> bool {
        matches!(self.pending, PendingAccess::Port { write: false, .. })
    }

    fn internal_error(&mut self) -> CpuError {
        let rip = self.synced().rip;
        // SAFETY: the exit reason was KVM_EXIT_INTERNAL_ERROR, so `internal` is the active field;
        // all bit patterns are valid for it.
        let internal = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.internal };
        let mut bytes = vec![0; 15];
        let physical = self.translate(rip).map(GuestAddress);
        let known = physical.and_then(|at| self.memory.read(&mut bytes, at).ok());
        bytes.truncate(known.unwrap_or(0));
        CpuError::Emulation {
            rip,
            suberror: internal.suberror,
            bytes,
        }
    }

    fn sregs(&mut self) -> Result<kvm_sregs, CpuError> {
        self.fd
            .get_sregs()
            .map_err(CpuError::failed_to("read the control registers"))
    }

    /// Replaces segments and control registers.
    pub(super) fn set_control_registers(&mut self, sregs: &kvm_sregs) -> Result<(), CpuError> {
        self.fd
            .set_sregs(sregs)
            .map_err(CpuError::failed_to("set the control registers"))
    }
}

impl KvmCpu {
    /// Runs to the next exit or interrupt window.
    ///
    /// Where something is being delivered, there is no window, although KVM before Linux 5.14 may say
    /// so: when the delivery itself made an exit, which is the host's business alone. An interrupt that
    /// is injected there comes behind the delivery. (Newer ones: `kvm_vcpu_ready_for_interrupt_injection`
    /// in Linux, `arch/x86/kvm/x86.c`.)
    fn run_to_exit(&mut self) -> Result<Returned, CpuError> {
        loop {
            let returned = self.run_once()?;
            if returned != Returned::Window || !self.event_on_its_way()? {
                return Ok(returned);
            }
        }
    }

    /// One KVM_RUN.
    pub(super) fn run_once(&mut self) -> Result<Returned, CpuError> {
        self.pending = PendingAccess::None;
        let exit = match self.fd.run() {
            Ok(exit) => exit,
            Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => {
                return Ok(Returned::Exit(Exit::Kicked));
            }
            Err(e) => {
                return Err(CpuError::failed_to("run the guest")(e));
            }
        };
        Ok(Returned::Exit(match exit {
            VcpuExit::IoIn(..) | VcpuExit::IoOut(..) => {
                // SAFETY: the exit reason is KVM_EXIT_IO, so `io` is the active field.
                let io = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.io };
                let write = u32::from(io.direction) == KVM_EXIT_IO_OUT;
                self.pending = PendingAccess::Port {
                    offset: io.data_offset as usize,
                    len: usize::from(io.size) * io.count as usize,
                    write,
                };
                Exit::Io(PortAccess {
                    port: io.port,
                    write,
                    size: io.size,
                    count: io.count,
                })
            }
            VcpuExit::MmioRead(address, data) => {
                let len = data.len();
                self.pending = PendingAccess::Mmio { len };
                self.hold_interrupts();
                Exit::Mmio {
                    address,
                    write: false,
                    len: len as u8,
                }
            }
            VcpuExit::MmioWrite(address, data) => {
                let len = data.len();
                self.pending = PendingAccess::Mmio { len };
                self.hold_interrupts();
                Exit::Mmio {
                    address,
                    write: true,
                    len: len as u8,
                }
            }
            VcpuExit::Hlt => Exit::Halt {
                interruptible: self.fd.get_kvm_run().if_flag != 0,
            },
            VcpuExit::X86Rdmsr(msr) => Exit::Msr {
                index: msr.index,
                write: None,
            },
            VcpuExit::X86Wrmsr(msr) => Exit::Msr {
                index: msr.index,
                write: Some(msr.data),
            },
            VcpuExit::SetTpr => Exit::TaskPriority,
            VcpuExit::Shutdown => Exit::TripleFault,
            VcpuExit::Intr => Exit::Kicked,
            VcpuExit::IrqWindowOpen => return Ok(Returned::Window),
            VcpuExit::Debug(_) => return Ok(Returned::Stepped),
            VcpuExit::FailEntry(reason, _) => return Err(CpuError::Entry { reason }),
            VcpuExit::InternalError => return Err(self.internal_error()),
            other => return Err(CpuError::UnknownExit(format!("{other:?}"))),
        }))
    }
}

impl GuestCpu for KvmCpu {
    fn run(&mut self) -> Result<Exit, CpuError> {
        let mut exit = self.run_to_exit()?;
        // A host interrupt that hits the interrupt shadow of STI can make KVM report the window
        // one instruction early (a few in 10,000, seen on kvm_amd under emulation). The place
        // must be the same in every run, so directly behind a byte that looks like STI one more
        // instruction is executed. Where the byte only looks like STI, that moves the window by
        // one instruction, but in every run. Restoring the shadow instead does not help: KVM
        // reports the same place again.
        while exit == Returned::Window && self.behind_sti() {
            self.request_interrupt_window(false);
            self.single_step(true)?;
            exit = self.run_once()?;
            self.single_step(false)?;
            self.request_interrupt_window(true);
            if exit == Returned::Stepped {
                exit = if self.ready_for_interrupt() {
                    Returned::Window
                } else {
                    self.run_to_exit()?
                };
            }
        }
        if let Returned::Exit(Exit::Io(access)) = exit
            && !self.tripwires.is_empty()
        {
            let rip = self.synced().rip;
            if self.tripwires.hold(rip, access) {
                self.stand_at_tripwire()?;
                return Ok(Exit::Kicked);
            }
        }
        Ok(match exit {
            Returned::Exit(exit) => exit,
            Returned::Window => Exit::InterruptWindow,
            Returned::Stepped => return Err(CpuError::UnknownExit("an unasked debug stop".into())),
        })
    }

    fn io_data(&mut self) -> &mut [u8] {
        match self.pending {
            PendingAccess::None => &mut [],
            PendingAccess::Port { offset, len, .. } => {
                let run = std::ptr::from_mut(self.fd.get_kvm_run()).cast::<u8>();
                // SAFETY: KVM maps the I/O data page right behind kvm_run within the same mapping
                // (its size comes from KVM_GET_VCPU_MMAP_SIZE); data_offset and size * count came
                // from KVM with this exit and stay within it. The borrow of self keeps the
                // mapping alive and unaliased.
                unsafe { std::slice::from_raw_parts_mut(run.add(offset), len) }
            }
            PendingAccess::Mmio { len } => {
                // SAFETY: the last exit was KVM_EXIT_MMIO, so `mmio` is the active field.
                let mmio = unsafe { &mut self.fd.get_kvm_run().__bindgen_anon_1.mmio };
                &mut mmio.data[..len]
            }
        }
    }

    fn finish_tsc(&mut self, value: u64) {
        let low = (value as u32).to_le_bytes();
        let data = self.io_data();
        let len = data.len().min(low.len());
        data[..len].copy_from_slice(&low[..len]);
        let run = self.fd.get_kvm_run();
        run.s.regs.regs.rdx = value >> 32;
        run.kvm_dirty_regs |= u64::from(KVM_SYNC_X86_REGS);
    }

    fn finish_msr(&mut self, value: Option<u64>) {
        // SAFETY: called after an MSR exit, so `msr` is the active field.
        let msr = unsafe { &mut self.fd.get_kvm_run().__bindgen_anon_1.msr };
        msr.error = u8::from(value.is_none());
        msr.data = value.unwrap_or(0);
        if value.is_none() {
            self.hold_interrupts();
        }
    }

    fn ready_for_interrupt(&mut self) -> bool {
        self.takes_interrupt()
    }

    fn inject(&mut self, vector: u8) -> Result<(), CpuError> {
        self.queue_interrupt(vector)
    }

    fn request_interrupt_window(&mut self, wanted: bool) {
        self.fd.get_kvm_run().request_interrupt_window = u8::from(wanted);
    }

    fn registers(&mut self) -> Result<Registers, CpuError> {
        let r = self.synced();
        let cr3 = if self.fd.get_kvm_run().kvm_valid_regs & u64::from(KVM_SYNC_X86_SREGS) != 0 {
            // SAFETY: KVM_SYNC_X86_SREGS is in kvm_valid_regs, so KVM filled the field.
            unsafe { self.fd.get_kvm_run().s.regs.sregs.cr3 }
        } else {
            self.sregs()?.cr3
        };
        Ok(registers::from_kvm(&r, cr3))
    }

    fn register_digest(&mut self) -> Result<u32, CpuError> {
        Ok(register_digest(registers::from_kvm(&self.synced(), 0)))
    }

    fn set_registers(&mut self, registers: &Registers) -> Result<(), CpuError> {
        let run = self.fd.get_kvm_run();
        run.s.regs.regs = registers::to_kvm(registers);
        run.kvm_dirty_regs |= u64::from(KVM_SYNC_X86_REGS);
        Ok(())
    }

    fn write_cr4(&mut self, value: u64) -> Result<bool, CpuError> {
        let sregs = self.sregs()?;
        if !allows(&sregs, value) {
            return Ok(false);
        }
        let changed = kvm_sregs {
            cr4: value,
            ..sregs
        };
        match self.set_control_registers(&changed) {
            // All else was there already: the processor's model does not have one of the bits.
            Err(CpuError::Hypervisor { source, .. })
                if source.raw_os_error() == Some(libc::EINVAL) =>
            {
                Ok(false)
            }
            set => set.map(|()| true),
        }
    }

    fn raise_general_protection(&mut self) -> Result<(), CpuError> {
        const OUT_BYTES: u64 = 2;
        self.complete_access()?;
        let behind = self.synced().rip;
        self.inject_general_protection(behind.wrapping_sub(OUT_BYTES))?;
        self.hold_interrupts();
        Ok(())
    }

    fn task_priority(&mut self) -> u8 {
        self.fd.get_kvm_run().cr8 as u8 & 0xf
    }

    fn set_task_priority(&mut self, class: u8) {
        self.fd.get_kvm_run().cr8 = u64::from(class);
    }

    fn idt_base(&mut self) -> Result<u64, CpuError> {
        Ok(self.sregs()?.idt.base)
    }

    fn translate(&mut self, linear: u64) -> Option<u64> {
        let sregs = self.control_registers().ok()?;
        let control = page_tables::Control {
            cr0: sregs.cr0,
            cr3: sregs.cr3,
            cr4: sregs.cr4,
            efer: sregs.efer,
        };
        page_tables::translate(&self.memory, control, linear)
    }

    fn rip(&mut self) -> Result<u64, CpuError> {
        Ok(self.synced().rip)
    }

    fn twin(&mut self, memory: &GuestRam) -> Result<Option<Box<dyn GuestCpu>>, CpuError> {
        Ok(Some(Box::new(self.twin_with(memory)?)))
    }

    fn for_debugger(&mut self) -> Option<&mut dyn crate::cpu::debug::DebugCpu> {
        Some(self)
    }
}
