//! What can happen to the devices, drawn at random.

use std::ops::Range;

use proptest::collection::vec;
use proptest::prelude::*;

use super::disk_driver;
use super::machine::{PARAVIRTUAL_EOI, Step};
use crate::devices::{DISK, DISK_SLOT, NET, NET_SLOT};

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![
        4 => prop::sample::select(&[0x20u16, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1][..]),
        4 => prop::sample::select(&[0x40u16, 0x41, 0x42, 0x43, 0x61][..]),
        1 => prop::sample::select(&[0x70u16, 0x71][..]),
        4 => 0x3f8u16..0x400,
        1 => prop::sample::select(&[0xcf8u16, 0xcf9, 0xcfc, 0x64, 0x608][..]),
        6 => (0u16..0x24).prop_map(|n| NET.ports + 2 * n),
        4 => (0u16..0x24).prop_map(|n| DISK.ports + 2 * n),
        1 => any::<u16>(),
    ]
}

fn width() -> impl Strategy<Value = usize> {
    prop::sample::select(&[1usize, 1, 2, 4][..])
}

fn value() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => any::<u8>().prop_map(u32::from),
        3 => 0..32u32,
        1 => any::<u32>(),
    ]
}

fn read(port: u16) -> Step {
    Step::Read { port, len: 1 }
}

fn write((port, value): (u16, u32)) -> Step {
    Step::Write {
        port,
        len: 1,
        value,
    }
}

/// An access to the 8259 pair.
fn pic() -> impl Strategy<Value = Step> {
    let command = prop::sample::select(
        &[
            0x10u32, 0x11, // initialise, without ICW4 and with it
            0x0a, 0x0b, 0x0c, // read IRR, read ISR, poll
            0x48, 0x68, // special mask mode off and on
            0x20, 0x60, 0x65, 0x80, 0x80, 0xa0, 0xc3, 0xe0, // ends of interrupts, rotations
        ][..],
    );
    let pic = prop::sample::select(&[0x20u16, 0xa0][..]);
    let mask = prop::sample::select(&[0x21u16, 0xa1][..]);
    prop_oneof![
        3 => (pic.clone(), command).prop_map(write),
        2 => pic.prop_map(read),
        3 => (mask.clone(), 0..256u32).prop_map(write),
        2 => mask.prop_map(read),
    ]
}

/// An access to a register in which single bytes say much, or of which several make one command.
fn command() -> impl Strategy<Value = Step> {
    let timer = prop::sample::select(&[0x40u16, 0x41, 0x42][..]);
    let line_control = prop::sample::select(&[0x03u32, 0x83][..]);
    let power = prop::sample::select(&[0x600u16, 0x602, 0x604][..]);
    let power_value = prop_oneof![any::<u16>(), Just(5 << 10 | 1 << 13)];
    prop_oneof![
        10 => pic(),
        2 => (Just(0x43u16), 0..256u32).prop_map(write),
        2 => (timer.clone(), 0..256u32).prop_map(write),
        2 => timer.prop_map(read),
        1 => (Just(0x3fbu16), line_control).prop_map(write),
        1 => power.clone().prop_map(|port| Step::Read { port, len: 2 }),
        1 => (power, power_value)
            .prop_map(|(port, value)| Step::Write { port, len: 2, value: value.into() }),
    ]
}

/// An access to a register of the local APIC, or another step of a kernel that uses it.
fn apic() -> impl Strategy<Value = Step> {
    let writable = prop::sample::select(
        &[
            0x1bu32,
            0x808,
            0x80b,
            0x80f,
            0x828,
            0x82f,
            0x830,
            0x832,
            0x833,
            0x834,
            0x835,
            0x836,
            0x837,
            0x838,
            0x83e,
            0x83f,
            PARAVIRTUAL_EOI,
        ][..],
    );
    let index = prop_oneof![
        8 => writable,
        6 => prop_oneof![0x810..0x818u32, 0x820..0x828u32, Just(0x839)],
        1 => 0x800..0x840u32,
    ];
    // A vector, and bits of entries of the local vector table and of the command register.
    let entry = (any::<u8>(), 0..16u64).prop_map(|(vector, bits)| u64::from(vector) | bits << 16);
    let value = prop_oneof![
        6 => entry,
        4 => 0..0x200u64,
        2 => any::<u32>().prop_map(u64::from),
        1 => any::<u64>(),
    ];
    let start = (any::<(bool, bool, bool)>(), any::<u8>(), 1..1_000_000u32);
    prop_oneof![
        8 => (index, prop::option::of(value)).prop_map(|(index, value)| Step::Msr { index, value }),
        2 => start.prop_map(|((external, periodic, paravirtual_eoi), divide, count)| {
            Step::StartApic { external, periodic, divide, count, paravirtual_eoi }
        }),
        3 => (0x10u8..).prop_map(|vector| Step::Msr { index: 0x83f, value: Some(vector.into()) }),
        3 => Just(Step::EndInterrupt),
        1 => Just(Step::ClearEoiWord),
        2 => Just(Step::Enter),
    ]
}

/// Something that a driver has to do with messages.
fn messages() -> impl Strategy<Value = Step> {
    let slot = prop::sample::select(&[NET_SLOT, DISK_SLOT][..]);
    let offset = prop_oneof![
        8 => (0..16u16).prop_map(|n| 4 * n),
        2 => Just(0x800u16),
        1 => 0..0x1000u16,
    ];
    let value = prop_oneof![
        4 => 0..2u64,
        2 => Just(0xfee0_0000),
        2 => 0x10..0x100u64,
        1 => any::<u64>(),
    ];
    let len = prop::sample::select(&[4usize, 4, 4, 8, 1][..]);
    let mask = (0..3u16, 0..2u64).prop_map(|(n, masked)| (16 * n + 12, masked));
    let vector = (
        slot.clone(),
        prop::option::of(0..2u16),
        prop_oneof![Just(0), 0..4u16],
    );
    let control = prop::sample::select(&[0x8000u16, 0x8000, 0xc000, 0x4000, 0][..]);
    prop_oneof![
        4 => (slot.clone(), offset, len, prop::option::of(value))
            .prop_map(|(slot, offset, len, value)| Step::Table { slot, offset, len, value }),
        3 => (slot.clone(), mask).prop_map(|(slot, (offset, masked))| {
            Step::Table { slot, offset, len: 4, value: Some(masked) }
        }),
        2 => vector.prop_map(|(slot, queue, vector)| Step::Vector { slot, queue, vector }),
        1 => (slot, control).prop_map(|(slot, control)| Step::MessageControl { slot, control }),
    ]
}

/// Something that has to do with the disk.
fn disk() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => any::<(bool, bool)>()
            .prop_map(|(event_idx, messages)| Step::StartDisk { event_idx, messages }),
        6 => (disk_driver::ask(), 0..4u16)
            .prop_map(|(ask, used_event)| Step::Ask { ask, used_event }),
        4 => (0..8usize, disk_driver::answer())
            .prop_map(|(which, answer)| Step::Answer { which, answer }),
        1 => Just(Step::IssueAgain),
    ]
}

/// Something that has to do with the card.
fn card() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => any::<(bool, bool, bool)>().prop_map(|(event_idx, offloads, messages)| {
            Step::StartCard { event_idx, offloads, messages }
        }),
        4 => (0..2usize, 0..4u16, 0..4u16).prop_map(|(queue, buffers, used_event)| {
            Step::Offer { queue, buffers, used_event }
        }),
        4 => (14..1518usize, any::<u8>())
            .prop_map(|(len, fill)| Step::Frame { len, fill, uncut: false }),
        1 => (1518..6000usize, any::<u8>())
            .prop_map(|(len, fill)| Step::Frame { len, fill, uncut: true }),
    ]
}

/// An access to a port or to configuration space, or several that belong together.
fn access() -> impl Strategy<Value = Step> {
    let writable = prop::sample::select(&[0x04u8, 0x0c, 0x10, 0x14, 0x3c][..]);
    let config_offset = prop_oneof![writable, any::<u8>()];
    let config_value = prop::option::weighted(0.3, value());
    prop_oneof![
        8 => (port(), width()).prop_map(|(port, len)| Step::Read { port, len }),
        8 => (port(), width(), value())
            .prop_map(|(port, len, value)| Step::Write { port, len, value }),
        2 => (0..3u8, config_offset, width(), config_value)
            .prop_map(|(slot, offset, len, value)| Step::Config { slot, offset, len, value }),
        8 => command(),
        2 => (any::<bool>(), 0..=4usize)
            .prop_map(|(auto_eoi, words)| Step::InitPic { auto_eoi, words }),
        1 => prop::option::of(any::<u16>()).prop_map(|divisor| Step::Baud { divisor }),
        2 => (0..3u8, 0..6u8, 1..3000u16)
            .prop_map(|(channel, mode, count)| Step::Timer { channel, mode, count }),
    ]
}

/// What comes from outside or happens without an access.
fn event() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..5_000_000u64).prop_map(Step::Wait),
        2 => vec(any::<u8>(), 1..100).prop_map(Step::Typed),
        1 => Just(Step::Halt),
        2 => Just(Step::Enter),
        6 => Just(Step::Acknowledge),
        3 => Just(Step::TakeOutputs),
    ]
}

/// Steps that have to do with some of the devices, or with all: what takes several steps to show
/// is rare among steps of all kinds.
fn some_steps(count: Range<usize>) -> impl Strategy<Value = Vec<Step>> {
    let start_pic = any::<bool>().prop_map(|auto_eoi| Step::InitPic { auto_eoi, words: 4 });
    prop_oneof![
        2 => vec(
            prop_oneof![
                6 => access(),
                2 => apic(),
                1 => messages(),
                2 => card(),
                2 => disk(),
                4 => event(),
            ],
            count.clone(),
        ),
        1 => vec(prop_oneof![3 => access(), 1 => event()], count.clone()),
        1 => vec(prop_oneof![4 => command(), 1 => card(), 2 => event()], count.clone()),
        1 => vec(prop_oneof![1 => start_pic, 9 => pic(), 10 => event()], count.clone()),
        1 => vec(prop_oneof![2 => apic(), 1 => event()], count.clone()),
        2 => vec(prop_oneof![2 => messages(), 1 => card(), 1 => disk(), 1 => event()], count),
    ]
}

/// So many steps, at first those of a kernel that uses the local APIC and messages, or not.
pub(super) fn steps(count: Range<usize>) -> impl Strategy<Value = Vec<Step>> {
    (any::<bool>(), some_steps(count)).prop_map(|(messages, mut steps)| {
        if messages {
            let event_idx = true;
            let apic = Step::StartApic {
                external: false,
                periodic: true,
                divide: 3,
                count: 65_536,
                paravirtual_eoi: true,
            };
            let card = Step::StartCard {
                event_idx,
                offloads: true,
                messages,
            };
            let disk = Step::StartDisk {
                event_idx,
                messages,
            };
            steps.splice(0..0, [apic, card, disk]);
        }
        steps
    })
}
