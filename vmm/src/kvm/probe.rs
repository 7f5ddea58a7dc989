//! Micro-guests: a few instructions in 64-bit mode on a virtual machine of their own, to find out
//! what this host's KVM really does.
//!
//! They run on the same [`Machine`] and [`KvmCpu`] as guests do. Everything lies in the first 2 MiB, mapped
//! one to one and open to user mode:
//!
//! ```text
//!  0x1000 page tables     0x6000 task state      0x10000 kernel code
//!  0x4000 GDT             0x7000 handlers        0x11000 user code
//!  0x5000 IDT             0x9000 kernel stack    0x12000 SYSCALL entry
//!                         0xb000 user stack      0x13000 data
//! ```
//!
//! Every exception and interrupt has a handler of its own that writes to `HANDLER_PORT`, so that
//! it shows up as an [`Event::Vector`].

use std::time::{Duration, Instant};

use kvm_bindings::{Msrs, kvm_msr_entry, kvm_regs, kvm_segment};
use vm_memory::{Bytes, GuestAddress};

use super::vm::{failed, segment};
use super::{CpuModel, KvmCpu, Machine, MachineError};
use crate::cpu::{CpuError, CpuState, Exit, GuestCpu};
use crate::ram::PAGE;

/// Where the kernel's code starts.
pub const KERNEL: u64 = 0x1_0000;
/// Where the user's code starts.
pub const USER: u64 = 0x1_1000;
/// User stack pointer.
pub const USER_STACK: u64 = 0xb000;
/// Free memory.
pub const DATA: u64 = 0x1_3000;
/// Selector of user code, with privilege level 3.
pub const USER_CODE: u64 = 0x2b;
/// Selector of user data, with privilege level 3.
pub const USER_DATA: u64 = 0x23;
/// CR4.TSD: RDTSC faults outside the kernel.
pub const CR4_TSD: u64 = 1 << 2;

const SYSCALL_ENTRY: u64 = 0x1_2000;
const HANDLER_PORT: u16 = 0xee;
const MEMORY: u64 = 2 << 20;
/// Number of pages of memory.
pub const PAGES: u64 = MEMORY / PAGE as u64;
/// Page tables: the processor writes them too.
pub const TABLE_PAGES: std::ops::RangeInclusive<u64> = PML4 >> 12..=PD >> 12;
/// The page directory's entry for the second 2 MiB of addresses, which are not mapped.
pub const SECOND_DIRECTORY_ENTRY: u64 = PD + 8;
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
const GDT: u64 = 0x4000;
const IDT: u64 = 0x5000;
const TSS: u64 = 0x6000;
const HANDLERS: u64 = 0x7000;
const HANDLER_BYTES: u64 = 16;
/// Where a handler's IRETQ is, behind its OUT.
const HANDLER_IRETQ: u64 = 2;
const KERNEL_STACK: u64 = 0x9000;
const VECTORS: u64 = 0x60;
const KERNEL_CODE: u16 = 0x08;
const KERNEL_DATA: u16 = 0x10;
const TASK: u16 = 0x30;

/// Null, kernel code and data, 32-bit kernel code, user data, user code, and a task state segment of
/// two words. SYSRET goes by this order, and has 32-bit user code in the fourth place, which nothing
/// here returns to.
const GDT_ENTRIES: [u64; 8] = [
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_9b00_0000_ffff,
    0x00cf_f300_0000_ffff,
    0x00af_fb00_0000_ffff,
    0x0000_8b00_0000_0067 | TSS << 16,
    0,
];

const CR0: u64 = 0x8000_0033; // PG, NE, ET, MP, PE
const CR4: u64 = 0x620; // OSXMMEXCPT, OSFXSR, PAE
const EFER: u64 = 0x501; // LMA, LME, SCE
const MSR_STAR: u32 = 0xc000_0081;
const MSR_LSTAR: u32 = 0xc000_0082;
const MSR_SFMASK: u32 = 0xc000_0084;
const RFLAGS_IF: u64 = 1 << 9;

/// Where the handler of `vector` begins.
#[must_use]
pub const fn handler(vector: u8) -> u64 {
    HANDLERS + HANDLER_BYTES * vector as u64
}

/// A micro-guest's code.
#[derive(Debug, Clone, Copy, Default)]
pub struct Program<'a> {
    /// At [`KERNEL`], where it starts.
    pub kernel: &'a [u8],
    /// At [`USER`].
    pub user: &'a [u8],
    /// Where SYSCALL goes.
    pub syscall: &'a [u8],
    /// Bits set in CR4 beside the usual ones.
    pub cr4: u64,
}

/// What a micro-guest came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// An exit of the program.
    Exit(Exit),
    /// The handler of an exception or interrupt was entered.
    Vector {
        /// Which.
        vector: u8,
        /// Where it interrupted the program.
        rip: u64,
        /// Privilege level that it interrupted.
        cpl: u8,
    },
}

/// Why a micro-guest did not come to anything.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The processor failed.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// It ran too long without an exit.
    #[error("the micro-guest made no exit for {} ms, and is at {rip:#x}", patience.as_millis())]
    Hung {
        /// For so long.
        patience: Duration,
        /// Where it is by then.
        rip: u64,
    },
    /// KVM refused its state.
    #[error(transparent)]
    State(#[from] MachineError),
}

/// So many signals at least are sent to a guest before it is taken for hung.
const KICKS: u32 = 20;

/// A virtual machine for micro-guests.
pub struct MicroGuest {
    cpu: KvmCpu,
    memory: crate::ram::GuestRam,
    model: CpuModel,
    patience: Duration,
}

impl MicroGuest {
    /// The guests' CPU model, if this host has it.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn cpu_model_on_host() -> Result<CpuModel, MachineError> {
        Ok(CpuModel::for_host(&Machine::open()?)?)
    }

    /// A machine that gives up when the guest makes no exit for `patience`. The thread that runs
    /// it must be sent signals from time to time, or it waits for ever. The machine has the
    /// guests' CPU model even where the host lacks some of its features.
    ///
    /// # Errors
    /// [`MachineError`] says what the host lacks.
    pub fn new(patience: Duration) -> Result<Self, MachineError> {
        let kvm = Machine::open()?;
        let model = CpuModel::regardless(&kvm)?;
        let machine = Machine::with_model(&kvm, model, MEMORY)?;
        Ok(Self {
            memory: machine.memory().clone(),
            model: machine.cpu_model().clone(),
            cpu: machine.into_cpu(),
            patience,
        })
    }

    /// The processor that guests see on this host.
    #[must_use]
    pub fn cpu_model(&self) -> &CpuModel {
        &self.model
    }

    /// The processor.
    pub fn cpu(&mut self) -> &mut KvmCpu {
        &mut self.cpu
    }

    /// Its memory.
    #[must_use]
    pub fn memory(&self) -> &crate::ram::GuestRam {
        &self.memory
    }

    /// The processor alone, for something that runs it in another way.
    #[must_use]
    pub fn into_cpu(self) -> KvmCpu {
        self.cpu
    }

    /// Puts `program` at its start.
    ///
    /// # Errors
    /// [`MachineError::Failed`] when KVM refuses the state.
    pub fn load(&mut self, program: &Program<'_>) -> Result<(), MachineError> {
        // KVM would do so when this program starts, and change its registers. Whatever came of the
        // last program, it is over.
        let _ = self.cpu.complete_access();
        self.write_tables();
        for (address, code) in [
            (KERNEL, program.kernel),
            (USER, program.user),
            (SYSCALL_ENTRY, program.syscall),
        ] {
            self.write(address, code);
        }
        self.write(DATA, &[0; 64]);
        self.set_state(program.cr4)
    }

    /// Runs to the next event.
    ///
    /// # Errors
    /// [`ProbeError`].
    pub fn run(&mut self) -> Result<Event, ProbeError> {
        let started = Instant::now();
        let mut kicks = 0;
        loop {
            match self.cpu.run()? {
                Exit::Kicked if self.is_out_of_patience(started, &mut kicks) => {
                    return Err(self.hung());
                }
                Exit::Kicked => {}
                Exit::Io(access) if access.port == HANDLER_PORT => return Ok(self.vector()?),
                exit => return Ok(Event::Exit(exit)),
            }
        }
    }

    /// A signal came, and no exit. Time alone also passes for a guest whose host stands still.
    fn is_out_of_patience(&self, since: Instant, kicks: &mut u32) -> bool {
        *kicks += 1;
        *kicks >= KICKS && since.elapsed() >= self.patience
    }

    fn hung(&mut self) -> ProbeError {
        match self.cpu.rip() {
            Ok(rip) => ProbeError::Hung {
                patience: self.patience,
                rip,
            },
            Err(error) => error.into(),
        }
    }

    /// Steps over one instruction; returns RIP behind it.
    ///
    /// # Errors
    /// [`ProbeError`], also when an exit came instead.
    pub fn step(&mut self) -> Result<u64, ProbeError> {
        let started = Instant::now();
        let mut kicks = 0;
        loop {
            match self.cpu.step()? {
                None => return Ok(self.cpu.rip()?),
                Some(Exit::Kicked) if !self.is_out_of_patience(started, &mut kicks) => {}
                Some(Exit::Kicked) => return Err(self.hung()),
                Some(exit) => {
                    let exit = format!("{exit:?} in place of a debug stop");
                    return Err(CpuError::UnknownExit(exit).into());
                }
            }
        }
    }

    /// Runs with a hardware breakpoint at `rip`; returns where it stopped, `None` if an exit came
    /// first.
    ///
    /// # Errors
    /// [`ProbeError`].
    pub fn run_to_breakpoint(&mut self, rip: u64) -> Result<Option<u64>, ProbeError> {
        let started = Instant::now();
        let mut kicks = 0;
        loop {
            match self.cpu.run_to_breakpoint(rip)? {
                None => return Ok(Some(self.cpu.rip()?)),
                Some(Exit::Kicked) if !self.is_out_of_patience(started, &mut kicks) => {}
                Some(Exit::Kicked) => return Err(self.hung()),
                Some(_) => return Ok(None),
            }
        }
    }

    /// Returns from the handler of an exception with an error code to the instruction that
    /// faulted.
    ///
    /// # Errors
    /// [`CpuError`].
    pub fn return_from_fault(&mut self) -> Result<(), CpuError> {
        let mut registers = self.cpu.registers()?;
        let vector = registers.rip.wrapping_sub(HANDLERS) / HANDLER_BYTES;
        registers.rip = handler(vector as u8) + HANDLER_IRETQ;
        registers.gpr[6] += 8; // IRETQ expects no error code
        self.cpu.set_registers(&registers)
    }

    /// Reads 8 bytes of memory.
    #[must_use]
    pub fn read_word(&self, address: u64) -> u64 {
        self.memory.read_obj(GuestAddress(address)).unwrap_or(0)
    }

    /// Writes 8 bytes of memory, as a device would.
    pub fn write_word(&self, address: u64, value: u64) {
        self.write(address, &value.to_le_bytes());
    }

    /// Memory up to and with the page at [`DATA`]: all that a program uses that keeps to it.
    #[must_use]
    pub fn memory_image(&self) -> Vec<u8> {
        let mut image = vec![0; DATA as usize + PAGE];
        self.memory
            .read_slice(&mut image, GuestAddress(0))
            .expect("as much as there is");
        image
    }

    /// Replaces what [`MicroGuest::memory_image`] gave.
    pub fn set_memory(&self, image: &[u8]) {
        self.write(0, image);
    }

    /// Decodes the handler's exit: RIP lies in its handler, the frame is on the stack (AMD APM
    /// volume 2, section 8.9.3).
    fn vector(&mut self) -> Result<Event, CpuError> {
        let registers = self.cpu.registers()?;
        let vector = (registers.rip.wrapping_sub(HANDLERS) / HANDLER_BYTES) as u8;
        let has_error_code = matches!(vector, 8 | 10..=14 | 17);
        let frame = registers.gpr[6] + 8 * u64::from(has_error_code);
        let word = |at| self.memory.read_obj::<u64>(GuestAddress(at)).unwrap_or(0);
        Ok(Event::Vector {
            vector,
            rip: word(frame),
            cpl: word(frame + 8) as u8 & 3,
        })
    }

    fn write(&self, address: u64, bytes: &[u8]) {
        self.memory
            .write_slice(bytes, GuestAddress(address))
            .expect("everything lies in the first 2 MiB");
    }

    fn write_tables(&self) {
        const TABLE: u64 = 0x7; // present, writable, user
        const LARGE_PAGE: u64 = 0x87;
        self.write_word(PML4, PDPT | TABLE);
        self.write_word(PDPT, PD | TABLE);
        self.write_word(PD, LARGE_PAGE);
        for (n, entry) in (0..).zip(GDT_ENTRIES) {
            self.write_word(GDT + 8 * n, entry);
        }
        self.write(TSS, &[0; 0x68]);
        self.write_word(TSS + 4, KERNEL_STACK);
        for vector in 0..VECTORS {
            let handler = handler(vector as u8);
            // out HANDLER_PORT, al; iretq
            self.write(handler, &[0xe6, HANDLER_PORT as u8, 0x48, 0xcf]);
            const INTERRUPT_GATE: u64 = 0x8e << 40;
            let gate = handler & 0xffff | u64::from(KERNEL_CODE) << 16 | INTERRUPT_GATE;
            self.write_word(IDT + 16 * vector, gate | (handler >> 16 & 0xffff) << 48);
            self.write_word(IDT + 16 * vector + 8, 0);
        }
    }

    fn set_state(&mut self, cr4: u64) -> Result<(), MachineError> {
        let fd = self.cpu.fd();
        let mut sregs = fd
            .get_sregs()
            .map_err(failed("read the control registers"))?;
        let data = segment(KERNEL_DATA, 0x3);
        (sregs.cs, sregs.ss) = (segment(KERNEL_CODE, 0xb), data);
        (sregs.ds, sregs.es, sregs.fs, sregs.gs) = (data, data, data, data);
        sregs.tr = kvm_segment {
            base: TSS,
            limit: 0x67,
            s: 0,
            g: 0,
            l: 0,
            db: 0,
            ..segment(TASK, 0xb)
        };
        (sregs.gdt.base, sregs.gdt.limit) = (GDT, GDT_ENTRIES.len() as u16 * 8 - 1);
        (sregs.idt.base, sregs.idt.limit) = (IDT, VECTORS as u16 * 16 - 1);
        (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (CR0, PML4, CR4 | cr4, EFER);
        fd.set_sregs(&sregs)
            .map_err(failed("set the control registers"))?;

        let msr = |index, data| kvm_msr_entry {
            index,
            data,
            ..Default::default()
        };
        let msrs = Msrs::from_entries(&[
            // SYSRET adds 16 for code and 8 for the stack.
            msr(MSR_STAR, u64::from(KERNEL_CODE) << 32 | 0x18 << 48),
            msr(MSR_LSTAR, SYSCALL_ENTRY),
            msr(MSR_SFMASK, RFLAGS_IF),
        ])
        .expect("three entries fit");
        fd.set_msrs(&msrs)
            .map_err(failed("set the model specific registers"))?;

        fd.set_regs(&kvm_regs {
            rip: KERNEL,
            rsp: KERNEL_STACK,
            rflags: 2,
            ..Default::default()
        })
        .map_err(failed("set the registers"))
    }
}
