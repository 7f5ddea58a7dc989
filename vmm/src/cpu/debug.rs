//! What a debugger needs of a processor, beyond running it.

use std::fmt;

use serde::Serialize;

use super::error::CpuError;
use super::exit::Exit;

/// A processor that a debugger can look into.
pub trait DebugCpu {
    /// Segments, tables and control registers at the last exit.
    ///
    /// # Errors
    /// [`CpuError::Hypervisor`] when KVM refuses.
    fn system_registers(&mut self) -> Result<SystemRegisters, CpuError>;

    /// x87 and SSE registers at the last exit.
    ///
    /// # Errors
    /// [`CpuError::Hypervisor`] when KVM refuses.
    fn float_registers(&mut self) -> Result<FloatRegisters, CpuError>;

    /// Executes one instruction. Returns the exit that came in its place, if one did.
    ///
    /// The guest can notice: an instruction that saves RFLAGS saves RFLAGS.TF set. So this is for
    /// a run that is thrown away.
    ///
    /// # Errors
    /// [`CpuError`] when the guest cannot go on.
    fn step(&mut self) -> Result<Option<Exit>, CpuError>;

    /// Makes [`GuestCpu::run`](crate::cpu::GuestCpu::run) return [`Exit::Kicked`] before it executes
    /// one of the instructions at these linear addresses, in place of those of the last call.
    /// Addresses that are not mapped now are left out. Only kernel code stops (CPL 0).
    ///
    /// While an address is set, guest memory there may be changed: set none before memory is
    /// looked at, and before a page's mapping changes.
    ///
    /// # Errors
    /// [`CpuError`].
    fn set_tripwires(&mut self, addresses: &[u64]) -> Result<(), CpuError>;
}

/// A segment register, with its hidden part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes, less one.
    pub limit: u32,
    /// Type field of the descriptor.
    pub kind: u8,
    /// Descriptor privilege level; that of SS is the CPL.
    pub dpl: u8,
    /// 64-bit code.
    pub long: bool,
    /// Whether it can be used.
    pub usable: bool,
}

/// A descriptor table register.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Table {
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes, less one.
    pub limit: u16,
}

/// Segments, tables and control registers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)] // the processor's own names
pub struct SystemRegisters {
    pub cs: Segment,
    pub ss: Segment,
    pub ds: Segment,
    pub es: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub tr: Segment,
    pub ldtr: Segment,
    pub gdtr: Table,
    pub idtr: Table,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub cr8: u64,
    pub efer: u64,
}

/// x87 and SSE registers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FloatRegisters {
    /// ST0–ST7, 80 bits each.
    pub st: [[u8; 10]; 8],
    /// x87 control word.
    pub control: u16,
    /// x87 status word.
    pub status: u16,
    /// Which x87 registers are in use, a bit each.
    pub used: u8,
    /// XMM0–XMM15.
    pub xmm: [u128; 16],
    /// MXCSR.
    pub mxcsr: u32,
}

impl fmt::Display for SystemRegisters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, s) in [
            ("cs", self.cs),
            ("ss", self.ss),
            ("ds", self.ds),
            ("es", self.es),
            ("fs", self.fs),
            ("gs", self.gs),
            ("tr", self.tr),
            ("ldtr", self.ldtr),
        ] {
            write!(f, "{name:<6} {:#06x}", s.selector)?;
            if s.usable {
                let long = if s.long { " 64-bit" } else { "" };
                write!(
                    f,
                    "  base {:#018x}  limit {:#010x}  type {:#x}  dpl {}{long}",
                    s.base, s.limit, s.kind, s.dpl
                )?;
            }
            writeln!(f)?;
        }
        for (name, table) in [("gdtr", self.gdtr), ("idtr", self.idtr)] {
            writeln!(
                f,
                "{name:<6}         base {:#018x}  limit {:#06x}",
                table.base, table.limit
            )?;
        }
        let control = [
            ("cr0", self.cr0),
            ("cr2", self.cr2),
            ("cr3", self.cr3),
            ("cr4", self.cr4),
            ("cr8", self.cr8),
            ("efer", self.efer),
        ];
        for pair in control.chunks(2) {
            for (n, (name, value)) in pair.iter().enumerate() {
                let gap = if n == 0 { "" } else { "    " };
                write!(f, "{gap}{name:<6} {value:#018x}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
