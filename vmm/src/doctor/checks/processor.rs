//! The processor: 64-bit mode, privilege levels, CPUID.

use super::measure::{
    Effort, Measured, RAX, RBP, RBX, describe, failed, load, load_kernel, registers, run_to,
};
use crate::cpu::Exit;
use crate::kvm::probe::{Event, MicroGuest, Program, USER, USER_CODE, USER_DATA, USER_STACK};

pub(super) fn long_mode(guest: &mut MicroGuest, _: Effort) -> Measured {
    let kernel = [
        0x48, 0xb8, 8, 7, 6, 5, 4, 3, 2, 1, // mov rax, 0x0102030405060708
        0x48, 0x89, 0xc3, // mov rbx, rax
        0xe6, 0x10, // out 0x10, al
    ];
    load_kernel(guest, &kernel)?;
    let rbx = run_to(guest, 0x10)?.gpr[RBX];
    if rbx == 0x0102_0304_0506_0708 {
        Ok("64-bit registers".into())
    } else {
        Err(format!("rbx is {rbx:#x}"))
    }
}

/// Goes to user mode with IRETQ.
pub(super) fn to_user() -> Vec<u8> {
    let mut code = vec![0x6a, USER_DATA as u8, 0x68]; // push USER_DATA; push
    code.extend_from_slice(&(USER_STACK as u32).to_le_bytes());
    code.extend_from_slice(&[0x6a, 0x02]); // push 2 (RFLAGS)
    code.extend_from_slice(&[0x6a, USER_CODE as u8, 0x68]); // push USER_CODE; push
    code.extend_from_slice(&(USER as u32).to_le_bytes());
    code.extend_from_slice(&[0x48, 0xcf]); // iretq
    code
}

pub(super) fn user_mode(guest: &mut MicroGuest, _: Effort) -> Measured {
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

pub(super) fn cpuid(guest: &mut MicroGuest, _: Effort) -> Measured {
    const LEAVES: [u32; 4] = [0, 1, 7, 0x8000_0001];
    let mut kernel = Vec::new();
    for leaf in LEAVES {
        kernel.push(0xb8); // mov eax, leaf
        kernel.extend_from_slice(&leaf.to_le_bytes());
        kernel.extend_from_slice(&[0x31, 0xc9, 0x0f, 0xa2]); // xor ecx, ecx; cpuid
        kernel.extend_from_slice(&[0xe6, 0x10]); // out 0x10, al
    }
    load_kernel(guest, &kernel)?;
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
    Ok(format!("{} leaves as given", LEAVES.len()).into())
}
