//! What random guests do with the local APIC, and the interrupts' ends that cost no exit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use ftvm_vmm::devices::Devices;
use ftvm_vmm::devices::pci::{self, MEMORY_WINDOW};
use ftvm_vmm::dice::Dice;
use ftvm_vmm::engine::tally::ExitKind;
use ftvm_vmm::fake_cpu::{Op, Script};
use ftvm_vmm::ram::GuestRam;
use ftvm_vmm::sources::Verification;
use logging_channel::entry::{Entry, Payload};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use vm_memory::GuestAddress;

use crate::guest::{BAR, DISK_BAR, Deed, deeds, out, script};
use crate::world::Playback;
use crate::{Run, record, replay};

/// The word by which interrupts are ended without an exit.
const EOI_WORD: u64 = 0x3_9000;

const TASK_PRIORITY: u32 = 0x808;
const SPURIOUS: u32 = 0x80f;
const COMMAND: u32 = 0x830;
const LVT_TIMER: u32 = 0x832;
const LVT_LINT0: u32 = 0x835;
const INITIAL_COUNT: u32 = 0x838;
const DIVIDE: u32 = 0x83e;
const SELF_IPI: u32 = 0x83f;
const PARAVIRTUAL_EOI: u32 = 0x4b56_4d04;

const MASKED: u64 = 1 << 16;
const PERIODIC: u64 = 1 << 17;
const EXTERNAL: u64 = 0b111 << 8;
const ENABLED: u64 = 0x1ff;

/// Vectors: the first of each function's messages (of its configuration, then of its queues), of
/// the timer, and those that the guest sends to itself.
const DISK: u8 = 0x41;
const TIMER: u8 = 0x51;
const NET: u8 = 0x61;
const OWN: u8 = 0x71;
/// Its handler does not end it.
const UNENDED: u8 = 0x81;

const END: Op = Op::EndInterrupt { word: EOI_WORD };

/// A function with messages.
struct Function {
    slot: u8,
    ports: u16,
    table: u64,
    first_vector: u8,
    queues: u16,
}

const FUNCTIONS: [Function; 2] = [
    Function {
        slot: 1,
        ports: BAR,
        table: MEMORY_WINDOW.base as u64,
        first_vector: NET,
        queues: 2,
    },
    Function {
        slot: 2,
        ports: DISK_BAR,
        table: MEMORY_WINDOW.base as u64 + 0x1000,
        first_vector: DISK,
        queues: 1,
    },
];

fn config_address(slot: u8, offset: u8) -> u32 {
    1 << 31 | u32::from(slot) << 11 | u32::from(offset & 0xfc)
}

/// Where the functions have the capability MSI-X in their configuration space.
static CAPABILITIES: LazyLock<[u8; 2]> = LazyLock::new(|| {
    let memory = GuestRam::from_ranges(&[(GuestAddress(0), 0x1000)]).expect("memory");
    let mut devices = Devices::new(&memory, [0x52, 0x54, 0, 0, 0, 1]).with_disk(1 << 20);
    let mut byte = |slot, offset: u8| {
        let address = config_address(slot, offset).to_le_bytes();
        devices.write_port(pci::ADDRESS_PORT, &address, 0);
        let mut data = [0];
        devices.read_port(pci::DATA_PORT + u16::from(offset & 3), &mut data, 0);
        data[0]
    };
    FUNCTIONS.map(|function| {
        let mut capability = byte(function.slot, 0x34);
        while byte(function.slot, capability) != 0x11 {
            assert_ne!(capability, 0, "function {} has MSI-X", function.slot);
            capability = byte(function.slot, capability + 1);
        }
        capability
    })
});

/// A driver's set-up of a function's messages.
fn use_messages(function: &Function, capability: u8) -> Vec<Op> {
    let mut ops = Vec::new();
    for n in 0..=function.queues {
        let entry = function.table + 16 * u64::from(n);
        let vector = u32::from(function.first_vector) + u32::from(n);
        for (offset, value) in [(0, 0xfee0_0000), (4, 0), (8, vector), (12, 0)] {
            let address = entry + offset;
            ops.push(Op::WriteHole { address, value });
        }
        if let Some(queue) = n.checked_sub(1) {
            ops.push(out(function.ports + 0x16, 2, queue.into()));
            ops.push(out(function.ports + 0x1a, 2, n.into()));
        }
    }
    let address = config_address(function.slot, capability);
    ops.push(out(pci::ADDRESS_PORT, 4, address));
    ops.push(out(pci::DATA_PORT + 2, 2, 1 << 15));
    ops
}

fn deeds_of(ops: impl IntoIterator<Item = Op>) -> Vec<Deed> {
    ops.into_iter().map(Deed::Do).collect()
}

/// A kernel's set-up of the local APIC, with a timer that ticks every millisecond, and of messages.
pub(crate) fn set_up() -> Vec<Deed> {
    let mut ops = vec![
        Op::WriteMsr(SPURIOUS, ENABLED),
        Op::WriteMsr(DIVIDE, 0b1011), // by 1
        Op::WriteMsr(LVT_TIMER, u64::from(TIMER) | PERIODIC),
        Op::WriteMsr(INITIAL_COUNT, 1_000_000),
        Op::WriteMsr(PARAVIRTUAL_EOI, EOI_WORD | 1),
    ];
    for (function, capability) in FUNCTIONS.iter().zip(*CAPABILITIES) {
        ops.extend(use_messages(function, capability));
    }
    deeds_of(ops)
}

/// One thing that a kernel does with the local APIC or with messages. The 8254 always comes
/// through in the end, so that a guest that sleeps is woken; and no timer is so fast that the guest
/// has no time for anything else.
pub(crate) fn deed() -> impl Strategy<Value = Vec<Deed>> {
    let own = prop::sample::select(&[OWN, OWN, OWN + 1, DISK, NET, TIMER, UNENDED][..]);
    let timer = prop::sample::select(&[TIMER, TIMER, 0x91][..]).prop_map(u64::from);
    let read = prop_oneof![
        4 => 0x810..0x818u32,
        4 => 0x820..0x828u32,
        4 => prop::sample::select(&[0x80a, LVT_TIMER, INITIAL_COUNT, 0x839, PARAVIRTUAL_EOI][..]),
        1 => 0x800..0x840u32,
    ];
    let write = |index| move |value: u64| Op::WriteMsr(index, value);
    let words = [EOI_WORD | 1, EOI_WORD | 1, 0, EOI_WORD | 0b11];
    let enabled = [ENABLED, ENABLED, 0xff];
    let one = prop_oneof![
        8 => own.clone().prop_map(|vector| Op::WriteMsr(SELF_IPI, vector.into())),
        2 => (own, 0..4u64).prop_map(|(vector, to)| {
            Op::WriteMsr(COMMAND, u64::from(vector) | to << 18)
        }),
        4 => read.prop_map(Op::ReadMsr),
        1 => prop::sample::select(words.to_vec()).prop_map(write(PARAVIRTUAL_EOI)),
        1 => prop::sample::select(enabled.to_vec()).prop_map(write(SPURIOUS)),
        1 => prop::sample::select(&[0, 0x50, 0x70][..]).prop_map(write(TASK_PRIORITY)),
        1 => (0..16u64).prop_map(write(DIVIDE)),
        2 => Just(END),
        1 => Just(Op::WriteMsr(0x80b, 0)),
        1 => (0..2u16).prop_map(|value| Op::Store { address: EOI_WORD, value }),
        1 => (0..2u64, 0..3u64, 0..2u32).prop_map(|(function, n, value)| Op::WriteHole {
            address: u64::from(MEMORY_WINDOW.base) + 0x1000 * function + 16 * n + 12,
            value,
        }),
    ];
    let run_out = |mode: u64, counts: std::ops::Range<u64>| {
        (timer.clone(), counts).prop_map(move |(vector, count)| {
            deeds_of([
                Op::WriteMsr(LVT_TIMER, vector | mode),
                Op::WriteMsr(INITIAL_COUNT, count),
            ])
        })
    };
    prop_oneof![
        24 => one.prop_map(|op| deeds_of([op])),
        2 => run_out(0, 0..200_000),
        2 => run_out(PERIODIC, 500_000..2_000_000),
        1 => run_out(MASKED, 0..200_000),
        1 => (1..20u32).prop_map(|instructions| deeds_of([
            Op::WriteMsr(LVT_LINT0, EXTERNAL | MASKED),
            Op::Compute(instructions),
            Op::WriteMsr(LVT_LINT0, EXTERNAL),
        ])),
        2 => Just(deeds_of([Op::WriteMsr(SELF_IPI, OWN.into()), Op::WriteMsr(SELF_IPI, DISK.into())])),
    ]
}

/// The handlers of the local APIC's interrupts. `net` and `disk` are what those of the 8259 pair do
/// for these devices beside its end.
pub(crate) fn handlers(net: &[Op], disk: &[Op]) -> BTreeMap<u8, Vec<Op>> {
    let with = |work: &[Op], end: &[Op]| [work, end].concat();
    // As Linux does: the end, and then work with interrupts enabled.
    let end_first = [END, Op::Sti, Op::Compute(4), Op::Cli];
    // Interrupts are enabled while the end is still to come: a window opens in which what waits is
    // not of a higher priority.
    let end_last = [Op::Sti, Op::Compute(2), END];
    BTreeMap::from([
        (DISK, vec![END]),
        (DISK + 1, with(disk, &end_last)),
        (TIMER, end_first.to_vec()),
        (NET, vec![END]),
        (NET + 1, with(net, &[END])),
        (NET + 2, vec![Op::Sti, END]),
        (OWN, end_last.to_vec()),
        (OWN + 1, vec![END]),
        (UNENDED, vec![]),
        (0x91, vec![Op::ReadTsc, END]),
    ])
}

/// The vectors that were delivered where an interrupt window opened.
fn delivered(log: &[Entry]) -> impl Iterator<Item = u8> {
    log.iter().filter_map(|entry| match entry.payload {
        Payload::Interrupt(vector) => Some(vector),
        _ => None,
    })
}

fn exits(run: &Run, kind: ExitKind) -> u64 {
    let mut counts = run.exits.iter();
    counts.find(|(k, _)| *k == kind).expect("all are there").1
}

/// Windows that opened and there was nothing to deliver.
fn missed(run: &Run, log: &[Entry]) -> u64 {
    exits(run, ExitKind::InterruptWindow) - delivered(log).count() as u64
}

/// The generator makes guests that use all of it: the properties are not about an APIC that is
/// switched off. And windows with nothing to deliver open at the same places in a replay.
#[test]
fn random_guests_use_the_local_apic() {
    let mut runner = TestRunner::deterministic();
    let mut dice = Dice(1);
    let mut vectors = BTreeSet::new();
    let mut windows_missed = 0;
    for _ in 0..200 {
        let deeds = deeds().new_tree(&mut runner).expect("a guest").current();
        let script = script(&deeds);
        let (recorded, log) = record(&script, &mut dice, Verification::EveryExit);
        assert!(recorded.ended.is_ok(), "{:?}", recorded.ended);
        vectors.extend(delivered(&log));
        windows_missed += missed(&recorded, &log);
        let replayed = replay(&script, &mut dice, Playback::new(log.clone()));
        assert!(replayed.ended.is_ok(), "{:?}", replayed.ended);
        assert_eq!(missed(&replayed, &log), missed(&recorded, &log));
    }
    for vector in [DISK + 1, TIMER, NET + 1, NET + 2, OWN, UNENDED, 0x91] {
        assert!(vectors.contains(&vector), "{vector:#x} in {vectors:x?}");
    }
    assert!(windows_missed > 0);
}

/// A guest that sends itself two interrupts at once, with this handler for the first. The second's
/// makes one access to memory where there is none.
fn interrupted_twice(paravirtual: bool, handler: &[Op]) -> (Run, Vec<Entry>) {
    let mut script: Script = script(&[]);
    script.main = vec![
        Op::WriteMsr(SPURIOUS, ENABLED),
        Op::WriteMsr(PARAVIRTUAL_EOI, if paravirtual { EOI_WORD | 1 } else { 0 }),
        Op::WriteMsr(SELF_IPI, OWN.into()),
        Op::WriteMsr(SELF_IPI, DISK.into()),
        Op::Sti,
        Op::Compute(5),
        Op::Cli,
    ];
    script.handlers.insert(OWN, handler.to_vec());
    let second = vec![Op::ReadHole(0xfec0_0000), END];
    script.handlers.insert(DISK, second);
    let (run, log) = record(&script, &mut Dice(3), Verification::EveryExit);
    assert!(run.ended.is_ok(), "{:?}", run.ended);
    assert_eq!(exits(&run, ExitKind::Mmio), 1, "the second one came");
    (run, log)
}

/// Register accesses of [`interrupted_twice`] without ends of interrupts.
const WITHOUT_ENDS: u64 = 4;

#[test]
fn ends_of_interrupts_cost_no_exit_even_where_another_waits() {
    let (run, log) = interrupted_twice(true, &[END]);
    assert_eq!(exits(&run, ExitKind::Apic), WITHOUT_ENDS);
    assert_eq!(missed(&run, &log), 0);
    let (run, _) = interrupted_twice(false, &[END]);
    assert_eq!(exits(&run, ExitKind::Apic), WITHOUT_ENDS + 2);
}

#[test]
fn a_handler_that_can_be_interrupted_has_to_tell_of_its_end_where_another_waits() {
    let (run, log) = interrupted_twice(true, &[Op::Sti, Op::Compute(3), END]);
    assert_eq!(missed(&run, &log), 1);
    assert_eq!(exits(&run, ExitKind::Apic), WITHOUT_ENDS + 1);
}
