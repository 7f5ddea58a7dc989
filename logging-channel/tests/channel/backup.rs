//! How a backup looks for its primary.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use logging_channel::codec::VERSIONS;
use logging_channel::handshake::{HandshakeError, Message, Welcome};
use logging_channel::receiver::Receiver;
use logging_channel::session::{AcceptError, Confirmation, ConnectError};
use logging_channel::{Identity, IdentityError};
use transport::{Stream, Versions};

use crate::peers::{
    BACKUP, FakePrimary, KEYS, LONG, NEVER, VERSION, accept, answer, bound, connect, dial,
    for_relay, host, identity, listen, listen_at, patient, title, trusted,
};

#[test]
fn it_waits_for_a_primary_that_starts_later() {
    let address = listen().local_addr();
    thread::scope(|scope| {
        let backup = scope.spawn(|| connect(address, &identity(), &patient()));
        let mut listener = listen_at(address).expect("free again");
        accept(&mut listener, &patient(), None).expect("a backup");
        backup.join().expect("no panic").expect("a session");
    });
}

#[test]
fn it_gives_up_at_the_deadline_and_says_what_happened_last() {
    let address = listen().local_addr();
    let deadline = Instant::now() + Duration::from_millis(20);
    match Receiver::connect(
        (address, &KEYS.hostb),
        (&identity(), BACKUP),
        &host(),
        &patient(),
        deadline,
        &NEVER,
        trusted,
    ) {
        Err(error @ ConnectError::NoAnswer { .. }) => {
            assert!(error.to_string().contains(&address.to_string()), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn it_gives_up_at_the_deadline_on_one_who_says_nothing() {
    let (_silent, address) = bound();
    let deadline = Instant::now() + Duration::from_millis(20);
    assert!(matches!(
        Receiver::connect(
            (address, &KEYS.hostb),
            (&identity(), BACKUP),
            &host(),
            &patient(),
            deadline,
            &NEVER,
            trusted
        ),
        Err(ConnectError::NoAnswer { .. })
    ));
}

/// Where it is in its wait when it is cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// For the answer of one who says nothing.
    Answer,
    /// For somebody to come to an address that refuses.
    Listener,
}

#[test]
fn its_wait_can_be_cancelled() {
    for wait in [Wait::Answer, Wait::Listener] {
        let (listener, address) = bound();
        let cancel = AtomicBool::new(false);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let deadline = Instant::now() + LONG;
                Receiver::connect(
                    (address, &KEYS.hostb),
                    (&identity(), BACKUP),
                    &host(),
                    &patient(),
                    deadline,
                    &cancel,
                    trusted,
                )
            });
            // It has begun to wait, and goes on with it.
            let mut connection = answer(&listener);
            Message::read_from(&mut connection, VERSIONS).expect("its greeting");
            let silent = match wait {
                Wait::Answer => Some((connection, listener)),
                Wait::Listener => {
                    drop((connection, listener));
                    None
                }
            };
            assert!(!waiting.is_finished(), "{wait:?}");
            cancel.store(true, Ordering::Relaxed);
            assert!(matches!(
                waiting.join().expect("no panic"),
                Err(ConnectError::Cancelled)
            ));
            drop(silent);
        });
    }
}

/// Connects to one who answers with `bytes`.
fn answered(bytes: Vec<u8>) -> ConnectError {
    let (listener, address) = bound();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut peer = answer(&listener);
            peer.write_all(&bytes).expect("sent");
            let _ = Message::read_from(&mut peer, VERSIONS);
        });
        connect(address, &identity(), &patient()).expect_err("no primary")
    })
}

fn handshake_error(bytes: Vec<u8>) -> HandshakeError {
    match answered(bytes) {
        ConnectError::Handshake { source, .. } => source,
        other => panic!("{other:?}"),
    }
}

fn welcome() -> Welcome {
    Welcome {
        run: 0,
        session: 1,
        title: title(),
        heartbeat_timeout: Duration::from_millis(500),
        udp_port: 1,
        host: host(),
        streams: 0,
    }
}

#[test]
fn it_recognises_one_who_is_no_primary() {
    let http = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n";
    assert!(matches!(
        handshake_error(http.to_vec()),
        HandshakeError::Magic { .. }
    ));
    let [versions, welcome] = [Message::Versions(VERSIONS), Message::Welcome(welcome())]
        .map(|message| message.encode(VERSION).expect("valid"));
    assert!(matches!(
        handshake_error(welcome.clone()),
        HandshakeError::Kind { .. }
    ));
    assert!(matches!(
        handshake_error([&versions[..], &welcome].concat()),
        HandshakeError::OtherRun
    ));
    let ready = Message::Ready {
        session: 1,
        claimant: BACKUP.into(),
    };
    let ready = ready.encode(VERSION).expect("valid");
    assert!(matches!(
        handshake_error([versions, ready].concat()),
        HandshakeError::Kind { .. }
    ));
}

/// Of one that knows no range, too: its first message has its own version.
#[test]
fn it_tells_what_a_primary_speaks_that_has_no_version_in_common() {
    let newer = Versions {
        oldest: VERSIONS.newest + 1,
        newest: VERSIONS.newest + 2,
    };
    let older = Versions::only(VERSIONS.oldest - 1);
    let cases = [
        (newer, Message::Versions(newer)),
        (older, Message::Versions(older)),
        (older, Message::Welcome(welcome())),
    ];
    for (spoken, message) in cases {
        match handshake_error(message.encode(spoken.newest).expect("valid")) {
            error @ HandshakeError::OtherVersion { theirs, ours } => {
                assert_eq!((theirs, ours), (spoken, VERSIONS));
                let told = error.to_string();
                assert!(told.contains("same version of ftvm"), "{told}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn it_speaks_with_a_primary_what_both_know() {
    let older = Versions {
        oldest: VERSIONS.oldest - 1,
        newest: VERSIONS.oldest,
    };
    let newer = Versions {
        oldest: VERSIONS.newest,
        newest: VERSIONS.newest + 1,
    };
    for (versions, version) in [(older, VERSIONS.oldest), (newer, VERSIONS.newest)] {
        let (_primary, receiver) = FakePrimary::welcome_speaking(versions, &patient());
        assert_eq!(receiver.session().version, version);
        assert_eq!(receiver.lost(), None);
    }
}

#[test]
fn an_identity_that_is_not_valid_is_not_sent() {
    let listener = listen();
    let address = listener.local_addr();
    let long = Identity {
        vm: "x".repeat(65),
        ..identity()
    };
    assert!(matches!(
        connect(address, &long, &patient()),
        Err(ConnectError::Identity(IdentityError::NameTooLong(65)))
    ));
}

/// Carries the handshake's messages between a backup and a primary, but loses the first Ready, with
/// the connection.
fn lose_the_first_ready(relay: &TcpListener, primary: SocketAddr) {
    let pass = |from: &mut Stream, to: &mut Stream| {
        let message = Message::read_from(from, VERSIONS).expect("a message");
        let _ = to.write_all(&message.encode(VERSION).expect("valid"));
    };
    let mut backup = answer(relay);
    let mut onward = dial(primary);
    // What each speaks, Hello and Welcome.
    for _ in 0..2 {
        pass(&mut backup, &mut onward);
        pass(&mut onward, &mut backup);
    }
    assert!(matches!(
        Message::read_from(&mut backup, VERSIONS).expect("a message"),
        Message::Ready { .. }
    ));
    drop((backup, onward));

    let mut backup = answer(relay);
    let mut onward = dial(primary);
    for _ in 0..3 {
        pass(&mut backup, &mut onward);
        pass(&mut onward, &mut backup);
    }
    // Until the session is over.
    let _ = backup.read(&mut [0]);
}

/// A backup that took its own Ready for a beginning would find the primary lost, and take the guest
/// over from one that still waits for a backup.
#[test]
fn a_session_whose_ready_is_lost_has_not_begun() {
    let settings = for_relay();
    let mut listener = listen();
    let primary = listener.local_addr();
    let (relay, address) = bound();
    thread::scope(|scope| {
        scope.spawn(|| lose_the_first_ready(&relay, primary));
        let backup = scope.spawn(move || connect(address, &identity(), &patient()));
        let sender = accept(&mut listener, &settings, None).expect("a backup");
        let receiver = backup.join().expect("no panic").expect("a session");
        assert_eq!(receiver.session().session, sender.session().session);
        assert_eq!(receiver.lost(), None);
    });
}

#[test]
fn it_does_not_follow_a_primary_that_its_arbiter_does_not_know() {
    let mut listener = listen();
    let address = listener.local_addr();
    let cancel = AtomicBool::new(false);
    thread::scope(|scope| {
        let accepting = scope.spawn(|| accept(&mut listener, &patient(), Some(&cancel)));
        let deadline = Instant::now() + LONG;
        let told = Receiver::connect(
            (address, &KEYS.hostb),
            (&identity(), BACKUP),
            &host(),
            &patient(),
            deadline,
            &NEVER,
            |told, _| {
                assert_eq!(*told, title());
                Confirmation::NotHeld("it is hostb's".into())
            },
        );
        match told {
            Err(error @ ConnectError::NotEntitled { .. }) => {
                assert!(error.to_string().contains("hostb"), "{error}");
            }
            other => panic!("{other:?}"),
        }
        cancel.store(true, Ordering::Relaxed);
        let accepted = accepting.join().expect("no panic");
        assert!(matches!(accepted, Err(AcceptError::Cancelled)));
    });
}

#[test]
fn it_asks_its_arbiter_until_there_is_an_answer() {
    let mut listener = listen();
    let address = listener.local_addr();
    thread::scope(|scope| {
        let backup = scope.spawn(move || {
            let mut answers = [
                Confirmation::Unknown("it is down".into()),
                Confirmation::Held,
            ]
            .into_iter();
            let deadline = Instant::now() + LONG;
            Receiver::connect(
                (address, &KEYS.hostb),
                (&identity(), BACKUP),
                &host(),
                &patient(),
                deadline,
                &NEVER,
                |_, _| answers.next().expect("another question"),
            )
        });
        accept(&mut listener, &patient(), None).expect("a backup");
        backup.join().expect("no panic").expect("a session");
    });
}
