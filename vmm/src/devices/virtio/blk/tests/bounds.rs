//! What a driver can have the device hold, and do.

use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::RawDescriptor;
use virtio_queue::desc::split::Descriptor;

use super::*;

#[test]
fn what_is_in_flight_is_bounded_and_goes_on_with_completions() {
    let mut guest = Setup::new(true);
    for n in 0..5 {
        guest.add(OUT, n, &[(DATA, MAX_TRANSFER)]);
    }
    let (mut in_flight, mut requests) = (0, guest.notify().len());
    assert_eq!(requests, 5);
    // The same buffers once more, without new descriptors: the ring has room.
    for n in 0..10 {
        guest.offer(n % 5 * 3);
    }
    requests += guest.notify().len();
    assert_eq!(requests as u64, BYTES_IN_FLIGHT / u64::from(MAX_TRANSFER));
    for id in 1..=15 {
        in_flight += guest.complete(id, Ok(Vec::new())).len();
    }
    assert_eq!((requests + in_flight, guest.used()), (15, 15));
    assert!(!guest.is_broken());
}

/// The host has the data of a write until the disk has answered, whoever waits for that.
#[test]
fn a_driver_that_resets_the_device_has_no_more_in_flight() {
    let mut guest = Setup::new(true);
    let mut issued = Vec::new();
    for _ in 0..20 {
        for n in 0..5 {
            guest.add(OUT, n, &[(DATA, MAX_TRANSFER)]);
        }
        issued.extend(guest.notify());
        guest.restart();
    }
    assert_eq!(
        issued.len() as u64,
        BYTES_IN_FLIGHT / u64::from(MAX_TRANSFER)
    );
    assert_eq!(guest.disk.device.unfinished(&guest.memory), []);
    assert_eq!(guest.disk.device.check(CAPACITY), Ok(()));

    // What was abandoned makes room when it is done, also while the device is not set up.
    guest.add(OUT, 7, &[(DATA, MAX_TRANSFER)]);
    assert_eq!(guest.notify(), []);
    let next = guest.complete(issued[3].id, Ok(Vec::new()));
    assert_eq!((next.len(), guest.used()), (1, 0));
    guest.disk.write_bar(DEVICE_STATUS, &[0]);
    assert_eq!(guest.complete(issued[0].id, Err(DiskError::Io)), []);
    guest.restart();
    guest.add(OUT, 8, &[(DATA, MAX_TRANSFER)]);
    assert_eq!(guest.notify().len(), 1);

    // Another host issues what is waited for again, and has nothing of the rest.
    guest.disk.device.forget_abandoned();
    guest.offer(0);
    assert_eq!(guest.notify().len(), 1);
    assert_eq!(guest.disk.device.unfinished(&guest.memory).len(), 2);
}

/// An indirect table can have more descriptors than the queue: work without a bound.
#[test]
fn a_chain_longer_than_the_queue_stops_the_device() {
    for (extra, broken) in [(0, false), (1, true)] {
        let mut guest = Setup::new(false);
        let table = 0x2_0000;
        let len = QUEUE + extra;
        for n in 0..len {
            let last = n + 1 == len;
            let flags = if last {
                VRING_DESC_F_WRITE
            } else {
                VRING_DESC_F_NEXT
            };
            let bytes = if n == 0 { 16 } else { 1 };
            let raw = RawDescriptor::from(Descriptor::new(HEADERS, bytes, flags as u16, n + 1));
            let at = GuestAddress(table + 16 * u64::from(n));
            guest.memory.write_obj(raw, at).expect("in memory");
        }
        let bytes = 16 * u32::from(len);
        let indirect = Descriptor::new(table, bytes, VRING_DESC_F_INDIRECT as u16, 0);
        let at = GuestAddress(guest.table);
        let written = guest.memory.write_obj(RawDescriptor::from(indirect), at);
        written.expect("in memory");
        guest.offer(0);
        guest.notify();
        assert_eq!(guest.is_broken(), broken);
    }
}
