//! The checks. Each returns what was found, or what was seen in its place.

mod debug;
mod exits;
mod identification;
mod instructions;
mod measure;
mod memory;
mod paging;
mod processor;
mod stops;
mod transfer;
mod x87;

pub use self::measure::Effort;
pub(super) use self::measure::{Measured, PATIENCE};
use super::catalogue::PROCESSOR;
use super::report::{Finding, with_causes};
use crate::host_kernel::Release;
use crate::kvm::probe::MicroGuest;
use crate::kvm::{CpuModel, CpuModelError, MachineError};

type MicroGuestCheck = fn(&mut MicroGuest, Effort) -> Measured;

/// The checks that run a micro-guest, with the least effort that includes them.
pub(super) const MICRO_GUESTS: [(&str, Effort, MicroGuestCheck); 18] = [
    ("long_mode", Effort::Needed, processor::long_mode),
    ("user_mode", Effort::Needed, processor::user_mode),
    ("cpuid", Effort::Needed, processor::cpuid),
    ("exits", Effort::Needed, exits::exits),
    ("halt", Effort::Needed, exits::halt),
    ("interrupts", Effort::Needed, exits::interrupts),
    ("msr_filter", Effort::Needed, exits::msr_filter),
    ("single_step", Effort::Needed, debug::single_step),
    ("tsc_trap", Effort::Needed, debug::tsc_trap),
    ("kick", Effort::Needed, stops::kick),
    ("dirty_logging", Effort::Needed, transfer::dirty_logging),
    ("state_transfer", Effort::Needed, transfer::state_transfer),
    ("paging", Effort::Needed, paging::paging),
    ("memory", Effort::Needed, memory::memory),
    ("counter", Effort::Needed, stops::counter),
    ("x87_pointers", Effort::Needed, x87::x87_pointers),
    ("instructions", Effort::Needed, instructions::instructions),
    (
        "hardware_breakpoint",
        Effort::All,
        debug::hardware_breakpoint,
    ),
];

/// Reports the checks that come before a micro-guest. Returns whether micro-guests can be tried.
pub(super) fn machine(
    model: &Result<CpuModel, MachineError>,
    tell: impl Fn(&'static str, Measured),
) -> bool {
    let error = match model {
        Ok(model) => {
            tell("device", Ok(opened()));
            tell("api", Ok("version 12, nothing missing".into()));
            tell("cpu_model", Ok(name(model).into()));
            tell(PROCESSOR, identification::processor());
            return true;
        }
        Err(error) => error,
    };
    let failed = Err(match error {
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
    tell("device", Ok(opened()));
    if !matches!(error, MachineError::CpuModel(_)) {
        tell("api", failed);
        return false;
    }
    tell("api", Ok("version 12, nothing missing".into()));
    tell("cpu_model", failed);
    tell(PROCESSOR, identification::processor());
    true
}

/// With the kernel's release: two hosts may differ because their KVMs do.
fn opened() -> Finding {
    format!("yes, Linux {}", Release::of_host()).trim().into()
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::super::catalogue::CATALOGUE;
    use super::super::purpose::NeededBy;
    use super::*;

    /// A hang is blamed on the first check of the report without an outcome.
    #[test]
    fn checks_are_made_in_the_order_of_the_report() {
        let made = RefCell::new(Vec::new());
        let lacking = CpuModelError::Missing(vec!["aes"]);
        let goes_on = machine(&Err(MachineError::CpuModel(lacking)), |id, _| {
            made.borrow_mut().push(id);
        });
        assert!(goes_on, "micro-guests tell more");
        let mut made = made.into_inner();
        made.extend(MICRO_GUESTS.iter().map(|(id, ..)| *id));
        let reported: Vec<&str> = CATALOGUE.iter().map(|entry| entry.id).collect();
        assert_eq!(made, reported);

        let efforts = MICRO_GUESTS.iter().map(|(_, effort, _)| *effort);
        assert!(
            efforts.is_sorted(),
            "what is made before a start comes first"
        );
        for (id, effort, _) in &MICRO_GUESTS {
            let entry = CATALOGUE.iter().find(|entry| entry.id == *id);
            let needed = entry.is_some_and(|entry| entry.needed_by != NeededBy::Nothing);
            assert!(!needed || *effort == Effort::Needed, "{id} is needed");
        }
    }
}
