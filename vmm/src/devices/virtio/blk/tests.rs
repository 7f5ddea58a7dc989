//! A disk behind the PCI transport, driven as a guest's driver would, and as it would not.

mod bounds;
mod driver;

use vm_memory::{Bytes, GuestAddress};

use self::driver::*;
use super::*;
use crate::disk::{DiskOp, MAX_TRANSFER};

#[test]
fn what_was_read_enters_memory_with_the_completion_and_not_before() {
    let mut guest = Setup::new(false);
    let n = guest.add(IN, 7, &[(DATA, 512), (DATA + 0x2000, 1024)]);
    let len = 1536;
    let op = DiskOp::Read {
        offset: 7 * 512,
        len,
    };
    assert_eq!(guest.notify(), [DiskRequest { id: 1, op }]);
    let waiting = SharedRead {
        id: 1,
        offset: 7 * 512,
        len,
    };
    assert_eq!(guest.disk.device.waiting_read(1), Some(waiting));
    assert_eq!((guest.used(), guest.disk.interrupt()), (0, false));
    assert_eq!(guest.data(DATA, 512), [0; 512]);

    let data: Vec<u8> = (0..len).map(|n| (n / 7) as u8).collect();
    guest.complete(1, Ok(data.clone()));
    assert_eq!(guest.data(DATA, 512), data[..512]);
    assert_eq!(guest.data(DATA + 0x2000, 1024), data[512..]);
    assert_eq!((guest.status_of(n), guest.used()), (0, 1));
    assert!(guest.disk.interrupt());
    let at = GuestAddress(guest.used + 8);
    let written: u32 = guest.memory.read_obj(at).expect("in memory");
    assert_eq!(written, len + 1);
}

#[test]
fn what_is_written_is_copied_at_the_notification() {
    let mut guest = Setup::new(false);
    guest
        .memory
        .write_slice(&[5; 1024], GuestAddress(DATA))
        .expect("in memory");
    let n = guest.add(OUT, 2, &[(DATA, 512), (DATA + 512, 512)]);
    let data = vec![5; 1024];
    let offset = 1024;
    let issued = guest.notify();
    guest
        .memory
        .write_slice(&[6; 8], GuestAddress(DATA))
        .expect("in memory");
    let write = |data| DiskRequest {
        id: 1,
        op: DiskOp::Write { offset, data },
    };
    assert_eq!(issued, [write(data.clone())]);

    let again = guest.disk.device.unfinished(&guest.memory);
    let now = [vec![6; 8], vec![5; 1016]].concat();
    assert_eq!(
        again,
        [write(now)],
        "issued again with what is in memory then"
    );
    guest.complete(1, Ok(Vec::new()));
    assert_eq!((guest.status_of(n), guest.used()), (0, 1));
    assert_eq!(guest.disk.device.unfinished(&guest.memory), []);
}

#[test]
fn reads_are_settled_that_no_earlier_change_overlaps() {
    let mut guest = Setup::new(false);
    let mut add = |kind, sector| {
        guest.add(kind, sector, &[(DATA, 1024)]);
        guest.notify();
    };
    add(IN, 4);
    add(OUT, 5);
    add(IN, 4);
    add(IN, 6);
    add(IN, 7);
    let settled = |guest: &Setup| -> Vec<u64> {
        let reads = guest.disk.device.settled_reads();
        reads.iter().map(|read| read.id).collect()
    };
    // Those behind the change find it or not; the one before it is waited for by the change.
    assert_eq!(settled(&guest), [1, 5]);
    guest.complete(5, Ok(vec![0; 1024]));
    assert_eq!(settled(&guest), [1]);
    guest.complete(2, Ok(Vec::new()));
    assert_eq!(settled(&guest), [1, 3, 4]);
}

/// It may be a change, and what it overlaps is not remembered.
#[test]
fn no_read_is_settled_while_the_disk_has_what_a_reset_abandoned() {
    let mut guest = Setup::new(false);
    guest.add(OUT, 4, &[(DATA, 512)]);
    guest.notify();
    guest.restart();
    guest.add(IN, 4, &[(DATA, 512)]);
    guest.notify();
    let settled = |guest: &Setup| guest.disk.device.settled_reads().len();
    assert_eq!(settled(&guest), 0);
    guest.complete(1, Ok(Vec::new()));
    assert_eq!(settled(&guest), 1);
}

#[test]
fn flush_discard_and_zeroes_are_passed_on() {
    let mut guest = Setup::new(false);
    let range = |guest: &Setup, at, sector: u64, sectors: u32, flags: u32| {
        let bytes = [
            &sector.to_le_bytes()[..],
            &sectors.to_le_bytes(),
            &flags.to_le_bytes(),
        ];
        guest
            .memory
            .write_slice(&bytes.concat(), GuestAddress(at))
            .expect("in memory");
        [(at, 16)]
    };
    guest.add(FLUSH, 0, &[]);
    let buffer = range(&guest, DATA, 8, 16, 0);
    guest.add(DISCARD, 0, &buffer);
    let buffer = range(&guest, DATA + 16, 9, 1, 0);
    guest.add(ZEROES, 0, &buffer);
    let buffer = range(&guest, DATA + 32, 10, 2, 1);
    guest.add(ZEROES, 0, &buffer);
    let ops: Vec<DiskOp> = guest
        .notify()
        .into_iter()
        .map(|request| request.op)
        .collect();
    let zeroes = |offset, len, unmap| DiskOp::WriteZeroes { offset, len, unmap };
    let discard = DiskOp::Discard {
        offset: 4096,
        len: 8192,
    };
    let expected = [
        DiskOp::Flush,
        discard,
        zeroes(9 * 512, 512, false),
        zeroes(5120, 1024, true),
    ];
    assert_eq!(ops, expected);
    // In whatever order the disk completes them.
    for id in [3, 1, 4, 2] {
        guest.complete(id, Ok(Vec::new()));
    }
    assert_eq!((guest.used(), guest.is_broken()), (4, false));

    for (sector, sectors, flags, kind, status) in [
        (0, 1, 1, DISCARD, VIRTIO_BLK_S_UNSUPP),
        (0, 1, 2, ZEROES, VIRTIO_BLK_S_UNSUPP),
        (0, 0, 0, DISCARD, VIRTIO_BLK_S_IOERR),
        (0, MAX_DISCARD_SECTORS + 1, 0, DISCARD, VIRTIO_BLK_S_IOERR),
        (0, MAX_ZEROES_SECTORS + 1, 0, ZEROES, VIRTIO_BLK_S_IOERR),
        (CAPACITY / 512, 1, 0, ZEROES, VIRTIO_BLK_S_IOERR),
        (u64::MAX, 1, 0, DISCARD, VIRTIO_BLK_S_IOERR),
    ] {
        let mut guest = Setup::new(false);
        let buffer = range(&guest, DATA, sector, sectors, flags);
        guest.refused(status, kind, 0, &buffer);
    }
}

#[test]
fn errors_of_the_disk_reach_the_guest() {
    let mut guest = Setup::new(false);
    let all = [0, 1, 2].map(|n| guest.add(IN, n, &[(DATA, 512)]));
    guest.notify();
    guest.complete(1, Err(DiskError::Io));
    guest.complete(2, Err(DiskError::Unsupported));
    guest.complete(3, Ok(vec![9; 100])); // not what was asked for
    assert_eq!(all.map(|n| guest.status_of(n)), [1, 2, 1]);
    assert_eq!(guest.data(DATA, 512), [0; 512]);
}

#[test]
fn wrong_requests_are_answered_at_once() {
    let io = VIRTIO_BLK_S_IOERR;
    let last = CAPACITY / 512;
    for (status, kind, sector, data) in [
        (io, IN, last, vec![(DATA, 512)]),
        (io, OUT, last - 1, vec![(DATA, 1024)]),
        (io, IN, u64::MAX, vec![(DATA, 512)]),
        (io, IN, u64::MAX / 512, vec![(DATA, 512)]),
        (io, IN, 0, vec![(DATA, 511)]),
        (io, OUT, 0, vec![]),
        (io, OUT, 0, vec![(DATA, MAX_TRANSFER), (DATA, 512)]),
        (io, DISCARD, 0, vec![(DATA, 32)]),
        (io, GET_ID, 0, vec![(DATA, 19)]),
        (VIRTIO_BLK_S_UNSUPP, 99, 0, vec![]),
    ] {
        Setup::new(false).refused(status, kind, sector, &data);
    }
    let mut guest = Setup::new(false);
    guest.refused(VIRTIO_BLK_S_OK, GET_ID, 0, &[(DATA, 20)]);
    assert_eq!(guest.data(DATA, 20), SERIAL);
}

#[test]
fn the_division_into_buffers_is_the_drivers_business() {
    let mut guest = Setup::new(false);
    let header = [&IN.to_le_bytes()[..], &[0; 4], &3u64.to_le_bytes()].concat();
    guest
        .memory
        .write_slice(&header, GuestAddress(HEADERS))
        .expect("in memory");
    guest.chain(&[
        (HEADERS, 10, false),
        (HEADERS + 10, 6, false),
        (DATA, 513, true),
    ]);
    let op = DiskOp::Read {
        offset: 1536,
        len: 512,
    };
    assert_eq!(guest.notify(), [DiskRequest { id: 1, op }]);
    guest
        .memory
        .write_obj(NOT_WRITTEN, GuestAddress(DATA + 512))
        .expect("in memory");
    guest.complete(1, Ok(vec![8; 512]));
    assert_eq!(guest.data(DATA, 513), [vec![8; 512], vec![0]].concat());
}

#[test]
fn chains_that_cannot_be_answered_stop_the_device() {
    type Buffers = &'static [(u64, u32, bool)];
    let cases: [(&str, Buffers); 6] = [
        ("no status", &[(HEADERS, 16, false)]),
        ("no header", &[(STATUS, 1, true)]),
        ("half a header", &[(HEADERS, 15, false), (STATUS, 1, true)]),
        ("empty status", &[(HEADERS, 16, false), (STATUS, 0, true)]),
        (
            "outside memory",
            &[(HEADERS, 16, false), (1 << 40, 513, true)],
        ),
        (
            "out of order",
            &[(HEADERS, 16, false), (STATUS, 1, true), (DATA, 512, false)],
        ),
    ];
    for (what, buffers) in cases {
        let mut guest = Setup::new(false);
        guest.chain(buffers);
        assert_eq!(guest.notify(), [], "{what}");
        assert!(guest.is_broken(), "{what}");
    }
}

#[test]
fn a_reset_makes_what_is_in_flight_void() {
    let mut guest = Setup::new(false);
    guest.add(IN, 0, &[(DATA, 512)]);
    assert_eq!(guest.notify().len(), 1);
    guest.disk.write_bar(DEVICE_STATUS, &[0]);
    assert_eq!(guest.disk.device.unfinished(&guest.memory), []);
    guest.complete(1, Ok(vec![7; 512]));
    assert_eq!((guest.used(), guest.data(DATA, 512)), (0, vec![0; 512]));

    // The same device goes on with new numbers.
    let device = guest.disk.device.clone();
    let mut guest = Setup::new(false);
    guest.disk.device = device;
    guest.add(IN, 0, &[(DATA, 512)]);
    assert_eq!(guest.notify()[0].id, 2);
    guest.complete(1, Ok(vec![7; 512]));
    guest.complete(99, Ok(vec![7; 512]));
    assert_eq!(guest.used(), 0, "numbers that nobody waits for");
    guest.complete(2, Ok(vec![6; 512]));
    guest.complete(2, Ok(vec![7; 512]));
    assert_eq!((guest.used(), guest.data(DATA, 512)), (1, vec![6; 512]));
}

#[test]
fn interrupts_come_where_the_driver_wants_them() {
    let mut guest = Setup::new(true);
    for n in 0..3 {
        guest.add(IN, n, &[(DATA, 512)]);
    }
    guest.notify();
    // used_event: at the second one.
    let used_event = GuestAddress(guest.avail + 4 + 2 * u64::from(QUEUE));
    guest.memory.write_obj(1u16, used_event).expect("in memory");
    let came = [1, 2, 3].map(|id| {
        guest.complete(id, Ok(vec![0; 512]));
        let came = guest.disk.interrupt();
        guest.disk.read_bar(0x40, &mut [0]);
        came
    });
    assert_eq!(came, [false, true, false]);
}

#[test]
fn states_that_no_guest_brings_about_are_refused() {
    let mut guest = Setup::new(false);
    guest.add(IN, 0, &[(DATA, 512)]);
    guest.add(OUT, 0, &[(DATA, 512)]);
    guest.notify();
    let blk = guest.disk.device.clone();
    assert_eq!(blk.check(CAPACITY), Ok(()));
    assert!(blk.check(512).is_err());
    let state = serde_json::to_value(&blk).expect("plain data");
    for (path, value) in [
        ("/last_id", 1u64),
        ("/last_id", u64::MAX),
        ("/pending/0/id", 2),
        ("/pending/0/head", 256),
        ("/pending/0/op/Read/offset", CAPACITY),
        ("/pending/0/op/Read/offset", 7),
        ("/pending/0/op/Read/len", 1024),
        ("/pending/0/answer/data/0/len", 513),
        ("/pending/1/source/0/len", 1),
    ] {
        let mut state = state.clone();
        *state.pointer_mut(path).expect(path) = value.into();
        let wrong: Blk = serde_json::from_value(state).expect("same fields");
        assert!(wrong.check(CAPACITY).is_err(), "{path}");
    }

    let mut guest = Setup::new(false);
    guest.add(IN, 0, &[(DATA, 512)]);
    guest.notify();
    let mut state = serde_json::to_value(&guest.disk.device).expect("plain data");
    let one = state["pending"][0].clone();
    let many = |n: u64| {
        let with_id = |id: u64| {
            let mut request = one.clone();
            request["id"] = id.into();
            request
        };
        (1..=n).map(with_id).collect::<Vec<_>>()
    };
    state["last_id"] = 1000.into();
    for (n, possible) in [(256, true), (257, false)] {
        state["pending"] = many(n).into();
        let blk: Blk = serde_json::from_value(state.clone()).expect("same fields");
        assert_eq!(blk.check(CAPACITY).is_ok(), possible, "{n} requests");
    }
}
