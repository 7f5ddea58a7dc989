//! What makes a replay differ, by what differs.
//!
//! | what does it | what it shows in |
//! | --- | --- |
//! | a program that executes RDRAND or RDSEED | general registers, the FPU's, memory, and what comes of it |
//! | a program that reads x87 pointers | memory alone: the instructions that show them store them, and digests of the FPU leave them out |
//! | accessed and dirty bits that a processor sets when it likes, or KVM because the host took pages away | page tables, of the program that runs or of another, and what comes of it |
//! | a processor or a KVM that opens interrupt windows elsewhere | the place of a window |
//! | a host that is broken, or ftvm | anything |

use super::{Difference, Divergence, StateDifference};

const RANDOM: &str = "a program that executes RDRAND or RDSEED, which CPUID hides and nothing \
     intercepts";
const X87_POINTERS: &str = "one that reads x87 pointers (FNSTENV, FNSAVE, FXSAVE; in the C library \
     fegetenv, swapcontext) where `ftvm doctor` fails the check x87_pointers";
const ESTIMATES: &str = "one whose results are each processor model's own (RSQRTPS, RCPPS, FSIN), if \
     the hosts' processors are not of the same model";
const TABLE_BITS: &str = "accessed and dirty bits in page tables, of whatever program, and \
     what the guest's kernel made of them: a processor sets them when it likes while it walks nested \
     page tables; without these (`npt=0` for the module kvm_amd, `ept=0` for \
     kvm_intel) KVM sets them, and guests are slower; with shadow paging already, a host that took \
     memory of the guest away and put it back (swapping, KSM, NUMA balancing, compaction)";
const WINDOWS: &str = "hosts whose processors or KVMs open the interrupt window at other places: use \
     the same model and the same kernel on both, and look at the check interrupts of `ftvm doctor`";
const HOST: &str = "a host whose processor or memory is faulty, or a fault of ftvm: run `ftvm \
     doctor` on both hosts, look for machine checks in their logs, and test their memory";

const LATE: &str = "the performance counter's interrupt came too late, as those of AMD's processors \
     do now and then";
const COUNTER: &str = "the performance counter of one host was taken away or counts wrongly (the NMI \
     watchdog or perf, system management interrupts, another kind of core, a virtual machine with a \
     mediated PMU; `ftvm doctor` tells)";

impl Divergence {
    /// What most likely caused it, in words, if the same guest differs again and again.
    #[must_use]
    pub fn likely_cause(&self) -> String {
        match &self.difference {
            Difference::State(state) => state.likely_cause(),
            Difference::Register { .. } | Difference::RegisterDigest { .. } => {
                format!("a register differs: {RANDOM}; or {ESTIMATES}; or {TABLE_BITS}; or {HOST}")
            }
            Difference::Event { .. } => {
                format!(
                    "the guest did something else: {RANDOM}; or {X87_POINTERS}; or {TABLE_BITS}; or {HOST}"
                )
            }
            Difference::Window { .. } => format!(
                "an interrupt came somewhere else: {WINDOWS}; or {RANDOM}, which led the guest there; \
                 or {TABLE_BITS}; or {HOST}"
            ),
            Difference::Memory { .. } => {
                format!("memory differs: {RANDOM}; or {X87_POINTERS}; or {TABLE_BITS}; or {HOST}")
            }
            Difference::SharedRead { .. } => {
                "somebody else writes to the disk, or the hosts do not use the same one".into()
            }
            Difference::Transfer(_) => format!(
                "the backup's host has too little memory left, if it says so; or the hosts do not run the \
                 same kernel or the same ftvm, so that one does not take the other's state; or {HOST}"
            ),
            Difference::Overrun(_) => format!("the guest does not differ: {LATE}"),
            Difference::CounterLost(_) => format!("the guest does not differ: {COUNTER}"),
            Difference::Seek(_) => format!(
                "the two processors do not count or execute alike: {COUNTER}; or {RANDOM}; or {HOST}"
            ),
            Difference::Processor(_) | Difference::Overdue { .. } => {
                format!("the two processors do not count or execute alike; or {HOST}")
            }
        }
    }
}

impl StateDifference {
    fn likely_cause(&self) -> String {
        let (fpu, others): (Vec<&str>, Vec<&str>) =
            self.parts.iter().partition(|part| **part == "FPU");
        if !self.pages.is_empty() && self.page_tables == self.pages.len() {
            return format!("page tables alone differ: {TABLE_BITS}; or {HOST}");
        }
        let place = match (self.stack, self.program_pages) {
            (Some(stack), _) => format!(", {stack} among it,"),
            (None, 0) => String::new(),
            (None, _) => " of a program".to_owned(),
        };
        match (
            &others[..],
            &self.pages[..],
            self.registers.is_empty() && fpu.is_empty(),
        ) {
            // What a program computed cannot be in these before it was in memory or a register.
            (&[_, ..], [], true) => format!("a part that no program computes with differs: {HOST}"),
            (_, [], _) => {
                format!(
                    "registers differ and memory does not: {RANDOM}; or {ESTIMATES}; or {TABLE_BITS}; or {HOST}"
                )
            }
            // Page tables of another program than the one that runs are not known as such.
            (_, _, true) => format!(
                "memory{place} differs and no register: {RANDOM}; or {X87_POINTERS}; or {TABLE_BITS}; \
                 or {HOST}"
            ),
            (_, _, false) => {
                format!(
                    "memory{place} and registers differ: {RANDOM}; or {ESTIMATES}; or {TABLE_BITS}; or {HOST}"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use logging_channel::entry::{ExecutionPoint, Lsn};

    use super::*;

    /// The words for a cause, of which a likely one has these and no others.
    const CAUSES: [&str; 6] = [
        "interrupt window",
        "RDRAND",
        "FNSTENV",
        "RSQRTPS",
        "npt=0",
        "faulty",
    ];

    fn is_told_as(difference: Difference, expected: &[&str]) -> String {
        let told = Divergence {
            point: ExecutionPoint::at_exit(1),
            lsn: Lsn(1),
            difference,
        }
        .likely_cause();
        let named = CAUSES.iter().filter(|cause| told.contains(**cause));
        assert!(named.eq(expected), "{expected:?}: {told}");
        told
    }

    fn state(state: StateDifference, expected: &[&str]) -> String {
        is_told_as(Difference::State(Box::new(state)), expected)
    }

    fn nothing() -> StateDifference {
        StateDifference::default()
    }

    /// The instructions that show these pointers store them, and digests leave those of the FPU out.
    #[test]
    fn x87_pointers_show_in_memory_alone() {
        let pages = vec![7, 8];
        let stack = Some("a program's stack");
        let told = state(
            StateDifference {
                pages: pages.clone(),
                stack,
                ..nothing()
            },
            &["RDRAND", "FNSTENV", "npt=0", "faulty"],
        );
        assert!(told.contains("a program's stack"), "{told}");
        let program_pages = 1;
        let told = state(
            StateDifference {
                pages: pages.clone(),
                program_pages,
                ..nothing()
            },
            &["RDRAND", "FNSTENV", "npt=0", "faulty"],
        );
        assert!(told.contains("of a program"), "{told}");

        let in_registers = ["RDRAND", "RSQRTPS", "npt=0", "faulty"];
        let parts = vec!["FPU"];
        state(
            StateDifference {
                parts: parts.clone(),
                ..nothing()
            },
            &in_registers,
        );
        let registers = vec![("rax", 1, 2)];
        state(
            StateDifference {
                registers: registers.clone(),
                ..nothing()
            },
            &in_registers,
        );
        state(
            StateDifference {
                registers,
                pages: pages.clone(),
                ..nothing()
            },
            &in_registers,
        );
        state(
            StateDifference {
                parts,
                pages,
                ..nothing()
            },
            &in_registers,
        );
        let (name, logged, replayed) = ("rax", 1, 2);
        is_told_as(
            Difference::Register {
                name,
                logged,
                replayed,
            },
            &in_registers,
        );
    }

    #[test]
    fn a_window_elsewhere_is_of_the_processor() {
        let (logged, replayed) = (0x1000, 0x1001);
        let window = Difference::Window { logged, replayed };
        is_told_as(window, &["interrupt window", "RDRAND", "npt=0", "faulty"]);
    }

    #[test]
    fn page_tables_are_of_the_processor() {
        let tables = StateDifference {
            pages: vec![7, 8],
            page_tables: 2,
            ..nothing()
        };
        state(tables, &["npt=0", "faulty"]);
        let others = StateDifference {
            pages: vec![7, 8],
            page_tables: 1,
            ..nothing()
        };
        state(others, &["RDRAND", "FNSTENV", "npt=0", "faulty"]);
    }

    #[test]
    fn a_device_alone_is_of_the_host() {
        let device = StateDifference {
            parts: vec!["pit"],
            ..nothing()
        };
        state(device, &["faulty"]);
        // What a program computed got there by way of memory.
        let parts = vec!["pit"];
        let both = StateDifference {
            parts,
            pages: vec![7],
            ..nothing()
        };
        state(both, &["RDRAND", "FNSTENV", "npt=0", "faulty"]);
    }
}
