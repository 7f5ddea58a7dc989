//! Who may be at the other end of a logging channel, and what somebody on the way can do.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use logging_channel::codec::VERSIONS;
use logging_channel::entry::{Lsn, Payload};
use logging_channel::handshake::{Message, RefusalCode, Welcome};
use logging_channel::heartbeat::{Heartbeat, Role};
use logging_channel::receiver::{Next, Receiver};
use logging_channel::session::{Admission, Confirmation, ConnectError, Listener};
use logging_channel::{LossReason, Settings};
use transport::{ConnectionError, Endpoint, Peer};

use crate::logs::at;
use crate::peers::{
    BACKUP, EPOCH, FakeBackup, KEYS, LONG, VERSION, accept, agree, announced, answer_as, bound,
    connect, dial_as, eventually, for_relay, host, identity, impatient, listen, localhost, pair,
    patient, title, trusted,
};

/// With little patience: what keeps a backup out may change.
fn connect_as(endpoint: &Endpoint, address: SocketAddr) -> Result<Receiver, ConnectError> {
    Receiver::connect(
        (address, endpoint),
        (&identity(), BACKUP),
        &host(),
        &patient(),
        Instant::now() + Duration::from_secs(2),
        &AtomicBool::new(false),
        trusted,
    )
}

/// Why there is no session with `listener`, of which nobody else is the backup meanwhile.
fn turned_away(mut listener: Listener, endpoint: &Endpoint) -> ConnectionError {
    let address = listener.local_addr();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| accept(&mut listener, &patient(), Some(&stop)));
        let turned_away = connect_as(endpoint, address);
        stop.store(true, Ordering::Relaxed);
        match turned_away {
            Err(ConnectError::Connection { source, .. }) => source,
            other => panic!("{other:?}"),
        }
    })
}

#[test]
fn both_ends_know_who_the_other_is() {
    let pair = pair(&patient(), &patient());
    let primary = pair.receiver.session().authenticated.clone();
    assert_eq!(primary.expect("it has a key").name, "hosta");
    let backup = pair.sender.session().authenticated.clone();
    assert_eq!(backup.expect("it has a key").name, "hostb");
}

#[test]
fn plain_is_for_plain() {
    let plain = Endpoint::plain();
    let error = turned_away(listen(), &plain);
    assert!(matches!(error, ConnectionError::PeerIsSecure), "{error}");
    let listener = Listener::bind(localhost(), &plain).expect("a free port");
    let error = turned_away(listener, &KEYS.hostb);
    assert!(matches!(error, ConnectionError::PeerIsPlain), "{error}");
}

#[test]
fn who_is_no_host_is_no_backup() {
    let error = turned_away(listen(), &KEYS.anna);
    assert!(error.to_string().contains("operator anna"), "{error}");
}

#[test]
fn another_program_hears_nothing_and_keeps_nobody_out() {
    let mut listener = listen();
    let address = listener.local_addr();
    thread::scope(|scope| {
        let backup = scope.spawn(move || {
            for nonsense in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\0", &[0xff; 100_000]] {
                let mut other = TcpStream::connect(address).expect("connected");
                // The primary may hang up in the middle of it.
                let _ = other.write_all(nonsense);
                assert!(
                    !matches!(other.read(&mut [0]), Ok(1..)),
                    "it was told something"
                );
            }
            connect(address, &identity(), &patient()).expect("a session")
        });
        accept(&mut listener, &patient(), None).expect("a backup");
        backup.join().expect("no panic");
    });
}

#[test]
fn heartbeats_that_are_forged_or_come_again_prove_nothing() {
    let (backup, sender) = FakeBackup::join(&mut listen(), &impatient());
    let session = backup.welcome.session;
    let beat = |sequence| Heartbeat {
        role: Role::Backup,
        session,
        sequence,
        released: Lsn(0),
        echo: None,
        storage: None,
    };
    let genuine = backup.sealed(&beat(1));
    let mut sequence = 1;
    eventually("the backup is lost", || {
        sequence += 1;
        // Recorded, made without the key, and changed.
        let _ = backup.udp.send(&genuine);
        let _ = backup.udp.send(&beat(sequence).encode(VERSION));
        let mut changed = genuine.clone();
        changed[16..24].copy_from_slice(&u64::to_le_bytes(sequence));
        let _ = backup.udp.send(&changed);
        sender.lost().is_some()
    });
    assert!(matches!(sender.lost(), Some(LossReason::Silent { .. })));
}

/// Another host of the same installation, that has heard of the session somehow.
#[test]
fn a_memory_stream_is_of_the_session_s_own_backup() {
    let settings = Settings {
        memory_streams: 1,
        ..patient()
    };
    let mut listener = listen();
    let address = listener.local_addr();
    let cancel = AtomicBool::new(false);
    thread::scope(|scope| {
        let accepting = scope.spawn(|| accept(&mut listener, &settings, Some(&cancel)));
        let (_lazy, session) = FakeBackup::lazy_with_session(address);
        let mut other = dial_as(&KEYS.hosta, address);
        let memory = Message::Memory { session, number: 0 };
        let memory = memory.encode(VERSION).expect("valid");
        other.write_all(&memory).expect("sent");
        match Message::read_from(&mut other, VERSIONS).expect("an answer") {
            Message::Refuse(refusal) => assert_eq!(refusal.code, RefusalCode::NotUnderstood),
            other => panic!("{other:?}"),
        }
        cancel.store(true, Ordering::Relaxed);
        accepting.join().expect("no panic").expect_err("cancelled");
    });
}

/// Carries what a backup and its primary say, and from a certain place on flips a bit of what the primary says.
fn flip(relay: &TcpListener, primary: SocketAddr, from: &AtomicBool) {
    let (backup, _) = relay.accept().expect("a connection");
    let onward = TcpStream::connect(primary).expect("connected");
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = std::io::copy(&mut &backup, &mut &onward);
            let _ = onward.shutdown(Shutdown::Write);
        });
        let mut buffer = [0; 4096];
        while let Ok(len @ 1..) = (&onward).read(&mut buffer) {
            if from.load(Ordering::Relaxed) {
                buffer[len / 2] ^= 1;
            }
            if (&backup).write_all(&buffer[..len]).is_err() {
                break;
            }
        }
        let _ = backup.shutdown(Shutdown::Both);
        let _ = onward.shutdown(Shutdown::Both);
    });
}

#[test]
fn nothing_that_somebody_on_the_way_has_changed_is_taken() {
    let settings = for_relay();
    let mut listener = listen();
    let primary = listener.local_addr();
    let (relay, address) = bound();
    let flips = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| flip(&relay, primary, &flips));
        let backup = scope.spawn(move || connect(address, &identity(), &patient()));
        let sender = accept(&mut listener, &settings, None).expect("a backup");
        let mut receiver = backup.join().expect("no panic").expect("a session");
        sender.append_and_flush(at(1, Payload::Progress));
        assert!(matches!(receiver.next(LONG), Next::Entry(..)));
        flips.store(true, Ordering::Relaxed);
        sender.append_and_flush(at(2, Payload::Progress));
        assert_eq!(receiver.next(LONG), Next::Ended(LossReason::Closed));
        assert_eq!(announced(&sender.events()), LossReason::Closed);
    });
}

/// Carries what a backup and its primary say, and gives what the backup said.
fn overhear(relay: &TcpListener, primary: SocketAddr) -> Vec<u8> {
    let (backup, _) = relay.accept().expect("a connection");
    let onward = TcpStream::connect(primary).expect("connected");
    let mut said = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| std::io::copy(&mut &onward, &mut &backup));
        let mut buffer = [0; 4096];
        while let Ok(len @ 1..) = (&backup).read(&mut buffer) {
            said.extend_from_slice(&buffer[..len]);
            if (&onward).write_all(&buffer[..len]).is_err() {
                break;
            }
        }
        let _ = onward.shutdown(Shutdown::Both);
    });
    said
}

/// What each side speaks is within what the keys protect: nobody on the way can find it there, and talk two hosts
/// down to an older version.
#[test]
fn what_is_spoken_is_agreed_on_out_of_sight() {
    let (plain, keys) = (Endpoint::plain(), &*KEYS);
    for (hosta, hostb, is_seen) in [(&keys.hosta, &keys.hostb, false), (&plain, &plain, true)] {
        let mut listener = Listener::bind(localhost(), hosta).expect("a free port");
        let primary = listener.local_addr();
        let (relay, address) = bound();
        let said = thread::scope(|scope| {
            let relay = scope.spawn(|| overhear(&relay, primary));
            let backup = scope.spawn(move || {
                Receiver::connect(
                    (address, hostb),
                    (&identity(), BACKUP),
                    &host(),
                    &patient(),
                    Instant::now() + LONG,
                    &AtomicBool::new(false),
                    |_, _| Confirmation::Held,
                )
            });
            let title = |_: Option<&Peer>| Ok(title());
            let admit = |_: &str, _: Option<&Peer>| Admission::Admitted(EPOCH + 1);
            let (identity, host) = (identity(), host());
            let sender = listener.accept_backup(&identity, &host, title, &for_relay(), None, admit);
            let sender = sender.expect("a backup");
            let receiver = backup.join().expect("no panic").expect("a session");
            assert_eq!(receiver.session().version, VERSION);
            drop((sender, receiver));
            relay.join().expect("no panic")
        });
        let magic = b"ftvmlink";
        assert_eq!(said.windows(magic.len()).any(|it| it == magic), is_seen);
    }
}

/// Somebody on the way answers the first time in the primary's place, in clear.
#[test]
fn what_is_said_in_clear_ends_no_backup() {
    let settings = for_relay();
    let mut listener = listen();
    let primary = listener.local_addr();
    let (relay, address) = bound();
    thread::scope(|scope| {
        scope.spawn(|| {
            for forged in [
                b"ftvmconn\x01\x00\x01\x01",
                b"ftvmconn\x02\x00\x02\x01",
                b"HTTP/1.1 400",
            ] {
                let (mut backup, _) = relay.accept().expect("a connection");
                backup.write_all(forged).expect("sent");
                // It has gone then.
                let _ = std::io::copy(&mut backup, &mut std::io::sink());
            }
            flip(&relay, primary, &AtomicBool::new(false));
        });
        let backup = scope.spawn(move || connect(address, &identity(), &patient()));
        let sender = accept(&mut listener, &settings, None).expect("a backup");
        backup.join().expect("no panic").expect("a session");
        drop(sender);
    });
}

#[test]
fn a_memory_stream_leads_to_the_session_s_own_primary() {
    let (listener, address) = bound();
    let gone = AtomicBool::new(false);
    thread::scope(|scope| {
        let backup = scope.spawn(|| {
            Receiver::connect(
                (address, &KEYS.hostb),
                (&identity(), BACKUP),
                &host(),
                &patient(),
                Instant::now() + LONG,
                &gone,
                trusted,
            )
        });
        let mut log = answer_as(&KEYS.hosta, &listener);
        agree(&mut log, VERSIONS);
        let Ok(Message::Hello(hello)) = Message::read_from(&mut log, VERSIONS) else {
            panic!("no hello");
        };
        let welcome = Message::Welcome(Welcome {
            run: hello.run,
            session: 99,
            title: title(),
            heartbeat_timeout: patient().heartbeat_timeout,
            udp_port: 1,
            host: host(),
            streams: 1,
        });
        log.write_all(&welcome.encode(VERSION).expect("valid"))
            .expect("sent");
        let mut other = answer_as(&KEYS.hostb, &listener);
        let heard = Message::read_from(&mut other, VERSIONS);
        assert!(heard.is_err(), "{heard:?}");
        gone.store(true, Ordering::Relaxed);
        drop(log);
        let turned_away = backup.join().expect("no panic");
        assert!(matches!(turned_away, Err(ConnectError::Cancelled)));
    });
}
