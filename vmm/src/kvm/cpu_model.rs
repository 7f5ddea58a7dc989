//! The explicit CPU model: every CPUID leaf the guest sees.
//!
//! The table is written here, not taken from the host, so that both hosts of a virtual machine
//! show the same processor. It is x86-64-v2 plus AES and PCLMULQDQ. Hidden on purpose, because
//! their results differ between runs or hosts and cannot be trapped: TSC, RDTSCP, RDRAND, RDSEED,
//! RDPID, MONITOR/MWAIT, WAITPKG, TSX, PCID, the PMU, XSAVE with its compacting variants (they
//! store what the processor happens to track). Hidden as well are memory type ranges (MTRRs), of which
//! the registers are KVM's own and change with its version, and the local APIC's TSC deadline
//! ([`super::msrs`]). SMEP, SMAP and UMIP are left out because no guest
//! needs them to be correct. Of KVM's paravirtual features the guest sees those that ftvm provides
//! ([`crate::devices::kvm_features`]).
//!
//! Nothing keeps a program from executing what is hidden: only what CR4 or KVM gates is undefined then
//! (XGETBV, AVX and all that follows need CR4.OSXSAVE, which KVM refuses without CPUID's XSAVE). The
//! rest (RDRAND, MOVBE, BMI, ADX, …) does what the processor does. Where two hosts do not do the same,
//! the doctor's table of instructions finds it (`doctor::checks::instructions`).
//!
//! CPUID layouts: AMD APM volume 3, appendix E; Intel SDM volume 2A, CPUID.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};
use kvm_ioctls::Kvm;
use sha2::{Digest, Sha256};

use crate::config::Clock;
use crate::devices::kvm_features;

const LEAF1_EDX: &[(u32, &str)] = &[
    (0, "fpu"),
    (2, "de"),
    (3, "pse"),
    (5, "msr"),
    (6, "pae"),
    (8, "cx8"),
    (9, "apic"),
    (11, "sep"),
    (13, "pge"),
    (15, "cmov"),
    (16, "pat"),
    (17, "pse36"),
    (19, "clflush"),
    (23, "mmx"),
    (24, "fxsr"),
    (25, "sse"),
    (26, "sse2"),
];
const LEAF1_ECX: &[(u32, &str)] = &[
    (0, "sse3"),
    (1, "pclmulqdq"),
    (9, "ssse3"),
    (13, "cx16"),
    (19, "sse4_1"),
    (20, "sse4_2"),
    (21, "x2apic"),
    (23, "popcnt"),
    (25, "aes"),
];
const LEAF80000001_EDX: &[(u32, &str)] = &[(11, "syscall"), (20, "nx"), (29, "lm")];
const LEAF80000001_ECX: &[(u32, &str)] = &[(0, "lahf_lm")];

/// CPUID.1:ECX bit that says "this is a virtual machine".
const HYPERVISOR: u32 = 1 << 31;
/// Cache line of 64 bytes in CPUID.1:EBX bits 15..8 (units of 8 bytes), one logical processor.
const LEAF1_EBX: u32 = 0x0001_0800;
/// 40 physical and 48 linear address bits.
const ADDRESS_BITS: u32 = 48 << 8 | 40;
const BRAND: &[u8; 48] = b"ftvm virtual processor, x86-64-v2 + AES\0\0\0\0\0\0\0\0\0";

/// The processor that the guest sees.
#[derive(Debug, Clone)]
pub struct CpuModel {
    entries: Vec<kvm_cpuid_entry2>,
}

/// Why the CPU model cannot be had on this host.
#[derive(Debug, thiserror::Error)]
pub enum CpuModelError {
    /// The host lacks features of the model.
    #[error(
        "this host's processor or its KVM lacks {}, which the guest's CPU model needs: use a host \
         with x86-64-v2 and AES, or, where this host is itself virtual, give it such a CPU type",
        .0.join(", ")
    )]
    Missing(Vec<&'static str>),
    /// KVM did not tell what it supports.
    #[error("KVM did not report the CPUID features that it supports")]
    Query(#[source] kvm_ioctls::Error),
}

impl CpuModel {
    /// The model for this host. It depends on the host in one point only: the vendor (AMD or
    /// Intel) is the host's, because SYSCALL and SYSENTER behave as the real vendor's do.
    ///
    /// # Errors
    /// [`CpuModelError::Missing`] names the features that the host cannot give.
    pub fn for_host(kvm: &Kvm) -> Result<Self, CpuModelError> {
        let supported = supported(kvm)?;
        let leaf = |function| find(&supported, function);
        let basic = leaf(1);
        let extended = leaf(0x8000_0001);
        let missing: Vec<&'static str> = [
            (LEAF1_EDX, basic.edx),
            (LEAF1_ECX, basic.ecx),
            (LEAF80000001_EDX, extended.edx),
            (LEAF80000001_ECX, extended.ecx),
        ]
        .into_iter()
        .flat_map(|(wanted, have)| {
            wanted
                .iter()
                .filter(move |(bit, _)| have & (1 << bit) == 0)
                .map(|(_, name)| *name)
        })
        .collect();
        if !missing.is_empty() {
            return Err(CpuModelError::Missing(missing));
        }
        Ok(Self::build(is_intel(&supported)))
    }

    /// The model with what tells a kernel of the machine's paravirtual features, of which its clock
    /// is one.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        for (function, [eax, ebx, ecx, edx]) in
            [kvm_features::NAME_LEAF, kvm_features::features_leaf(clock)]
        {
            self.entries.push(kvm_cpuid_entry2 {
                function,
                eax,
                ebx,
                ecx,
                edx,
                ..Default::default()
            });
        }
        self
    }

    /// The model for this host, whether or not the host has its features: to see what else it
    /// lacks.
    pub(super) fn regardless(kvm: &Kvm) -> Result<Self, CpuModelError> {
        Ok(Self::build(is_intel(&supported(kvm)?)))
    }

    fn build(is_intel: bool) -> Self {
        let vendor: &[u8; 12] = if is_intel {
            b"GenuineIntel"
        } else {
            b"AuthenticAMD"
        };
        let word = |bytes: &[u8], at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let bits = |list: &[(u32, &str)]| list.iter().fold(0, |all, (bit, _)| all | 1 << bit);
        // Family 17h model 1 stepping 2 (EPYC) or family 6 model 5Eh (Skylake).
        let signature = if is_intel { 0x0005_06e3 } else { 0x0080_0f12 };
        let entry = |function, eax, ebx, ecx, edx| kvm_cpuid_entry2 {
            function,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        };
        let mut entries = vec![
            entry(0, 7, word(vendor, 0), word(vendor, 8), word(vendor, 4)),
            entry(
                1,
                signature,
                LEAF1_EBX,
                bits(LEAF1_ECX) | HYPERVISOR,
                bits(LEAF1_EDX),
            ),
            entry(7, 0, 0, 0, 0),
            entry(
                0x8000_0000,
                0x8000_0008,
                word(vendor, 0),
                word(vendor, 8),
                word(vendor, 4),
            ),
            entry(
                0x8000_0001,
                signature,
                0,
                bits(LEAF80000001_ECX),
                bits(LEAF80000001_EDX),
            ),
            entry(0x8000_0008, ADDRESS_BITS, 0, 0, 0),
        ];
        for (n, chunk) in BRAND.as_chunks::<16>().0.iter().enumerate() {
            entries.push(entry(
                0x8000_0002 + n as u32,
                word(chunk, 0),
                word(chunk, 4),
                word(chunk, 8),
                word(chunk, 12),
            ));
        }
        Self { entries }
    }

    /// The table in KVM's form.
    pub(crate) fn to_cpuid(&self) -> CpuId {
        CpuId::from_entries(&self.entries).expect("the model has far fewer leaves than KVM takes")
    }

    /// EAX, EBX, ECX and EDX of a leaf, if it is in the table.
    #[must_use]
    pub fn leaf(&self, function: u32) -> Option<[u32; 4]> {
        let entry = self.entries.iter().find(|e| e.function == function)?;
        Some([entry.eax, entry.ebx, entry.ecx, entry.edx])
    }

    /// Digest of the whole table: equal on two hosts when their guests see the same processor.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for e in &self.entries {
            for value in [e.function, e.index, e.flags, e.eax, e.ebx, e.ecx, e.edx] {
                hash.update(value.to_le_bytes());
            }
        }
        hash.finalize().into()
    }
}

fn supported(kvm: &Kvm) -> Result<CpuId, CpuModelError> {
    kvm.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
        .map_err(CpuModelError::Query)
}

fn find(table: &CpuId, function: u32) -> kvm_cpuid_entry2 {
    let entry = table.as_slice().iter().find(|e| e.function == function);
    entry.copied().unwrap_or_default()
}

fn is_intel(supported: &CpuId) -> bool {
    find(supported, 0).ebx == u32::from_le_bytes(*b"Genu")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(model: &CpuModel, function: u32) -> kvm_cpuid_entry2 {
        *model
            .entries
            .iter()
            .find(|e| e.function == function)
            .expect("leaf is in the model")
    }

    #[test]
    fn hides_what_cannot_be_replayed() {
        for intel in [false, true] {
            let model = CpuModel::build(intel);
            let (basic, extended) = (leaf(&model, 1), leaf(&model, 0x8000_0001));
            assert_eq!(basic.edx & (1 << 4), 0, "TSC");
            assert_eq!(basic.ecx & (1 << 3), 0, "MONITOR");
            assert_eq!(basic.ecx & (1 << 26 | 1 << 27), 0, "XSAVE, OSXSAVE");
            assert_eq!(basic.ecx & (1 << 30), 0, "RDRAND");
            assert_eq!(basic.edx & (1 << 12), 0, "MTRR");
            assert_eq!(basic.ecx & (1 << 24), 0, "TSC deadline");
            assert_eq!(extended.edx & (1 << 27), 0, "RDTSCP");
            assert_eq!(leaf(&model, 7).ebx, 0, "RDSEED, TSX and others");
        }
    }

    #[test]
    fn paravirtual_features_are_those_of_the_machine() {
        let model = CpuModel::build(false);
        assert_eq!(model.leaf(0x4000_0000), None);
        let features = |clock| {
            let model = model.clone().with_clock(clock);
            model.leaf(0x4000_0001).expect("there")[0]
        };
        // KVM_FEATURE_CLOCKSOURCE2 and KVM_FEATURE_CLOCKSOURCE_STABLE_BIT
        let clock = 1 << 3 | 1 << 24;
        // KVM_FEATURE_NOP_IO_DELAY and KVM_FEATURE_PV_EOI
        let others = 1 << 1 | 1 << 6;
        assert_eq!(features(Clock::KvmClock), clock | others);
        assert_eq!(features(Clock::PmTimer), others);
        assert_eq!(features(Clock::Jiffies), others);
    }

    #[test]
    fn digest_tells_vendors_apart() {
        assert_ne!(
            CpuModel::build(false).digest(),
            CpuModel::build(true).digest()
        );
        assert_eq!(
            CpuModel::build(true).digest(),
            CpuModel::build(true).digest()
        );
    }
}
