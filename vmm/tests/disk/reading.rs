//! A backup that reads the disk itself.

use std::thread;
use std::time::{Duration, Instant};

use disk_server::nbd::protocol::Command;
use ftvm_vmm::disk::reader::DiskReader;
use ftvm_vmm::disk::target::DiskTarget;
use ftvm_vmm::disk::{SharedDisk as _, SharedRead};
use logging_channel::DiskIdentity;
use transport::Endpoint;

use crate::fake_server::FakeServer;
use crate::world::{PATIENCE, quick};

const READS: u64 = 24;
const LEN: u32 = 1024;

/// A server whose bytes all differ from their neighbours, and the reader of its disk.
fn start(seed: u64) -> (FakeServer, DiskReader) {
    let server = FakeServer::start((READS * u64::from(LEN)) as usize, seed);
    let pattern = (0..).map(|at: u64| (at / 512 * 31 + at) as u8);
    for (byte, value) in server.state().cached.iter_mut().zip(pattern) {
        *byte = value;
    }
    let target = DiskTarget {
        server: server.address.clone(),
        export: "disk".into(),
        writer: None,
        client: None,
    };
    let identity = DiskIdentity {
        bytes: READS * u64::from(LEN),
        name: server.state().disk_name(),
    };
    (
        server,
        DiskReader::new(target, identity, Endpoint::plain(), quick().link),
    )
}

fn nth(id: u64) -> SharedRead {
    SharedRead {
        id,
        offset: id * u64::from(LEN),
        len: LEN,
    }
}

fn check(server: &FakeServer, reader: &mut DiskReader, read: SharedRead, ahead: &[SharedRead]) {
    let found = reader.read(read, ahead);
    let found = found.unwrap_or_else(|error| panic!("{error}"));
    let range = read.offset as usize..(read.offset + u64::from(read.len)) as usize;
    assert!(found == server.state().cached[range], "{read:?}");
}

#[test]
fn reads_ahead_are_sent_once_and_answered_in_any_order() {
    let (server, mut reader) = start(1);
    let all: Vec<SharedRead> = (0..READS).map(nth).collect();
    let mut left = all.clone();
    // Neither the order in which they were sent, nor that of the replies.
    for id in [7, 3, 23, 0, 12] {
        left.retain(|read| read.id != id);
        check(&server, &mut reader, nth(id), &left);
        assert_eq!(reader.begun(), left.len());
    }
    for read in left.iter().rev() {
        check(&server, &mut reader, *read, &[]);
        // What is not told ahead any more is not kept.
        assert_eq!(reader.begun(), 0);
    }
    let reads = |offset| {
        let done = &server.state().done;
        let is =
            |(command, at, _): &&(Command, u64, u32)| *command == Command::Read && *at == offset;
        done.iter().filter(is).count()
    };
    for id in [7, 3, 23, 0, 12] {
        assert_eq!(reads(nth(id).offset), 1, "read {id}");
    }
}

#[test]
fn a_lost_connection_loses_no_read() {
    for seed in 0..8 {
        let (server, mut reader) = start(seed);
        server.state().lose_one_in = 12;
        let mut left: Vec<SharedRead> = (0..READS).map(nth).collect();
        while let Some(read) = left.pop() {
            check(&server, &mut reader, read, &left);
        }
    }
}

/// Another server at its address, or the same one without its state.
#[test]
fn another_disk_is_not_read() {
    let (server, mut reader) = start(4);
    check(&server, &mut reader, nth(0), &[]);
    server.state().number = 2;
    let opened = server.state().opened.len();
    server.drop_connections();
    thread::scope(|scope| {
        let read = scope.spawn(|| reader.read(nth(1), &[]));
        let deadline = Instant::now() + PATIENCE;
        while server.state().opened.len() < opened + 3 {
            assert!(Instant::now() < deadline, "it looks again and again");
            thread::sleep(Duration::from_millis(1));
        }
        assert!(!read.is_finished());
        assert_eq!(server.state().done.len(), 1, "nothing else was read");
        server.state().number = 1;
        assert!(matches!(read.join(), Ok(Ok(_))));
    });
}

#[test]
fn what_was_begun_for_another_guest_is_not_used() {
    let (server, mut reader) = start(3);
    check(&server, &mut reader, nth(0), &[nth(1), nth(2)]);
    reader.forget();
    server.state().cached.fill(9);
    check(&server, &mut reader, nth(1), &[nth(2)]);
    // Another request under the number of one that was begun.
    let other = SharedRead {
        offset: 0,
        ..nth(2)
    };
    check(&server, &mut reader, other, &[]);
}
