//! Random guests: a kernel's set-up of the real devices, then any mix of what guests do.

use std::collections::BTreeMap;

use ftvm_vmm::cpu::GuestCpu;
use ftvm_vmm::devices::Devices;
use ftvm_vmm::dice::Dice;
use ftvm_vmm::engine::{Engine, Role};
use ftvm_vmm::fake_cpu::{FakeCpu, Op, Script};
use ftvm_vmm::ram::GuestRam;
use ftvm_vmm::rewrite::{Sites, TscCopy};
use ftvm_vmm::traps::TscTrap;
use ftvm_vmm::tsc_cache;
use proptest::prelude::*;
use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use vm_memory::{Bytes, GuestAddress};

use crate::apic;

const MEMORY: usize = 1 << 20;
const RX_RING: u64 = 0x1_0000;
const TX_RING: u64 = 0x2_0000;
const BUFFERS: u64 = 0x4_0000;
const BUFFER_BYTES: u64 = 0x800;
const QUEUE: u16 = 16;
const TX_FRAME_BYTES: u32 = 12 + 60;
pub(crate) const BAR: u16 = 0xc000;

/// The disk: its ring, and for each of the driver's requests a header, data and a status.
pub(crate) const DISK_BAR: u16 = 0xc100;
const DISK_RING: u64 = 0x3_0000;
const DISK_QUEUE: u16 = 64;
const DISK_REQUESTS: u64 = 16;
const DISK_HEADERS: u64 = 0x3_4000;
const DISK_STATUS: u64 = 0x3_5000;
const DISK_DATA: u64 = 0x8_0000;
const DISK_DATA_BYTES: u64 = 0x1000;
/// One request is of more than fits an entry of the log.
const LARGE: u64 = 7;
const LARGE_DATA: u64 = 0xa_0000;
const LARGE_BYTES: u32 = 0x1_2000;
const DISK_CAPACITY: u64 = 1 << 20;

/// Where the guest reads a copy of the time stamp counter.
pub(crate) const TSC_COPY: u64 = 0x3_8000;

const AVAIL: u64 = 0x1000;
const USED: u64 = 0x2000;

/// What a random guest does after its set-up.
#[derive(Debug, Clone)]
pub(crate) enum Deed {
    /// Any operation.
    Do(Op),
    /// Sends the next frame.
    Send,
    /// Makes the next request to the disk.
    Ask,
}

/// Any guest.
pub(crate) fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let op = prop_oneof![
        4 => (1..20u32).prop_map(Op::Compute),
        3 => Just(Op::Sti),
        2 => Just(Op::Cli),
        2 => Just(Op::ReadTsc),
        2 => Just(Op::Load { address: TSC_COPY, len: tsc_cache::BYTES }),
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
        2 => Just(vec![Deed::Ask]),
        5 => apic::deed(),
    ];
    let deeds = prop::collection::vec(deed, 1..60);
    (any::<bool>(), deeds).prop_map(|(uses_apic, deeds)| {
        let set_up = if uses_apic {
            apic::set_up()
        } else {
            Vec::new()
        };
        [set_up, deeds.concat()].concat()
    })
}

pub(crate) fn out(port: u16, size: u8, value: u32) -> Op {
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
    let disk = |at: u16, size, value| out(DISK_BAR + at, size, value);
    ops.extend([
        disk(0x14, 1, 3),
        disk(0x08, 4, 1),
        disk(0x0c, 4, 1),
        disk(0x14, 1, 11),
        disk(0x18, 2, DISK_QUEUE.into()),
        disk(0x20, 4, DISK_RING as u32),
        disk(0x28, 4, (DISK_RING + AVAIL) as u32),
        disk(0x30, 4, (DISK_RING + USED) as u32),
        disk(0x1c, 2, 1),
        disk(0x14, 1, 15),
    ]);
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
    let load = |address, len: u64| Op::Load {
        address,
        len: len as usize,
    };
    let net_work = [
        load(RX_RING + USED, 4 + 8 * u64::from(QUEUE)),
        load(BUFFERS, BUFFER_BYTES * u64::from(QUEUE)),
    ];
    let disk_work = [
        load(DISK_RING + USED, 4 + 8 * u64::from(DISK_QUEUE)),
        load(DISK_STATUS, DISK_REQUESTS),
        load(DISK_DATA, DISK_DATA_BYTES * DISK_REQUESTS),
        load(LARGE_DATA, LARGE_BYTES.into()),
    ];
    let of_line = |isr, work: &[Op]| [&[read(isr)], work, std::slice::from_ref(&eoi)].concat();
    let net = of_line(BAR + 0x40, &net_work);
    let disk = of_line(DISK_BAR + 0x40, &disk_work);
    let timer = vec![Op::Compute(3), eoi.clone()];
    // Spurious interrupts of the master come as line 7.
    let mut handlers = apic::handlers(&net_work, &disk_work);
    handlers.extend([
        (0x20, timer),
        (0x24, console),
        (0x25, net),
        (0x26, disk),
        (0x27, vec![]),
    ]);
    handlers
}

/// The script of a guest.
pub(crate) fn script(deeds: &[Deed]) -> Script {
    let mut main = set_up();
    let (mut sent, mut asked) = (0, 0);
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
            Deed::Ask => {
                asked += 1;
                main.push(Op::Store {
                    address: DISK_RING + AVAIL + 2,
                    value: asked,
                });
                main.push(out(DISK_BAR + 0x44, 2, 0));
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
    for n in 0..DISK_REQUESTS {
        // Reads, writes and flushes, some of them of the same sectors.
        let kind = [0, 1, 0, 4][n as usize % 4];
        let kind = if n == LARGE { 0 } else { kind };
        put32(DISK_HEADERS + 16 * n, kind);
        put64(DISK_HEADERS + 16 * n + 8, n % 3);
        let (address, len) = match (n, kind) {
            (LARGE, _) => (LARGE_DATA, LARGE_BYTES),
            (_, 4) => (DISK_DATA, 0),
            _ => (DISK_DATA + DISK_DATA_BYTES * n, 512 * (1 + n as u32 % 2)),
        };
        let device_writes = if kind == 0 { VRING_DESC_F_WRITE } else { 0 };
        let chain = [
            (DISK_HEADERS + 16 * n, 16, VRING_DESC_F_NEXT),
            (address, len, VRING_DESC_F_NEXT | device_writes),
            (DISK_STATUS + n, 1, VRING_DESC_F_WRITE),
        ];
        for (at, (address, len, flags)) in (3 * n..).zip(chain) {
            put64(DISK_RING + 16 * at, address);
            put32(DISK_RING + 16 * at + 8, len);
            put16(DISK_RING + 16 * at + 12, flags as u16);
            put16(DISK_RING + 16 * at + 14, at as u16 + 1);
        }
    }
    for slot in 0..u64::from(DISK_QUEUE) {
        let head = slot % DISK_REQUESTS * 3;
        put16(DISK_RING + AVAIL + 4 + 2 * slot, head as u16);
    }
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
    let sites = Sites {
        copy: Some(TscCopy {
            address: TSC_COPY,
            reads: 1,
        }),
        ..Sites::default()
    };
    Engine::new(
        cpu,
        Devices::new(memory, [0x52, 0x54, 0, 0, 0, 1]).with_disk(DISK_CAPACITY),
        TscTrap::new(&sites, memory.clone()),
        role,
    )
}
