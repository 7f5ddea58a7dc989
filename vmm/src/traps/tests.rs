use super::*;
use crate::fake_cpu::{FakeCpu, Script};

const IDT: u64 = 0x1000;
const HANDLER: u64 = 0x2000;
const IRETQ_ELSEWHERE: u64 = 0x1_2000;
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
    let memory: GuestRam = GuestRam::from_ranges(&[(GuestAddress(0), 0x1_0000)]).expect("memory");
    let mut cpu = FakeCpu::new(Script::default(), memory.clone(), 0);
    cpu.idt = IDT;
    let sites = Sites {
        iretqs: vec![IRETQ_ELSEWHERE, IRETQ],
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
        self.gate_of(GENERAL_PROTECTION, handler, present);
    }

    fn gate_of(&self, fault: Fault, handler: u64, present: bool) {
        let low = handler & 0xffff
            | KERNEL_CS << 16
            | (if present { 0x8e } else { 0x0e }) << 40
            | (handler >> 16 & 0xffff) << 48;
        self.put(IDT + 16 * fault.vector, &low.to_le_bytes());
        self.put(IDT + 16 * fault.vector + 8, &(handler >> 32).to_le_bytes());
    }

    fn write_cr4(&mut self, register: u16) {
        let done = self.trap.trapped(&mut self.cpu, CR4_PORT + register);
        assert_eq!(done.expect("dealt with"), Trapped::Done);
    }

    /// A #GP with this frame and these bytes at the faulting instruction.
    fn fault(&mut self, error: u64, cs: u64, code: &[u8]) -> Trapped {
        self.enter_handler(GENERAL_PROTECTION, &[error, PROGRAM, cs], code)
    }

    /// A #UD, which has no error code.
    fn invalid(&mut self, cs: u64, code: &[u8]) -> Trapped {
        self.enter_handler(INVALID_OPCODE, &[PROGRAM, cs], code)
    }

    fn enter_handler(&mut self, fault: Fault, frame: &[u64], code: &[u8]) -> Trapped {
        self.put(PROGRAM, &[0xcc; 8]);
        self.put(PROGRAM, code);
        for (n, word) in (0..).zip(frame.iter().chain(&[0x202, 0x7000, 0x2b])) {
            self.put(STACK + 8 * n, &u64::to_le_bytes(*word));
        }
        let mut registers = self.cpu.registers().expect("there");
        registers.gpr = [0x11; 16];
        registers.gpr[RSP] = STACK;
        registers.rip = HANDLER + 2;
        self.cpu.set_registers(&registers).expect("taken");
        let trapped = self.trap.trapped(&mut self.cpu, fault.port);
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
        let trapped = bench.trap.trapped(&mut bench.cpu, GENERAL_PROTECTION.port);
        assert_eq!(trapped.expect("dealt with"), Trapped::Done);
        let back = Return {
            frame: stack,
            next: u64::MAX,
            iretq: IRETQ,
        };
        let read = CounterRead {
            back,
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
    let trapped = bench.trap.trapped(&mut bench.cpu, GENERAL_PROTECTION.port);
    assert_eq!(trapped.expect("dealt with"), Trapped::Done);
}

#[test]
fn a_write_of_cr4_gets_tsd_and_hooks_the_handlers() {
    let mut bench = bench();
    bench.gate(HANDLER, true);
    bench.put(HANDLER, &ENDBR64);
    bench.gate_of(INVALID_OPCODE, HANDLER + 64, true);
    bench.put(HANDLER + 64, &ENDBR64);
    let mut registers = Registers::default();
    registers.gpr[1] = 0x6f0; // RBX: number 3 in encodings
    bench.cpu.set_registers(&registers).expect("taken");
    bench.write_cr4(3);
    assert_eq!(bench.cpu.cr4, 0x6f0 | CR4_TSD);
    let hooked = [OUT_AL, GENERAL_PROTECTION.port as u8, NOP, NOP];
    assert_eq!(bench.bytes::<4>(HANDLER), hooked);
    let hooked_too = [OUT_AL, INVALID_OPCODE.port as u8, NOP, NOP];
    assert_eq!(bench.bytes::<4>(HANDLER + 64), hooked_too);
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
            bench
                .trap
                .handler(&mut bench.cpu, GENERAL_PROTECTION.vector)
                .expect("read"),
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

/// Where the processor has no RDTSCP if CPUID hides it: Intel's, and AMD's under newer kernels.
#[test]
fn a_counter_read_that_is_an_invalid_opcode_is_answered_alike() {
    let mut bench = bench();
    let Trapped::CounterRead(read) = bench.invalid(USER_CS, RDTSCP) else {
        panic!("a counter read");
    };
    let answered = bench.trap.answer(&mut bench.cpu, read, 5 << 32 | 7);
    answered.expect("answered");
    let registers = bench.cpu.registers().expect("there");
    assert_eq!(registers.gpr[..4], [7, 0x11, 0, 5]);
    assert_eq!((registers.rip, registers.gpr[RSP]), (IRETQ, STACK));
    assert_eq!(u64::from_le_bytes(bench.bytes::<8>(STACK)), PROGRAM + 3);
}

#[test]
fn the_processors_number_is_zero_where_there_is_no_rdpid() {
    for (code, register) in [
        (&[0xf3, 0x0f, 0xc7, 0xf8][..], 0),        // rdpid rax
        (&[0xf3, 0x0f, 0xc7, 0xf9][..], 2),        // rdpid rcx
        (&[0xf3, 0x49, 0x0f, 0xc7, 0xfc][..], 12), // rdpid r12
    ] {
        let mut bench = bench();
        assert_eq!(bench.invalid(USER_CS, code), Trapped::Done);
        let registers = bench.cpu.registers().expect("there");
        let mut expected = [0x11; 16];
        (expected[register], expected[RSP]) = (0, STACK);
        assert_eq!((registers.rip, registers.gpr), (IRETQ, expected));
        let next = PROGRAM + code.len() as u64;
        assert_eq!(u64::from_le_bytes(bench.bytes::<8>(STACK)), next);
    }
}

#[test]
fn other_invalid_opcodes_go_on_into_the_handler() {
    for (cs, code) in [
        (KERNEL_CS, RDTSCP),
        (USER_CS, RDTSC),
        (USER_CS, &[0x0f, 0x0b][..]),             // ud2
        (USER_CS, &[0xf3, 0x0f, 0xc7, 0xfc][..]), // rdpid rsp
        (USER_CS, &[0xf3, 0x0f, 0xc7, 0x38][..]), // no rdpid
    ] {
        let mut bench = bench();
        assert_eq!(bench.invalid(cs, code), Trapped::Done, "{code:x?}");
        let registers = bench.cpu.registers().expect("there");
        assert_eq!((registers.rip, registers.gpr[RSP]), (HANDLER + 2, STACK));
    }
}

/// With page table isolation little of the kernel is mapped where a fault of a program arrives.
#[test]
fn the_way_back_is_by_a_return_that_is_mapped() {
    let mut bench = bench();
    for (iretqs, expected) in [
        (&[0x800, IRETQ, IRETQ_ELSEWHERE][..], IRETQ),
        (&[IRETQ_ELSEWHERE, IRETQ], IRETQ),
        (&[0x800, IRETQ_ELSEWHERE], 0x800),
    ] {
        bench.trap.iretqs = iretqs.to_vec();
        let Trapped::CounterRead(read) = bench.fault(0, USER_CS, RDTSC) else {
            panic!("a counter read");
        };
        assert_eq!(read.back.iretq, expected);
    }
    bench.trap.iretqs = vec![IRETQ_ELSEWHERE];
    assert_eq!(bench.fault(0, USER_CS, RDTSC), Trapped::Done);
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
        let trapped = bench.trap.trapped(&mut bench.cpu, GENERAL_PROTECTION.port);
        assert_eq!(trapped.expect("dealt with"), Trapped::Done);
    }
}
