//! A network card behind the PCI transport, driven as a guest's driver would, and as it would not.

mod uncut;

use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::RawDescriptor;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::mock::MockSplitQueue;
use vm_memory::{Bytes, GuestAddress};

use super::net::frame::{Frame, MAX_WIRE_BYTES};
use super::net::{Net, RX, TX};
use super::transport::VirtioPci;
use crate::ram::{GuestRam, take_written};

const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
const WRITE: u16 = VRING_DESC_F_WRITE as u16;
const NEXT: u16 = VRING_DESC_F_NEXT as u16;
const QUEUE: u16 = 16;
const RX_RING: u64 = 0x1000;
const TX_RING: u64 = 0x4000;
const BUFFERS: u64 = 0x1_0000;
const HEADER: usize = 12;

const DEVICE_FEATURE_SELECT: u16 = 0x00;
const DEVICE_FEATURE: u16 = 0x04;
const DRIVER_FEATURE_SELECT: u16 = 0x08;
const DRIVER_FEATURE: u16 = 0x0c;
const QUEUES: u16 = 0x12;
const STATUS: u16 = 0x14;
const QUEUE_SELECT: u16 = 0x16;
const QUEUE_SIZE: u16 = 0x18;
const QUEUE_VECTOR: u16 = 0x1a;
const QUEUE_ENABLE: u16 = 0x1c;
const DESC: u16 = 0x20;
const AVAIL: u16 = 0x28;
const USED: u16 = 0x30;
const ISR: u16 = 0x40;
const NOTIFY: u16 = 0x44;
const CONFIG: u16 = 0x80;

const FEATURES_OK: u32 = 8;
const DRIVER_OK: u32 = 4;
const NEEDS_RESET: u32 = 64;

fn memory() -> GuestRam {
    GuestRam::from_ranges(&[(GuestAddress(0), 1 << 20)]).expect("memory")
}

fn card(memory: &GuestRam) -> VirtioPci<Net> {
    VirtioPci::new(Net::new(MAC), memory.clone(), crate::devices::NET)
}

fn read(card: &mut VirtioPci<Net>, at: u16, len: usize) -> u32 {
    let mut data = [0; 4];
    card.read_bar(at, &mut data[..len]);
    u32::from_le_bytes(data)
}

fn write(card: &mut VirtioPci<Net>, at: u16, len: usize, value: u32) {
    card.write_bar(at, &value.to_le_bytes()[..len]);
}

fn offered(card: &mut VirtioPci<Net>) -> u64 {
    let mut half = |n| {
        write(card, DEVICE_FEATURE_SELECT, 4, n);
        u64::from(read(card, DEVICE_FEATURE, 4))
    };
    half(0) | half(1) << 32
}

/// Negotiates `features`; returns whether the device accepts them.
fn negotiate(card: &mut VirtioPci<Net>, features: u64) -> bool {
    write(card, STATUS, 1, 0);
    write(card, STATUS, 1, 1);
    write(card, STATUS, 1, 3);
    for (n, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
        write(card, DRIVER_FEATURE_SELECT, 4, n);
        write(card, DRIVER_FEATURE, 4, half);
    }
    write(card, STATUS, 1, 3 | FEATURES_OK);
    read(card, STATUS, 1) & FEATURES_OK != 0
}

const VERSION_1: u64 = 1 << 32;

fn running(memory: &GuestRam) -> VirtioPci<Net> {
    running_with(memory, VERSION_1)
}

fn running_with(memory: &GuestRam, features: u64) -> VirtioPci<Net> {
    let mut card = card(memory);
    assert!(negotiate(&mut card, features));
    for (n, ring) in [(0, RX_RING), (1, TX_RING)] {
        let queue = MockSplitQueue::create(memory, GuestAddress(ring), QUEUE);
        write(&mut card, QUEUE_SELECT, 2, n);
        write(&mut card, QUEUE_SIZE, 2, QUEUE.into());
        write(&mut card, DESC, 4, queue.desc_table_addr().0 as u32);
        write(&mut card, AVAIL, 4, queue.avail_addr().0 as u32);
        write(&mut card, USED, 4, queue.used_addr().0 as u32);
        write(&mut card, QUEUE_ENABLE, 2, 1);
    }
    write(&mut card, STATUS, 1, 3 | FEATURES_OK | DRIVER_OK);
    card
}

fn rings(memory: &GuestRam) -> [MockSplitQueue<'_, GuestRam>; 2] {
    [RX_RING, TX_RING].map(|at| MockSplitQueue::create(memory, GuestAddress(at), QUEUE))
}

fn descriptor(address: u64, len: u32, flags: u16, next: u16) -> RawDescriptor {
    RawDescriptor::from(Descriptor::new(address, len, flags, next))
}

fn offer(queue: &MockSplitQueue<'_, GuestRam>, descriptors: &[RawDescriptor]) {
    queue.add_desc_chains(descriptors, 0).expect("in memory");
}

/// Head and length of the first `n` chains that the device has used.
fn used(queue: &MockSplitQueue<'_, GuestRam>, n: usize) -> Vec<(u32, u32)> {
    let at = |n| queue.used().ring().ref_at(n).expect("in the ring").load();
    (0..n).map(|n| (at(n).id(), at(n).len())).collect()
}

fn receive(card: &mut VirtioPci<Net>, frame: &[u8]) {
    receive_frame(card, frame.to_vec().into());
}

fn receive_frame(card: &mut VirtioPci<Net>, frame: Frame) {
    card.with_device(RX, |net, queues, memory| net.receive(frame, queues, memory));
}

fn is_broken(card: &mut VirtioPci<Net>) -> bool {
    read(card, STATUS, 1) & NEEDS_RESET != 0
}

#[test]
fn offers_what_it_has_and_accepts_no_more() {
    let memory = memory();
    let mut card = card(&memory);
    let offered = offered(&mut card);
    let card_features = [0, 1, 5, 7, 8, 11, 12, 15, 16];
    let card_features = card_features.iter().map(|bit| 1 << bit).sum::<u64>();
    assert_eq!(offered, VERSION_1 | 1 << 29 | 1 << 28 | card_features);
    assert!(negotiate(&mut card, offered));
    assert!(negotiate(&mut card, VERSION_1));
    assert!(!negotiate(&mut card, offered | 1 << 17), "a control queue");
    assert!(
        !negotiate(&mut card, offered & !VERSION_1),
        "a legacy driver"
    );
    write(&mut card, DEVICE_FEATURE_SELECT, 4, 2);
    assert_eq!(read(&mut card, DEVICE_FEATURE, 4), 0);
}

#[test]
fn configuration_is_readable_in_any_width() {
    let memory = memory();
    let mut card = card(&memory);
    let bytes: Vec<u8> = (0..6)
        .map(|n| read(&mut card, CONFIG + n, 1) as u8)
        .collect();
    assert_eq!(bytes, MAC);
    assert_eq!(read(&mut card, CONFIG, 4), 0x0100_5452);
    assert_eq!(read(&mut card, CONFIG + 6, 2), 1, "the link is up");
    assert_eq!(read(&mut card, CONFIG + 8, 4), 0, "beyond the structure");
    assert_eq!(read(&mut card, QUEUES, 2), 2);
    write(&mut card, QUEUE_SELECT, 2, 7);
    assert_eq!(read(&mut card, QUEUE_SIZE, 2), 0, "no such queue");
    write(&mut card, CONFIG, 4, 0);
    assert_eq!(read(&mut card, CONFIG, 4), 0x0100_5452);
}

#[test]
fn every_access_is_answered() {
    let memory = memory();
    let mut card = running(&memory);
    for len in [1, 2, 4] {
        for at in 0..0x100 {
            let mut data = [0; 4];
            card.read_bar(at, &mut data[..len]);
            card.write_bar(at, &data[..len]);
            card.read_config_space(at as u8, &mut data[..len]);
            card.write_config_space(at as u8, &data[..len]);
        }
    }
}

#[test]
fn delivers_frames_in_order() {
    let memory = memory();
    let mut card = running(&memory);
    let [rx, _] = rings(&memory);
    receive(&mut card, &[1; 60]); // kept: no buffer yet
    assert!(!card.interrupt());
    let buffer = |n: u64| descriptor(BUFFERS + 0x1000 * n, 0x1000, WRITE, 0);
    offer(&rx, &[buffer(0), buffer(1)]);
    receive(&mut card, &[2; 70]);

    assert!(card.interrupt());
    assert_eq!(read(&mut card, ISR, 1), 1);
    assert!(!card.interrupt(), "reading the ISR acknowledges");
    assert_eq!(rx.used().idx().load(), 2);
    for (n, (byte, len)) in [(1, 60), (2, 70)].into_iter().enumerate() {
        assert_eq!(used(&rx, 2)[n], (n as u32, (HEADER + len) as u32));
        let mut packet = vec![0; HEADER + len];
        let at = GuestAddress(BUFFERS + 0x1000 * n as u64);
        memory.read_slice(&mut packet, at).expect("in memory");
        assert_eq!(packet[10..12], [1, 0], "one buffer");
        assert_eq!(packet[HEADER..], vec![byte; len]);
    }
}

#[test]
fn what_the_card_writes_is_tracked() {
    let memory = memory();
    let mut card = running(&memory);
    let [rx, tx] = rings(&memory);
    let buffer = |n: u64, flags| descriptor(BUFFERS + 0x1000 * n, 0x1000, flags, 0);
    offer(&rx, &[buffer(0, WRITE), buffer(1, WRITE)]);
    offer(&tx, &[descriptor(BUFFERS + 0x2000, 100, 0, 0)]);
    let _ = take_written(&memory); // what setting up wrote

    receive(&mut card, &[1; 60]);
    write(&mut card, NOTIFY, 2, 1);

    assert_eq!(card.device.take_transmitted().len(), 1);
    let page = |address: u64| address / 0x1000;
    let mut expected = vec![
        page(rx.used_addr().0),
        page(tx.used_addr().0),
        page(BUFFERS),
    ];
    expected.sort_unstable();
    expected.dedup();
    assert_eq!(take_written(&memory), expected);
}

#[test]
fn frame_too_large_for_its_buffer_is_lost() {
    let memory = memory();
    let mut card = running(&memory);
    let [rx, _] = rings(&memory);
    let small = descriptor(BUFFERS, 64, WRITE, 0);
    offer(
        &rx,
        &[small, descriptor(BUFFERS + 0x1000, 0x1000, WRITE, 0)],
    );
    receive(&mut card, &[1; 200]);
    receive(&mut card, &[2; 60]);
    assert!(!is_broken(&mut card));
    assert_eq!(used(&rx, 2), [(0, 0), (1, 72)]);
}

#[test]
fn frames_without_buffers_are_bounded() {
    let memory = memory();
    let mut card = running(&memory);
    for _ in 0..1000 {
        receive(&mut card, &[0; 60]);
    }
    assert!(!card.device.has_room());
    write(&mut card, STATUS, 1, 0);
    assert!(card.device.has_room(), "a reset drops them");
    receive(&mut card, &[0; 60]);
    assert!(card.device.has_room(), "no driver, no backlog");
}

/// Writes message control, which is in the capability with id 0x11.
fn set_message_control(card: &mut VirtioPci<Net>, control: u16) {
    let (mut at, mut id) = ([0], [0]);
    card.read_config_space(0x34, &mut at);
    card.read_config_space(at[0], &mut id);
    while id != [0x11] {
        card.read_config_space(at[0] + 1, &mut at);
        assert_ne!(at, [0], "no messages");
        card.read_config_space(at[0], &mut id);
    }
    card.write_config_space(at[0] + 2, &control.to_le_bytes());
}

#[test]
fn a_reset_drops_the_messages_that_wait() {
    const ENABLE: u16 = 1 << 15;
    let memory = memory();
    for reset in [false, true] {
        let mut card = running(&memory);
        let [receiving, _] = rings(&memory);
        let buffer = descriptor(BUFFERS, 2048, WRITE, 0);
        offer(&receiving, &[buffer]);
        write(&mut card, QUEUE_SELECT, 2, 0);
        write(&mut card, QUEUE_VECTOR, 2, 1);
        set_message_control(&mut card, ENABLE);
        receive(&mut card, &[7; 60]);
        assert_eq!(card.take_message(), None, "masked");
        if reset {
            write(&mut card, STATUS, 1, 0);
        }
        card.write_memory_bar(16 + 12, &[0; 4]);
        assert_eq!(card.take_message().is_none(), reset);
    }
}

#[test]
fn sends_chains_as_one_frame() {
    let memory = memory();
    let mut card = running(&memory);
    let [_, tx] = rings(&memory);
    memory
        .write_slice(&[7; 100], GuestAddress(BUFFERS))
        .expect("in memory");
    offer(
        &tx,
        &[
            descriptor(0x8000, HEADER as u32, NEXT, 1),
            descriptor(BUFFERS, 50, NEXT, 2),
            descriptor(BUFFERS + 50, 50, 0, 0),
        ],
    );
    write(&mut card, NOTIFY, 2, 1);
    assert_eq!(card.device.take_transmitted(), [Frame::from(vec![7; 100])]);
    assert_eq!(tx.used().idx().load(), 1);
    assert!(card.interrupt());
}

/// VIRTIO_RING_F_EVENT_IDX.
const EVENT_IDX: u64 = 1 << 29;

#[test]
fn interrupts_for_what_was_sent_wait_for_what_they_can_be_saved_by() {
    let memory = memory();
    let mut card = running_with(&memory, VERSION_1 | EVENT_IDX);
    let [_, tx] = rings(&memory);
    let frame = descriptor(BUFFERS, HEADER as u32 + 60, 0, 0);
    let send = |card: &mut VirtioPci<Net>, n: u16| {
        tx.add_desc_chains(&[frame], n).expect("in memory");
        write(card, NOTIFY, 2, 1);
    };
    let tick = |card: &mut VirtioPci<Net>, now| {
        card.with_device(TX, |net, queues, memory| net.tick(now, queues, memory));
    };
    let took_back = |buffers: u16| {
        let at = GuestAddress(tx.avail_addr().0 + 4 + 2 * u64::from(QUEUE));
        memory.write_obj(buffers, at).expect("in memory");
    };
    let acknowledge = |card: &mut VirtioPci<Net>| read(card, ISR, 1);

    send(&mut card, 0);
    assert_eq!(tx.used().idx().load(), 1, "the buffer is free at once");
    assert!(!card.interrupt());
    let deadline = card.next_deadline().expect("the interrupt is owed");
    tick(&mut card, deadline);
    assert!(card.interrupt());
    acknowledge(&mut card);

    took_back(1);
    send(&mut card, 1);
    took_back(2);
    tick(&mut card, 2 * deadline);
    assert!(!card.interrupt(), "the driver has seen it");
    assert_eq!(card.next_deadline(), None);

    send(&mut card, 2);
    card.with_device(TX, |net, _, _| net.idle());
    assert!(!card.interrupt(), "one frame is no reason to wait");
    send(&mut card, 3);
    card.with_device(TX, |net, _, _| net.idle());
    assert!(card.interrupt());
}

#[test]
fn frames_that_no_ethernet_carries_are_dropped() {
    let memory = memory();
    let mut card = running(&memory);
    let [_, tx] = rings(&memory);
    let largest = (HEADER + MAX_WIRE_BYTES) as u32;
    let lengths = [0, 11, HEADER as u32 + 13, largest, largest + 1];
    let descriptors = lengths.map(|len| descriptor(BUFFERS, len, 0, 0));
    offer(&tx, &descriptors);
    write(&mut card, NOTIFY, 2, 1);
    let sent: Vec<usize> = card
        .device
        .take_transmitted()
        .iter()
        .map(|frame| frame.bytes.len())
        .collect();
    assert_eq!(sent, [MAX_WIRE_BYTES]);
    assert_eq!(tx.used().idx().load(), lengths.len() as u16);
    assert!(!is_broken(&mut card));
}

#[test]
fn a_broken_ring_stops_the_device_and_a_reset_mends_it() {
    type Breaker = fn(&MockSplitQueue<'_, GuestRam>);
    let cases: [(&str, Breaker); 4] = [
        ("buffer outside memory", |tx| {
            offer(tx, &[descriptor(0xffff_0000, 100, 0, 0)]);
        }),
        ("buffer that wraps around", |tx| {
            offer(tx, &[descriptor(u64::MAX - 10, 100, 0, 0)]);
        }),
        ("head outside the table", |tx| {
            tx.avail().ring().ref_at(0).expect("in the ring").store(99);
            tx.avail().idx().store(1);
        }),
        ("index far ahead", |tx| tx.avail().idx().store(1000)),
    ];
    for (what, break_it) in cases {
        let memory = memory();
        let mut card = running(&memory);
        break_it(&rings(&memory)[1]);
        write(&mut card, NOTIFY, 2, 1);
        assert!(is_broken(&mut card), "{what}");
        assert!(!card.is_running(), "{what}");
        assert_eq!(
            read(&mut card, ISR, 1) & 2,
            2,
            "{what}: configuration change"
        );
        write(&mut card, NOTIFY, 2, 1);
        receive(&mut card, &[0; 60]);
        write(&mut card, STATUS, 1, 0);
        assert!(!is_broken(&mut card), "{what}");
    }
}

#[test]
fn odd_chains_do_no_harm() {
    let memory = memory();
    for chain in [
        // A loop.
        [
            descriptor(BUFFERS, 10, NEXT, 1),
            descriptor(BUFFERS, 10, NEXT, 0),
        ],
        // A next outside the table.
        [descriptor(BUFFERS, 10, NEXT, 200), descriptor(0, 0, 0, 0)],
        // For the device to write, where it reads.
        [
            descriptor(BUFFERS, 100, WRITE, 0),
            descriptor(BUFFERS, 9, WRITE, 0),
        ],
    ] {
        let mut card = running(&memory);
        let rings = rings(&memory);
        for (queue, ring) in (0..).zip(&rings) {
            offer(ring, &chain);
            write(&mut card, NOTIFY, 2, queue);
        }
        receive(&mut card, &[0; 60]);
        for frame in card.device.take_transmitted() {
            assert!(frame.bytes.len() <= MAX_WIRE_BYTES);
        }
    }
}

#[test]
fn rings_outside_memory_stop_the_device() {
    let memory = memory();
    let mut card = running(&memory);
    write(&mut card, STATUS, 1, 0);
    assert!(negotiate(&mut card, VERSION_1));
    write(&mut card, QUEUE_SELECT, 2, 1);
    for field in [DESC, AVAIL, USED] {
        write(&mut card, field, 4, 0xffff_f000);
    }
    write(&mut card, QUEUE_ENABLE, 2, 1);
    write(&mut card, STATUS, 1, 3 | FEATURES_OK | DRIVER_OK);
    write(&mut card, NOTIFY, 2, 1);
    assert!(is_broken(&mut card));
}

#[test]
fn nothing_happens_before_the_driver_is_ready() {
    let memory = memory();
    let mut card = card(&memory);
    write(&mut card, NOTIFY, 2, 1);
    receive(&mut card, &[0; 60]);
    assert!(!card.interrupt());
    write(&mut card, QUEUE_SIZE, 2, 3); // no power of two
    write(&mut card, QUEUE_SIZE, 2, 0);
    assert_eq!(read(&mut card, QUEUE_SIZE, 2), 256);
}
