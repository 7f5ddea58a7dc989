//! Some who know each other, and connections between them.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use transport::{
    ConnectionError, Endpoint, Key, KeySet, Opening, Patience, Role, Service, Stream, key_set,
};

/// More than anything here takes on a busy machine. Nothing waits for it unless it fails.
pub(crate) const GENEROUS: Duration = Duration::from_secs(60);

pub(crate) const LOG: Opening = Opening::Preface(Service::Log);

pub(crate) type Opened = Result<Stream, ConnectionError>;

pub(crate) fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let caller = TcpStream::connect(address).expect("somebody listens");
    (caller, listener.accept().expect("somebody called").0)
}

/// Opens a connection, as the caller and the answerer have it.
pub(crate) fn open(caller: &Endpoint, answerer: &Endpoint) -> (Opened, Opened) {
    open_with(
        |socket| caller.call(socket, LOG, &[Role::Host], Patience::of(GENEROUS)),
        |socket| answerer.answer(socket, LOG, &[Role::Host], Patience::of(GENEROUS)),
    )
}

pub(crate) fn open_with(
    call: impl FnOnce(TcpStream) -> Opened + Send,
    answer: impl FnOnce(TcpStream) -> Opened + Send,
) -> (Opened, Opened) {
    let (caller, answerer) = sockets();
    thread::scope(|scope| {
        let answered = scope.spawn(|| answer(answerer));
        (call(caller), answered.join().expect("it does not panic"))
    })
}

pub(crate) fn endpoint(key: &Path, trust: &Path) -> Endpoint {
    Endpoint::read(key, trust).expect("a key and a list")
}

/// Some hosts, and others, who trust each other.
pub(crate) struct Members {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) set: KeySet,
}

impl Members {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let members = [
            (Role::Host, "a"),
            (Role::Host, "b"),
            (Role::Operator, "anna"),
        ];
        let set = key_set(folder.path(), &members).expect("keys");
        Self { folder, set }
    }

    pub(crate) fn endpoint(&self, name: &str) -> Endpoint {
        endpoint(&self.set.key(name), &self.set.trust())
    }

    /// Somebody whom nobody knows.
    pub(crate) fn stranger(&self) -> Endpoint {
        let path = self.folder.path().join("stranger.pem");
        Key::create(&path).expect("a key");
        endpoint(&path, &self.set.trust())
    }

    /// Takes somebody from the list.
    pub(crate) fn revoke(&self, name: &str) {
        let text = fs::read_to_string(self.set.trust()).expect("the list");
        let without: Vec<&str> = (text.lines())
            .filter(|line| !line.starts_with(&format!("{name:?}")))
            .collect();
        fs::write(self.set.trust(), without.join("\n")).expect("a file");
    }
}

pub(crate) fn talk(mut from: &Stream, mut to: &Stream, said: &[u8]) {
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
