//! Which processor this host has, by name.

use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::fs;

use super::measure::Measured;

pub(super) fn processor() -> Measured {
    // Linux knows the microcode's number; of this machine's processors it is the same for all.
    let told = fs::read_to_string("/proc/cpuinfo")
        .map_err(|e| format!("/proc/cpuinfo cannot be read: {e}"))?;
    let (leaf0, leaf1) = (__cpuid(0), __cpuid(1));
    let vendor = [leaf0.ebx, leaf0.edx, leaf0.ecx]
        .map(u32::to_le_bytes)
        .concat();
    let signature = Signature::of(leaf1.eax);
    let is_hybrid = leaf0.eax >= 7 && __cpuid_count(7, 0).edx & HYBRID != 0;
    Ok(name(&vendor, signature, microcode(&told), is_hybrid).into())
}

/// CPUID.7:EDX: its cores are of several kinds.
const HYBRID: u32 = 1 << 15;

/// Family, model and stepping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Signature {
    family: u32,
    model: u32,
    stepping: u32,
}

impl Signature {
    /// Of CPUID.1:EAX (AMD APM volume 3, appendix E; Intel SDM volume 2A, CPUID).
    fn of(eax: u32) -> Self {
        let base = eax >> 8 & 0xf;
        let has_more = base == 0xf || base == 6;
        Self {
            family: base + if base == 0xf { eax >> 20 & 0xff } else { 0 },
            model: eax >> 4 & 0xf | if has_more { eax >> 12 & 0xf0 } else { 0 },
            stepping: eax & 0xf,
        }
    }
}

/// The microcode's number, as Linux writes it.
fn microcode(cpuinfo: &str) -> Option<&str> {
    let line = cpuinfo.lines().find(|line| line.starts_with("microcode"))?;
    Some(line.split_once(':')?.1.trim())
}

/// In words that fit a report.
fn name(vendor: &[u8], signature: Signature, microcode: Option<&str>, is_hybrid: bool) -> String {
    let vendor = match vendor {
        b"AuthenticAMD" => "AMD".into(),
        b"GenuineIntel" => "Intel".into(),
        other => String::from_utf8_lossy(other),
    };
    let Signature {
        family,
        model,
        stepping,
    } = signature;
    let microcode = microcode.unwrap_or("unknown");
    let hybrid = if is_hybrid { "hybrid " } else { "" };
    format!(
        "{hybrid}{vendor} family {family} model {model} stepping {stepping}, microcode {microcode}"
    )
}

#[cfg(test)]
mod tests {
    use logging_channel::MAX_MEASURED;

    use super::*;

    #[test]
    fn processors_are_named_as_the_manuals_do() {
        let rome = Signature::of(0x0083_0f10);
        let cpuinfo = "processor\t: 0\nmicrocode\t: 0x8301055\nflags\t: fpu\n";
        assert_eq!(
            name(b"AuthenticAMD", rome, microcode(cpuinfo), false),
            "AMD family 23 model 49 stepping 0, microcode 0x8301055"
        );
        let lake = Signature::of(0x000b_06f2);
        let long = name(b"GenuineIntel", lake, Some("0xffffffff"), true);
        assert_eq!(
            long,
            "hybrid Intel family 6 model 191 stepping 2, microcode 0xffffffff"
        );
        assert!(long.len() <= MAX_MEASURED, "{}", long.len());
        assert_eq!(microcode("flags\t: fpu\n"), None);
        let old = Signature::of(0x0000_0543);
        assert_eq!((old.family, old.model, old.stepping), (5, 4, 3));
    }
}
