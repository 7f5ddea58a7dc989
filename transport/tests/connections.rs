//! Connections between endpoints, as a user of the crate makes them.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use transport::{
    ConnectionError, Endpoint, Key, KeySet, Mode, Opening, Patience, Role, Service, Stream, key_set,
};

const GENEROUS: Duration = Duration::from_secs(60);
const LOG: Opening = Opening::Preface(Service::Log);

type Opened = Result<Stream, ConnectionError>;

fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let caller = TcpStream::connect(address).expect("somebody listens");
    (caller, listener.accept().expect("somebody called").0)
}

/// Opens a connection, as the caller and the answerer have it.
fn open(caller: &Endpoint, answerer: &Endpoint) -> (Opened, Opened) {
    open_with(
        |socket| caller.call(socket, LOG, &[Role::Host], Patience::of(GENEROUS)),
        |socket| answerer.answer(socket, LOG, &[Role::Host], Patience::of(GENEROUS)),
    )
}

fn open_with(
    call: impl FnOnce(TcpStream) -> Opened + Send,
    answer: impl FnOnce(TcpStream) -> Opened + Send,
) -> (Opened, Opened) {
    let (caller, answerer) = sockets();
    thread::scope(|scope| {
        let answered = scope.spawn(|| answer(answerer));
        (call(caller), answered.join().expect("it does not panic"))
    })
}

fn endpoint(key: &Path, trust: &Path) -> Endpoint {
    Endpoint::read(key, trust).expect("a key and a list")
}

/// Some hosts, and others, who trust each other.
struct Members {
    folder: tempfile::TempDir,
    set: KeySet,
}

impl Members {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let members = [
            (Role::Host, "a"),
            (Role::Host, "b"),
            (Role::Operator, "anna"),
        ];
        let set = key_set(folder.path(), &members).expect("keys");
        Self { folder, set }
    }

    fn endpoint(&self, name: &str) -> Endpoint {
        endpoint(&self.set.key(name), &self.set.trust())
    }

    /// Somebody whom nobody knows.
    fn stranger(&self) -> Endpoint {
        let path = self.folder.path().join("stranger.pem");
        Key::create(&path).expect("a key");
        endpoint(&path, &self.set.trust())
    }

    /// Takes somebody from the list.
    fn revoke(&self, name: &str) {
        let text = fs::read_to_string(self.set.trust()).expect("the list");
        let without: Vec<&str> = (text.lines())
            .filter(|line| !line.starts_with(&format!("{name:?}")))
            .collect();
        fs::write(self.set.trust(), without.join("\n")).expect("a file");
    }
}

fn talk(mut from: &Stream, mut to: &Stream, said: &[u8]) {
    thread::scope(|scope| {
        scope.spawn(move || {
            from.write_all(said)
                .and_then(|()| from.flush())
                .expect("it is taken")
        });
        let mut heard = vec![0; said.len()];
        to.read_exact(&mut heard).expect("it comes");
        assert!(heard == said, "it comes as it was said");
    });
}

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
    for (caller, answerer, caller_is_known) in [(members.stranger(), members.endpoint("b"), false)]
    {
        let (called, answered) = open(&caller, &answerer);
        assert!(
            matches!(called, Err(ConnectionError::NotListed(_))),
            "{called:?}"
        );
        assert!(
            matches!(answered, Err(ConnectionError::UnknownKey(_))),
            "{answered:?}"
        );
        assert!(!caller_is_known);
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
