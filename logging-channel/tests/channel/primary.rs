//! Who a primary lets in, and what it tells the others.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use logging_channel::codec::VERSIONS;
use logging_channel::entry::Payload;
use logging_channel::handshake::{Hello, Message, Refusal, RefusalCode, Standby};
use logging_channel::receiver::{Next, Receiver};
use logging_channel::session::{AcceptError, Admission, ConnectError};
use logging_channel::{CheckOutcome, DiskIdentity, HostCheck, HostReport, Identity, Settings};
use transport::{Peer, Versions};

use crate::logs::at;
use crate::peers::{
    BACKUP, FakeBackup, KEYS, LONG, NEVER, VERSION, accept, agree, connect, dial, held, host,
    identity, listen, patient, title, trusted,
};

fn refused(address: SocketAddr, identity: &Identity) -> Refusal {
    match connect(address, identity, &patient()) {
        Err(ConnectError::Refused { refusal, .. }) => refusal,
        other => panic!("{other:?}"),
    }
}

/// Lets `others` at a waiting primary's port; then a backup that fits must still get in.
fn still_accepts_after(settings: &Settings, others: impl FnOnce(SocketAddr) + Send) {
    let mut listener = listen();
    let address = listener.local_addr();
    thread::scope(|scope| {
        let backup = scope.spawn(move || {
            others(address);
            connect(address, &identity(), &patient()).expect("a session")
        });
        let sender = accept(&mut listener, settings, None).expect("a backup");
        let mut receiver = backup.join().expect("no panic");
        sender.append_and_flush(at(1, Payload::Progress));
        assert!(matches!(receiver.next(LONG), Next::Entry(..)));
    });
}

#[test]
fn a_backup_that_does_not_fit_is_told_why_and_the_next_is_let_in() {
    still_accepts_after(&patient(), |address| {
        let base = identity();
        let others = [
            (
                RefusalCode::OtherVm,
                Identity {
                    vm: "web".into(),
                    ..base.clone()
                },
                "\"web\"",
            ),
            (
                RefusalCode::OtherImage,
                Identity {
                    image: [0xab; 32],
                    ..base.clone()
                },
                "abab",
            ),
            (
                RefusalCode::OtherCpu,
                Identity {
                    cpu: [0xcd; 32],
                    ..base.clone()
                },
                "cdcd",
            ),
            (
                RefusalCode::OtherMemorySize,
                Identity {
                    memory_bytes: 64 << 20,
                    ..base.clone()
                },
                "67108864",
            ),
            (
                RefusalCode::OtherClock,
                Identity {
                    tsc_khz: 1,
                    ..base.clone()
                },
                "1 kHz",
            ),
            (
                RefusalCode::OtherArbiter,
                Identity {
                    arbiter: Some(2),
                    ..base.clone()
                },
                "--disk-server",
            ),
            (
                RefusalCode::OtherDisk,
                Identity {
                    disk: Some(DiskIdentity {
                        bytes: 4096,
                        name: "1/a".into(),
                    }),
                    ..base.clone()
                },
                "backup 4096 bytes",
            ),
        ];
        for (code, other, word) in others {
            let refusal = refused(address, &other);
            assert_eq!(refusal.code, code);
            assert!(refusal.message.contains(word), "{refusal}");
        }
    });
}

#[test]
fn a_backup_on_a_host_that_cannot_is_told_what_and_the_next_is_let_in() {
    still_accepts_after(&patient(), |address| {
        let failed = HostReport::new([HostCheck {
            name: "exits".into(),
            outcome: CheckOutcome::Failed,
            required: true,
            measured: "run 2 differs from the first".into(),
        }]);
        for (unfit, word) in [
            (failed, "run 2 differs"),
            (HostReport::default(), "not checked"),
        ] {
            let deadline = Instant::now() + LONG;
            let refusal = match Receiver::connect(
                (address, &KEYS.hostb),
                (&identity(), BACKUP),
                &unfit,
                &patient(),
                deadline,
                &NEVER,
                trusted,
            ) {
                Err(ConnectError::Refused { refusal, .. }) => refusal,
                other => panic!("{other:?}"),
            };
            assert_eq!(refusal.code, RefusalCode::HostUnfit);
            for word in ["\"exits\"", word, "ftvm doctor"] {
                assert!(refusal.message.contains(word), "{refusal}");
            }
        }
    });
}

#[test]
fn both_sides_learn_what_the_other_host_can_do() {
    let fast = HostReport::new([
        host().checks()[0].clone(),
        HostCheck {
            outcome: CheckOutcome::Passed,
            ..host().checks()[1].clone()
        },
    ]);
    let mut listener = listen();
    let address = listener.local_addr();
    thread::scope(|scope| {
        let backup = scope.spawn(|| {
            let deadline = Instant::now() + LONG;
            Receiver::connect(
                (address, &KEYS.hostb),
                (&identity(), BACKUP),
                &fast,
                &patient(),
                deadline,
                &NEVER,
                trusted,
            )
        });
        let sender = accept(&mut listener, &patient(), None).expect("a backup");
        let receiver = backup.join().expect("no panic").expect("a session");
        assert_eq!(sender.session().peer_host, fast);
        assert_eq!(receiver.session().peer_host, host());
    });
}

#[test]
fn a_peer_of_another_version_can_read_why_it_is_refused() {
    still_accepts_after(&patient(), |address| {
        let newer = Versions {
            oldest: VERSIONS.newest + 1,
            newest: VERSIONS.newest + 2,
        };
        let older = Versions::only(VERSIONS.oldest - 1);
        // One that knows no range began with its Hello.
        let cases = [
            (newer, Message::Versions(newer)),
            (older, Message::Versions(older)),
            (older, hello()),
        ];
        for (spoken, message) in cases {
            let mut peer = dial(address);
            let bytes = message.encode(spoken.newest).expect("valid");
            peer.write_all(&bytes).expect("sent");
            match Message::read_from(&mut peer, spoken).expect("an answer") {
                Message::Refuse(refusal) => {
                    assert_eq!(refusal.code, RefusalCode::OtherVersion);
                    let both = format!("(primary {VERSIONS}, backup {spoken})");
                    assert!(refusal.message.contains(&both), "{refusal}");
                    assert!(refusal.message.contains("same version"), "{refusal}");
                }
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn it_speaks_with_a_backup_what_both_know() {
    let older = Versions {
        oldest: VERSIONS.oldest - 1,
        newest: VERSIONS.oldest,
    };
    let newer = Versions {
        oldest: VERSIONS.newest,
        newest: VERSIONS.newest + 1,
    };
    for (versions, version) in [(older, VERSIONS.oldest), (newer, VERSIONS.newest)] {
        let (backup, sender) = FakeBackup::join_speaking(versions, &mut listen(), &patient());
        assert_eq!(sender.session().version, version);
        assert_eq!(backup.hear().session, backup.welcome.session);
    }
}

#[test]
fn a_hello_comes_after_what_both_speak() {
    still_accepts_after(&patient(), |address| {
        let versions = Message::Versions(VERSIONS).encode(VERSION).expect("valid");
        let hello = hello().encode(VERSION).expect("valid");
        let twice = [&versions[..], &versions].concat();
        for said in [&hello[..], &twice] {
            let mut peer = dial(address);
            peer.write_all(said).expect("sent");
            let mut hear = || Message::read_from(&mut peer, VERSIONS).expect("an answer");
            match hear() {
                Message::Versions(_) if said == twice => {
                    assert!(matches!(hear(), Message::Refuse(_)));
                }
                Message::Refuse(refusal) => assert_eq!(refusal.code, RefusalCode::NotUnderstood),
                other => panic!("{other:?}"),
            }
        }
    });
}

fn hello() -> Message {
    Message::Hello(Hello {
        identity: identity(),
        host: host(),
        run: 1,
        udp_port: 1,
        standby: Standby::Hot,
    })
}

#[test]
fn nonsense_is_refused_and_the_next_is_let_in() {
    still_accepts_after(&patient(), |address| {
        let nonsense: [&[u8]; 4] = [
            b"GET / HTTP/1.1\r\nHost: ftvm\r\n\r\n",
            b"\0",
            &[0xff; 100_000],
            b"ftvmlink and then something else entirely",
        ];
        for bytes in nonsense {
            let mut peer = dial(address);
            // The primary may hang up in the middle of it.
            let _ = peer.write_all(bytes);
            match Message::read_from(&mut peer, VERSIONS).expect("an answer") {
                Message::Refuse(refusal) => assert_eq!(refusal.code, RefusalCode::NotUnderstood),
                other => panic!("{other:?}"),
            }
        }
        // Damaged on its way: a checksum tells.
        let hello = Message::Ready {
            session: 1,
            claimant: BACKUP.into(),
        };
        let mut peer = dial(address);
        peer.write_all(&hello.encode(VERSION).expect("valid"))
            .expect("sent");
        assert!(matches!(
            Message::read_from(&mut peer, VERSIONS),
            Ok(Message::Refuse(_))
        ));
    });
}

#[test]
fn peers_that_say_nothing_keep_nobody_out() {
    let settings = Settings {
        handshake_timeout: Duration::from_secs(3600),
        ..patient()
    };
    let mut silent = Vec::new();
    still_accepts_after(&settings, |address| {
        // More than the primary hears at a time.
        for _ in 0..40 {
            silent.push(TcpStream::connect(address).expect("connected"));
        }
        // One that stops in the middle of its hello.
        let mut half = TcpStream::connect(address).expect("connected");
        half.write_all(b"ftvm").expect("sent");
        silent.push(half);
    });
}

#[test]
fn a_peer_that_says_nothing_is_hung_up_on() {
    let settings = Settings {
        handshake_timeout: Duration::from_millis(50),
        ..patient()
    };
    still_accepts_after(&settings, |address| {
        let mut silent = TcpStream::connect(address).expect("connected");
        assert_eq!(silent.read(&mut [0]).expect("closed in order"), 0);
    });
}

#[test]
fn a_backup_that_went_away_during_the_handshake_is_not_taken() {
    still_accepts_after(&patient(), |address| {
        let mut gone = dial(address);
        agree(&mut gone, VERSIONS);
        gone.write_all(&hello().encode(VERSION).expect("valid"))
            .expect("sent");
    });
}

/// The right was lost while it waited, to whom it had welcomed before.
#[test]
fn a_primary_without_the_right_to_run_begins_with_nobody() {
    let mut listener = listen();
    let address = listener.local_addr();
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
        let accepted = listener.accept_backup(
            &identity(),
            &host(),
            |_| Ok(title()),
            &patient(),
            None,
            |_, _| Admission::NotEntitled("hostb holds epoch 8".into()),
        );
        match accepted {
            Err(error @ AcceptError::NotEntitled(_)) => {
                assert!(error.to_string().contains("hostb"), "{error}");
            }
            other => panic!("{other:?}"),
        }
        gone.store(true, Ordering::Relaxed);
        assert!(matches!(
            backup.join().expect("no panic"),
            Err(ConnectError::Cancelled)
        ));
    });
}

#[test]
fn a_primary_that_does_not_know_whether_it_may_run_begins_when_it_does() {
    let mut listener = listen();
    let address = listener.local_addr();
    thread::scope(|scope| {
        let backup = scope.spawn(move || connect(address, &identity(), &patient()));
        let mut answers = [
            Admission::NotNow("the arbiter is down".into()),
            Admission::Admitted(8),
        ]
        .into_iter();
        listener
            .accept_backup(
                &identity(),
                &host(),
                |_| Ok(title()),
                &patient(),
                None,
                |_, _| answers.next().expect("another question"),
            )
            .expect("a backup");
        backup.join().expect("no panic").expect("a session");
    });
}

#[test]
fn a_listener_takes_one_backup_after_another_and_tells_the_others_why_not() {
    let mut listener = listen();
    let address = listener.local_addr();
    let (busy, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let title = |_: Option<&Peer>| {
        if busy.load(Ordering::Relaxed) {
            return Err(Refusal {
                code: RefusalCode::AlreadyHasBackup,
                message: "the primary already has a backup".into(),
            });
        }
        Ok(title())
    };
    thread::scope(|scope| {
        for _ in 0..2 {
            let backup = scope.spawn(move || connect(address, &identity(), &patient()));
            let sender = listener
                .accept_backup(&identity(), &host(), title, &patient(), None, held)
                .expect("a backup");
            let receiver = backup.join().expect("no panic").expect("a session");

            busy.store(true, Ordering::Relaxed);
            stop.store(false, Ordering::Relaxed);
            let others = scope.spawn(|| {
                let refusal = refused(address, &identity());
                assert_eq!(refusal.code, RefusalCode::AlreadyHasBackup);
                assert!(refusal.message.contains("already has"), "{refusal}");
                let other = Identity {
                    vm: "web".into(),
                    ..identity()
                };
                assert_eq!(refused(address, &other).code, RefusalCode::OtherVm);
                stop.store(true, Ordering::Relaxed);
            });
            let accepted =
                listener.accept_backup(&identity(), &host(), title, &patient(), Some(&stop), held);
            assert!(matches!(accepted, Err(AcceptError::Cancelled)));
            others.join().expect("no panic");
            busy.store(false, Ordering::Relaxed);

            assert!(!sender.is_lost());
            drop(receiver);
            sender.wait_over();
            assert!(sender.is_lost());
        }
    });
}

#[test]
fn a_senseless_heartbeat_timeout_is_refused_at_once() {
    for timeout in [Duration::ZERO, Duration::from_secs(1_000_000)] {
        let settings = Settings {
            heartbeat_timeout: timeout,
            ..patient()
        };
        assert!(matches!(
            accept(&mut listen(), &settings, None),
            Err(AcceptError::HeartbeatTimeout { .. })
        ));
    }
}

/// Not only hung up on, which would say that nobody is there.
#[test]
fn who_is_not_to_follow_now_is_told_why() {
    for is_known_at_once in [true, false] {
        let why = || "hostb is not among the hosts that may run the guest".to_owned();
        let mut listener = listen();
        let address = listener.local_addr();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let title = |peer: Option<&Peer>| {
                    assert_eq!(peer.expect("it has a key").name, "hostb");
                    match is_known_at_once {
                        true => Err(Refusal {
                            code: RefusalCode::NotNow,
                            message: why(),
                        }),
                        false => Ok(title()),
                    }
                };
                let admit = |_: &str, _: Option<&Peer>| Admission::NotNow(why());
                let settings = patient();
                listener.accept_backup(&identity(), &host(), title, &settings, Some(&stop), admit)
            });
            let turned_away = Receiver::connect(
                (address, &KEYS.hostb),
                (&identity(), BACKUP),
                &host(),
                &patient(),
                Instant::now() + Duration::from_secs(2),
                &NEVER,
                trusted,
            );
            stop.store(true, Ordering::Relaxed);
            match turned_away {
                Err(ConnectError::Refused { refusal, .. }) => assert_eq!(refusal.message, why()),
                other => panic!("{other:?}"),
            }
        });
    }
}
