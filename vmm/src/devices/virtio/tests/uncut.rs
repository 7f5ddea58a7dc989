//! Frames that are larger than what the wire carries, and are cut later.

use super::*;

/// VIRTIO_NET_F_CSUM, GUEST_CSUM, GUEST_TSO4 and HOST_TSO4.
const OFFLOADS: u64 = VERSION_1 | 1 | 1 << 1 | 1 << 7 | 1 << 11;
/// VIRTIO_NET_F_MRG_RXBUF.
const MERGEABLE: u64 = 1 << 15;

/// TCP over IPv4 with an open checksum, yet to be cut into segments of 1460 bytes.
const UNCUT: [u8; 10] = [1, 1, 54, 0, 0xb4, 0x05, 34, 0, 16, 0];

#[test]
fn what_the_guest_leaves_open_goes_along_if_it_may() {
    for (features, header, sent) in [
        (OFFLOADS, UNCUT, 1),
        (VERSION_1, [0; 10], 0), // without its header it is too long
    ] {
        let memory = memory();
        let mut card = running_with(&memory, features);
        let [_, tx] = rings(&memory);
        memory
            .write_slice(&UNCUT, GuestAddress(BUFFERS))
            .expect("in memory");
        let frame = descriptor(BUFFERS, HEADER as u32 + 9000, 0, 0);
        offer(&tx, &[frame]);
        write(&mut card, NOTIFY, 2, 1);
        let frames = card.device.take_transmitted();
        assert_eq!(frames.len(), sent);
        for frame in frames {
            assert_eq!((frame.header, frame.bytes.len()), (header, 9000));
        }
        assert_eq!(tx.used().idx().load(), 1);
    }
}

fn uncut(len: usize) -> Frame {
    Frame {
        header: UNCUT,
        bytes: (0..len).map(|n| n as u8).collect(),
    }
}

#[test]
fn an_uncut_frame_lies_in_as_many_buffers_as_it_takes() {
    const BUFFER: u32 = 1000;
    let memory = memory();
    let mut card = running_with(&memory, OFFLOADS | MERGEABLE);
    let [rx, _] = rings(&memory);
    let buffers = |n: u64| descriptor(BUFFERS + n * u64::from(BUFFER), BUFFER, WRITE, 0);
    offer(&rx, &[buffers(0), buffers(1)]);
    let frame = uncut(2500);
    receive_frame(&mut card, frame.clone());
    assert_eq!(rx.used().idx().load(), 0, "two buffers are too few");
    assert!(!card.interrupt());

    rx.add_desc_chains(&[buffers(2), buffers(3)], 2)
        .expect("in memory");
    write(&mut card, NOTIFY, 2, 0);
    assert_eq!(rx.used().idx().load(), 3);
    let mut contents = vec![0; HEADER + 2500];
    memory
        .read_slice(&mut contents, GuestAddress(BUFFERS))
        .expect("in memory");
    assert_eq!(contents[..10], UNCUT);
    assert_eq!(contents[10..12], [3, 0], "num_buffers");
    assert_eq!(contents[12..], frame.bytes);
    assert_eq!(used(&rx, 3), [(0, 1000), (1, 1000), (2, 512)]);

    // The fourth one is still there for the next.
    receive(&mut card, &[7; 60]);
    assert_eq!(rx.used().idx().load(), 4);
    assert!(!is_broken(&mut card));
}

#[test]
fn a_frame_that_waits_for_buffers_asks_for_them() {
    let plain = Frame::from(vec![7; 60]);
    for (features, there, frames) in [
        (VERSION_1, 1, vec![plain.clone(), plain]),
        (OFFLOADS | MERGEABLE, 2, vec![uncut(2500)]),
    ] {
        let memory = memory();
        let mut card = running_with(&memory, features | EVENT_IDX);
        let [rx, _] = rings(&memory);
        let buffers = [descriptor(BUFFERS, 1000, WRITE, 0); 2];
        offer(&rx, &buffers[..there]);
        for frame in frames {
            receive_frame(&mut card, frame);
        }
        // The device's wish is behind the used ring's entries.
        let at = rx.used_addr().0 + 4 + 8 * u64::from(QUEUE);
        let wish: u16 = memory.read_obj(GuestAddress(at)).expect("in memory");
        assert_eq!(usize::from(wish), there, "the next one is to be told of");
    }
}

#[test]
fn a_frame_larger_than_all_buffers_is_lost_and_those_behind_it_are_not() {
    let memory = memory();
    let mut card = running_with(&memory, OFFLOADS | MERGEABLE);
    let [rx, _] = rings(&memory);
    let small = [descriptor(BUFFERS, 100, WRITE, 0); QUEUE as usize];
    offer(&rx, &small);
    let frame = uncut(2500);
    receive_frame(&mut card, frame);
    assert_eq!(rx.used().idx().load(), QUEUE, "all are given back empty");
    write(&mut card, STATUS, 1, 3 | FEATURES_OK | DRIVER_OK);
    rx.add_desc_chains(&small[..1], 0).expect("in memory");
    receive(&mut card, &[7; 60]);
    assert_eq!(rx.used().idx().load(), QUEUE + 1);
}

#[test]
fn what_the_guest_did_not_ask_for_does_not_arrive() {
    let memory = memory();
    let mut card = running(&memory);
    let [rx, _] = rings(&memory);
    offer(&rx, &[descriptor(BUFFERS, 4096, WRITE, 0)]);
    let frame = uncut(2500);
    receive_frame(&mut card, frame);
    assert_eq!(rx.used().idx().load(), 0);
    assert!(card.device.has_room());
    receive(&mut card, &[7; 60]);
    assert_eq!(rx.used().idx().load(), 1);
}
