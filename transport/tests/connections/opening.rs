//! Who gets a connection, and who does not.

use std::io::{self, Read as _};
use std::net::Shutdown;
use std::thread;
use std::time::Instant;

use transport::{ConnectionError, Endpoint, Mode, Patience, Role};

use crate::members::{LOG, Members, open, sockets, talk};

#[test]
fn both_know_each_other_and_talk_both_ways() {
    let members = Members::new();
    let (a, b) = open(&members.endpoint("a"), &members.endpoint("b"));
    let (a, b) = (a.expect("open"), b.expect("open"));
    assert_eq!(a.peer().expect("known").to_string(), "host b");
    assert_eq!(b.peer().expect("known").to_string(), "host a");
    let large: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    talk(&a, &b, b"a word");
    talk(&b, &a, &large);
    thread::scope(|scope| {
        scope.spawn(|| talk(&a, &b, &large));
        talk(&b, &a, &large);
    });
    a.shutdown(Shutdown::Write).expect("open");
    assert_eq!((&b).read(&mut [0]).expect("an end"), 0);
    talk(&b, &a, b"one way goes on");
}

#[test]
fn plain_ones_talk_and_know_nobody() {
    let (a, b) = open(&Endpoint::plain(), &Endpoint::plain());
    let (a, b) = (a.expect("open"), b.expect("open"));
    assert_eq!((a.peer(), a.mode()), (None, Mode::Plain));
    talk(&a, &b, &[7; 300_000]);
    talk(&b, &a, b"a word");
}

#[test]
fn plain_and_secure_tell_each_other_what_they_are() {
    let members = Members::new();
    let (a, b) = open(&members.endpoint("a"), &Endpoint::plain());
    assert!(matches!(a, Err(ConnectionError::PeerIsPlain)), "{a:?}");
    assert!(matches!(b, Err(ConnectionError::PeerIsSecure)), "{b:?}");
    let (a, b) = open(&Endpoint::plain(), &members.endpoint("b"));
    assert!(matches!(a, Err(ConnectionError::PeerIsSecure)), "{a:?}");
    assert!(matches!(b, Err(ConnectionError::PeerIsPlain)), "{b:?}");
}

#[test]
fn a_stranger_is_named_by_its_key_on_both_sides() {
    let members = Members::new();
    let (stranger, b) = (members.stranger(), members.endpoint("b"));
    let (called, answered) = open(&stranger, &b);
    let (called_it, it_answered) = open(&b, &stranger);
    for (of_stranger, of_member) in [(called, answered), (it_answered, called_it)] {
        let Err(ConnectionError::NotListed(own)) = of_stranger else {
            panic!("{of_stranger:?}");
        };
        let Err(ConnectionError::UnknownKey(seen)) = of_member else {
            panic!("{of_member:?}");
        };
        assert_eq!(own, seen);
    }
}

#[test]
fn who_has_no_business_there_is_told_so() {
    let members = Members::new();
    let (called, answered) = open(&members.endpoint("anna"), &members.endpoint("b"));
    let words = called.expect_err("no host").to_string();
    assert!(words.contains("operator anna"), "{words}");
    let error = answered.expect_err("no host");
    assert!(
        matches!(error, ConnectionError::WrongRole { .. }),
        "{error}"
    );
}

#[test]
fn who_is_taken_from_the_list_loses_its_connections() {
    let members = Members::new();
    let (a, b) = (members.endpoint("a"), members.endpoint("b"));
    let (called, answered) = open(&a, &b);
    let (called, answered) = (called.expect("open"), answered.expect("open"));
    members.revoke("a");
    let ended = (&answered).read(&mut [0]).expect_err("it has ended");
    assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
    let ended = (&called).read(&mut [0]).expect_err("it has ended");
    assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
    let (_, answered) = open(&a, &b);
    assert!(
        matches!(answered, Err(ConnectionError::UnknownKey(_))),
        "{answered:?}"
    );
}

#[test]
fn a_caller_that_says_nothing_is_given_up() {
    let members = Members::new();
    let (_silent, answerer) = sockets();
    let patience = Patience {
        deadline: Instant::now(),
        cancel: None,
    };
    let answered = members
        .endpoint("b")
        .answer(answerer, LOG, &[Role::Host], patience);
    assert!(
        matches!(answered, Err(ConnectionError::TimedOut)),
        "{answered:?}"
    );
}
