//! Time stamp counter reads in user mode.
//!
//! Programs read the counter with RDTSC even where CPUID hides it (the C library's loader does at
//! every start), and KVM cannot intercept that for user space. With CR4.TSD set, RDTSC and RDTSCP
//! fault outside the kernel (Intel SDM volume 2B, RDTSC; AMD APM volume 2, section 3.1.3). So:
//!
//! - every write of CR4 by the kernel exits ([`crate::rewrite`]), and TSD is added to it;
//! - the NOPs or the ENDBR64 at the start of the kernel's handlers of #GP and #UD are replaced by an
//!   OUT. At that exit the fault's stack frame is on top of the stack. If the instruction that faulted
//!   is a counter read in user mode, the VMM supplies the value, moves the frame's RIP past it,
//!   and lets the guest go back with an IRETQ. Any other fault goes on into the handler.
//!
//! RDTSCP, which the CPU model hides, is a #GP on one host and a #UD on another: Intel's processors
//! have no such instruction then, and neither have AMD's under a KVM that intercepts it (from Linux
//! 5.13 on). Programs get the same answer on all of them. RDPID gives the processor's number, without
//! a fault where an AMD processor has it, and as #UD elsewhere: 0 either way, as no guest has another
//! IA32_TSC_AUX.
//!
//! With page table isolation, which Linux has on Intel's processors, the kernel is not mapped at a
//! handler's first instruction, but for the code of its entry points. The IRETQ has to be one of
//! these: it is the nearest to the handler that is mapped there.
//!
//! Hypercalls of the kernel and of modules, which are rewritten as well, get the answer of a
//! hypervisor that knows none. In user mode KVM itself refuses every one (KVM_EPERM), on all hosts.
//!
//! Everything here happens at deterministic exits and depends on guest state only, so a replay
//! does the same.

#[cfg(test)]
mod tests;

use iced_x86::{Decoder, DecoderOptions, Mnemonic};
use vm_memory::{Bytes, GuestAddress};

use crate::cpu::{CpuError, GuestCpu, Registers};
use crate::ram::GuestRam;
use crate::rewrite::{CR4_PORT, HYPERCALL_PORT, Sites};
use crate::tsc_cache::TscCache;

/// A kind of fault that is looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fault {
    vector: u64,
    /// The port that stands for "its handler was entered".
    port: u16,
    /// What it leaves on the stack below the return address, in bytes: its error code.
    error_bytes: u64,
}

const GENERAL_PROTECTION: Fault = Fault {
    vector: 13,
    port: 0xe8,
    error_bytes: 8,
};
const INVALID_OPCODE: Fault = Fault {
    vector: 6,
    port: 0xe9,
    error_bytes: 0,
};
const FAULTS: [Fault; 2] = [GENERAL_PROTECTION, INVALID_OPCODE];

/// What a hypercall returns that is not known: -KVM_ENOSYS (Linux, `include/uapi/linux/kvm_para.h`).
const NO_SUCH_HYPERCALL: u64 = 1000u64.wrapping_neg();
const CR4_TSD: u64 = 1 << 2;
const RSP: usize = 6;
/// Where the first eight registers by their numbers in instructions are in [`Registers::gpr`]; the
/// others are in their own places.
const IN_GPR: [usize; 8] = [0, 2, 3, 1, 6, 7, 4, 5];
const OUT_AL: u8 = 0xe6;
const NOP: u8 = 0x90;
/// Length of the OUT that replaces NOPs.
const OUT_BYTES: usize = 2;

/// What an exit of one of the traps asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trapped {
    /// It is dealt with.
    Done,
    /// A user-mode read of the counter: [`TscTrap::answer`] it.
    CounterRead(CounterRead),
}

/// A counter read in user mode, in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CounterRead {
    back: Return,
    /// RDTSCP also gives IA32_TSC_AUX.
    with_aux: bool,
}

/// A way out of a fault's handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Return {
    /// Linear address of the frame, as IRETQ expects it.
    frame: u64,
    /// Where the guest goes on: behind the instruction.
    next: u64,
    /// It goes there by this IRETQ.
    iretq: u64,
}

/// An instruction that is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hidden {
    Rdtsc,
    Rdtscp,
    /// Into a general register, by its place in [`Registers::gpr`].
    Rdpid(usize),
}

const PAGE: u64 = crate::ram::PAGE as u64;
/// Of what a fault leaves on the kernel's stack, what is looked at at most.
const FRAME_BYTES: u64 = 24;
/// As Linux writes it to IA32_TSC_AUX for processor 0 on node 0.
const TSC_AUX: u64 = 0;

/// The frame that a fault leaves on the kernel's stack.
#[derive(Debug, Clone, Copy)]
struct FaultFrame {
    /// Linear address of RIP, where IRETQ expects it.
    at: u64,
    /// 0 where the fault has none.
    error: u64,
    rip: u64,
    cs: u64,
}

/// Traps counter reads in user mode.
pub struct TscTrap {
    /// What the kernel reads instead of the counter.
    pub cache: TscCache,
    memory: GuestRam,
    iretqs: Vec<u64>,
}

impl TscTrap {
    /// For a kernel rewritten at `sites`.
    #[must_use]
    pub fn new(sites: &Sites, memory: GuestRam) -> Self {
        Self {
            cache: TscCache::new(memory.clone(), sites.copy.map(|copy| copy.address)),
            memory,
            iretqs: sites.iretqs.clone(),
        }
    }

    /// Whether a write to `port` is one of the traps.
    #[must_use]
    pub fn owns(port: u16) -> bool {
        (CR4_PORT..CR4_PORT + 8).contains(&port)
            || port == HYPERCALL_PORT
            || FAULTS.iter().any(|fault| fault.port == port)
    }

    /// A write to one of the trap ports.
    ///
    /// # Errors
    /// [`CpuError`].
    pub fn trapped(&mut self, cpu: &mut dyn GuestCpu, port: u16) -> Result<Trapped, CpuError> {
        if let Some(fault) = FAULTS.iter().find(|fault| fault.port == port) {
            return self.fault(cpu, fault);
        }
        let mut registers = cpu.registers()?;
        if port == HYPERCALL_PORT {
            registers.gpr[0] = NO_SUCH_HYPERCALL;
            cpu.set_registers(&registers)?;
            return Ok(Trapped::Done);
        }
        let value = registers.gpr[IN_GPR[usize::from(port - CR4_PORT)]];
        if cpu.write_cr4(value | CR4_TSD)? {
            for n in 0..FAULTS.len() {
                self.hook(cpu, n)?;
            }
        } else {
            log::debug!("#GP for a write of {value:#x} to CR4");
            cpu.raise_general_protection()?;
        }
        Ok(Trapped::Done)
    }

    /// Puts the trap into the handler of fault `n`, once the kernel has one. Called where CR4 is
    /// written: the kernel does so after it has set up its interrupt descriptor table, long before it
    /// starts the first program.
    fn hook(&mut self, cpu: &mut dyn GuestCpu, n: usize) -> Result<(), CpuError> {
        let Fault { vector, port, .. } = FAULTS[n];
        let Some(handler) = self.handler(cpu, vector)? else {
            return Ok(());
        };
        let mut code = [0; 15];
        let Some(physical) = cpu.translate(handler) else {
            return Ok(());
        };
        let at = GuestAddress(physical);
        if self.memory.read_slice(&mut code, at).is_err() {
            return Ok(());
        }
        let mut room = 0;
        for instruction in &mut Decoder::with_ip(64, &code, handler, DecoderOptions::NONE) {
            let harmless = matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Endbr64);
            if !harmless || room >= OUT_BYTES {
                break;
            }
            room += instruction.len();
        }
        if room < OUT_BYTES {
            // The early handlers, before the kernel's own are in place; or a kernel that starts
            // its handlers in another way.
            log::debug!("the handler of vector {vector} at {handler:#x} has no room for a trap");
            return Ok(());
        }
        let mut patch = vec![NOP; room];
        patch[..OUT_BYTES].copy_from_slice(&[OUT_AL, port as u8]);
        if self.memory.write_slice(&patch, at).is_ok() {
            log::debug!("the handler of vector {vector} at {handler:#x} is trapped");
        }
        Ok(())
    }

    /// Address of a handler from the interrupt descriptor table (AMD APM volume 2, figure 4-24:
    /// 64-bit gate).
    fn handler(&self, cpu: &mut dyn GuestCpu, vector: u64) -> Result<Option<u64>, CpuError> {
        let gate = cpu.idt_base()?.wrapping_add(16 * vector);
        let word = |cpu: &mut dyn GuestCpu, at: u64| {
            let physical = cpu.translate(at)?;
            self.memory.read_obj::<u64>(GuestAddress(physical)).ok()
        };
        let (Some(low), Some(high)) = (word(cpu, gate), word(cpu, gate.wrapping_add(8))) else {
            return Ok(None);
        };
        let present = low >> 47 & 1 != 0;
        let offset = low & 0xffff | low >> 32 & 0xffff_0000 | high << 32;
        Ok(present.then_some(offset))
    }

    fn fault(&self, cpu: &mut dyn GuestCpu, fault: &Fault) -> Result<Trapped, CpuError> {
        let mut registers = cpu.registers()?;
        let Some(frame) = self.frame(cpu, &registers, fault) else {
            return Ok(Trapped::Done);
        };
        if frame.cs & 3 != 3 || frame.error != 0 {
            return Ok(Trapped::Done);
        }
        // The instruction may cross into another page, so byte by byte.
        let code: Vec<u8> = (0..LONGEST_HIDDEN)
            .map_while(|n| {
                let physical = cpu.translate(frame.rip.wrapping_add(n))?;
                self.memory.read_obj::<u8>(GuestAddress(physical)).ok()
            })
            .collect();
        let Some((hidden, len)) = hidden(&code, fault) else {
            return Ok(Trapped::Done);
        };
        let Some(iretq) = self.nearest_iretq(cpu, registers.rip) else {
            log::debug!("a hidden instruction faults, and no IRETQ is mapped");
            return Ok(Trapped::Done);
        };
        let back = Return {
            frame: frame.at,
            next: frame.rip.wrapping_add(len),
            iretq,
        };
        let read = |with_aux| Trapped::CounterRead(CounterRead { back, with_aux });
        Ok(match hidden {
            Hidden::Rdtsc => read(false),
            Hidden::Rdtscp => read(true),
            Hidden::Rdpid(register) => {
                registers.gpr[register] = TSC_AUX;
                self.go_back(cpu, back, registers)?;
                Trapped::Done
            }
        })
    }

    fn frame(
        &self,
        cpu: &mut dyn GuestCpu,
        registers: &Registers,
        fault: &Fault,
    ) -> Option<FaultFrame> {
        let stack = registers.gpr[RSP];
        // The processor aligns the stack to 16 bytes before it pushes the five or six words, and the
        // kernel's entry stacks are whole pages, so a fault's frame lies in one page.
        if stack % PAGE > PAGE - FRAME_BYTES {
            return None;
        }
        let words: [u64; 3] = self
            .memory
            .read_obj(GuestAddress(cpu.translate(stack)?))
            .ok()?;
        let (error, [rip, cs, ..]) = match fault.error_bytes {
            0 => (0, words),
            _ => (words[0], [words[1], words[2], 0]),
        };
        Some(FaultFrame {
            at: stack.wrapping_add(fault.error_bytes),
            error,
            rip,
            cs,
        })
    }

    /// The IRETQ nearest to `rip` that is mapped.
    fn nearest_iretq(&self, cpu: &mut dyn GuestCpu, rip: u64) -> Option<u64> {
        let mut nearest = self.iretqs.clone();
        nearest.sort_by_key(|at| at.abs_diff(rip));
        nearest.into_iter().find(|at| cpu.translate(*at).is_some())
    }

    /// Completes a counter read with `value`: the guest goes on behind the instruction.
    ///
    /// # Errors
    /// [`CpuError`].
    pub fn answer(
        &self,
        cpu: &mut dyn GuestCpu,
        read: CounterRead,
        value: u64,
    ) -> Result<(), CpuError> {
        let mut registers = cpu.registers()?;
        registers.gpr[0] = value & 0xffff_ffff;
        registers.gpr[3] = value >> 32;
        if read.with_aux {
            registers.gpr[2] = TSC_AUX;
        }
        self.go_back(cpu, read.back, registers)
    }

    /// The guest returns from a fault with these registers.
    fn go_back(
        &self,
        cpu: &mut dyn GuestCpu,
        back: Return,
        mut registers: Registers,
    ) -> Result<(), CpuError> {
        if let Some(physical) = cpu.translate(back.frame) {
            // The frame was read from the same place: it is guest memory.
            let _ = self.memory.write_obj(back.next, GuestAddress(physical));
        }
        registers.gpr[RSP] = back.frame;
        registers.rip = back.iretq;
        cpu.set_registers(&registers)
    }
}

/// Length of a RDPID with a prefix for a wide register.
const LONGEST_HIDDEN: u64 = 5;

/// The instruction at the start of `code` and its length, if it is one that is answered.
fn hidden(code: &[u8], fault: &Fault) -> Option<(Hidden, u64)> {
    match (code, *fault) {
        ([0x0f, 0x31, ..], GENERAL_PROTECTION) => Some((Hidden::Rdtsc, 2)),
        ([0x0f, 0x01, 0xf9, ..], _) => Some((Hidden::Rdtscp, 3)),
        ([0xf3, ..], INVALID_OPCODE) => {
            let instruction = Decoder::new(64, code, DecoderOptions::NONE).decode();
            if instruction.mnemonic() != Mnemonic::Rdpid {
                return None;
            }
            let number = instruction.op0_register().number();
            let register = IN_GPR.get(number).copied().unwrap_or(number);
            // The program's RSP is in the frame.
            (register != RSP).then_some((Hidden::Rdpid(register), instruction.len() as u64))
        }
        _ => None,
    }
}
