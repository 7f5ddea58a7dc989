//! Answers to model specific registers that the guest may not touch directly.

/// IA32_TIME_STAMP_COUNTER.
pub const TSC: u32 = 0x10;

/// The value of a read, or `None` for #GP.
#[must_use]
pub fn read(index: u32) -> Option<u64> {
    match index {
        // Registers that kernels read without a check and that say "nothing special" when 0:
        // machine check capabilities, microcode level, platform id, miscellaneous enables,
        // feature control, AMD's SYSCFG, HWCR, patch level, northbridge and DE_CFG.
        0x17 | 0x3a | 0x8b | 0x179 | 0x17a | 0x1a0 | 0x1d9 | 0xc001_0010 | 0xc001_0015
        | 0xc001_001f | 0xc001_0055 | 0xc001_0140 | 0xc001_0141 | 0xc001_1020 | 0xc001_1022
        | 0xc001_1029 => Some(0),
        _ => None,
    }
}

/// Whether a write is taken (and ignored); otherwise it is a #GP.
#[must_use]
pub fn write_allowed(index: u32) -> bool {
    // The TSC cannot be set: it is the log's.
    index == TSC || read(index).is_some()
}
