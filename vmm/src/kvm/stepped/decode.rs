//! What single-stepping has to know of an instruction before it is executed.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

/// Longest instruction in bytes (Intel SDM volume 2, section 2.3.11).
pub(super) const LONGEST: usize = 15;

/// What is special about an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing.
    Plain,
    /// STI, MOV SS, POP SS: nothing comes between it and the next instruction.
    Shadowing,
    /// SYSCALL.
    Syscall,
    /// SYSRET; to 64-bit code if `wide`.
    Sysret { wide: bool },
    /// PUSHF: shows RFLAGS.
    PushFlags,
    /// POPF, IRET: sets RFLAGS from the stack, so many bytes above its top.
    PopFlags { offset: u64 },
}

/// A conditional branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Branch {
    /// Jcc.
    Usual,
    /// LOOP and JCXZ: see [`Branches`](crate::counter::Branches).
    Unusual,
}

/// An instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decoded {
    pub(super) kind: Kind,
    /// Which conditional branch it is, if it is one: counters in hardware count these.
    pub(super) branch: Option<Branch>,
    /// Length in bytes.
    pub(super) len: u64,
}

/// Decodes the instruction at the start of `code`, if it is all there.
pub(super) fn decode(code: &[u8], bitness: u32) -> Option<Decoded> {
    let mut decoder = Decoder::new(bitness, code, DecoderOptions::NONE);
    let instruction = decoder.decode();
    (!instruction.is_invalid()).then(|| Decoded {
        kind: kind(&instruction),
        branch: branch(&instruction),
        len: instruction.len() as u64,
    })
}

fn branch(instruction: &Instruction) -> Option<Branch> {
    (instruction.flow_control() == FlowControl::ConditionalBranch).then(|| {
        if instruction.is_jcc_short_or_near() {
            Branch::Usual
        } else {
            Branch::Unusual
        }
    })
}

fn kind(instruction: &Instruction) -> Kind {
    let to_ss = instruction.op_count() > 0
        && instruction.op0_kind() == OpKind::Register
        && instruction.op0_register() == Register::SS;
    match instruction.mnemonic() {
        Mnemonic::Sti => Kind::Shadowing,
        Mnemonic::Mov | Mnemonic::Pop if to_ss => Kind::Shadowing,
        Mnemonic::Syscall => Kind::Syscall,
        Mnemonic::Sysretq => Kind::Sysret { wide: true },
        Mnemonic::Sysret => Kind::Sysret { wide: false },
        Mnemonic::Pushf | Mnemonic::Pushfd | Mnemonic::Pushfq => Kind::PushFlags,
        Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq => Kind::PopFlags { offset: 0 },
        Mnemonic::Iret => Kind::PopFlags { offset: 4 },
        Mnemonic::Iretd => Kind::PopFlags { offset: 8 },
        Mnemonic::Iretq => Kind::PopFlags { offset: 16 },
        _ => Kind::Plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_instructions_are_known() {
        for (code, kind) in [
            (&[0xfb][..], Kind::Shadowing),
            (&[0x8e, 0xd0], Kind::Shadowing), // mov ss, eax
            (&[0x8e, 0xd8], Kind::Plain),     // mov ds, eax
            (&[0x8c, 0xd0], Kind::Plain),     // mov eax, ss
            (&[0x0f, 0x05], Kind::Syscall),
            (&[0x48, 0x0f, 0x07], Kind::Sysret { wide: true }),
            (&[0x0f, 0x07], Kind::Sysret { wide: false }),
            (&[0x9c], Kind::PushFlags),
            (&[0x66, 0x9c], Kind::PushFlags),
            (&[0x9d], Kind::PopFlags { offset: 0 }),
            (&[0x48, 0xcf], Kind::PopFlags { offset: 16 }),
            (&[0xcf], Kind::PopFlags { offset: 8 }),
            (&[0xf3, 0xa4], Kind::Plain), // rep movsb
        ] {
            let len = code.len() as u64;
            let mut bytes = code.to_vec();
            bytes.resize(LONGEST, 0x90);
            let branch = None;
            let expected = Decoded { kind, branch, len };
            assert_eq!(decode(&bytes, 64), Some(expected), "{code:x?}");
        }
    }

    #[test]
    fn conditional_branches_are_told_from_jumps() {
        for (code, branch) in [
            (&[0x75, 0xf9][..], Some(Branch::Usual)), // jnz
            (&[0x0f, 0x84, 0, 0, 0, 0], Some(Branch::Usual)),
            (&[0xe2, 0xfe], Some(Branch::Unusual)), // loop
            (&[0xe3, 0xfe], Some(Branch::Unusual)), // jrcxz
            (&[0xeb, 0xfe], None),                  // jmp
            (&[0xc3], None),                        // ret
            (&[0x0f, 0x44, 0xc1], None),            // cmovz
        ] {
            let found = decode(code, 64).map(|instruction| instruction.branch);
            assert_eq!(found, Some(branch), "{code:x?}");
        }
    }

    #[test]
    fn a_cut_instruction_is_none() {
        assert_eq!(decode(&[0x48, 0xb8, 1, 2], 64), None);
        assert_eq!(decode(&[], 64), None);
    }
}
