//! Time stamp counter reads in user mode.
//!
//! Programs read the counter with RDTSC even where CPUID hides it (the C library's loader does at
//! every start), and KVM cannot intercept that for user space. With CR4.TSD set, RDTSC and RDTSCP
//! fault outside the kernel (Intel SDM volume 2B, RDTSC; AMD APM volume 2, section 3.1.3). So:
//!
//! - every write of CR4 by the kernel exits ([`crate::rewrite`]), and TSD is added to it;
//! - the NOPs or the ENDBR64 at the start of the kernel's #GP handler are replaced by an OUT.
//!   At that exit the fault's stack frame is on top of the stack. If the instruction that faulted
//!   is a counter read in user mode, the VMM supplies the value, moves the frame's RIP past it,
//!   and lets the guest go back with an IRETQ. Any other fault goes on into the handler.
//!
//! Hypercalls of the kernel and of modules, which are rewritten as well, get the answer of a
//! hypervisor that knows none. In user mode KVM itself refuses every one (KVM_EPERM), on all hosts.
//!
//! Everything here happens at deterministic exits and depends on guest state only, so a replay
//! does the same.

use iced_x86::{Decoder, DecoderOptions, Mnemonic};
use vm_memory::{Bytes, GuestAddress};

use crate::cpu::{CpuError, GuestCpu, Registers};
use crate::ram::GuestRam;
use crate::rewrite::{CR4_PORT, HYPERCALL_PORT, Sites};
use crate::tsc_cache::TscCache;

/// The port that stands for "the #GP handler was entered".
const FAULT_PORT: u16 = 0xe8;
/// What a hypercall returns that is not known: -KVM_ENOSYS (Linux, `include/uapi/linux/kvm_para.h`).
const NO_SUCH_HYPERCALL: u64 = 1000u64.wrapping_neg();
const CR4_TSD: u64 = 1 << 2;
const VECTOR_GP: u64 = 13;
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
    /// Length of the instruction.
    len: u64,
    /// RDTSCP also gives IA32_TSC_AUX.
    with_aux: bool,
}

const PAGE: u64 = crate::ram::PAGE as u64;
/// Of what #GP leaves on the kernel's stack, what is looked at.
const FRAME_BYTES: u64 = 24;

/// The frame that #GP leaves on the kernel's stack: error code, RIP, CS.
#[derive(Debug, Clone, Copy)]
struct FaultFrame {
    error: u64,
    rip: u64,
    cs: u64,
}

/// Traps counter reads in user mode.
pub struct TscTrap {
    /// What the kernel reads instead of the counter.
    pub cache: TscCache,
    memory: GuestRam,
    iretq: Option<u64>,
    /// #GP handler that was looked at last.
    handler: Option<u64>,
}

impl TscTrap {
    /// For a kernel rewritten at `sites`.
    #[must_use]
    pub fn new(sites: &Sites, memory: GuestRam) -> Self {
        Self {
            cache: TscCache::new(memory.clone(), sites.copy.map(|copy| copy.address)),
            memory,
            iretq: sites.iretq,
            handler: None,
        }
    }

    /// Whether a write to `port` is one of the traps.
    #[must_use]
    pub fn owns(port: u16) -> bool {
        (CR4_PORT..CR4_PORT + 8).contains(&port) || matches!(port, FAULT_PORT | HYPERCALL_PORT)
    }

    /// A write to one of the trap ports.
    ///
    /// # Errors
    /// [`CpuError`].
    pub fn trapped(&mut self, cpu: &mut dyn GuestCpu, port: u16) -> Result<Trapped, CpuError> {
        if port == FAULT_PORT {
            return self.fault(cpu);
        }
        let mut registers = cpu.registers()?;
        if port == HYPERCALL_PORT {
            registers.gpr[0] = NO_SUCH_HYPERCALL;
            cpu.set_registers(&registers)?;
            return Ok(Trapped::Done);
        }
        // By number: RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI.
        const IN_GPR: [usize; 8] = [0, 2, 3, 1, 6, 7, 4, 5];
        let value = registers.gpr[IN_GPR[usize::from(port - CR4_PORT)]];
        if cpu.write_cr4(value | CR4_TSD)? {
            self.hook(cpu)?;
        } else {
            log::debug!("#GP for a write of {value:#x} to CR4");
            cpu.raise_general_protection()?;
        }
        Ok(Trapped::Done)
    }

    /// Puts the trap into the #GP handler, once the kernel has one. Called where CR4 is written:
    /// the kernel does so after it has set up its interrupt descriptor table, long before it
    /// starts the first program.
    fn hook(&mut self, cpu: &mut dyn GuestCpu) -> Result<(), CpuError> {
        let Some(handler) = self.gp_handler(cpu)? else {
            return Ok(());
        };
        if self.handler.replace(handler) == Some(handler) {
            return Ok(());
        }
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
            log::debug!("#GP handler at {handler:#x} has no room for a trap");
            return Ok(());
        }
        let mut patch = vec![NOP; room];
        patch[..OUT_BYTES].copy_from_slice(&[OUT_AL, FAULT_PORT as u8]);
        if self.memory.write_slice(&patch, at).is_ok() {
            log::debug!("#GP handler at {handler:#x} traps user-mode counter reads");
        }
        Ok(())
    }

    /// Address of the #GP handler from the interrupt descriptor table (AMD APM volume 2, figure
    /// 4-24: 64-bit gate).
    fn gp_handler(&self, cpu: &mut dyn GuestCpu) -> Result<Option<u64>, CpuError> {
        let gate = cpu.idt_base()?.wrapping_add(16 * VECTOR_GP);
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

    fn fault(&self, cpu: &mut dyn GuestCpu) -> Result<Trapped, CpuError> {
        let registers = cpu.registers()?;
        let Some(frame) = self.frame(cpu, &registers) else {
            return Ok(Trapped::Done);
        };
        if frame.cs & 3 != 3 || frame.error != 0 || self.iretq.is_none() {
            return Ok(Trapped::Done);
        }
        // The instruction may cross into another page, so byte by byte.
        let code: Vec<u8> = (0..3)
            .map_while(|n| {
                let physical = cpu.translate(frame.rip.wrapping_add(n))?;
                self.memory.read_obj::<u8>(GuestAddress(physical)).ok()
            })
            .collect();
        Ok(match code.as_slice() {
            [0x0f, 0x31, ..] => Trapped::CounterRead(CounterRead {
                len: 2,
                with_aux: false,
            }),
            [0x0f, 0x01, 0xf9] => Trapped::CounterRead(CounterRead {
                len: 3,
                with_aux: true,
            }),
            _ => Trapped::Done,
        })
    }

    fn frame(&self, cpu: &mut dyn GuestCpu, registers: &Registers) -> Option<FaultFrame> {
        let stack = stack_pointer(registers);
        // The processor aligns the stack to 16 bytes before it pushes the six words, and the
        // kernel's entry stacks are whole pages, so a fault's frame lies in one page.
        if stack % PAGE > PAGE - FRAME_BYTES {
            return None;
        }
        let at = GuestAddress(cpu.translate(stack)?);
        let [error, rip, cs] = self.memory.read_obj::<[u64; 3]>(at).ok()?;
        Some(FaultFrame { error, rip, cs })
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
        let (Some(frame), Some(iretq)) = (self.frame(cpu, &registers), self.iretq) else {
            return Ok(());
        };
        let rip_slot = stack_pointer(&registers).wrapping_add(8);
        if let Some(physical) = cpu.translate(rip_slot) {
            // The frame was read from the same place: it is guest memory.
            let _ = self
                .memory
                .write_obj(frame.rip.wrapping_add(read.len), GuestAddress(physical));
        }
        registers.gpr[0] = value & 0xffff_ffff;
        registers.gpr[3] = value >> 32;
        if read.with_aux {
            registers.gpr[2] = 0; // processor 0 on node 0, as Linux writes IA32_TSC_AUX
        }
        registers.gpr[6] = registers.gpr[6].wrapping_add(8); // IRETQ expects no error code
        registers.rip = iretq;
        cpu.set_registers(&registers)
    }
}

fn stack_pointer(registers: &Registers) -> u64 {
    registers.gpr[6]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_cpu::{FakeCpu, Script};

    const IDT: u64 = 0x1000;
    const HANDLER: u64 = 0x2000;
    const IRETQ: u64 = 0x3000;
    const STACK: u64 = 0x4000;
    const PROGRAM: u64 = 0x5ffe;
    const USER_CS: u64 = 0x33;
    const KERNEL_CS: u64 = 0x10;
    const RDTSC: &[u8] = &[0x0f, 0x31];
    const RDTSCP: &[u8] = &[0x0f, 0x01, 0xf9];
    const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];

    struct Bench {
        memory: GuestRam,
        cpu: FakeCpu,
        trap: TscTrap,
    }

    fn bench() -> Bench {
        let memory: GuestRam =
            GuestRam::from_ranges(&[(GuestAddress(0), 0x1_0000)]).expect("memory");
        let mut cpu = FakeCpu::new(Script::default(), memory.clone(), 0);
        cpu.idt = IDT;
        let sites = Sites {
            iretq: Some(IRETQ),
            ..Sites::default()
        };
        let trap = TscTrap::new(&sites, memory.clone());
        Bench { memory, cpu, trap }
    }

    impl Bench {
        fn put(&self, at: u64, bytes: &[u8]) {
            let written = self.memory.write_slice(bytes, GuestAddress(at));
            written.expect("in memory");
        }

        fn bytes<const N: usize>(&self, at: u64) -> [u8; N] {
            let mut bytes = [0; N];
            let read = self.memory.read_slice(&mut bytes, GuestAddress(at));
            read.expect("in memory");
            bytes
        }

        fn gate(&self, handler: u64, present: bool) {
            let low = handler & 0xffff
                | KERNEL_CS << 16
                | (if present { 0x8e } else { 0x0e }) << 40
                | (handler >> 16 & 0xffff) << 48;
            self.put(IDT + 16 * VECTOR_GP, &low.to_le_bytes());
            self.put(IDT + 16 * VECTOR_GP + 8, &(handler >> 32).to_le_bytes());
        }

        fn write_cr4(&mut self, register: u16) {
            let done = self.trap.trapped(&mut self.cpu, CR4_PORT + register);
            assert_eq!(done.expect("dealt with"), Trapped::Done);
        }

        /// A fault with this frame and these bytes at the faulting instruction.
        fn fault(&mut self, error: u64, cs: u64, code: &[u8]) -> Trapped {
            self.put(PROGRAM, &[0xcc; 8]);
            self.put(PROGRAM, code);
            for (n, word) in (0..).zip([error, PROGRAM, cs, 0x202, 0x7000, 0x2b]) {
                self.put(STACK + 8 * n, &u64::to_le_bytes(word));
            }
            let mut registers = self.cpu.registers().expect("there");
            registers.gpr = [0x11; 16];
            registers.gpr[6] = STACK;
            self.cpu.set_registers(&registers).expect("taken");
            let trapped = self.trap.trapped(&mut self.cpu, FAULT_PORT);
            trapped.expect("dealt with")
        }
    }

    /// Otherwise a guest ends its VMM with a bit that its processor does not have.
    #[test]
    fn a_value_that_cr4_does_not_take_is_a_fault() {
        let mut bench = bench();
        bench.gate(HANDLER, true);
        bench.put(HANDLER, &ENDBR64);
        bench.cpu.cr4_reserved = 1 << 40;
        let mut registers = Registers::default();
        registers.gpr[0] = 1 << 40 | 0x6f0;
        bench.cpu.set_registers(&registers).expect("taken");
        bench.write_cr4(0);
        assert_eq!((bench.cpu.cr4, bench.cpu.faults), (0, 1));
        assert_eq!(bench.bytes(HANDLER), ENDBR64, "nothing else happens");
    }

    /// Addresses are the guest's. Sums of them wrap, as the processor's do.
    #[test]
    fn addresses_at_the_end_of_the_address_space_do_no_harm() {
        let mut bench = bench();
        bench.cpu.idt = u64::MAX - 3;
        bench.write_cr4(0);
        for stack in [u64::MAX - 7, u64::MAX - 23, 0xffff, 0xffe8, 0xfff0] {
            let mut registers = Registers::default();
            registers.gpr[6] = stack;
            bench.cpu.set_registers(&registers).expect("taken");
            let trapped = bench.trap.trapped(&mut bench.cpu, FAULT_PORT);
            assert_eq!(trapped.expect("dealt with"), Trapped::Done);
            let read = CounterRead {
                len: 3,
                with_aux: false,
            };
            let answered = bench.trap.answer(&mut bench.cpu, read, 1);
            answered.expect("dealt with");
        }
        // The instruction that faulted is at the end.
        for (n, word) in (0..).zip([0, u64::MAX, USER_CS]) {
            bench.put(STACK + 8 * n, &u64::to_le_bytes(word));
        }
        let mut registers = Registers::default();
        registers.gpr[6] = STACK;
        bench.cpu.set_registers(&registers).expect("taken");
        let trapped = bench.trap.trapped(&mut bench.cpu, FAULT_PORT);
        assert_eq!(trapped.expect("dealt with"), Trapped::Done);
    }

    #[test]
    fn a_write_of_cr4_gets_tsd_and_hooks_the_handler() {
        let mut bench = bench();
        bench.gate(HANDLER, true);
        bench.put(HANDLER, &ENDBR64);
        let mut registers = Registers::default();
        registers.gpr[1] = 0x6f0; // RBX: number 3 in encodings
        bench.cpu.set_registers(&registers).expect("taken");
        bench.write_cr4(3);
        assert_eq!(bench.cpu.cr4, 0x6f0 | CR4_TSD);
        let hooked = [OUT_AL, FAULT_PORT as u8, NOP, NOP];
        assert_eq!(bench.bytes::<4>(HANDLER), hooked);
        bench.write_cr4(3);
        assert_eq!(bench.bytes::<4>(HANDLER), hooked, "once");
    }

    #[test]
    fn a_handler_that_does_something_else_first_is_left_alone() {
        for (code, present) in [
            ([0x48, 0x89, 0xe5, 0x90], true), // mov rbp, rsp
            ([0x90, 0x50, 0x51, 0x52], true), // a NOP of one byte: no room
            (ENDBR64, false),
        ] {
            let mut bench = bench();
            bench.gate(HANDLER, present);
            bench.put(HANDLER, &code);
            bench.write_cr4(0);
            assert_eq!(bench.bytes::<4>(HANDLER), code);
        }
    }

    #[test]
    fn gates_lead_anywhere_without_harm() {
        for handler in [u64::MAX, 0xffff_8000_1234_5678, 0xfff8] {
            let mut bench = bench();
            bench.gate(handler, true);
            assert_eq!(
                bench.trap.gp_handler(&mut bench.cpu).expect("read"),
                Some(handler)
            );
            bench.write_cr4(0);
        }
        let mut bench = bench();
        bench.cpu.idt = 0xffff_fff8; // not mapped
        bench.write_cr4(0);
    }

    #[test]
    fn counter_reads_are_answered() {
        for (code, len, rcx) in [(RDTSC, 2, 0x11), (RDTSCP, 3, 0)] {
            let mut bench = bench();
            let Trapped::CounterRead(read) = bench.fault(0, USER_CS, code) else {
                panic!("a counter read");
            };
            let value = 0x1234_5678_9abc_def0;
            let answered = bench.trap.answer(&mut bench.cpu, read, value);
            answered.expect("answered");
            let registers = bench.cpu.registers().expect("there");
            let [rax, rbx, cx, rdx] = registers.gpr[..4] else {
                unreachable!("sixteen of them");
            };
            assert_eq!((rax, rdx), (0x9abc_def0, 0x1234_5678));
            assert_eq!((rbx, cx), (0x11, rcx));
            assert_eq!(registers.rip, IRETQ);
            assert_eq!(registers.gpr[6], STACK + 8, "the error code is gone");
            assert_eq!(
                u64::from_le_bytes(bench.bytes::<8>(STACK + 8)),
                PROGRAM + len,
                "behind the instruction"
            );
        }
    }

    #[test]
    fn no_hypercall_is_known() {
        let mut bench = bench();
        let mut registers = Registers {
            gpr: [9; 16], // KVM_HC_CLOCK_PAIRING
            ..Registers::default()
        };
        bench.cpu.set_registers(&registers).expect("taken");
        let done = bench.trap.trapped(&mut bench.cpu, HYPERCALL_PORT);
        assert_eq!(done.expect("dealt with"), Trapped::Done);
        registers.gpr[0] = -1000i64 as u64;
        assert_eq!(bench.cpu.registers().expect("there"), registers);
    }

    #[test]
    fn other_faults_go_on_into_the_handler() {
        for (error, cs, code) in [
            (0, KERNEL_CS, RDTSC),
            (0x18, USER_CS, RDTSC),
            (0, USER_CS, &[0xf4][..]),
            (0, USER_CS, &[0x0f, 0x01, 0xf8][..]),
            (0, USER_CS, &[0x0f, 0x30][..]),
        ] {
            let mut bench = bench();
            assert_eq!(bench.fault(error, cs, code), Trapped::Done);
            let registers = bench.cpu.registers().expect("there");
            assert_eq!(registers.gpr[6], STACK);
            assert_eq!(u64::from_le_bytes(bench.bytes::<8>(STACK + 8)), PROGRAM);
        }
    }

    #[test]
    fn a_stack_outside_memory_is_no_counter_read() {
        let mut bench = bench();
        let mut registers = Registers::default();
        for rsp in [u64::MAX, 0xffff, 0x1_0000] {
            registers.gpr[6] = rsp;
            bench.cpu.set_registers(&registers).expect("taken");
            let trapped = bench.trap.trapped(&mut bench.cpu, FAULT_PORT);
            assert_eq!(trapped.expect("dealt with"), Trapped::Done);
        }
    }
}
