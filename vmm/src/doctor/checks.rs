//! The checks. Each returns what was measured, or what was seen in its place.

use crate::cpu::{CpuError, Exit, GuestCpu, Registers};
use crate::devices::msr;
use crate::kvm::probe::{
    CR4_TSD, Event, KERNEL, MicroGuest, ProbeError, Program, USER, USER_CODE, USER_DATA, USER_STACK,
};
use crate::kvm::{CpuModel, CpuModelError, MachineError};

use super::Outcome;
use super::report::with_causes;

type Measured = Result<String, String>;
type MicroGuestCheck = fn(&mut MicroGuest) -> Measured;

/// The checks that run a micro-guest.
pub(super) const MICRO_GUESTS: [(&str, MicroGuestCheck); 10] = [
    ("long_mode", long_mode),
    ("user_mode", user_mode),
    ("cpuid", cpuid),
    ("exits", exits),
    ("halt", halt),
    ("interrupts", interrupts),
    ("msr_filter", msr_filter),
    ("single_step", single_step),
    ("tsc_trap", tsc_trap),
    ("hardware_breakpoint", hardware_breakpoint),
];

/// Reports the checks that come before a micro-guest. Returns whether micro-guests can be tried.
pub(super) fn machine(
    model: &Result<CpuModel, MachineError>,
    tell: impl Fn(&'static str, Outcome),
) -> bool {
    let error = match model {
        Ok(model) => {
            tell("device", Outcome::Pass("yes".into()));
            tell("api", Outcome::Pass("version 12, nothing missing".into()));
            tell("cpu_model", Outcome::Pass(name(model)));
            return true;
        }
        Err(error) => error,
    };
    let failed = Outcome::Fail(match error {
        // Its own message says how to mend it, as the report does.
        MachineError::CpuModel(CpuModelError::Missing(features)) => {
            format!("lacks {}", features.join(", "))
        }
        other => with_causes(other),
    });
    if matches!(error, MachineError::Open(_)) {
        tell("device", failed);
        return false;
    }
    tell("device", Outcome::Pass("yes".into()));
    if !matches!(error, MachineError::CpuModel(_)) {
        tell("api", failed);
        return false;
    }
    tell("api", Outcome::Pass("version 12, nothing missing".into()));
    tell("cpu_model", failed);
    true
}

fn name(model: &CpuModel) -> String {
    let vendor = model.leaf(0).map_or_else(String::new, |[_, b, c, d]| {
        let bytes = [b, d, c].map(u32::to_le_bytes).concat();
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let digest = model.digest();
    format!(
        "x86-64-v2 with AES, {vendor}, digest {:02x}{:02x}{:02x}{:02x}",
        digest[0], digest[1], digest[2], digest[3]
    )
}

fn failed(error: ProbeError) -> String {
    match error {
        ProbeError::Cpu(CpuError::Emulation { rip, bytes, .. }) => {
            let decoder = iced_x86::Decoder::with_ip(64, &bytes, rip, 0).decode();
            format!(
                "KVM cannot execute {:?} ({:02x?})",
                decoder.mnemonic(),
                &bytes[..decoder.len().min(bytes.len())]
            )
        }
        other => with_causes(&other),
    }
}

fn describe(event: Event) -> String {
    match event {
        Event::Exit(Exit::Io(access)) => format!("port {:#x}", access.port),
        Event::Exit(exit) => format!("{exit:?}"),
        Event::Vector { vector, rip, cpl } => {
            let name = match vector {
                1 => " (#DB)",
                6 => " (#UD)",
                8 => " (#DF)",
                13 => " (#GP)",
                14 => " (#PF)",
                _ => "",
            };
            format!("exception or interrupt {vector:#x}{name} at {rip:#x}, CPL {cpl}")
        }
    }
}

/// Runs to a write of `port` and returns the registers there.
fn run_to(guest: &mut MicroGuest, port: u16) -> Result<Registers, String> {
    match guest.run().map_err(failed)? {
        Event::Exit(Exit::Io(access)) if access.port == port => registers(guest),
        other => Err(format!("{} in place of port {port:#x}", describe(other))),
    }
}

fn registers(guest: &mut MicroGuest) -> Result<Registers, String> {
    guest.cpu().registers().map_err(|e| with_causes(&e))
}

fn load(guest: &mut MicroGuest, program: &Program<'_>) -> Result<(), String> {
    guest.load(program).map_err(|e| with_causes(&e))
}

const RAX: usize = 0;
const RBX: usize = 1;
const RDX: usize = 3;
const RBP: usize = 7;

fn long_mode(guest: &mut MicroGuest) -> Measured {
    let kernel = [
        0x48, 0xb8, 8, 7, 6, 5, 4, 3, 2, 1, // mov rax, 0x0102030405060708
        0x48, 0x89, 0xc3, // mov rbx, rax
        0xe6, 0x10, // out 0x10, al
    ];
    load(
        guest,
        &Program {
            kernel: &kernel,
            ..Program::default()
        },
    )?;
    let rbx = run_to(guest, 0x10)?.gpr[RBX];
    if rbx == 0x0102_0304_0506_0708 {
        Ok("64-bit registers".into())
    } else {
        Err(format!("rbx is {rbx:#x}"))
    }
}

/// Goes to user mode with IRETQ.
fn to_user() -> Vec<u8> {
    let mut code = vec![0x6a, USER_DATA as u8, 0x68]; // push USER_DATA; push
    code.extend_from_slice(&(USER_STACK as u32).to_le_bytes());
    code.extend_from_slice(&[0x6a, 0x02]); // push 2 (RFLAGS)
    code.extend_from_slice(&[0x6a, USER_CODE as u8, 0x68]); // push USER_CODE; push
    code.extend_from_slice(&(USER as u32).to_le_bytes());
    code.extend_from_slice(&[0x48, 0xcf]); // iretq
    code
}

fn user_mode(guest: &mut MicroGuest) -> Measured {
    let user = [
        0x8c, 0xcb, // mov ebx, cs
        0x0f, 0x05, // syscall
        0x8c, 0xcd, // mov ebp, cs
        0x0f, 0x05, // syscall
    ];
    let syscall = [
        0x8c, 0xc8, // mov eax, cs
        0xe6, 0x10, // out 0x10, al
        0x48, 0x0f, 0x07, // sysretq
    ];
    let kernel = to_user();
    load(
        guest,
        &Program {
            kernel: &kernel,
            user: &user,
            syscall: &syscall,
            cr4: 0,
        },
    )?;
    for round in ["IRETQ", "SYSRET"] {
        let event = guest.run().map_err(failed)?;
        let Event::Exit(Exit::Io(_)) = event else {
            // The handler's OUT faults if it is not executed in the kernel.
            return Err(match event {
                Event::Vector {
                    vector: 13, cpl: 3, ..
                } => "SYSCALL jumps to its handler but stays at CPL 3".into(),
                other => format!("{} in place of a system call", describe(other)),
            });
        };
        let seen = registers(guest)?.gpr;
        let (kernel, user) = (
            seen[RAX] & 3,
            seen[if round == "IRETQ" { RBX } else { RBP }] & 3,
        );
        if user != 3 {
            return Err(format!("CPL is {user} after {round}"));
        }
        if kernel != 0 {
            return Err(format!(
                "SYSCALL jumps to its handler but stays at CPL {kernel}"
            ));
        }
    }
    Ok("SYSCALL to CPL 0, SYSRET to CPL 3".into())
}

fn cpuid(guest: &mut MicroGuest) -> Measured {
    const LEAVES: [u32; 4] = [0, 1, 7, 0x8000_0001];
    let mut kernel = Vec::new();
    for leaf in LEAVES {
        kernel.push(0xb8); // mov eax, leaf
        kernel.extend_from_slice(&leaf.to_le_bytes());
        kernel.extend_from_slice(&[0x31, 0xc9, 0x0f, 0xa2]); // xor ecx, ecx; cpuid
        kernel.extend_from_slice(&[0xe6, 0x10]); // out 0x10, al
    }
    load(
        guest,
        &Program {
            kernel: &kernel,
            ..Program::default()
        },
    )?;
    for leaf in LEAVES {
        let gpr = run_to(guest, 0x10)?.gpr;
        let seen = [gpr[0] as u32, gpr[1] as u32, gpr[2] as u32, gpr[3] as u32];
        let wanted = guest.cpu_model().leaf(leaf).unwrap_or_default();
        let names = ["eax", "ebx", "ecx", "edx"];
        if let Some(n) = (0..4).find(|n| seen[*n] != wanted[*n]) {
            return Err(format!(
                "leaf {leaf:#x} {} is {:#010x}, the model says {:#010x}",
                names[n], seen[n], wanted[n]
            ));
        }
    }
    Ok(format!("{} leaves as given", LEAVES.len()))
}

fn exits(guest: &mut MicroGuest) -> Measured {
    const RUNS: usize = 3;
    // POPCNT comes after CMPXCHG16B: in the other order, with nothing between that sets flags,
    // QEMU 7.2's TCG makes RFLAGS out of POPCNT's operand, and the guest dies in a triple fault.
    let kernel = [
        0xb9, 0x08, 0, 0, 0, // mov ecx, 8
        0xbf, 0x00, 0x30, 0x01, 0, // mov edi, DATA
        0x66, 0x0f, 0xef, 0xd2, // pxor xmm2, xmm2
        0xf2, 0x0f, 0x2a, 0xc1, // again: cvtsi2sd xmm0, ecx
        0xf2, 0x0f, 0x51, 0xc8, // sqrtsd xmm1, xmm0
        0xf2, 0x0f, 0x58, 0xd1, // addsd xmm2, xmm1
        0x66, 0x48, 0x0f, 0x7e, 0xd6, // movq rsi, xmm2
        0x48, 0x8b, 0x07, // mov rax, [rdi]
        0x48, 0x8b, 0x57, 0x08, // mov rdx, [rdi+8]
        0x48, 0x89, 0xf3, // mov rbx, rsi
        0x48, 0x0f, 0xc7, 0x0f, // cmpxchg16b [rdi]
        0xf3, 0x4c, 0x0f, 0xb8, 0xc6, // popcnt r8, rsi
        0xe6, 0x10, // out 0x10, al
        0xff, 0xc9, // dec ecx
        0x75, 0xd6, // jnz again
        0xf4, // hlt
    ];
    let mut first: Option<Vec<u32>> = None;
    for run in 0..RUNS {
        load(
            guest,
            &Program {
                kernel: &kernel,
                ..Program::default()
            },
        )?;
        let mut digests = Vec::new();
        loop {
            let event = guest.run().map_err(failed)?;
            digests.push(guest.cpu().register_digest().map_err(|e| with_causes(&e))?);
            match event {
                Event::Exit(Exit::Io(_)) if digests.len() <= 8 => {}
                Event::Exit(Exit::Halt { .. }) => break,
                other => {
                    let rip = guest.cpu().rip().map_err(|e| with_causes(&e))?;
                    return Err(format!(
                        "{} at {rip:#x} after {} exits of run {}",
                        describe(other),
                        digests.len() - 1,
                        run + 1
                    ));
                }
            }
        }
        let first = first.get_or_insert_with(|| digests.clone());
        if *first != digests {
            return Err(format!("run {} differs from the first", run + 1));
        }
    }
    let exits = first.map_or(0, |digests| digests.len());
    Ok(format!(
        "{RUNS} runs of {exits} exits alike, with SSE, POPCNT, CMPXCHG16B"
    ))
}

fn halt(guest: &mut MicroGuest) -> Measured {
    let kernel = [0xfb, 0xf4, 0xfa, 0xf4]; // sti; hlt; cli; hlt
    load(
        guest,
        &Program {
            kernel: &kernel,
            ..Program::default()
        },
    )?;
    for interruptible in [true, false] {
        match guest.run().map_err(failed)? {
            Event::Exit(Exit::Halt { interruptible: i }) if i == interruptible => {}
            other => return Err(format!("{} in place of HLT", describe(other))),
        }
    }
    Ok("with interrupts enabled and disabled".into())
}

const VECTOR: u8 = 0x40;

/// Injects an interrupt and returns where its handler says that it came.
fn interrupted_at(guest: &mut MicroGuest) -> Result<u64, String> {
    guest.cpu().inject(VECTOR).map_err(|e| with_causes(&e))?;
    guest.cpu().request_interrupt_window(false);
    match guest.run().map_err(failed)? {
        Event::Vector {
            vector: VECTOR,
            rip,
            ..
        } => Ok(rip),
        other => Err(format!("{} in place of the interrupt", describe(other))),
    }
}

fn interrupts(guest: &mut MicroGuest) -> Measured {
    const ROUNDS: usize = 16;
    let kernel = [
        0xe6, 0x20, // 0: out 0x20, al
        0x90, // 2: nop
        0xfb, // 3: sti
        0x90, // 4: nop
        0x90, // 5: nop: the window opens before this one
        0xfa, // 6: cli
        0xe6, 0x21, // 7: out 0x21, al
        0x9c, // 9: pushfq
        0x80, 0x4c, 0x24, 0x01, 0x02, // 10: or byte [rsp+1], 2
        0x9d, // 15: popfq
        0x90, // 16: nop: the window opens before this one
        0xe6, 0x22, // 17: out 0x22, al
        0xfa, // 19: cli
        0xeb, 0xea, // 20: jmp 0
    ];
    load(
        guest,
        &Program {
            kernel: &kernel,
            ..Program::default()
        },
    )?;
    for _ in 0..ROUNDS {
        for (port, opens_at) in [(0x20, 5), (0x21, 16)] {
            run_to(guest, port)?;
            if guest.cpu().ready_for_interrupt() {
                return Err("an interrupt would be taken while they are disabled".into());
            }
            guest.cpu().request_interrupt_window(true);
            match guest.run().map_err(failed)? {
                Event::Exit(Exit::InterruptWindow) => {}
                other => return Err(format!("{} in place of the window", describe(other))),
            }
            let window = guest.cpu().rip().map_err(|e| with_causes(&e))?;
            let came = interrupted_at(guest)?;
            if window != KERNEL + opens_at || came != window {
                return Err(format!(
                    "the window opened at {window:#x} and the interrupt came at {came:#x}, not at \
                     {:#x}",
                    KERNEL + opens_at
                ));
            }
        }
        run_to(guest, 0x22)?;
        if !guest.cpu().ready_for_interrupt() {
            return Err("an exit with interrupts enabled takes none".into());
        }
        let came = interrupted_at(guest)?;
        if came != KERNEL + 19 {
            return Err(format!("an interrupt at an exit came at {came:#x}"));
        }
    }
    Ok(format!(
        "{} windows and {ROUNDS} injections at exits, each at its instruction",
        2 * ROUNDS
    ))
}

fn msr_filter(guest: &mut MicroGuest) -> Measured {
    let kernel = [
        0xb9, 0x10, 0, 0, 0, // mov ecx, IA32_TSC
        0x0f, 0x32, // rdmsr
        0xe6, 0x10, // out 0x10, al
    ];
    load(
        guest,
        &Program {
            kernel: &kernel,
            ..Program::default()
        },
    )?;
    match guest.run().map_err(failed)? {
        Event::Exit(Exit::Msr {
            index: msr::TSC,
            write: None,
        }) => guest.cpu().finish_msr(Some(0x1122_3344_5566_7788)),
        other => return Err(format!("{} in place of RDMSR", describe(other))),
    }
    let gpr = run_to(guest, 0x10)?.gpr;
    if (gpr[RDX], gpr[RAX]) == (0x1122_3344, 0x5566_7788) {
        Ok("RDMSR of IA32_TSC answered".into())
    } else {
        Err(format!(
            "RDMSR gave {:#x}:{:#x}, not the answer",
            gpr[RDX], gpr[RAX]
        ))
    }
}

/// Eight times `inc eax`.
const COUNTING: [u8; 16] = [
    0xff, 0xc0, 0xff, 0xc0, 0xff, 0xc0, 0xff, 0xc0, 0xff, 0xc0, 0xff, 0xc0, 0xff, 0xc0, 0xff, 0xc0,
];

fn single_step(guest: &mut MicroGuest) -> Measured {
    load(
        guest,
        &Program {
            kernel: &COUNTING,
            ..Program::default()
        },
    )?;
    for step in 1..=8 {
        let rip = guest.step().map_err(failed)?;
        let rax = registers(guest)?.gpr[RAX];
        if (rip, rax) != (KERNEL + 2 * step, step) {
            return Err(format!(
                "step {step} stopped after {rax} instructions at {rip:#x}"
            ));
        }
    }
    Ok("8 steps, one instruction each".into())
}

fn tsc_trap(guest: &mut MicroGuest) -> Measured {
    let kernel = to_user();
    load(
        guest,
        &Program {
            kernel: &kernel,
            user: &[0x0f, 0x31, 0x0f, 0x05],    // rdtsc; syscall
            syscall: &[0xe6, 0x10, 0xeb, 0xfe], // out 0x10, al; jmp $
            cr4: CR4_TSD,
        },
    )?;
    match guest.run().map_err(failed)? {
        Event::Vector {
            vector: 13,
            rip: USER,
            cpl: 3,
        } => Ok("RDTSC with CR4.TSD faults".into()),
        Event::Exit(Exit::Io(_)) => Err("CR4.TSD is ignored".into()),
        other => Err(format!("{} in place of a fault", describe(other))),
    }
}

fn hardware_breakpoint(guest: &mut MicroGuest) -> Measured {
    let mut kernel = COUNTING.to_vec();
    kernel.extend_from_slice(&[0xe6, 0x10]); // out 0x10, al
    load(
        guest,
        &Program {
            kernel: &kernel,
            ..Program::default()
        },
    )?;
    match guest.run_to_breakpoint(KERNEL + 6).map_err(failed)? {
        Some(rip) if rip == KERNEL + 6 => Ok("stops before its instruction".into()),
        Some(rip) => Err(format!("stopped at {rip:#x}")),
        None => Err("never stops".into()),
    }
}
