//! Random guests: a kernel's set-up of the real devices, then any mix of what guests do.

use std::collections::BTreeMap;

use ftvm_vmm::boot::rewrite::Sites;
use ftvm_vmm::cpu::GuestCpu;
use ftvm_vmm::cpu::fake::{Dice, FakeCpu, Op, Script};
use ftvm_vmm::devices::Devices;
use ftvm_vmm::engine::{Engine, Role};
use ftvm_vmm::ram::GuestRam;
use ftvm_vmm::traps::TscTrap;
use proptest::prelude::*;
use virtio_bindings::virtio_ring::VRING_DESC_F_WRITE;
use vm_memory::{Bytes, GuestAddress};

const MEMORY: usize = 1 << 20;
const RX_RING: u64 = 0x1_0000;
const TX_RING: u64 = 0x2_0000;
const BUFFERS: u64 = 0x4_0000;
const BUFFER_BYTES: u64 = 0x800;
const QUEUE: u16 = 16;
const TX_FRAME_BYTES: u32 = 12 + 60;
const BAR: u16 = 0xc000;

const AVAIL: u64 = 0x1000;
const USED: u64 = 0x2000;

/// What a random guest does after its set-up.
#[derive(Debug, Clone)]
pub(crate) enum Deed {
    /// Any operation.
    Do(Op),
    /// Sends the next frame.
    Send,
}

/// Any guest.
pub(crate) fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let op = prop_oneof![
        4 => (1..20u32).prop_map(Op::Compute),
        3 => Just(Op::Sti),
        2 => Just(Op::Cli),
        2 => Just(Op::ReadTsc),
        1 => Just(Op::ReadMsr(0x10)),
        1 => Just(Op::ReadMsr(0x8b)),
        1 => Just(Op::ReadMsr(0x4b56_4d00)),
        1 => any::<u64>().prop_map(|v| Op::WriteMsr(0x10, v)),
        1 => Just(Op::ReadHole(0xfee0_0000)),
        2 => Just(Op::In { port: 0x40, size: 1 }),
        1 => Just(Op::In { port: 0x608, size: 4 }),
        1 => Just(Op::In { port: 0x61, size: 1 }),
        1 => Just(Op::In { port: 0x71, size: 1 }),
        1 => Just(Op::In { port: 0x3f8, size: 1 }),
        3 => prop_oneof![Just(b'\n'), any::<u8>()].prop_map(|b| out(0x3f8, 1, b.into())),
        1 => Just(out(0x20, 1, 0x0a)),
        1 => (any::<u16>(), prop_oneof![Just(1u8), Just(2), Just(4)])
            .prop_filter("resets end the guest", |(p, _)| *p != 0x64 && *p != 0xcf9)
            .prop_map(|(port, size)| Op::In { port, size }),
    ];
    let deed = prop_oneof![
        8 => op.prop_map(|op| vec![Deed::Do(op)]),
        // Idle as kernels are: the halt is the shadow of STI.
        4 => Just(vec![Deed::Do(Op::Sti), Deed::Do(Op::Halt)]),
        1 => Just(vec![Deed::Send]),
    ];
    prop::collection::vec(deed, 1..60).prop_map(|deeds| deeds.concat())
}

fn out(port: u16, size: u8, value: u32) -> Op {
    Op::Out { port, size, value }
}

fn set_up() -> Vec<Op> {
    let mut ops = Vec::new();
    for (port, value) in [
        // The 8259 pair: vectors 0x20 and 0x28, timer, console and network open.
        (0x20, 0x11),
        (0x21, 0x20),
        (0x21, 0x04),
        (0x21, 0x01),
        (0xa0, 0x11),
        (0xa1, 0x28),
        (0xa1, 0x02),
        (0xa1, 0x01),
        (0x21, 0x00),
        (0xa1, 0xff),
        // The timer: 1000 Hz.
        (0x43, 0x34),
        (0x40, 0xa9),
        (0x40, 0x04),
        // The console: interrupt on received data.
        (0x3f9, 0x01),
        (0x70, 0x00),
    ] {
        ops.push(out(port, 1, value));
    }
    let bar = |at: u16, size, value| out(BAR + at, size, value);
    ops.extend([
        bar(0x14, 1, 0),
        bar(0x14, 1, 1),
        bar(0x14, 1, 3),
        bar(0x08, 4, 1),
        bar(0x0c, 4, 1), // VIRTIO_F_VERSION_1
        bar(0x14, 1, 11),
    ]);
    for (n, ring) in [(0, RX_RING), (1, TX_RING)] {
        ops.extend([
            bar(0x16, 2, n),
            bar(0x18, 2, QUEUE.into()),
            bar(0x20, 4, ring as u32),
            bar(0x28, 4, (ring + AVAIL) as u32),
            bar(0x30, 4, (ring + USED) as u32),
            bar(0x1c, 2, 1),
        ]);
    }
    ops.push(bar(0x14, 1, 15));
    ops
}

fn handlers() -> BTreeMap<u8, Vec<Op>> {
    let eoi = out(0x20, 1, 0x20);
    let read = |port| Op::In { port, size: 1 };
    let console = vec![
        read(0x3fa),
        read(0x3f8),
        read(0x3f8),
        read(0x3f8),
        read(0x3fd),
        eoi.clone(),
    ];
    let net = vec![
        read(BAR + 0x40),
        Op::Load {
            address: RX_RING + USED,
            len: 4 + 8 * usize::from(QUEUE),
        },
        Op::Load {
            address: BUFFERS,
            len: BUFFER_BYTES as usize * usize::from(QUEUE),
        },
        eoi.clone(),
    ];
    let timer = vec![Op::Compute(3), eoi.clone()];
    // Spurious interrupts of the master come as line 7.
    BTreeMap::from([(0x20, timer), (0x24, console), (0x25, net), (0x27, vec![])])
}

/// The script of a guest.
pub(crate) fn script(deeds: &[Deed]) -> Script {
    let mut main = set_up();
    let mut sent = 0;
    for deed in deeds {
        match deed {
            Deed::Do(op) => main.push(op.clone()),
            Deed::Send => {
                sent += 1;
                main.push(Op::Store {
                    address: TX_RING + AVAIL + 2,
                    value: sent,
                });
                main.push(out(BAR + 0x44, 2, 1));
            }
        }
    }
    Script {
        main,
        handlers: handlers(),
    }
}

/// Guest memory with both rings filled in: receive buffers offered, frames ready to be sent.
pub(crate) fn memory() -> GuestRam {
    let memory = GuestRam::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("memory");
    let put16 = |at: u64, v: u16| memory.write_obj(v, GuestAddress(at)).expect("in memory");
    let put32 = |at: u64, v: u32| memory.write_obj(v, GuestAddress(at)).expect("in memory");
    let put64 = |at: u64, v: u64| memory.write_obj(v, GuestAddress(at)).expect("in memory");
    for n in 0..u64::from(QUEUE) {
        let receive = BUFFERS + BUFFER_BYTES * n;
        let transmit = receive + BUFFER_BYTES * u64::from(QUEUE);
        for (ring, buffer, len, flags) in [
            (RX_RING, receive, BUFFER_BYTES as u32, VRING_DESC_F_WRITE),
            (TX_RING, transmit, TX_FRAME_BYTES, 0),
        ] {
            put64(ring + 16 * n, buffer);
            put32(ring + 16 * n + 8, len);
            put16(ring + 16 * n + 12, flags as u16);
            put16(ring + AVAIL + 4 + 2 * n, n as u16);
        }
        put64(transmit + 12, n + 1);
    }
    put16(RX_RING + AVAIL + 2, QUEUE);
    memory
}

/// An engine for a guest with this script and memory.
pub(crate) fn engine(
    script: &Script,
    memory: &GuestRam,
    kicks: &mut Dice,
    role: Role,
) -> Engine<FakeCpu> {
    engine_of(processor(script, memory, kicks), memory, role)
}

/// A processor for a guest with this script and memory.
pub(crate) fn processor(script: &Script, memory: &GuestRam, kicks: &mut Dice) -> FakeCpu {
    FakeCpu::new(script.clone(), memory.clone(), kicks.roll(u64::MAX))
}

/// An engine for a guest with this processor and memory.
pub(crate) fn engine_of<C: GuestCpu>(cpu: C, memory: &GuestRam, role: Role) -> Engine<C> {
    Engine::new(
        cpu,
        Devices::new(memory, [0x52, 0x54, 0, 0, 0, 1]),
        TscTrap::new(&Sites::default(), memory.clone()),
        role,
    )
}
