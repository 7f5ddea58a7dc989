//! Exits and interrupts: the clock of the log.

use super::super::report::{Finding, with_causes};
use super::measure::{
    Effort, Measured, RAX, RDX, describe, failed, load_kernel, microseconds_each, run_to,
};
use crate::cpu::{Exit, GuestCpu};
use crate::devices::msr;
use crate::kvm::probe::{Event, KERNEL, MicroGuest};

pub(super) fn exits(guest: &mut MicroGuest, effort: Effort) -> Measured {
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
        load_kernel(guest, &kernel)?;
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
    let alike = format!("{RUNS} runs of {exits} exits alike, with SSE, POPCNT, CMPXCHG16B");
    let mut finding = Finding::from(alike);
    if effort == Effort::All {
        finding = finding.with("exit_us", exit_cost(guest)?);
    }
    Ok(finding)
}

/// Microseconds from one port access to the next, through the VMM.
fn exit_cost(guest: &mut MicroGuest) -> Result<f64, String> {
    load_kernel(guest, &[0xe6, 0x10, 0xeb, 0xfc])?; // again: out 0x10, al; jmp again
    microseconds_each(|| run_to(guest, 0x10).map(drop))
}

pub(super) fn halt(guest: &mut MicroGuest, _: Effort) -> Measured {
    let kernel = [0xfb, 0xf4, 0xfa, 0xf4]; // sti; hlt; cli; hlt
    load_kernel(guest, &kernel)?;
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

pub(super) fn interrupts(guest: &mut MicroGuest, _: Effort) -> Measured {
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
    load_kernel(guest, &kernel)?;
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
    let windows = 2 * ROUNDS;
    let at_15 = match task_priority(guest)? {
        true => "open",
        false => "closed",
    };
    Ok(format!("{windows} windows, {ROUNDS} injections in place; window at CR8=15 {at_15}").into())
}

/// Whether an interrupt window opens with a task priority of 15: it does on Intel's processors and not
/// on AMD's. On all of them, an interrupt can be injected where a MOV to CR8 lowers the priority.
fn task_priority(guest: &mut MicroGuest) -> Result<bool, String> {
    let kernel = [
        0xb8, 15, 0, 0, 0, // 0: mov eax, 15
        0x44, 0x0f, 0x22, 0xc0, // 5: mov cr8, rax
        0xfb, // 9: sti
        0x90, // 10: nop
        0xe6, 0x20, // 11: out 0x20, al
        0x90, // 13: nop
        0x31, 0xc0, // 14: xor eax, eax
        0x44, 0x0f, 0x22, 0xc0, // 16: mov cr8, rax
        0xe6, 0x21, // 20: out 0x21, al
    ];
    load_kernel(guest, &kernel)?;
    run_to(guest, 0x20)?;
    guest.cpu().request_interrupt_window(true);
    let mut event = guest.run().map_err(failed)?;
    let opens = matches!(event, Event::Exit(Exit::InterruptWindow));
    if opens {
        guest.cpu().request_interrupt_window(false);
        event = guest.run().map_err(failed)?;
    }
    if !matches!(event, Event::Exit(Exit::TaskPriority)) {
        return Err(format!(
            "{} in place of a MOV to CR8 that lowers it",
            describe(event)
        ));
    }
    if !guest.cpu().ready_for_interrupt() {
        return Err("a MOV to CR8 that lowers it takes no interrupt".into());
    }
    match interrupted_at(guest)? {
        came if came == KERNEL + 20 => Ok(opens),
        came => Err(format!(
            "an interrupt behind a MOV to CR8 came at {came:#x}"
        )),
    }
}

pub(super) fn msr_filter(guest: &mut MicroGuest, effort: Effort) -> Measured {
    const VALUE: u64 = 0x1122_3344_5566_7788;
    let kernel = [
        0xb9, 0x10, 0, 0, 0, // mov ecx, IA32_TSC
        0x0f, 0x32, // rdmsr
        0xe6, 0x10, // out 0x10, al
        0x0f, 0x32, // again: rdmsr
        0xeb, 0xfc, // jmp again
    ];
    load_kernel(guest, &kernel)?;
    let answer = |guest: &mut MicroGuest| match guest.run().map_err(failed)? {
        Event::Exit(Exit::Msr {
            index: msr::TSC,
            write: None,
        }) => {
            guest.cpu().finish_msr(Some(VALUE));
            Ok(())
        }
        other => Err(format!("{} in place of RDMSR", describe(other))),
    };
    answer(guest)?;
    let gpr = run_to(guest, 0x10)?.gpr;
    if (gpr[RDX], gpr[RAX]) != (VALUE >> 32, VALUE & 0xffff_ffff) {
        return Err(format!(
            "RDMSR gave {:#x}:{:#x}, not the answer",
            gpr[RDX], gpr[RAX]
        ));
    }
    let access_us = match effort {
        Effort::All => Some(microseconds_each(|| answer(guest))?),
        Effort::Needed => None,
    };
    let deadline = tsc_deadline(guest)?;
    let finding: Finding =
        format!("RDMSR of TSC answered; WRMSR of TSC_DEADLINE {deadline}").into();
    Ok(match access_us {
        Some(access_us) => finding.with("access_us", access_us),
        None => finding,
    })
}

/// What becomes of a write to IA32_TSC_DEADLINE, for which some KVMs have a way of their own
/// (`crate::kvm`'s list of registers): a host may drop it where another's exits.
fn tsc_deadline(guest: &mut MicroGuest) -> Result<&'static str, String> {
    let kernel = [
        0xb9, 0xe0, 0x06, 0, 0, // mov ecx, IA32_TSC_DEADLINE
        0x31, 0xc0, // xor eax, eax
        0x31, 0xd2, // xor edx, edx
        0x0f, 0x30, // wrmsr
        0xe6, 0x10, // out 0x10, al
    ];
    load_kernel(guest, &kernel)?;
    match guest.run().map_err(failed)? {
        Event::Exit(Exit::Msr {
            index: 0x6e0,
            write: Some(0),
        }) => Ok("exits"),
        Event::Exit(Exit::Io(_)) => Ok("dropped by KVM"),
        other => Err(format!("{} in place of WRMSR", describe(other))),
    }
}
