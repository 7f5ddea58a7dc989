//! Where a program is watched.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use confinement::Calls;
use parking_lot::Mutex;

use super::http::{Response, converse};
use crate::server::StartError;
use crate::server::accept::{Listener, Service, accept_until_woken};
use crate::server::connections::{Places, Registration, Standing};

/// How long a connection takes at most, from the first byte of its request to the last of its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// For so long metrics are those of all who ask for them: what they take of a program is bounded, however many ask.
const FRESH: Duration = Duration::from_secs(1);

/// So many connections at a time; of more, the oldest one ends of the address that has most.
const PLACES: Places = Places {
    known: 0,
    strangers: 16,
};

/// A program that is watched.
pub trait Watched: fmt::Debug + Send + Sync {
    /// Its metrics, as [`expose`](super::expose) writes them.
    fn metrics(&self) -> String;

    /// How something of it is: what is behind `/healthz`, decoded, or all of it where that is empty.
    fn health(&self, path: &str) -> Health;
}

/// How a program is, or a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It does its work.
    Well,
    /// It does not: why, in one line.
    Unwell(String),
    /// There is no such part.
    Unknown,
}

/// Answers those who watch a program.
#[derive(Debug)]
pub struct Exporter {
    listener: Listener,
    answers: Answers,
}

impl Exporter {
    /// The most file descriptors that it has: it listens, and as many connections again may be about to end.
    pub(crate) const DESCRIPTORS: usize = 2 + 2 * PLACES.strangers;

    /// Answers at a socket that listens.
    ///
    /// # Errors
    /// The system's.
    pub fn new(socket: TcpListener, watched: Arc<dyn Watched>) -> io::Result<Self> {
        Ok(Self {
            listener: Listener::new(socket, Standing::Stranger, PLACES)?,
            answers: Answers::of(watched),
        })
    }

    /// Listens on an address, which the user chose with `option`.
    pub(crate) fn bind(
        address: SocketAddr,
        option: &'static str,
        watched: Arc<dyn Watched>,
    ) -> Result<Self, StartError> {
        Ok(Self {
            listener: Listener::bind(address, option, Standing::Stranger, PLACES)?,
            answers: Answers::of(watched),
        })
    }

    /// Where it listens, with the real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// What an accept loop serves.
    pub(crate) fn service(&self) -> (&Listener, &dyn Service) {
        (&self.listener, &self.answers)
    }

    /// Answers for as long as this process lives, on threads of its own.
    ///
    /// # Errors
    /// The host has no thread for it.
    pub fn serve(self) -> io::Result<()> {
        let (wake, nobody) = UnixStream::pair()?;
        let run = move || {
            // Held open: its end would be the loop's.
            let _nobody = nobody;
            if let Err(error) = accept_until_woken(&wake, &[self.service()]) {
                log::error!("nobody is told metrics any more: {error}");
            }
        };
        let thread = thread::Builder::new().name("monitoring".to_owned());
        thread.spawn(run).map(drop)
    }
}

#[derive(Debug)]
struct Answers {
    watched: Arc<dyn Watched>,
    metrics: Shared,
}

/// A text that all have who ask for it within a while.
#[derive(Debug, Default)]
struct Shared(Mutex<Option<(Instant, String)>>);

impl Shared {
    /// The text, which is made anew where it is older than `fresh`. Who asks meanwhile waits for it.
    fn text(&self, fresh: Duration, make: impl FnOnce() -> String) -> String {
        let mut last = self.0.lock();
        match &*last {
            Some((made, text)) if made.elapsed() < fresh => text.clone(),
            _ => {
                let text = make();
                *last = Some((Instant::now(), text.clone()));
                text
            }
        }
    }
}

impl Answers {
    fn of(watched: Arc<dyn Watched>) -> Self {
        Self {
            watched,
            metrics: Shared::default(),
        }
    }

    fn respond(&self, path: &str) -> Response {
        if path == "/metrics" {
            let text = self.metrics.text(FRESH, || self.watched.metrics());
            return Response::metrics(text);
        }
        let rest = path.strip_prefix("/healthz");
        match rest.filter(|rest| rest.is_empty() || rest.starts_with('/')) {
            None => Response::not_found("see /metrics and /healthz"),
            Some(part) => match self.watched.health(part) {
                Health::Well => Response::well(),
                Health::Unwell(why) => Response::unwell(&why),
                Health::Unknown => Response::not_found("there is no such thing here"),
            },
        }
    }
}

impl Service for Answers {
    fn thread_name(&self) -> &'static str {
        "watcher"
    }

    fn calls(&self) -> &'static [Calls] {
        &[]
    }

    fn serve(&self, socket: Arc<TcpStream>, _registration: &Registration<'_>) {
        if let Err(error) = converse(&socket, PATIENCE, |path| self.respond(path)) {
            log::debug!("a watcher: {error}");
        }
    }

    fn end(&self) {
        // Its connections end with their readable halves, or with their patience.
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::time::Instant;

    use super::*;

    #[derive(Debug)]
    struct Program;

    impl Watched for Program {
        fn metrics(&self) -> String {
            "up 1\n".into()
        }

        fn health(&self, path: &str) -> Health {
            match path {
                "" => Health::Well,
                "/vm/d b/primary" => Health::Unwell("it is the backup".into()),
                _ => Health::Unknown,
            }
        }
    }

    fn exporter() -> SocketAddr {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let exporter = Exporter::new(socket, Arc::new(Program)).unwrap();
        let address = exporter.local_addr();
        exporter.serve().unwrap();
        address
    }

    /// All that is answered to these bytes.
    fn tell(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        // It may be closed before all of a long one was taken.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }

    fn get(address: SocketAddr, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: here\r\n\r\n");
        tell(address, request.as_bytes())
    }

    #[test]
    fn metrics_and_health_are_told() {
        let address = exporter();
        let metrics = get(address, "/metrics");
        assert!(metrics.starts_with("HTTP/1.1 200 "), "{metrics}");
        assert!(metrics.contains("text/plain; version=0.0.4"), "{metrics}");
        assert!(metrics.ends_with("\r\n\r\nup 1\n"), "{metrics}");
        assert!(get(address, "/metrics?name=up").ends_with("up 1\n"));
        for (path, status, text) in [
            ("/healthz", "200", "ok\n"),
            ("/healthz/vm/d%20b/primary", "503", "it is the backup\n"),
            ("/healthz/vm/web/primary", "404", "no such thing here\n"),
            ("/healthzzz", "404", "see /metrics and /healthz\n"),
            ("/", "404", "see /metrics and /healthz\n"),
        ] {
            let answer = get(address, path);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}");
            assert!(answer.ends_with(text), "{path}: {answer}");
        }
    }

    #[test]
    fn metrics_are_made_once_for_all_who_ask_within_a_while() {
        let shared = Shared::default();
        let first = shared.text(Duration::MAX, || "1".into());
        let again = shared.text(Duration::MAX, || panic!("it is there"));
        assert_eq!((first.as_str(), again.as_str()), ("1", "1"));
        assert_eq!(shared.text(Duration::ZERO, || "2".into()), "2");
    }

    #[test]
    fn nobody_who_calls_does_harm() {
        let address = exporter();
        let endless = [b"GET / HTTP/1.1\r\nx: ".as_slice(), &[b'x'; 1 << 20]].concat();
        for (request, status) in [
            (b"\r\n\r\n".as_slice(), "400"),
            (b"GET\r\n\r\n", "400"),
            (b"GET /metrics\r\n\r\n", "400"),
            (b"GET /metrics SSH-2.0\r\n\r\n", "400"),
            (b"GET metrics HTTP/1.1\r\n\r\n", "400"),
            (b"GET /%zz HTTP/1.1\r\n\r\n", "400"),
            (b"\x16\x03\x01\xff\xfe /x HTTP/1.1\r\n\r\n", "400"),
            (b"POST /metrics HTTP/1.1\r\n\r\n", "405"),
        ] {
            let answer = tell(address, request);
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{answer}"
            );
        }
        let answer = tell(address, &endless);
        assert!(!answer.contains(" 200 "), "{answer}");
        // A hundred who say nothing, or half of something, and stay.
        let open = |n: usize| {
            let mut stream = TcpStream::connect(address).unwrap();
            if n.is_multiple_of(2) {
                // It may have been closed for the next one.
                let _ = stream.write_all(b"GET /met");
            }
            stream
        };
        let silent: Vec<TcpStream> = (0..100).map(open).collect();
        // Those before are sent away for those that come, which takes a moment.
        let end = Instant::now() + Duration::from_secs(60);
        while !get(address, "/metrics").ends_with("up 1\n") {
            assert!(Instant::now() < end, "nobody else is answered");
        }
        drop(silent);
        assert!(get(address, "/healthz").ends_with("ok\n"));
    }
}
