//! A backup that is heard and does not get on, and what its primary lets out meanwhile.

use std::thread;
use std::time::{Duration, Instant};

use logging_channel::LossReason;
use logging_channel::Settings;
use logging_channel::control::Control;
use logging_channel::entry::{Entry, Lsn, OutputChannel, OutputMarker, Payload};
use logging_channel::heartbeat::Echo;
use logging_channel::sender::Sender;

use crate::logs::at;
use crate::peers::{FakeBackup, LONG, announced, eventually, impatient, listen, pair};

/// Settings with which a backup that is heard has little time to acknowledge.
fn impatient_for_progress() -> Settings {
    Settings {
        output_timeout: Some(Duration::from_millis(300)),
        ..impatient()
    }
}

/// Answers heartbeats until the backup is lost all the same, and hears that there are no more then:
/// over a network that takes heartbeats only, this is how the backup learns of it.
fn lost_though_it_is_heard(backup: &FakeBackup, sender: &Sender) -> LossReason {
    let session = backup.welcome.session;
    let silence = impatient().heartbeat_timeout * 4;
    backup.udp.set_read_timeout(Some(silence)).expect("set");
    let mut datagram = [0; 100];
    let mut sequence = 0;
    while backup.udp.recv(&mut datagram).is_ok() {
        sequence += 1;
        backup.beat(session, sequence);
    }
    announced(&sender.events())
}

fn output(exits: u64) -> Entry {
    at(
        exits,
        Payload::Output(OutputMarker {
            channel: OutputChannel::Net,
            len: 60,
            hash: 7,
        }),
    )
}

#[test]
fn a_backup_that_is_heard_but_acknowledges_no_output_is_lost() {
    let settings = impatient_for_progress();
    let (backup, sender) = FakeBackup::join(&mut listen(), &settings);
    sender.append_and_flush(output(1));
    let reason = lost_though_it_is_heard(&backup, &sender);
    assert!(
        matches!(reason, LossReason::Unacknowledged { for_ } if for_ >= settings.output_timeout()),
        "{reason}"
    );
}

#[test]
fn a_backup_that_is_heard_but_does_not_get_on_while_the_guest_is_held_up_is_lost() {
    let settings = Settings {
        max_lag: Duration::from_millis(1),
        // Not so late that the network is blamed, however late the guest's thread is.
        heartbeat_timeout: Duration::from_secs(3),
        ..impatient_for_progress()
    };
    let (mut backup, sender) = FakeBackup::join(&mut listen(), &settings);
    sender.append_and_flush(at(1, Payload::Progress));
    let last = sender.append_and_flush(output(2));
    // It waits for a disk that does not answer.
    backup.say(Control::Acknowledge {
        received: last,
        executed: Lsn(1),
        idle: Duration::ZERO,
    });
    let guest = {
        let sender = sender.clone();
        thread::spawn(move || {
            while sender.lost().is_none() {
                sender.throttle();
                thread::yield_now();
            }
        })
    };
    let reason = lost_though_it_is_heard(&backup, &sender);
    assert!(matches!(reason, LossReason::Standstill { .. }), "{reason}");
    guest.join().expect("no panic");
}

#[test]
fn an_acknowledgement_that_may_have_come_long_ago_lets_nothing_out_until_there_is_newer_proof() {
    let settings = Settings {
        output_timeout: Some(LONG),
        ..impatient()
    };
    let (mut backup, sender) = FakeBackup::join(&mut listen(), &settings);
    let session = backup.welcome.session;
    let (note, noted) = crossbeam_channel::unbounded();
    sender.release_with(Box::new(move |permit| {
        let _ = note.send((permit.up_to, permit.holds(Instant::now())));
        None
    }));
    assert_eq!(noted.recv_timeout(LONG), Ok((Lsn(0), true)));
    let lsn = sender.append_and_flush(output(1));
    let long_ago = Instant::now() + settings.heartbeat_timeout * 2;
    // It is heard, and nothing that it says proves that it has heard anything.
    let mut sequence = 0;
    while sender.permit().holds(Instant::now()) || Instant::now() < long_ago {
        backup.hear();
        sequence += 1;
        backup.beat(session, sequence);
    }
    let acknowledge = |received, executed| Control::Acknowledge {
        received,
        executed,
        idle: Duration::ZERO,
    };
    backup.say(acknowledge(lsn, Lsn(0)));
    assert_eq!(noted.recv_timeout(LONG), Ok((lsn, false)));
    // Newer proof is whatever was sent later and has arrived,
    let mut last = lsn;
    eventually("the acknowledgement of what was sent just now", || {
        last = sender.append_and_flush(at(2, Payload::Progress));
        backup.say(acknowledge(last, Lsn(0)));
        let (up_to, holds) = noted.recv_timeout(LONG).expect("a permit");
        assert_eq!(up_to, last);
        holds
    });
    // or a heartbeat.
    while sender.permit().holds(Instant::now()) {
        backup.hear();
        sequence += 1;
        backup.beat(session, sequence);
    }
    eventually("there is newer proof", || {
        let (held, echoed) = (Duration::ZERO, backup.hear().sequence);
        sequence += 1;
        let echo = Echo {
            sequence: echoed,
            held,
        };
        backup.beat_with(session, sequence, Some(echo));
        sender.permit().holds(Instant::now())
    });
    assert_eq!(sender.lost(), None);
}

#[test]
fn the_primary_learns_when_the_disk_server_answered_its_backup() {
    let pair = pair(&impatient(), &impatient());
    let sender = &pair.sender;
    assert_eq!(sender.storage_answered_backup(), None);
    let answered = Instant::now();
    pair.receiver.handle().storage_answered(answered);
    eventually("the primary knows it", || {
        sender.storage_answered_backup().is_some()
    });
    assert!(sender.storage_answered_backup() <= Some(answered));
    let for_ = Duration::from_secs(2);
    sender.give_way(for_);
    assert_eq!(announced(&sender.events()), LossReason::NoStorage { for_ });
    assert_eq!(announced(&pair.receiver.events()), LossReason::Closed);
}
