use std::time::Duration;

use disk_server::nbd::protocol::{Command, ErrorCode};
use ftvm_vmm::disk::progress::Reached;
use ftvm_vmm::disk::serving::DiskSettings;
use ftvm_vmm::disk::{DiskError, DiskOp, ReadWatch};

use logging_channel::entry::Lsn;

use crate::fake_server::FakeServer;
use crate::world::{Guest, Log, quick, until};

const BLOCK: u64 = 512;
const BLOCKS: u64 = 64;
const SIZE: usize = (BLOCK * BLOCKS) as usize;

fn write(block: u64, byte: u8) -> DiskOp {
    DiskOp::Write {
        offset: block * BLOCK,
        data: vec![byte; BLOCK as usize],
    }
}

fn read(block: u64) -> DiskOp {
    DiskOp::Read {
        offset: block * BLOCK,
        len: BLOCK as u32,
    }
}

fn random_op(random: &mut fastrand::Rng) -> DiskOp {
    let block = random.u64(..BLOCKS - 4);
    let offset = block * BLOCK;
    let len = random.u64(1..=4) * BLOCK;
    match random.u32(..20) {
        0 => DiskOp::Flush,
        1 => DiskOp::Discard { offset, len },
        2 => DiskOp::WriteZeroes {
            offset,
            len,
            unmap: random.bool(),
        },
        3..10 => DiskOp::Read {
            offset,
            len: len as u32,
        },
        _ => DiskOp::Write {
            offset,
            data: std::iter::repeat_with(|| random.u8(..))
                .take(len as usize)
                .collect(),
        },
    }
}

fn modifies(op: &DiskOp) -> bool {
    !matches!(op, DiskOp::Read { .. } | DiskOp::Flush)
}

/// A guest with up to 24 requests under way, each change of which waits for its commit, on a
/// server that loses connections, answers and its power.
fn chaos(seed: u64) {
    let server = FakeServer::start(SIZE, seed);
    server.state().lose_one_in = 150;
    let log = Log::new();
    let mut guest = match seed.is_multiple_of(2) {
        true => Guest::shared(&server, &log),
        false => Guest::new(&server, quick(), Some(&log)),
    };
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut lsn, mut committed, mut executed) = (0, 0, 0);
    for _ in 0..1000 {
        let op = random_op(&mut random);
        let commit = modifies(&op).then(|| {
            lsn += 1;
            lsn
        });
        guest.submit(op, commit);
        if random.u32(..4) == 0 {
            committed = random.u64(committed..=lsn);
            executed = random.u64(executed..=committed);
            log.up_to(committed, executed);
        }
        match random.u32(..200) {
            0 => server.drop_connections(),
            1 => server.lose_power(),
            _ => {}
        }
        loop {
            let completed = match guest.open.len() {
                0 => break,
                1..24 => match guest.try_complete() {
                    Some(completed) => completed,
                    None => break,
                },
                _ => {
                    // It may be that all wait for the log.
                    (committed, executed) = (lsn, lsn);
                    log.up_to(committed, executed);
                    guest.complete()
                }
            };
            assert_eq!(completed.1, Ok(()));
            lsn += 1;
            guest.service.completed(completed.0, Some(Lsn(lsn)));
        }
    }
    log.up_to(lsn, lsn);
    while !guest.open.is_empty() {
        let (id, result) = guest.complete();
        assert_eq!(result, Ok(()));
        lsn += 1;
        guest.service.completed(id, Some(Lsn(lsn)));
        log.up_to(lsn, lsn);
    }
    guest.now(DiskOp::Flush);
    server.lose_power();
    assert!(server.state().stable == guest.model, "the disk differs");
    let figures = guest.service.counters().figures();
    assert!(figures.reads > 0 && figures.writes > 0);
}

#[test]
fn a_server_that_breaks_is_a_disk_that_does_not() {
    for seed in 1..=4 {
        chaos(seed);
    }
}

#[test]
fn a_flush_covers_what_the_server_lost_with_its_power() {
    let server = FakeServer::start(SIZE, 1);
    let mut guest = Guest::new(&server, quick(), None);
    guest.now(write(3, 7));
    server.lose_power();
    assert_eq!(server.state().cached[3 * BLOCK as usize], 0, "it is lost");
    guest.now(DiskOp::Flush);
    assert!(server.state().stable == guest.model);
}

#[test]
fn a_change_waits_for_its_commit_and_a_read_does_not() {
    let server = FakeServer::start(SIZE, 1);
    let log = Log::new();
    let mut guest = Guest::new(&server, quick(), Some(&log));
    guest.submit(write(1, 1), Some(5));
    guest.submit(read(1), None);
    let elsewhere = guest.submit(read(2), None);
    assert_eq!(guest.complete(), (elsewhere, Ok(())));
    log.up_to(4, 0);
    let again = guest.submit(read(3), None);
    assert_eq!(guest.complete(), (again, Ok(())));
    let done = |command| server.state().done.iter().any(|d| d.0 == command);
    assert!(!done(Command::Write));
    log.up_to(5, 0);
    guest.complete_all();
    assert!(done(Command::Write));
}

#[test]
fn a_change_of_what_was_read_waits_until_the_backup_has_read_it() {
    let server = FakeServer::start(SIZE, 1);
    let log = Log::new();
    let mut guest = Guest::shared(&server, &log);
    let first = guest.submit(read(1), None);
    assert_eq!(guest.complete(), (first, Ok(())));
    assert_eq!(guest.held, [first]);
    guest.service.completed(first, Some(Lsn(7)));
    guest.submit(write(1, 1), Some(8));
    log.up_to(8, 6);
    let elsewhere = guest.submit(write(2, 1), Some(8));
    assert_eq!(guest.complete(), (elsewhere, Ok(())));
    assert_eq!(server.state().cached[BLOCK as usize], 0);
    log.up_to(8, 7);
    guest.complete_all();

    // Without a backup nobody is waited for.
    let second = guest.submit(read(5), None);
    assert_eq!(guest.complete(), (second, Ok(())));
    guest.submit(write(5, 1), Some(10));
    server.begin_epoch(2);
    log.set(Reached::Alone { epoch: Some(2) });
    guest.complete_all();
    assert!(server.state().cached == guest.model);
}

#[test]
fn what_was_read_is_held_for_the_backup_of_the_session() {
    let server = FakeServer::start(SIZE, 1);
    let log = Log::new();
    log.set(Reached::Alone { epoch: None });
    let mut guest = Guest::shared(&server, &log);
    let read_now = |guest: &mut Guest, block| {
        let id = guest.submit(read(block), None);
        assert_eq!(guest.complete(), (id, Ok(())));
        guest.held.contains(&id).then_some(id)
    };
    assert_eq!(read_now(&mut guest, 1), None, "there is no backup");
    log.in_session(10, 10, Some(10));
    let held = read_now(&mut guest, 2).expect("for the first one");
    guest.service.completed(held, Some(Lsn(11)));
    until("the first one's read", || {
        guest.service.counters().figures().shared_reads == 1
    });
    // Another one comes, before this thread has seen that the first one is gone.
    log.in_session(20, 20, Some(20));
    guest.now(write(2, 7));
    let held = read_now(&mut guest, 3).expect("for the second one");
    guest.service.completed(held, Some(Lsn(22)));
    guest.submit(write(3, 7), Some(21));
    log.in_session(20, 22, Some(21));
    let elsewhere = guest.submit(write(4, 7), Some(22));
    assert_eq!(guest.complete(), (elsewhere, Ok(())));
    log.in_session(20, 22, Some(22));
    guest.complete_all();
    // One that only keeps the log reads nothing.
    log.in_session(30, 30, None);
    assert_eq!(read_now(&mut guest, 5), None);
    guest.now(write(5, 7));
    assert_eq!(guest.service.counters().figures().shared_reads, 2);
}

#[test]
fn who_lost_the_epoch_waits_for_the_verdict_and_the_guest_sees_nothing() {
    let server = FakeServer::start(SIZE, 1);
    let log = Log::new();
    let mut guest = Guest::new(&server, quick(), Some(&log));
    guest.now(write(1, 1));
    server.begin_epoch(2);
    let refused = guest.submit(write(1, 2), None);
    // Another connection is refused as well.
    until("the end of the connection", || {
        server.state().connections() == 0
    });
    assert!(guest.try_complete().is_none());
    assert_eq!(server.state().cached[BLOCK as usize], 1);
    log.set(Reached::Alone { epoch: Some(2) });
    assert_eq!(guest.complete(), (refused, Ok(())));
    assert!(server.state().cached == guest.model);
}

#[test]
fn who_lost_for_good_does_nothing_any_more() {
    let server = FakeServer::start(SIZE, 1);
    let log = Log::new();
    let mut guest = Guest::new(&server, quick(), Some(&log));
    guest.submit(write(1, 1), Some(1));
    guest.submit(read(2), None);
    assert_eq!(guest.complete().1, Ok(()));
    let done = server.state().done.len();
    log.set(Reached::Never);
    guest.submit(read(3), None);
    until("the end of the connection", || {
        server.state().connections() == 0
    });
    assert_eq!(server.state().done.len(), done);
    assert!(guest.try_complete().is_none());
}

#[test]
fn after_the_time_limit_the_guest_gets_an_error_and_the_disk_goes_on_later() {
    let server = FakeServer::start(SIZE, 1);
    let settings = DiskSettings {
        timeout: Duration::from_millis(600),
        ..quick()
    };
    let log = Log::new();
    let mut guest = Guest::new(&server, settings, Some(&log));
    guest.now(read(1));
    server.state().closed = true;
    server.drop_connections();
    let waits = guest.submit(write(9, 9), Some(100));
    let fails = guest.submit(read(2), None);
    assert_eq!(guest.complete(), (fails, Err(DiskError::Io)));
    server.state().closed = false;
    guest.submit(read(2), None);
    assert_eq!(guest.complete().1, Ok(()));
    // Its time has not begun: it waits for the backup, not for the disk.
    assert!(guest.open.contains_key(&waits));
    log.up_to(100, 0);
    guest.complete_all();
}

#[test]
fn errors_of_the_disk_are_the_guests() {
    let server = FakeServer::start(SIZE, 1);
    let mut guest = Guest::new(&server, quick(), None);
    server.state().failing = Some(ErrorCode::Io);
    guest.submit(write(1, 1), None);
    assert_eq!(guest.complete().1, Err(DiskError::Io));
    server.state().failing = None;
    guest.now(read(2));
}

#[test]
fn a_disk_of_another_size_is_not_written() {
    let server = FakeServer::start(SIZE, 1);
    let mut guest = Guest::new(&server, quick(), None);
    guest.now(read(1));
    {
        let mut state = server.state();
        state.cached.truncate(SIZE / 2);
        state.stable.truncate(SIZE / 2);
    }
    let opened = server.state().opened.len();
    server.drop_connections();
    guest.submit(write(1, 1), None);
    until("some attempts", || server.state().opened.len() > opened + 2);
    assert_eq!(server.state().done.len(), 1);
    server.state().cached.resize(SIZE, 0);
    guest.complete_all();
}

#[test]
fn a_disk_of_another_server_is_not_written() {
    let server = FakeServer::start(SIZE, 1);
    let mut guest = Guest::new(&server, quick(), None);
    guest.now(read(1));
    let opened = server.state().opened.len();
    server.state().number = 2;
    server.drop_connections();
    guest.submit(write(1, 1), None);
    until("some attempts", || server.state().opened.len() > opened + 2);
    assert_eq!(server.state().done.len(), 1);
    server.state().number = 1;
    guest.complete_all();
}

#[test]
fn a_read_that_the_backup_need_not_do_holds_nothing_up() {
    let server = FakeServer::start(SIZE, 1);
    let log = Log::new();
    let mut guest = Guest::shared(&server, &log);
    let first = guest.submit(read(1), None);
    assert_eq!(guest.complete(), (first, Ok(())));
    guest.submit(write(1, 1), None);
    guest.service.completed(first, None);
    guest.complete_all();
}
