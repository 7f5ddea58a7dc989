//! What a guest can reach: the targets of `vmm/tests/fuzz`.

#[path = "../../../vmm/tests/fuzz/targets/mod.rs"]
mod targets;

use self::targets::{Target, run};

pub(crate) const TARGETS: [crate::Target; 7] = [
    ("pci", |input| run(Target::Pci, input), Vec::new),
    ("net", |input| run(Target::Net, input), Vec::new),
    ("blk", |input| run(Target::Blk, input), Vec::new),
    ("apic", |input| run(Target::Apic, input), Vec::new),
    ("pit", |input| run(Target::Pit, input), Vec::new),
    ("uart", |input| run(Target::Uart, input), Vec::new),
    ("traps", |input| run(Target::Traps, input), Vec::new),
];
