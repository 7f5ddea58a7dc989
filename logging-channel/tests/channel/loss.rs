//! How each end notices that it lost the other, and what it still gives out then.

use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use logging_channel::LossReason;
use logging_channel::Settings;
use logging_channel::codec::{Batch, HEADER_LEN, PROTOCOL_VERSION};
use logging_channel::control::Control;
use logging_channel::entry::{Lsn, Payload};
use logging_channel::heartbeat::{Echo, HEARTBEAT_LEN, Heartbeat};
use logging_channel::receiver::Next;
use logging_channel::sender::{Commit, Finish};

use crate::logs::{at, batches, frame, ticks};
use crate::peers::{
    FakeBackup, FakePrimary, LONG, announced, eventually, impatient, listen, pair, patient, take,
};

#[test]
fn a_primary_killed_in_the_middle_of_a_batch_leaves_every_whole_batch() {
    let log = ticks(30);
    let wire = batches(&log, 10);
    for cut in [1, HEADER_LEN, HEADER_LEN + 1, wire[2].len() - 1] {
        let (mut primary, mut receiver) = FakePrimary::welcome(&patient());
        primary.say(&wire[0]);
        primary.say(&wire[1]);
        primary.say(&wire[2][..cut]);
        drop(primary);
        assert_eq!(announced(&receiver.events()), LossReason::Closed);
        assert_eq!(take(&mut receiver, 0, 20), log[..20]);
        assert_eq!(receiver.next(LONG), Next::Ended(LossReason::Closed));
    }
}

/// The kernel of a killed primary resets the connection if acknowledgements were not read yet.
#[test]
fn a_reset_loses_nothing_that_came_before_it() {
    let log = ticks(30);
    let wire = batches(&log, 10);
    let (mut primary, mut receiver) = FakePrimary::welcome(&patient());
    primary.say(&wire[0]);
    primary.await_word();
    primary.say(&wire[1]);
    primary.say(&wire[2]);
    drop(primary);
    assert_eq!(announced(&receiver.events()), LossReason::Closed);
    assert_eq!(take(&mut receiver, 0, 30), log);
    assert_eq!(receiver.next(LONG), Next::Ended(LossReason::Closed));
}

#[test]
fn the_loss_is_announced_while_entries_still_wait() {
    let mut pair = pair(&patient(), &patient());
    for entry in ticks(100) {
        pair.sender.append(entry);
    }
    pair.sender.flush();
    assert_eq!(
        pair.sender.wait_committed(Lsn(100), LONG),
        Commit::Committed
    );
    let events = pair.receiver.handle().events();
    drop(pair.sender);
    assert_eq!(announced(&events), LossReason::Closed);
    take(&mut pair.receiver, 0, 100);
    assert_eq!(pair.receiver.next(LONG), Next::Ended(LossReason::Closed));
}

#[test]
fn a_silent_primary_is_lost_though_its_connection_stays_open() {
    let (mut primary, mut receiver) = FakePrimary::welcome(&impatient());
    let log = ticks(5);
    primary.say(&batches(&log, 5)[0]);
    let reason = announced(&receiver.events());
    assert!(matches!(reason, LossReason::Silent { for_ } if for_ >= impatient().heartbeat_timeout));
    assert_eq!(take(&mut receiver, 0, 5), log);
    assert_eq!(receiver.next(LONG), Next::Ended(reason));
    drop(primary.udp);
}

#[test]
fn a_silent_backup_is_lost_though_its_connection_stays_open() {
    let (backup, sender) = FakeBackup::join(&mut listen(), &impatient());
    let reason = announced(&sender.events());
    assert!(matches!(reason, LossReason::Silent { .. }), "{reason}");
    assert_eq!(sender.lost(), Some(reason));
    drop(backup);
}

#[test]
fn heartbeats_alone_keep_a_backup() {
    let settings = Settings {
        heartbeat_timeout: Duration::from_millis(500),
        ..patient()
    };
    let (backup, sender) = FakeBackup::join(&mut listen(), &settings);
    let session = backup.welcome.session;
    // Answers each heartbeat with one, for longer than the timeout.
    for n in 1..=10 {
        let beat = backup.hear();
        assert_eq!((beat.session, beat.sequence), (session, n));
        let (sequence, held) = (n, Duration::ZERO);
        backup.beat_with(session, n, Some(Echo { sequence, held }));
        assert_eq!(sender.lost(), None);
    }
    let reason = announced(&sender.events());
    assert!(matches!(reason, LossReason::Silent { .. }), "{reason:?}");
}

#[test]
fn the_round_trip_is_what_heartbeats_say() {
    let settings = Settings {
        heartbeat_timeout: Duration::from_secs(5),
        ..patient()
    };
    let (backup, sender) = FakeBackup::join(&mut listen(), &settings);
    let session = backup.welcome.session;
    let (sequence, heard) = (backup.hear().sequence, Instant::now());
    backup.hear();
    assert_eq!(sender.stats().round_trip, None, "nothing came back yet");
    // Held for an interval of heartbeats, and nothing is said of that: so the network took it.
    let away = heard.elapsed();
    let held = Duration::ZERO;
    backup.beat_with(session, 1, Some(Echo { sequence, held }));
    eventually("the round trip is known", || {
        sender.stats().round_trip.is_some()
    });
    let round_trip = sender.stats().round_trip.expect("just seen");
    assert!(
        round_trip >= away.saturating_sub(Duration::from_micros(1)),
        "{round_trip:?}, {away:?}"
    );
}

#[test]
fn what_is_not_of_this_session_proves_nothing() {
    let (backup, sender) = FakeBackup::join(&mut listen(), &impatient());
    let session = backup.welcome.session;
    let mut sequence = 0;
    eventually("the backup is lost", || {
        sequence += 1;
        backup.beat(session ^ 1, sequence);
        let _ = backup.udp.send(b"hello");
        let mut long = [0; 64];
        long[..HEARTBEAT_LEN].copy_from_slice(
            &Heartbeat {
                role: logging_channel::heartbeat::Role::Backup,
                session,
                sequence,
                released: Lsn(0),
                echo: None,
                storage: None,
            }
            .encode(PROTOCOL_VERSION),
        );
        let _ = backup.udp.send(&long);
        // Its own, sent back.
        let _ = backup.udp.send(
            &Heartbeat {
                role: logging_channel::heartbeat::Role::Primary,
                session,
                sequence,
                released: Lsn(0),
                echo: None,
                storage: None,
            }
            .encode(PROTOCOL_VERSION),
        );
        sender.lost().is_some()
    });
    assert!(matches!(sender.lost(), Some(LossReason::Silent { .. })));
}

/// Datagrams of loopback are neither lost nor overtaken.
#[test]
fn heartbeats_that_did_not_come_are_counted() {
    let (backup, sender) = FakeBackup::join(&mut listen(), &patient());
    let session = backup.welcome.session;
    for sequence in [1, 2, 5, 4, 6] {
        backup.beat(session, sequence);
    }
    eventually("all are heard", || sender.stats().arrivals.heard == 4);
    assert_eq!(sender.stats().arrivals.missed, 2);
}

#[test]
fn log_traffic_alone_keeps_a_primary() {
    let settings = Settings {
        heartbeat_timeout: Duration::from_millis(500),
        ..patient()
    };
    let (mut primary, mut receiver) = FakePrimary::welcome(&settings);
    // As many acknowledged batches as the backup sends heartbeats in twice the timeout.
    let wire = batches(&ticks(1000), 1);
    primary.udp.set_read_timeout(Some(LONG)).expect("set");
    for n in 1..=10u64 {
        primary.udp.recv(&mut [0; 100]).expect("a heartbeat");
        primary.say(&wire[n as usize - 1]);
        assert!(matches!(
            primary.hear(),
            Control::Acknowledge { received, .. } if received == Lsn(n)
        ));
        assert_eq!(receiver.lost(), None);
    }
    take(&mut receiver, 0, 10);
}

#[test]
fn what_nobody_waits_for_is_acknowledged_while_more_of_it_comes() {
    let (mut primary, _receiver) = FakePrimary::welcome(&patient());
    let often = Some(Duration::from_millis(1));
    let mut wire = batches(&ticks(10_000), 1).into_iter();
    while !primary.tcp.wait_readable(&[], often).expect("open")[0] {
        primary.say(&wire.next().expect("an acknowledgement by now"));
    }
    assert!(matches!(primary.hear(), Control::Acknowledge { .. }));
}

#[test]
fn a_lost_backup_lets_everyone_go_on() {
    let primary = Settings {
        send_buffer: 256 * 1024,
        ..patient()
    };
    let backup = Settings {
        receive_buffer: 64 * 1024,
        ..patient()
    };
    let pair = pair(&primary, &backup);
    let committed = pair.sender.append_and_flush(at(1, Payload::Progress));
    assert_eq!(
        pair.sender.wait_committed(committed, LONG),
        Commit::Committed
    );
    let sender = pair.sender.clone();
    let guest = thread::spawn(move || {
        for n in 2..=600 {
            sender.append(frame(n, 60_000));
        }
        sender.flush();
        sender.throttle();
    });
    let sender = pair.sender.clone();
    let gate = thread::spawn(move || sender.wait_committed(Lsn(600), LONG * 2));
    eventually("the guest waits", || pair.sender.stats().stalls > 0);
    drop(pair.receiver);
    guest.join().expect("no panic");
    assert_eq!(gate.join().expect("no panic"), Commit::PeerLost);
    assert_eq!(announced(&pair.sender.events()), LossReason::Closed);
    let stats = pair.sender.stats();
    assert!(stats.dropped > 0);
    assert_eq!(stats.entries, 600, "they are counted all the same");
    assert_eq!(
        pair.sender.append(at(600, Payload::Progress)),
        Lsn(601),
        "LSNs go on"
    );
    assert_eq!(
        pair.sender.wait_committed(committed, Duration::ZERO),
        Commit::Committed,
        "what was acknowledged stays so"
    );
    assert!(matches!(
        pair.sender.finish(LONG),
        Finish::PeerLost(LossReason::Closed)
    ));
}

#[test]
fn a_wait_for_acknowledgements_ends_with_the_session() {
    let pair = pair(&patient(), &patient());
    pair.sender.append_and_flush(at(1, Payload::Progress));
    pair.sender
        .wait_acknowledged(LONG, |arrived, _| arrived >= Lsn(1));
    let sender = pair.sender.clone();
    let waits = thread::spawn(move || {
        sender.wait_acknowledged(LONG * 100, |_, executed| executed >= Lsn(1));
        sender.is_lost()
    });
    drop(pair.receiver);
    assert!(
        waits.join().expect("no panic"),
        "it ended for another reason"
    );
    assert_eq!(
        pair.sender.executed(),
        Lsn(0),
        "what never happened is not told"
    );
}

#[test]
fn a_held_guest_goes_on_when_its_backup_is_lost() {
    let settings = Settings {
        max_lag: Duration::from_millis(1),
        heartbeat_timeout: Duration::from_secs(1),
        ..patient()
    };
    let (backup, sender) = FakeBackup::join(&mut listen(), &settings);
    sender.append_and_flush(at(1, Payload::Progress));
    let guest = {
        let sender = sender.clone();
        thread::spawn(move || {
            while sender.stats().throttles == 0 && sender.lost().is_none() {
                sender.throttle();
                thread::yield_now();
            }
        })
    };
    eventually("the guest is held", || sender.stats().throttles > 0);
    drop(backup);
    guest.join().expect("no panic");
}

#[test]
fn an_end_that_is_not_acknowledged_times_out() {
    let (backup, sender) = FakeBackup::join(&mut listen(), &patient());
    sender.append(at(1, Payload::Progress));
    assert_eq!(sender.finish(Duration::from_millis(10)), Finish::TimedOut);
    assert_eq!(announced(&sender.events()), LossReason::Closed);
    drop(backup);
}

#[test]
fn a_backup_that_closes_its_side_is_lost() {
    let (backup, sender) = FakeBackup::join(&mut listen(), &patient());
    backup.tcp.shutdown(Shutdown::Write).expect("shut down");
    assert_eq!(announced(&sender.events()), LossReason::Closed);
}

fn broken(reason: LossReason) -> String {
    match reason {
        LossReason::Protocol(what) => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_primary_that_breaks_the_protocol_is_lost_after_its_whole_batches() {
    let log = ticks(20);
    let wire = batches(&log, 10);
    let mut flipped = wire[1].clone();
    *flipped.last_mut().expect("a body") ^= 1;
    let mut length = wire[1].clone();
    length[5] ^= 0x10;
    let acknowledge = Control::Acknowledge {
        received: Lsn(1),
        executed: Lsn(1),
        idle: Duration::ZERO,
    };
    let cases: [(&[u8], &str); 7] = [
        (&flipped, "damaged batch body"),
        (&length, "damaged batch header"),
        (&wire[0], "missing or repeated"),
        (&Control::Goodbye(Lsn(11)).encode(), "goodbye"),
        (&acknowledge.encode(), "sends Acknowledge"),
        (&[0x55; 100], "no batch starts here"),
        (b"FTVCxxxxxxxxxxxxxxxxxxxxxxxx", "damaged control"),
    ];
    for (bytes, words) in cases {
        let (mut primary, mut receiver) = FakePrimary::welcome(&patient());
        primary.say(&wire[0]);
        primary.say(bytes);
        assert_eq!(take(&mut receiver, 0, 10), log[..10]);
        let reason = announced(&receiver.events());
        assert_eq!(receiver.next(LONG), Next::Ended(reason.clone()));
        let what = broken(reason);
        assert!(what.contains(words), "{what}");
    }
}

#[test]
fn a_backup_that_breaks_the_protocol_is_lost() {
    let acknowledge = |received, executed| Control::Acknowledge {
        received: Lsn(received),
        executed: Lsn(executed),
        idle: Duration::ZERO,
    };
    let cases = [
        (vec![acknowledge(3, 0)], "not sent"),
        (vec![acknowledge(1, 2)], "not sent"),
        (vec![acknowledge(2, 0), acknowledge(1, 0)], "go back"),
        (vec![Control::Goodbye(Lsn(0))], "Goodbye"),
    ];
    for (messages, words) in cases {
        let (mut backup, sender) = FakeBackup::join(&mut listen(), &patient());
        for entry in ticks(2) {
            sender.append(entry);
        }
        for message in messages {
            backup.say(message);
        }
        let what = broken(announced(&sender.events()));
        assert!(what.contains(words), "{what}");
    }
}

#[test]
fn batches_on_the_wire_are_those_of_the_codec() {
    let (mut backup, sender) = FakeBackup::join(&mut listen(), &patient());
    let log = ticks(3);
    for entry in &log {
        sender.append(entry.clone());
    }
    sender.flush();
    let mut received = Vec::new();
    let mut order = logging_channel::codec::LogOrder::default();
    let mut bytes = Vec::new();
    while received.len() < log.len() {
        let mut chunk = [0; 1000];
        let n = std::io::Read::read(&mut backup.tcp, &mut chunk).expect("a batch");
        bytes.extend_from_slice(&chunk[..n]);
        while let Ok((batch, len)) = Batch::decode(&bytes) {
            order.admit(&batch).expect("in order");
            received.extend(batch.entries);
            bytes.drain(..len);
        }
    }
    assert_eq!(received, log);
}
