//! Epochs: who may write, and that nobody else's write lands.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use disk_server::arbiter::{Arbiter, Claim, Next, STOPPED, VmName};
use disk_server::nbd::ClientTag;
use disk_server::nbd::protocol::{Command, CommandFlags, ErrorCode, ReplyType, TransmissionFlags};

use crate::client::Client;
use crate::disks::{Gated, Local};
use crate::support::{SetWhenDropped, until};

pub(crate) const BLOCK: u32 = 4096;
pub(crate) const WRITE: (Command, CommandFlags) = (Command::Write, CommandFlags::empty());

pub(crate) fn vm() -> VmName {
    "db".parse().unwrap()
}

pub(crate) fn claim(arbiter: &Arbiter, epoch: u64, who: &str) {
    let who = match who {
        STOPPED => (arbiter.read(&vm()).unwrap().holder.unwrap(), Next::Stopped),
        who => (who.parse().unwrap(), Next::Start),
    };
    let claimed = arbiter.claim(
        &vm(),
        epoch - 1,
        (&who.0, who.1),
        &AtomicBool::new(false),
        |reason| eprintln!("waiting: {reason}"),
    );
    assert_eq!(claimed.unwrap(), Claim::Won { epoch });
}

fn refused(server: &Local, export: &str) -> String {
    let Err(refused) = Client::try_open(server.nbd, export).unwrap() else {
        panic!("{export} was opened");
    };
    assert_eq!(refused.reply, ReplyType::ErrPolicy, "{}", refused.message);
    refused.message
}

/// Its disk is not out of reach for a moment where a backup joins, or is lost.
#[test]
fn a_holder_that_moves_on_writes_on() {
    let server = Local::start(Gated::new(1 << 20), true);
    claim(&server.arbiter(), 1, "a/1");
    let mut writer = Client::open(server.nbd, "disk@db:1");
    let a = "a/1".parse().unwrap();
    for (epoch, next) in [(1, Next::With("b/2".parse().unwrap())), (2, Next::Alone)] {
        let never = AtomicBool::new(false);
        let claimed = server
            .arbiter()
            .claim(&vm(), epoch, (&a, next), &never, |_| {});
        assert_eq!(claimed.unwrap(), Claim::Won { epoch: epoch + 1 });
        writer.write(0, &[1; 512]).unwrap();
    }
    // In the name of any of them, but not of one that is to come.
    for epoch in [2, 3] {
        Client::open(server.nbd, &format!("disk@db:{epoch}"))
            .write(0, &[2; 512])
            .unwrap();
    }
    assert!(Client::try_open(server.nbd, "disk@db:4").unwrap().is_err());
    claim(&server.arbiter(), 4, "b/2");
    for epoch in 1..=3 {
        let old = format!("disk@db:{epoch}");
        assert!(Client::try_open(server.nbd, &old).unwrap().is_err());
    }
}

#[test]
fn only_the_epochs_holder_is_a_writer() {
    let server = Local::start(Gated::new(1 << 20), true);
    assert!(refused(&server, "disk@db:0").contains("does not run"));
    assert!(refused(&server, "disk@other:0").contains("does not belong to other"));
    assert!(refused(&server, "disk@db:7").contains("never claimed"));
    claim(&server.arbiter(), 1, "a/1");
    let mut first = Client::open(server.nbd, "disk@db:1");
    assert!(!first.info.flags.contains(TransmissionFlags::READ_ONLY));
    assert!(!first.info.flags.contains(TransmissionFlags::CAN_MULTI_CONN));
    first.write(0, &[1; 512]).unwrap();
    claim(&server.arbiter(), 2, "b/2");
    assert!(refused(&server, "disk@db:1").contains("epoch 1 of db is over"));
    for (command, length) in [
        (Command::Write, 512),
        (Command::WriteZeroes, 512),
        (Command::Trim, 512),
    ] {
        let data = vec![9; if command == Command::Write { 512 } else { 0 }];
        let flags = CommandFlags::FUA;
        let result = first.call((command, flags), 0, length, &data).unwrap();
        assert_eq!(result.unwrap_err(), ErrorCode::NotPermitted, "{command:?}");
    }
    // Reading and flushing harm nobody.
    assert_eq!(first.read(0, 512).unwrap(), [1; 512]);
    first.flush().unwrap();
    let mut second = Client::open(server.nbd, "disk@db:2");
    assert_eq!(second.read(0, 512).unwrap(), [1; 512]);
    second.write(0, &[2; 512]).unwrap();
}

#[test]
fn everybody_may_write_while_the_machine_does_not_run() {
    let server = Local::start(Gated::new(1 << 20), true);
    let mut plain = Client::open(server.nbd, "disk");
    plain.write(0, &[1; 512]).unwrap();
    claim(&server.arbiter(), 1, "a/1");
    // It was opened for writing, and must not write any more.
    assert_eq!(plain.write(0, &[2; 512]), Err(ErrorCode::NotPermitted));
    let mut reader = Client::open(server.nbd, "disk");
    assert!(reader.info.flags.contains(TransmissionFlags::READ_ONLY));
    assert_eq!(reader.read(0, 512).unwrap(), [1; 512]);
    claim(&server.arbiter(), 2, STOPPED);
    // Nobody runs it: the epoch has no writer, and everybody who comes may write.
    assert!(refused(&server, "disk@db:2").contains("does not run"));
    let mut late = Client::open(server.nbd, "disk");
    late.write(0, &[3; 512]).unwrap();
    // But not from a memory of the disk that is older than what the machine wrote.
    assert_eq!(plain.write(0, &[2; 512]), Err(ErrorCode::NotPermitted));
    // A client that was told "read-only" is held to it.
    assert_eq!(reader.write(0, &[4; 512]), Err(ErrorCode::NotPermitted));
    assert_eq!(reader.read(0, 512).unwrap(), [3; 512]);
}

#[test]
fn a_win_is_answered_when_the_old_writes_have_landed_and_the_queued_ones_never_do() {
    const SENT: usize = 40;
    let disk = Gated::new(1 << 20);
    let server = Local::start(disk.clone(), true);
    claim(&server.arbiter(), 1, "a/1");
    let mut old = Client::open(server.nbd, "disk@db:1");
    disk.set_open(false);
    for _ in 0..SENT {
        old.send(WRITE, 0, BLOCK, &[1; BLOCK as usize]).unwrap();
    }
    let under_way = disk_server::server::Limits::default().requests;
    until("writes are under way", || disk.waiting() == under_way);
    let arbiters = [server.arbiter(), server.arbiter()];
    thread::scope(|scope| {
        // The second one repeats the claim, as a host does whose answer was lost. It must wait as
        // well.
        let claims = arbiters.each_ref().map(|arbiter| {
            let claim = scope.spawn(|| claim(arbiter, 2, "b/2"));
            until("the old epoch is over", || {
                server.arbiter().read(&vm()).unwrap().epoch == 2
                    && Client::try_open(server.nbd, "disk@db:1").unwrap().is_err()
            });
            claim
        });
        assert_eq!(disk.landed(), 0);
        for claim in &claims {
            assert!(!claim.is_finished(), "answered before old writes landed");
        }
        disk.set_open(true);
        for claim in claims {
            claim.join().unwrap();
            assert_eq!(disk.landed(), under_way);
        }
    });
    let mut refused = 0;
    for _ in 0..SENT {
        match old.receive().unwrap().result {
            Ok(_) => {}
            Err(ErrorCode::NotPermitted) => refused += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(refused, SENT - under_way);
    assert_eq!(disk.landed(), under_way);
}

#[test]
fn a_claim_waits_for_a_piece_of_a_long_request_and_not_for_all_of_it() {
    const SIZE: u32 = 64 << 20;
    let disk = Gated::new(SIZE as usize);
    let server = Local::start(disk.clone(), true);
    let _open = disk.open_when_dropped();
    let requests = [
        (Command::Trim, SIZE),
        (Command::WriteZeroes, SIZE),
        // As much as the server takes in before it is written: two pieces.
        (Command::Write, 2 << 20),
    ];
    for (epoch, (command, length)) in (1..).step_by(2).zip(requests) {
        claim(&server.arbiter(), epoch, "a/1");
        let mut writer = Client::open(server.nbd, &format!("disk@db:{epoch}"));
        disk.set_open(false);
        let data = vec![
            0;
            if command == Command::Write {
                length as usize
            } else {
                0
            }
        ];
        let request = (command, CommandFlags::empty());
        writer.send(request, 0, length, &data).unwrap();
        until("a piece is under way", || disk.waiting() == 1);
        thread::scope(|scope| {
            let claim = scope.spawn(|| claim(&server.arbiter(), epoch + 1, "b/2"));
            until("the epoch is over", || {
                Client::try_open(server.nbd, &format!("disk@db:{epoch}"))
                    .unwrap()
                    .is_err()
            });
            assert!(!claim.is_finished(), "answered while a piece was under way");
            disk.let_one_pass();
            claim.join().unwrap();
        });
        let result = writer.receive().unwrap().result;
        assert_eq!(result.unwrap_err(), ErrorCode::NotPermitted, "{command:?}");
        disk.set_open(true);
    }
}

#[test]
fn a_new_connection_takes_over_from_the_one_before() {
    let disk = Gated::new(1 << 20);
    let server = Local::start(disk.clone(), true);
    claim(&server.arbiter(), 1, "a/1");
    takes_over(&server, &disk, "disk@db:1");
}

#[test]
fn a_new_connection_of_a_client_with_a_tag_takes_over_from_the_one_before() {
    let tagged = format!("disk@~{}", ClientTag::new(1));
    for owned in [false, true] {
        let disk = Gated::new(1 << 20);
        let server = Local::start(disk.clone(), owned);
        takes_over(&server, &disk, &tagged);
    }
}

#[test]
fn a_tag_takes_nothing_from_other_clients() {
    let disk = Gated::new(1 << 20);
    let server = Local::start(disk.clone(), true);
    let tagged = |number| format!("disk@~{}", ClientTag::new(number));
    let mut clients = [tagged(1), tagged(2), "disk".to_owned(), "disk".to_owned()]
        .map(|name| Client::open(server.nbd, &name));
    let multi_conn = clients.each_ref().map(|client| {
        client
            .info
            .flags
            .contains(TransmissionFlags::CAN_MULTI_CONN)
    });
    assert_eq!(multi_conn, [false, false, true, true]);
    for client in &mut clients {
        client.write(0, &[1; 512]).unwrap();
    }
    // A tag is no way around the fence.
    claim(&server.arbiter(), 1, "a/1");
    for client in &mut clients {
        assert_eq!(client.write(0, &[2; 512]), Err(ErrorCode::NotPermitted));
    }
    let late = Client::open(server.nbd, &tagged(1));
    assert!(late.info.flags.contains(TransmissionFlags::READ_ONLY));
}

#[test]
fn a_client_with_a_tag_does_not_outlive_a_run_of_the_machine() {
    let server = Local::start(Gated::new(1 << 20), true);
    let tagged = |number| format!("disk@~{}", ClientTag::new(number));
    let mut guest = Client::open(server.nbd, &tagged(1));
    let away = Client::open(server.nbd, &tagged(2));
    drop(away);
    claim(&server.arbiter(), 1, "a/1");
    claim(&server.arbiter(), 2, STOPPED);
    assert_eq!(guest.write(0, &[1; 512]), Err(ErrorCode::NotPermitted));
    // A new connection does not make what it remembers new.
    for number in [1, 2] {
        let message = refused(&server, &tagged(number));
        assert!(message.contains("db has been started since"), "{message}");
    }
    let mut other = Client::open(server.nbd, &tagged(3));
    other.write(0, &[2; 512]).unwrap();
    drop(other);
    let mut other = Client::open(server.nbd, &tagged(3));
    other.write(0, &[3; 512]).unwrap();
}

/// Writes wait in the disk and in the queue of a connection, when a second one is opened under the
/// same name. `disk` is the server's, and may be written under that name.
fn takes_over(server: &Local, disk: &Gated, name: &str) {
    const SENT: usize = 40;
    let mut old = Client::open(server.nbd, name);
    disk.set_open(false);
    for _ in 0..SENT {
        old.send(WRITE, 0, BLOCK, &[1; BLOCK as usize]).unwrap();
    }
    let under_way = disk_server::server::Limits::default().requests;
    until("writes are under way", || disk.waiting() == under_way);
    let new = thread::scope(|scope| {
        let new = scope.spawn(|| {
            loop {
                match Client::try_open(server.nbd, name).unwrap() {
                    Ok(client) => break client,
                    // It was told to ask again.
                    Err(refused) => assert_eq!(refused.reply, ReplyType::ErrShutdown),
                }
            }
        });
        // Nothing tells from outside that it waits, so this is not sure to catch one that does not.
        thread::yield_now();
        assert!(!new.is_finished(), "opened before old writes landed");
        disk.set_open(true);
        new.join().unwrap()
    });
    assert!(disk.landed() >= under_way);
    let before = disk.landed();
    let mut new = new;
    new.write(0, &[2; BLOCK as usize]).unwrap();
    let mut refused = 0;
    for _ in 0..SENT {
        refused += usize::from(old.receive().unwrap().result.is_err());
    }
    // What the old one had in the queue when it was superseded did not land; what landed did so
    // before the new one was there.
    assert_eq!(before + refused, SENT);
    assert_eq!(disk.landed(), before + 1);
    assert_eq!(new.read(0, BLOCK).unwrap(), [2; BLOCK as usize]);
    assert_eq!(old.write(0, &[3; 512]), Err(ErrorCode::NotPermitted));
}

/// Hosts that do not know that they lost go on writing as fast as they can, while epoch after epoch
/// is won. What a new epoch wrote is never overwritten by an earlier one.
#[test]
fn no_write_lands_after_a_later_epoch_was_won() {
    const EPOCHS: u64 = 40;
    const BLOCKS: u64 = 8;
    const IN_FLIGHT: usize = 24;
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(BLOCKS * u64::from(BLOCK)).unwrap();
    let storage = disk_server::storage::FileStorage::open(image.path(), false).unwrap();
    let server = Local::start(storage, true);
    let refusals = AtomicU64::new(0);
    let (told, done) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        // Ends the writers also when an assertion fails, and nobody tells them.
        let _end = SetWhenDropped(&done);
        for epoch in 1..=EPOCHS {
            claim(&server.arbiter(), epoch, &format!("host{epoch}/1"));
            let name = format!("disk@db:{epoch}");
            let mut writer = Client::open(server.nbd, &name);
            let stamp = |epoch: u64| epoch.to_be_bytes().repeat(BLOCK as usize / 8);
            for block in 0..BLOCKS {
                writer
                    .write(block * u64::from(BLOCK), &stamp(epoch))
                    .unwrap();
            }
            let mut reader = Client::open(server.nbd, "disk");
            for _ in 0..20 {
                for block in 0..BLOCKS {
                    let bytes = reader.read(block * u64::from(BLOCK), BLOCK).unwrap();
                    assert!(
                        bytes == stamp(epoch),
                        "an earlier epoch wrote in epoch {epoch}"
                    );
                }
            }
            // It goes on until it is told, with as many writes under way and queued as fit.
            let (refusals, server, told, done) = (&refusals, &server, &told, &done);
            scope.spawn(move || {
                let mut under_way = 0;
                for block in (0..BLOCKS).cycle() {
                    let offset = block * u64::from(BLOCK);
                    writer.send(WRITE, offset, BLOCK, &stamp(epoch)).unwrap();
                    under_way += 1;
                    if done.load(Ordering::SeqCst) {
                        return;
                    }
                    if under_way < IN_FLIGHT {
                        continue;
                    }
                    under_way -= 1;
                    match writer.receive().unwrap().result {
                        Ok(_) => {}
                        Err(ErrorCode::NotPermitted) => break,
                        Err(other) => panic!("{other:?}"),
                    }
                }
                while under_way > 0 {
                    under_way -= 1;
                    if writer.receive().unwrap().result.is_err() {
                        refusals.fetch_add(1, Ordering::Relaxed);
                    }
                }
                // Nor can it connect anew.
                assert!(Client::try_open(server.nbd, &name).unwrap().is_err());
                told.fetch_add(1, Ordering::SeqCst);
            });
        }
        claim(&server.arbiter(), EPOCHS + 1, STOPPED);
        until("all have been told", || {
            told.load(Ordering::SeqCst) == EPOCHS
        });
    });
    assert!(refusals.load(Ordering::Relaxed) > 0, "nothing was queued");
}
