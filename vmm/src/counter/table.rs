//! Which event counts retired conditional branches on which processor, and its skid.
//!
//! The table says what to try; what a host really does is measured before it is used. Numbers are
//! those that rr uses after years of reports from its users (`PerfCounters.cc` and
//! `PerfCounters_x86.h` of <https://github.com/rr-debugger/rr>). Events are documented in Intel's
//! "Performance Monitoring Events" (<https://perfmon-events.intel.com>) and in AMD's Processor
//! Programming References, section "Core Performance Monitor Counters"; models in the Intel SDM,
//! volume 4, table 2-1, and in Linux, `arch/x86/include/asm/intel-family.h` and
//! `arch/x86/kernel/cpu/amd.c`.

use std::arch::x86_64::__cpuid;

/// Who made a processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    /// `GenuineIntel`.
    Intel,
    /// `AuthenticAMD`.
    Amd,
}

/// What else has to be right on a host for the counter to be exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caveat {
    /// System management interrupts are counted unless `freeze_on_smi` of the unit is 1.
    FreezeOnSmi,
    /// In rare cases the skid is larger than the one given, so every stop must be checked.
    UnboundedSkid,
    /// Speculation of locked instructions ("SpecLockMap") spoils the count. Bit 54 of MSR
    /// 0xc0011020 switches it off (<https://github.com/rr-debugger/rr/wiki/Zen>).
    SpecLockMap,
}

/// A family of processors that count alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Microarchitecture {
    /// Name as its maker uses it.
    pub name: &'static str,
    vendor: Vendor,
    /// CPUID family, with the extended family added.
    family: u32,
    /// CPUID models, with the extended model, first and last.
    models: &'static [(u32, u32)],
    /// Retired conditional branches, in `perf_event_attr.config` for `PERF_TYPE_RAW`: event in
    /// bits 0–7, unit mask in bits 8–15 and 40–47.
    pub event: u64,
    /// Events that the counter's interrupt comes late at most.
    pub skid: u64,
    /// What else has to be right.
    pub caveats: &'static [Caveat],
}

/// BR_INST_RETIRED.CONDITIONAL, Nehalem to Comet Lake.
const CONDITIONAL: u64 = 0x01c4;
/// BR_INST_RETIRED.COND, from Ice Lake on.
const COND: u64 = 0x11c4;
/// BR_INST_RETIRED.COND, from Lion Cove on.
const COND_EXTENDED: u64 = COND | 1 << 40;
/// BR_INST_RETIRED.JCC, Atom cores.
const JCC: u64 = 0x7ec4;
/// Retired conditional branch instructions (PMCx0D1), Zen.
const ZEN_CONDITIONAL: u64 = 0x00d1;

const ZEN: &[Caveat] = &[Caveat::UnboundedSkid, Caveat::SpecLockMap];
const SMI: &[Caveat] = &[Caveat::FreezeOnSmi];

const fn intel(
    name: &'static str,
    models: &'static [(u32, u32)],
    event: u64,
    skid: u64,
    caveats: &'static [Caveat],
) -> Microarchitecture {
    Microarchitecture {
        name,
        vendor: Vendor::Intel,
        family: 6,
        models,
        event,
        skid,
        caveats,
    }
}

const fn zen(name: &'static str, family: u32, models: &'static [(u32, u32)]) -> Microarchitecture {
    Microarchitecture {
        name,
        vendor: Vendor::Amd,
        family,
        models,
        event: ZEN_CONDITIONAL,
        skid: 10_000,
        caveats: ZEN,
    }
}

/// Shorthand for single models.
macro_rules! models {
    ($($model:literal),*) => { &[$(($model, $model)),*] };
}

/// Every microarchitecture whose counter is known to be exact. Of hybrid processors it has the
/// performance cores: the guest's thread stays on them.
pub const TABLE: &[Microarchitecture] = &[
    intel(
        "Nehalem",
        models![0x1a, 0x1e, 0x1f, 0x2e],
        CONDITIONAL,
        100,
        &[],
    ),
    intel("Westmere", models![0x25, 0x2c, 0x2f], CONDITIONAL, 100, &[]),
    intel("Sandy Bridge", models![0x2a, 0x2d], CONDITIONAL, 100, &[]),
    intel("Ivy Bridge", models![0x3a, 0x3e], CONDITIONAL, 100, &[]),
    intel(
        "Haswell",
        models![0x3c, 0x3f, 0x45, 0x46],
        CONDITIONAL,
        100,
        &[],
    ),
    intel(
        "Broadwell",
        models![0x3d, 0x47, 0x4f, 0x56],
        CONDITIONAL,
        100,
        &[],
    ),
    intel("Skylake", models![0x4e, 0x55, 0x5e], CONDITIONAL, 100, &[]),
    intel("Kaby Lake", models![0x8e, 0x9e], CONDITIONAL, 100, &[]),
    intel("Comet Lake", models![0xa5, 0xa6], CONDITIONAL, 100, SMI),
    intel("Ice Lake", models![0x6a, 0x6c, 0x7d, 0x7e], COND, 100, SMI),
    intel("Tiger Lake", models![0x8c, 0x8d], COND, 100, SMI),
    intel("Rocket Lake", models![0xa7], COND, 100, SMI),
    intel("Alder Lake", models![0x97, 0x9a], COND, 125, SMI),
    intel("Raptor Lake", models![0xb7, 0xba, 0xbf], COND, 125, SMI),
    intel("Sapphire Rapids", models![0x8f], COND, 125, SMI),
    intel("Emerald Rapids", models![0xcf], COND, 125, SMI),
    intel("Granite Rapids", models![0xad, 0xae], COND, 125, SMI),
    intel("Meteor Lake", models![0xaa], COND, 125, SMI),
    intel("Lunar Lake", models![0xbd], COND_EXTENDED, 125, SMI),
    intel(
        "Arrow Lake",
        models![0xb5, 0xc5, 0xc6],
        COND_EXTENDED,
        125,
        SMI,
    ),
    intel("Silvermont", models![0x37, 0x4c, 0x57], JCC, 100, &[]),
    intel("Goldmont", models![0x5c, 0x5f, 0x7a], JCC, 100, &[]),
    intel("Tremont", models![0x86, 0x96, 0x9c], JCC, 100, SMI),
    intel("Gracemont", models![0xbe], JCC, 100, SMI),
    zen("Zen", 0x17, &[(0x00, 0x2f)]),
    zen("Zen 2", 0x17, &[(0x30, 0xff)]),
    zen("Zen 3", 0x19, &[(0x00, 0x0f), (0x20, 0x5f)]),
    zen("Zen 4", 0x19, &[(0x10, 0x1f), (0x60, 0xaf)]),
    zen("Zen 5", 0x1a, &[(0x00, 0xff)]),
];

/// A processor as CPUID names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature {
    /// Its maker; `None` for one that the table does not know.
    pub vendor: Option<Vendor>,
    /// Family, with the extended family added.
    pub family: u32,
    /// Model, with the extended model.
    pub model: u32,
}

impl Signature {
    /// This host's processor.
    #[must_use]
    pub fn of_this_host() -> Self {
        let name = __cpuid(0);
        let bytes = [name.ebx, name.edx, name.ecx]
            .map(u32::to_le_bytes)
            .concat();
        let vendor = match &bytes[..] {
            b"GenuineIntel" => Some(Vendor::Intel),
            b"AuthenticAMD" => Some(Vendor::Amd),
            _ => None,
        };
        Self::decode(vendor, __cpuid(1).eax)
    }

    /// From EAX of CPUID leaf 1 (Intel SDM volume 2, CPUID, figure 3-6).
    fn decode(vendor: Option<Vendor>, eax: u32) -> Self {
        let base = eax >> 8 & 0xf;
        let family = if base == 0xf {
            base + (eax >> 20 & 0xff)
        } else {
            base
        };
        let model = if base == 6 || base == 0xf {
            eax >> 4 & 0xf | eax >> 12 & 0xf0
        } else {
            eax >> 4 & 0xf
        };
        Self {
            vendor,
            family,
            model,
        }
    }

    /// Its row of the table.
    #[must_use]
    pub fn microarchitecture(&self) -> Option<&'static Microarchitecture> {
        TABLE.iter().find(|row| row.has(self))
    }
}

impl Microarchitecture {
    fn has(&self, signature: &Signature) -> bool {
        let within = |&(first, last): &(u32, u32)| (first..=last).contains(&signature.model);
        signature.vendor == Some(self.vendor)
            && signature.family == self.family
            && self.models.iter().any(within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(vendor: Vendor, eax: u32) -> Option<&'static str> {
        let row = Signature::decode(Some(vendor), eax).microarchitecture();
        row.map(|row| row.name)
    }

    #[test]
    fn signatures_of_real_processors_are_found() {
        // Leaf 1 of an i7-920, E5-2690, i7-6700K, Xeon 8480+, i9-14900K, Xeon 6980P, N100; Ryzen 1700,
        // EPYC 7742, Ryzen 5950X, EPYC 9654, Ryzen 9950X.
        for (eax, expected) in [
            (0x0001_06a5, "Nehalem"),
            (0x0002_06d7, "Sandy Bridge"),
            (0x0005_06e3, "Skylake"),
            (0x0008_06f8, "Sapphire Rapids"),
            (0x000b_0671, "Raptor Lake"),
            (0x000a_06d1, "Granite Rapids"),
            (0x000b_06e0, "Gracemont"),
        ] {
            assert_eq!(name(Vendor::Intel, eax), Some(expected), "{eax:#x}");
        }
        for (eax, expected) in [
            (0x0080_0f11, "Zen"),
            (0x0083_0f10, "Zen 2"),
            (0x00a2_0f12, "Zen 3"),
            (0x00a1_0f11, "Zen 4"),
            (0x00b4_0f40, "Zen 5"),
        ] {
            assert_eq!(name(Vendor::Amd, eax), Some(expected), "{eax:#x}");
        }
    }

    #[test]
    fn what_is_not_in_the_table_has_no_row() {
        assert_eq!(name(Vendor::Amd, 0x0001_06a5), None);
        assert_eq!(name(Vendor::Intel, 0x0000_0f43), None, "Pentium 4");
        let unknown = Signature {
            vendor: None,
            family: 6,
            model: 0x5e,
        };
        assert_eq!(unknown.microarchitecture(), None);
    }

    #[test]
    fn no_processor_is_in_two_rows() {
        for vendor in [Vendor::Intel, Vendor::Amd] {
            for family in [6, 0x17, 0x19, 0x1a] {
                for model in 0..=0xff {
                    let signature = Signature {
                        vendor: Some(vendor),
                        family,
                        model,
                    };
                    let rows = TABLE.iter().filter(|row| row.has(&signature));
                    assert!(rows.count() <= 1, "{signature:?}");
                }
            }
        }
    }
}
