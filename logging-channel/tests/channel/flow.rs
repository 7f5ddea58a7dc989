//! Entries and acknowledgements between two real ends.

use std::thread;
use std::time::Duration;

use logging_channel::codec::Kind;
use logging_channel::entry::{Entry, Lsn, Payload, ShutdownReason};
use logging_channel::receiver::{Next, Peek};
use logging_channel::sender::{Commit, Finish};
use logging_channel::{LossReason, Settings};
use proptest::prelude::*;

use crate::logs::{at, frame, log, ticks};
use crate::peers::{EPOCH, LONG, announced, eventually, pair, patient, take};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn entries_arrive_in_order_with_equal_content(
        log in log(300),
        flush_every in 1usize..50,
        batch_bytes in 1usize..2000,
    ) {
        let settings = Settings { batch_bytes, ..patient() };
        let mut pair = pair(&settings, &patient());
        for (n, entry) in (1..).zip(&log) {
            let lsn = if n % flush_every == 0 {
                pair.sender.append_and_flush(entry.clone())
            } else {
                pair.sender.append(entry.clone())
            };
            prop_assert_eq!(lsn, Lsn(n as u64));
        }
        prop_assert_eq!(take(&mut pair.receiver, 0, log.len()), log);
    }
}

#[test]
fn both_ends_know_the_session() {
    let pair = pair(&patient(), &patient());
    let (primary, backup) = (pair.sender.session(), pair.receiver.session());
    assert_eq!(primary.session, backup.session);
    assert_eq!((primary.epoch, backup.epoch), (EPOCH + 1, EPOCH + 1));
    assert_eq!(backup.heartbeat_timeout, patient().heartbeat_timeout);
    assert_eq!(backup.peer, pair.listener.local_addr());
}

#[test]
fn an_entry_goes_out_after_the_linger_time_without_a_flush() {
    let mut pair = pair(&patient(), &patient());
    for n in 1..=5 {
        pair.sender.append(at(n, Payload::Progress));
        assert!(matches!(pair.receiver.next(LONG), Next::Entry(lsn, _) if lsn == Lsn(n)));
    }
}

#[test]
fn a_flush_sends_what_would_linger_forever() {
    let settings = Settings {
        linger: Duration::from_secs(3600),
        ..patient()
    };
    let mut pair = pair(&settings, &patient());
    pair.sender.append(at(1, Payload::Progress));
    assert_eq!(pair.receiver.next(Duration::ZERO), Next::TimedOut);
    pair.sender.flush();
    assert!(matches!(pair.receiver.next(LONG), Next::Entry(Lsn(1), _)));
}

#[test]
fn a_complete_batch_goes_out_without_a_flush() {
    let settings = Settings {
        linger: Duration::from_secs(3600),
        batch_bytes: 1000,
        ..patient()
    };
    let mut pair = pair(&settings, &patient());
    for n in 1..=3 {
        pair.sender.append(frame(n, 1000));
    }
    take(&mut pair.receiver, 0, 3);
}

#[test]
fn acknowledged_means_received_even_if_nobody_consumes() {
    let pair = pair(&patient(), &patient());
    let mut lsn = Lsn(0);
    for entry in ticks(100) {
        lsn = pair.sender.append(entry);
    }
    pair.sender.flush();
    assert_eq!(pair.sender.wait_committed(lsn, LONG), Commit::Committed);
    assert_eq!(pair.sender.acked(), lsn);
    assert_eq!(
        pair.sender.wait_committed(lsn.next(), Duration::ZERO),
        Commit::TimedOut
    );
    let stats = pair.receiver.stats();
    assert_eq!((stats.received, stats.entries), (lsn, 100));
    assert!(stats.queued_bytes > 0);
}

#[test]
fn peek_looks_and_next_consumes() {
    let mut pair = pair(&patient(), &patient());
    assert_eq!(pair.receiver.peek(Duration::ZERO), Peek::TimedOut);
    let log = ticks(3);
    for entry in &log {
        pair.sender.append_and_flush(entry.clone());
    }
    for (n, entry) in (1..).zip(&log) {
        assert_eq!(pair.receiver.peek(LONG), Peek::Entry(Lsn(n), entry));
        assert_eq!(pair.receiver.peek(LONG), Peek::Entry(Lsn(n), entry));
        assert_eq!(pair.receiver.next(LONG), Next::Entry(Lsn(n), entry.clone()));
    }
    assert_eq!(pair.receiver.peek(Duration::ZERO), Peek::TimedOut);
    eventually("all bytes are consumed", || {
        pair.receiver.stats().queued_bytes == 0
    });
}

#[test]
fn append_waits_while_both_buffers_are_full_and_goes_on_when_the_replay_does() {
    let primary = Settings {
        send_buffer: 256 * 1024,
        ..patient()
    };
    let backup = Settings {
        receive_buffer: 256 * 1024,
        ..patient()
    };
    let mut pair = pair(&primary, &backup);
    // More than both buffers and what the kernel keeps in between.
    const COUNT: u64 = 600;
    let sender = pair.sender.clone();
    let appending = thread::spawn(move || {
        for n in 1..=COUNT {
            sender.append(frame(n, 60_000));
        }
        sender.flush();
    });
    eventually("the guest waits", || pair.sender.stats().stalls > 0);
    eventually("the backup waits", || pair.receiver.stats().stalls > 0);
    assert!(pair.receiver.stats().queued_bytes <= backup.receive_buffer);
    assert!(pair.sender.stats().buffered <= primary.send_buffer + 2 * 64 * 1024);

    for (n, entry) in (1..).zip(take(&mut pair.receiver, 0, COUNT as usize)) {
        assert_eq!(entry, frame(n, 60_000));
    }
    appending.join().expect("no panic");
    let stats = pair.sender.stats();
    assert!(stats.stalled > Duration::ZERO);
    assert_eq!(stats.entries, COUNT);
}

#[test]
fn a_buffer_smaller_than_a_batch_does_not_wait_for_the_batch_to_fill() {
    let settings = Settings {
        send_buffer: 1000,
        linger: Duration::from_secs(3600),
        ..patient()
    };
    let mut pair = pair(&settings, &patient());
    for n in 1..=20 {
        pair.sender.append(frame(n, 300));
    }
    pair.sender.flush();
    take(&mut pair.receiver, 0, 20);
    assert!(pair.sender.stats().stalls > 0);
}

#[test]
fn several_threads_may_flush_at_once() {
    let settings = Settings {
        linger: Duration::from_secs(3600),
        ..patient()
    };
    let mut pair = pair(&settings, &patient());
    const EACH: usize = 2000;
    thread::scope(|scope| {
        for _ in 0..3 {
            let sender = pair.sender.clone();
            scope.spawn(move || {
                for _ in 0..EACH {
                    sender.append(at(1, Payload::Progress));
                    sender.flush();
                }
            });
        }
        // Nothing is left behind, though nothing lingers less than an hour.
        take(&mut pair.receiver, 0, 3 * EACH);
    });
}

#[test]
fn a_batch_larger_than_the_backups_buffer_passes() {
    let backup = Settings {
        receive_buffer: 1000,
        ..patient()
    };
    let mut pair = pair(&patient(), &backup);
    for n in 1..=10 {
        pair.sender.append(frame(n, 60_000));
    }
    pair.sender.flush();
    take(&mut pair.receiver, 0, 10);
}

#[test]
fn execution_is_reported_and_ends_the_lag() {
    let mut pair = pair(&patient(), &patient());
    assert_eq!(pair.sender.lag(), Duration::ZERO);
    for entry in ticks(10) {
        pair.sender.append_and_flush(entry);
    }
    take(&mut pair.receiver, 0, 10);
    assert!(pair.sender.lag() > Duration::ZERO);
    pair.receiver.executed(Lsn(9));
    eventually("nine are executed", || {
        pair.sender.stats().executed == Lsn(9)
    });
    assert!(pair.sender.lag() > Duration::ZERO);
    pair.receiver.executed(Lsn(10));
    eventually("no lag", || pair.sender.lag() == Duration::ZERO);
    let stats = pair.sender.stats();
    assert!(stats.lags.p99 >= stats.lags.p50 && stats.lags.max >= stats.lags.p99);
    assert!(stats.lags.p50 > Duration::ZERO);
}

/// What a waiting thread is told at each acknowledgement: the last entry that arrived, and the
/// last one that was executed.
#[test]
fn a_wait_for_acknowledgements_tells_what_arrived_and_what_was_executed() {
    let mut pair = pair(&patient(), &patient());
    let told = |wanted: fn(Lsn, Lsn) -> bool| {
        let mut told = None;
        pair.sender.wait_acknowledged(LONG, |arrived, executed| {
            told = Some((arrived, executed));
            wanted(arrived, executed)
        });
        told.expect("asked at least once")
    };
    for entry in ticks(10) {
        pair.sender.append_and_flush(entry);
    }
    let (arrived, executed) = told(|arrived, _| arrived >= Lsn(10));
    assert_eq!(
        (arrived, executed),
        (Lsn(10), Lsn(0)),
        "nothing was executed yet"
    );
    take(&mut pair.receiver, 0, 10);

    thread::scope(|scope| {
        let waits = scope.spawn(|| told(|_, executed| executed >= Lsn(7)));
        pair.receiver.executed(Lsn(7));
        assert_eq!(waits.join().expect("no panic"), (Lsn(10), Lsn(7)));
    });
    assert_eq!(pair.sender.executed(), Lsn(7));
}

#[test]
fn a_wait_for_acknowledgements_sends_nothing_by_itself_and_has_a_limit() {
    let settings = Settings {
        linger: LONG * 10,
        ..patient()
    };
    let pair = pair(&settings, &patient());
    pair.sender.append(at(1, Payload::Progress));
    let mut asked = 0;
    let limit = Duration::from_millis(20);
    pair.sender.wait_acknowledged(limit, |arrived, _| {
        asked += 1;
        arrived >= Lsn(1)
    });
    assert!(asked > 0, "it is asked before anything is waited for");
    assert_eq!(pair.sender.acked(), Lsn(0), "nothing was sent");
    pair.sender.flush();
    pair.sender
        .wait_acknowledged(LONG, |arrived, _| arrived >= Lsn(1));
    assert_eq!(pair.sender.acked(), Lsn(1));
}

#[test]
fn a_primary_whose_backup_lags_is_held_until_it_caught_up() {
    let primary = Settings {
        max_lag: Duration::from_millis(20),
        heartbeat_timeout: Duration::from_secs(5),
        ..patient()
    };
    let pair = pair(&primary, &patient());
    pair.sender.throttle();
    assert_eq!(pair.sender.stats().throttles, 0);
    pair.sender.append_and_flush(at(1, Payload::Progress));
    let sender = pair.sender.clone();
    let guest = thread::spawn(move || {
        while sender.stats().throttles == 0 {
            sender.throttle();
            thread::yield_now();
        }
    });
    eventually("the guest is held", || pair.sender.stats().throttles > 0);
    assert!(!guest.is_finished());
    pair.receiver.executed(Lsn(1));
    guest.join().expect("no panic");
    pair.sender.throttle();
    let stats = pair.sender.stats();
    assert_eq!(stats.throttles, 1);
    assert!(stats.throttled > Duration::ZERO);
}

#[test]
fn released_outputs_reach_the_backup_with_the_log_and_without() {
    let settings = Settings {
        heartbeat_timeout: Duration::from_secs(5),
        ..patient()
    };
    let pair = pair(&settings, &patient());
    let handle = pair.receiver.handle();
    pair.sender.append_and_flush(at(1, Payload::Progress));
    pair.sender.released(Lsn(1));
    eventually("a heartbeat carries it", || handle.released() == Lsn(1));
    for n in 2..=3 {
        pair.sender.append(at(n, Payload::Progress));
    }
    pair.sender.released(Lsn(3));
    pair.sender.released(Lsn(2));
    pair.sender.flush();
    eventually("the log carries it", || handle.released() == Lsn(3));
}

#[test]
fn statistics_count_by_kind() {
    let pair = pair(&patient(), &patient());
    pair.sender.append(at(1, Payload::Tsc(1)));
    pair.sender.append(at(2, Payload::Tsc(2)));
    let lsn = pair.sender.append_and_flush(frame(3, 100));
    assert_eq!(pair.sender.wait_committed(lsn, LONG), Commit::Committed);
    let stats = pair.sender.stats();
    assert_eq!(stats.kinds.get(Kind::Tsc).entries, 2);
    assert_eq!(stats.kinds.get(Kind::NetRx).entries, 1);
    let all: u64 = stats.kinds.iter().map(|(_, count)| count.bytes).sum();
    assert_eq!(
        all, stats.bytes,
        "headers count for the entry that opens a batch"
    );
    eventually("the backup counts the same", || {
        pair.receiver.stats().bytes == stats.bytes
    });
}

#[test]
fn an_orderly_end_reaches_both_sides_after_every_entry() {
    let mut pair = pair(&patient(), &patient());
    let mut log: Vec<Entry> = ticks(50);
    log.push(at(51, Payload::Shutdown(ShutdownReason::PowerOff)));
    for entry in &log {
        pair.sender.append(entry.clone());
    }
    pair.sender.released(Lsn(51));
    assert_eq!(pair.sender.finish(LONG), Finish::Orderly);
    assert_eq!(announced(&pair.sender.events()), LossReason::Orderly);
    assert_eq!(announced(&pair.receiver.events()), LossReason::Orderly);
    assert_eq!(take(&mut pair.receiver, 0, log.len()), log);
    assert_eq!(pair.receiver.next(LONG), Next::Ended(LossReason::Orderly));
    assert_eq!(pair.receiver.peek(LONG), Peek::Ended(LossReason::Orderly));
    assert_eq!(pair.receiver.released(), Lsn(51));
    assert_eq!(
        pair.sender.wait_committed(Lsn(51), Duration::ZERO),
        Commit::Committed
    );
}

#[test]
fn a_backup_that_differs_asks_for_state_once() {
    let mut pair = pair(&patient(), &patient());
    for entry in ticks(3) {
        pair.sender.append_and_flush(entry);
    }
    take(&mut pair.receiver, 0, 2);
    assert!(pair.receiver.arrived().is_some());
    assert_eq!(pair.sender.state_wanted(), None);
    pair.receiver.need_state(Lsn(2), false);
    let mut wanted = None;
    eventually("the request arrives", || {
        wanted = pair.sender.state_wanted();
        wanted.is_some()
    });
    assert_eq!(wanted, Some(Lsn(2)));
    assert_eq!(pair.sender.state_wanted(), None, "given out once");
    assert!(pair.sender.takes_counts());

    // A counter that is lost does not come back.
    for uncounted in [true, false] {
        pair.receiver.need_state(Lsn(2), uncounted);
        eventually("the request arrives", || {
            pair.sender.state_wanted().is_some()
        });
        assert!(!pair.sender.takes_counts());
    }
    assert_eq!(pair.sender.lost(), None);
}
