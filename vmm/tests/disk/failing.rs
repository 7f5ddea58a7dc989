//! A disk that is full, or cannot flush, or whose server stands still.

use std::time::Duration;

use disk_server::nbd::protocol::ErrorCode;
use ftvm_vmm::disk::serving::{DiskSettings, Serving};
use ftvm_vmm::disk::unflushed::{FULL_BYTES, OWN_FLUSH_BYTES};
use ftvm_vmm::disk::{DiskError, DiskOp};
use ftvm_vmm::events::Events;
use tempfile::NamedTempFile;

use crate::fake_server::FakeServer;
use crate::world::{Guest, quick, until};

const CHUNK: usize = 1 << 20;

fn write(byte: u8) -> DiskOp {
    DiskOp::Write {
        offset: 0,
        data: vec![byte; CHUNK],
    }
}

fn read() -> DiskOp {
    DiskOp::Read {
        offset: 0,
        len: 512,
    }
}

/// Events, and the file that has them.
fn events() -> (Events, NamedTempFile) {
    let file = NamedTempFile::new().unwrap();
    (Events::open(Some(file.path())).unwrap(), file)
}

fn told(file: &NamedTempFile) -> String {
    std::fs::read_to_string(file.path()).unwrap()
}

#[test]
fn a_server_that_is_connected_and_silent_is_told_and_waited_for() {
    let server = FakeServer::start(CHUNK, 1);
    let (events, file) = events();
    let settings = DiskSettings {
        told_after: Duration::from_millis(100),
        ..quick()
    };
    let mut guest = Guest::telling(&server, settings, false, Serving::default(), &events);
    guest.now(write(1));
    server.state().frozen = true;
    let waits = guest.submit(read(), None);
    until("the wait in the events", || {
        told(&file).contains("disk-waiting")
    });
    assert!(told(&file).contains("has not answered"), "{}", told(&file));
    server.state().frozen = false;
    assert_eq!(guest.complete(), (waits, Ok(())));
    until("the end of it in the events", || {
        told(&file).contains("disk-back")
    });
    assert_eq!(told(&file).lines().count(), 2, "{}", told(&file));
    assert_eq!(
        server.state().opened.len(),
        1,
        "the connection is the first"
    );
}

#[test]
fn a_change_waits_while_the_disk_is_full_and_people_are_told() {
    let server = FakeServer::start(2 * CHUNK, 1);
    let (events, file) = events();
    let mut guest = Guest::telling(&server, quick(), false, Serving::default(), &events);
    server.state().failing = Some(ErrorCode::NoSpace);
    let waits = guest.submit(write(1), None);
    until("another attempt", || server.state().failed >= 2);
    let full = told(&file);
    assert!(
        full.contains("disk-waiting") && full.contains("is full"),
        "{full}"
    );
    // Nothing else waits for it.
    let elsewhere = guest.submit(
        DiskOp::Read {
            offset: CHUNK as u64,
            len: 512,
        },
        None,
    );
    assert_eq!(guest.complete(), (elsewhere, Ok(())));
    server.state().failing = None;
    assert_eq!(guest.complete(), (waits, Ok(())));
    assert!(server.state().cached == guest.model);
    until("the end of it in the events", || {
        told(&file).contains("disk-back")
    });
}

#[test]
fn a_disk_that_stays_full_is_an_error_in_the_end() {
    let server = FakeServer::start(CHUNK, 1);
    let settings = DiskSettings {
        timeout: Duration::from_millis(600),
        ..quick()
    };
    let mut guest = Guest::new(&server, settings, None);
    server.state().failing = Some(ErrorCode::NoSpace);
    guest.submit(write(1), None);
    assert_eq!(guest.complete().1, Err(DiskError::Io));
    assert!(server.state().failed >= 2, "it was tried again");
}

#[test]
fn what_was_lost_is_made_again_when_there_is_room() {
    let server = FakeServer::start(CHUNK, 1);
    let mut guest = Guest::new(&server, quick(), None);
    guest.now(write(1));
    server.state().failing = Some(ErrorCode::NoSpace);
    server.lose_power();
    let flush = guest.submit(DiskOp::Flush, None);
    until("another attempt", || server.state().failed >= 2);
    server.state().failing = None;
    assert_eq!(guest.complete(), (flush, Ok(())));
    assert!(server.state().stable == guest.model);
}

#[test]
fn a_flush_of_its_own_that_failed_is_not_asked_for_at_once_for_ever() {
    let server = FakeServer::start(CHUNK, 1);
    let mut guest = Guest::new(&server, quick(), None);
    server.state().cannot_flush = true;
    for _ in 0..=OWN_FLUSH_BYTES / CHUNK as u64 {
        guest.now(write(1));
    }
    until("an attempt", || server.state().failed > 0);
    for _ in 0..300 {
        guest.now(read());
    }
    let failed = server.state().failed;
    assert!(failed < 10, "{failed} flushes");
    server.state().cannot_flush = false;
    guest.now(DiskOp::Flush);
    assert!(server.state().stable == guest.model);
}

#[test]
fn after_a_flush_that_failed_the_next_one_covers_what_that_lost() {
    let server = FakeServer::start(CHUNK, 1);
    let mut guest = Guest::new(&server, quick(), None);
    guest.now(write(1));
    server.state().cannot_flush = true;
    guest.submit(DiskOp::Flush, None);
    assert_eq!(guest.complete().1, Err(DiskError::Io));
    {
        // As Linux does: the data is dropped, and the next flush knows nothing of it.
        let mut state = server.state();
        state.cannot_flush = false;
        state.cached = state.stable.clone();
    }
    guest.now(DiskOp::Flush);
    assert!(server.state().stable == guest.model);
}

#[test]
fn a_guest_whose_disk_cannot_flush_hears_it_from_its_flush_and_writes_on() {
    let server = FakeServer::start(CHUNK, 1);
    let mut guest = Guest::new(&server, quick(), None);
    server.state().cannot_flush = true;
    for n in 0..2 * FULL_BYTES / CHUNK as u64 {
        guest.now(write(n as u8));
    }
    server.state().cannot_flush = false;
    guest.submit(DiskOp::Flush, None);
    assert_eq!(guest.complete().1, Err(DiskError::Io));
    guest.now(DiskOp::Flush);
    assert!(server.state().stable == guest.model);
}
