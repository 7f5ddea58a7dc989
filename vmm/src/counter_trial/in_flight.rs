//! Whether an interrupt that was injected is part of a guest's state.

use std::time::Duration;

use super::TrialError;
use crate::counter::{Ran, Steppable};
use crate::cpu::{CpuError, CpuState, Exit, GuestCpu};
use crate::kvm::counting::FreeCpu;
use crate::kvm::probe::{MicroGuest, Program, handler};

const VECTOR: u8 = 0x40;
const PORT: u16 = 0x10;
/// The host may have something to do before a step is made.
const TRIES: usize = 16;

/// Goes to user mode, with interrupts enabled and its ports open.
const KERNEL: [u8; 21] = [
    0x6a, 0x23, // push USER_DATA
    0x68, 0x00, 0xb0, 0x00, 0x00, // push USER_STACK
    0x68, 0x02, 0x32, 0x00, 0x00, // push 0x3202: IF, IOPL 3
    0x6a, 0x2b, // push USER_CODE
    0x68, 0x00, 0x10, 0x01, 0x00, // push USER
    0x48, 0xcf, // iretq
];
const USER: [u8; 4] = [
    0xe6, PORT as u8, // out PORT, al
    0x0f, 0x05, // syscall: the VMM executes it for a guest that it steps
];

/// Injects an interrupt before an instruction that the VMM executes itself, saves the state and loads
/// it into another processor. The first step there must deliver the interrupt.
pub(super) fn check() -> Result<(), TrialError> {
    let mut from = at_the_syscall()?;
    from.inject(VECTOR)?;
    let state = from.save()?;
    let mut to = at_the_syscall()?;
    to.load(&state)?;
    let before = to.rip()?;
    for _ in 0..TRIES {
        if let Ran::Exit(exit) = to.step()? {
            return Err(unexpected(exit).into());
        }
        if to.rip()? != before {
            break;
        }
    }
    to.end_steps()?;
    let rip = to.rip()?;
    if rip == handler(VECTOR) {
        return Ok(());
    }
    Err(TrialError::Forgotten { rip })
}

fn at_the_syscall() -> Result<FreeCpu, TrialError> {
    let mut guest = MicroGuest::new(Duration::MAX)?;
    guest.load(&Program {
        kernel: &KERNEL,
        user: &USER,
        ..Program::default()
    })?;
    let mut cpu = FreeCpu::new(guest.into_cpu());
    loop {
        match cpu.run()? {
            Exit::Kicked => {}
            Exit::Io(access) if access.port == PORT => break,
            other => return Err(unexpected(other).into()),
        }
    }
    cpu.complete_access()?;
    Ok(cpu)
}

fn unexpected(exit: Exit) -> CpuError {
    CpuError::UnknownExit(format!("{exit:?} of a guest that makes none"))
}
