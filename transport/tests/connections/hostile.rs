//! Somebody on the way, and callers that do as they please.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use transport::{ConnectionError, Opening, Patience, Role, Service, Stream};

use crate::members::{GENEROUS, LOG, Members, Opened, open, sockets, talk};

/// What somebody on the way does with a piece of what goes one way: how many bytes of it were before, and whether the
/// connection is open already.
type Meddle = dyn Fn(usize, bool, &mut Vec<u8>) + Sync;

fn nothing(_: usize, _: bool, _: &mut Vec<u8>) {}

const SAID: &[u8] = b"all of this, and nothing else";

/// What became of a connection through somebody who meddles.
struct Outcome {
    called: Opened,
    answered: Opened,
    /// What the answerer heard of [`SAID`], to its end.
    heard: io::Result<Vec<u8>>,
    /// How many bytes went by, of the caller and of the answerer.
    passed: [usize; 2],
}

fn meddled(limit: Duration, of_caller: &Meddle, of_answerer: &Meddle) -> Outcome {
    let members = Members::new();
    let (a, b) = (members.endpoint("a"), members.endpoint("b"));
    let ((caller, near), (far, answerer)) = (sockets(), sockets());
    let is_open = AtomicBool::new(false);
    let pass = |mut from: &TcpStream, mut to: &TcpStream, meddle: &Meddle| {
        let (mut buffer, mut before) = ([0; 4096], 0);
        while let Ok(len @ 1..) = from.read(&mut buffer) {
            let mut piece = buffer[..len].to_vec();
            meddle(before, is_open.load(Ordering::SeqCst), &mut piece);
            before += len;
            if to.write_all(&piece).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
        before
    };
    thread::scope(|scope| {
        let there = scope.spawn(|| pass(&near, &far, of_caller));
        let back = scope.spawn(|| pass(&far, &near, of_answerer));
        let answering = scope.spawn(|| {
            let answered = b.answer(answerer, LOG, &[Role::Host], Patience::of(limit));
            let mut heard = Vec::new();
            let heard = match &answered {
                Ok(stream) => {
                    is_open.store(true, Ordering::SeqCst);
                    (&mut &*stream).read_to_end(&mut heard).map(|_| heard)
                }
                Err(_) => Ok(heard),
            };
            // The caller is not to wait for one that has given up.
            let _ = far.shutdown(Shutdown::Both);
            (answered, heard)
        });
        let called = a.call(caller, LOG, &[Role::Host], Patience::of(limit));
        if let Ok(stream) = &called {
            while !is_open.load(Ordering::SeqCst) && !answering.is_finished() {
                thread::yield_now();
            }
            let _ = (&mut &*stream).write_all(SAID);
            let _ = stream.shutdown(Shutdown::Write);
        } else {
            let _ = near.shutdown(Shutdown::Both);
        }
        let (answered, heard) = answering.join().expect("no panic");
        let _ = near.shutdown(Shutdown::Both);
        let passed = [there, back].map(|way| way.join().expect("no panic"));
        Outcome {
            called,
            answered,
            heard,
            passed,
        }
    })
}

/// Sets byte `at` of a direction to what `to` makes of it.
fn change(at: usize, to: impl Fn(u8) -> u8 + Sync) -> impl Fn(usize, bool, &mut Vec<u8>) + Sync {
    move |before, _, piece| {
        if let Some(byte) = at.checked_sub(before).and_then(|n| piece.get_mut(n)) {
            *byte = to(*byte);
        }
    }
}

#[test]
fn a_relay_that_changes_nothing_is_no_harm() {
    let outcome = meddled(GENEROUS, &nothing, &nothing);
    outcome.called.expect("open");
    outcome.answered.expect("open");
    assert_eq!(outcome.heard.expect("whole"), SAID);
}

/// Wherever it is: in a preface, in a handshake, in an admission, in what is said.
#[test]
fn a_flipped_bit_is_never_taken() {
    let sound = meddled(GENEROUS, &nothing, &nothing);
    // A record that seems longer than it is is waited for.
    let soon = Duration::from_secs(1);
    let (mut tried, mut harmless) = (0, 0);
    for (way, len) in sound.passed.into_iter().enumerate() {
        for at in (0..len).step_by(37) {
            let flip = change(at, move |byte| byte ^ (1 << (at % 8)));
            let outcome = match way {
                0 => meddled(soon, &flip, &nothing),
                _ => meddled(soon, &nothing, &flip),
            };
            tried += 1;
            match outcome.heard {
                Ok(heard) if heard == SAID => harmless += 1,
                Ok(heard) => assert_eq!(heard, b"", "bit {at} of way {way}"),
                Err(_) => {}
            }
        }
    }
    // What is not authenticated is of no use: the version in the headers of the first records, and the answerer's
    // own end.
    assert!(harmless * 10 <= tried, "{harmless} of {tried}");
}

/// Mode and service are in clear: whoever changes them gets no connection out of it.
#[test]
fn nobody_is_talked_into_another_mode_or_service() {
    let (way, back) = (change(10, |_| 1), change(10, |_| 1));
    let Outcome {
        called, answered, ..
    } = meddled(GENEROUS, &way, &back);
    assert!(
        matches!(called, Err(ConnectionError::PeerIsPlain)),
        "{called:?}"
    );
    assert!(
        matches!(answered, Err(ConnectionError::PeerIsPlain)),
        "{answered:?}"
    );
    let (way, back) = (change(11, |_| 2), change(11, |_| 2));
    let Outcome {
        called, answered, ..
    } = meddled(GENEROUS, &way, &back);
    assert!(
        matches!(called, Err(ConnectionError::OtherService { .. })),
        "{called:?}"
    );
    assert!(
        matches!(answered, Err(ConnectionError::OtherService { .. })),
        "{answered:?}"
    );
}

/// A caller for one service is led to another one, with prefaces that say what each wants to hear.
#[test]
fn a_connection_for_one_service_is_none_for_another() {
    let members = Members::new();
    let ((caller, near), (far, answerer)) = (sockets(), sockets());
    let rewritten = |mut from: &TcpStream, mut to: &TcpStream, service: u8| {
        let mut preface = [0; 12];
        if from.read_exact(&mut preface).is_ok() {
            preface[11] = service;
            let _ = to.write_all(&preface);
            let _ = io::copy(&mut from, &mut to);
        }
        let _ = to.shutdown(Shutdown::Write);
    };
    let console = Opening::Preface(Service::Console);
    thread::scope(|scope| {
        scope.spawn(|| rewritten(&near, &far, 3));
        scope.spawn(|| rewritten(&far, &near, 1));
        let (a, b) = (members.endpoint("a"), members.endpoint("b"));
        let answered =
            scope.spawn(move || b.answer(answerer, console, &[Role::Host], Patience::of(GENEROUS)));
        let called = a.call(caller, LOG, &[Role::Host], Patience::of(GENEROUS));
        assert!(matches!(called, Err(ConnectionError::Tls(_))), "{called:?}");
        let _ = near.shutdown(Shutdown::Both);
        let answered = answered.join().expect("no panic");
        assert!(
            matches!(answered, Err(ConnectionError::Tls(_))),
            "{answered:?}"
        );
        let _ = far.shutdown(Shutdown::Both);
    });
}

/// All that a caller once said, said again: to an answerer with the same keys.
#[test]
fn what_was_recorded_opens_nothing() {
    let members = Members::new();
    let (a, b) = (members.endpoint("a"), members.endpoint("b"));
    let answer = |socket| b.answer(socket, LOG, &[Role::Host], Patience::of(GENEROUS));
    let ((caller, mut near), (mut far, answerer)) = (sockets(), sockets());
    let recorded = thread::scope(|scope| {
        scope.spawn(|| answer(answerer).map(drop));
        let back = far.try_clone().expect("a descriptor");
        let mut to = near.try_clone().expect("a descriptor");
        scope.spawn(move || io::copy(&mut &back, &mut to));
        let calling = scope.spawn(|| {
            let stream = a.call(caller, LOG, &[Role::Host], Patience::of(GENEROUS));
            stream.expect("open").shutdown(Shutdown::Both)
        });
        let (mut recorded, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(len @ 1..) = near.read(&mut buffer) {
            recorded.extend_from_slice(&buffer[..len]);
            if far.write_all(&buffer[..len]).is_err() {
                break;
            }
        }
        let _ = far.shutdown(Shutdown::Both);
        let _ = calling.join().expect("no panic");
        recorded
    });
    let (mut again, answerer) = sockets();
    let answered = thread::scope(|scope| {
        let answered = scope.spawn(|| answer(answerer));
        again.write_all(&recorded).expect("it is read");
        let _ = again.shutdown(Shutdown::Write);
        let _ = again.read_to_end(&mut Vec::new());
        answered.join().expect("no panic")
    });
    assert!(
        matches!(answered, Err(ConnectionError::Tls(_))),
        "{answered:?}"
    );
}

#[test]
fn what_comes_twice_in_a_session_is_not_taken_twice() {
    let twice = |_: usize, is_open: bool, piece: &mut Vec<u8>| {
        if is_open {
            piece.extend_from_slice(&piece.clone());
        }
    };
    let outcome = meddled(GENEROUS, &twice, &nothing);
    outcome.answered.expect("it was open");
    match outcome.heard {
        // Its end came in the same piece.
        Ok(heard) => assert_eq!(heard, SAID),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::InvalidData),
    }
}

#[test]
fn a_connection_that_is_cut_off_is_no_end() {
    let members = Members::new();
    let (called, answered) = open(&members.endpoint("a"), &members.endpoint("b"));
    let (called, answered) = (called.expect("open"), answered.expect("open"));
    talk(&called, &answered, b"a word");
    let cut = below(&called);
    cut.shutdown(Shutdown::Both).expect("it is open");
    let ended = (&answered).read(&mut [0]).expect_err("nobody said so");
    assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
}

/// The socket below a connection, as somebody on the way has it.
fn below(stream: &Stream) -> TcpStream {
    let fd = stream.as_fd().try_clone_to_owned().expect("a descriptor");
    fd.into()
}

#[test]
fn a_byte_now_and_then_gains_no_time() {
    let members = Members::new();
    let (mut slow, answerer) = sockets();
    let b = members.endpoint("b");
    thread::scope(|scope| {
        let answered = scope.spawn(|| {
            let patience = Patience::of(Duration::from_millis(100));
            b.answer(answerer, LOG, &[Role::Host], patience)
        });
        let started = Instant::now();
        let preface = *b"ftvmconn\x01\x00\x02\x01";
        for byte in preface.iter().chain(std::iter::repeat(&0x16)) {
            if slow.write_all(&[*byte]).is_err() || started.elapsed() > GENEROUS {
                break;
            }
            let mut heard = [0; 64];
            slow.set_read_timeout(Some(Duration::from_millis(5)))
                .expect("set");
            if let Ok(0) = slow.read(&mut heard) {
                break;
            }
        }
        let answered = answered.join().expect("no panic");
        assert!(answered.is_err());
        assert!(started.elapsed() < GENEROUS);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Before it is known who calls, anything may come.
    #[test]
    fn anything_may_be_said_to_an_answerer(
        is_preface_right: bool,
        said in prop::collection::vec(any::<u8>(), 0..2000),
        record in prop::option::of((any::<u8>(), 0u16..20_000)),
    ) {
        static MEMBERS: LazyLock<Members> = LazyLock::new(Members::new);
        let b = MEMBERS.endpoint("b");
        let (mut caller, answerer) = sockets();
        let mut bytes = Vec::new();
        if is_preface_right {
            bytes.extend_from_slice(b"ftvmconn\x01\x00\x02\x01");
        }
        if let Some((kind, len)) = record {
            bytes.extend_from_slice(&[kind, 3, 3]);
            bytes.extend_from_slice(&len.to_be_bytes());
        }
        bytes.extend_from_slice(&said);
        caller.write_all(&bytes).expect("there is room");
        caller.shutdown(Shutdown::Write).expect("it is open");
        let answered = b.answer(answerer, LOG, &[Role::Host], Patience::of(GENEROUS));
        prop_assert!(answered.is_err());
    }
}
