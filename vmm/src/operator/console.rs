//! A guest's console over the network, which follows the guest from host to host.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use disk_server::arbiter::{HostName, VmName};
use nix::sys::socket::{setsockopt, sockopt};
use serde::Deserialize;
use serde_json::json;
use transport::{
    ConnectionError, Endpoint, Opening, Patience, Role, Service, Stream, wait_readable,
};

use crate::io::Typed;
use crate::lines;

/// How long a host may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Between two attempts to find the guest again.
const RETRY: Duration = Duration::from_millis(500);

/// How soon a console ends that is cancelled.
const CANCEL_POLL: Duration = Duration::from_millis(50);

/// The longest first line of a daemon, in bytes.
const MAX_LINE: usize = 4 << 10;

/// Seconds without a sign after which a host is asked for one, and how often.
const KEEP_ALIVE: (u32, u32) = (1, 3);

/// Where a guest's console is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// On this host.
    pub host: HostName,
    /// At its daemon's address.
    pub address: SocketAddr,
}

/// Why there is no console.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// It is not known where the guest runs, or it runs nowhere.
    #[error("{0}")]
    Nowhere(String),
    /// The host's daemon does not answer.
    #[error("the daemon of {host} does not answer at {address}")]
    Unreachable {
        /// The host.
        host: HostName,
        /// The daemon's address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// It is not the host's daemon, or does not take this side for an operator.
    #[error("the daemon of {host} opens no connection")]
    Unopened {
        /// The host.
        host: HostName,
        /// Why.
        source: ConnectionError,
    },
    /// It has no console of this guest.
    #[error("{host} does not give the console: {message}")]
    Refused {
        /// The host.
        host: HostName,
        /// Why.
        message: String,
    },
    /// The terminal fails.
    #[error("the terminal")]
    Terminal(#[source] io::Error),
}

/// A daemon's first line.
#[derive(Deserialize)]
struct Answer {
    error: Option<String>,
}

/// Joins `input` and `output` to the console of `vm` until Ctrl-A x is typed, `input` is at its end, or `cancel`
/// is set: a terminal that is gone keeps the keyboard from nobody. `locate` says where it is, as often as the
/// connection is lost; that is told, and so is what keeps it.
///
/// # Errors
/// See [`ConsoleError`]: at first only. A console that was there is looked for until it is there again.
pub fn attach(
    vm: &VmName,
    endpoint: &Endpoint,
    mut locate: impl FnMut() -> Result<Place, ConsoleError>,
    mut input: impl Read + AsFd,
    mut output: impl Write,
    cancel: &AtomicBool,
) -> Result<(), ConsoleError> {
    let mut typed = Typed::default();
    let mut connection = Some(connect(vm, endpoint, &locate()?)?);
    let mut told = String::new();
    let mut next_try = Instant::now();
    let mut bytes = [0; 4096];
    while !cancel.load(Ordering::Relaxed) {
        let patience = match &connection {
            Some(_) => CANCEL_POLL,
            None => CANCEL_POLL.min(next_try.saturating_duration_since(Instant::now())),
        };
        let waited = wait(input.as_fd(), connection.as_ref(), patience);
        let (has_input, has_output) = waited.map_err(ConsoleError::Terminal)?;
        if has_input {
            let len = input.read(&mut bytes).map_err(ConsoleError::Terminal)?;
            let (to_guest, leave) = typed.take(&bytes[..len]);
            if leave || len == 0 {
                return Ok(());
            }
            // What is typed while nobody listens is lost, as on a line without a listener. That a connection
            // does not take it is seen where it is read.
            if let Some(stream) = &mut connection {
                let _ = stream.write_all(&to_guest).and_then(|()| stream.flush());
            }
        }
        if has_output && let Some(stream) = &mut connection {
            match stream.read_now(&mut bytes) {
                Ok(len @ 1..) => show(&mut output, &bytes[..len])?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => {
                    connection = None;
                    let text =
                        format!("the console of {vm} is lost: looking for it. Ctrl-A x ends that");
                    say(&mut output, &text)?;
                }
            }
        }
        if connection.is_none() && next_try <= Instant::now() {
            match locate().and_then(|place| Ok((connect(vm, endpoint, &place)?, place))) {
                Ok((stream, place)) => {
                    let text = format!("connected again: {vm} runs on {}", place.host);
                    say(&mut output, &text)?;
                    connection = Some(stream);
                    told.clear();
                }
                Err(error) => {
                    let why = error.to_string();
                    if why != told {
                        say(&mut output, &why)?;
                        told = why;
                    }
                }
            }
            next_try = Instant::now() + RETRY;
        }
    }
    Ok(())
}

/// Whether there is something to read from either.
fn wait(
    input: BorrowedFd<'_>,
    connection: Option<&Stream>,
    patience: Duration,
) -> io::Result<(bool, bool)> {
    match connection {
        None => Ok((wait_readable(&[input], Some(patience))?[0], false)),
        Some(stream) => {
            let ready = stream.wait_readable(&[input], Some(patience))?;
            Ok((ready[1], ready[0]))
        }
    }
}

/// Asks the daemon at this place for the console.
fn connect(vm: &VmName, endpoint: &Endpoint, place: &Place) -> Result<Stream, ConsoleError> {
    let unreachable = |source: io::Error| ConsoleError::Unreachable {
        host: place.host.clone(),
        address: place.address,
        source,
    };
    let refused = |message: String| ConsoleError::Refused {
        host: place.host.clone(),
        message,
    };
    let socket = TcpStream::connect_timeout(&place.address, PATIENCE).map_err(unreachable)?;
    let opening = Opening::Preface(Service::Console);
    let called = endpoint.call(socket, opening, &[Role::Host], Patience::of(PATIENCE));
    let stream = called.map_err(|source| ConsoleError::Unopened {
        host: place.host.clone(),
        source,
    })?;
    if let Some(peer) = stream
        .peer()
        .filter(|peer| peer.name != place.host.as_str())
    {
        return Err(refused(format!("at its address is the {peer}")));
    }
    let line = ask(&stream, vm).map_err(unreachable)?;
    given(&line).map_err(refused)?;
    Ok(stream)
}

/// Whether this first line of a daemon's gives the console, or why not.
pub(crate) fn given(line: &str) -> Result<(), String> {
    let answer: Answer = serde_json::from_str(line)
        .map_err(|_| "it is of another version, or no `ftvm host` listens there")?;
    match answer.error {
        // It goes to a terminal.
        Some(error) => Err(error.replace(char::is_control, " ")),
        None => Ok(()),
    }
}

fn ask(stream: &Stream, vm: &VmName) -> io::Result<String> {
    stream.set_nodelay(true)?;
    // A host that dies says nothing.
    let (idle, count) = KEEP_ALIVE;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &idle)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &idle)?;
    setsockopt(stream, sockopt::TcpKeepCount, &count)?;
    let line = lines::ask(stream, &json!({ "console": vm }), MAX_LINE, PATIENCE)?;
    // Neither waits for the other for ever.
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(line)
}

fn show(output: &mut impl Write, bytes: &[u8]) -> Result<(), ConsoleError> {
    let shown = output.write_all(bytes).and_then(|()| output.flush());
    shown.map_err(ConsoleError::Terminal)
}

fn say(output: &mut impl Write, text: &str) -> Result<(), ConsoleError> {
    show(output, format!("\r\n[ftvm: {text}]\r\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::net::TcpListener;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    /// A daemon that gives one console, and what is said there.
    fn daemon(greeting: &'static str, then: impl FnOnce(Stream) + Send + 'static) -> Place {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (socket, _) = listener.accept().unwrap();
            let opening = Opening::Preface(Service::Console);
            let answered = Endpoint::plain().answer(socket, opening, &[], Patience::of(PATIENCE));
            let mut stream = answered.unwrap();
            let mut line = String::new();
            BufReader::new(stream.clone()).read_line(&mut line).unwrap();
            assert_eq!(line, "{\"console\":\"db\"}\n");
            stream.write_all(greeting.as_bytes()).unwrap();
            then(stream);
        });
        Place {
            host: "b".parse().unwrap(),
            address,
        }
    }

    #[test]
    fn the_console_is_found_again_on_another_host() {
        let (mut keyboard, input) = UnixStream::pair().unwrap();
        let first = daemon("{\"ok\":true}\nfrom a", |_| {});
        let (typed, at_guest) = mpsc::channel();
        let second = daemon("{\"ok\":true}\nfrom b", move |mut stream| {
            let mut bytes = [0; 2];
            stream.read_exact(&mut bytes).unwrap();
            typed.send(bytes).unwrap();
        });
        let (mut places, mut output) = (vec![second, first], Vec::new());
        let session = thread::spawn(move || {
            let locate = || match places.pop() {
                Some(place) => Ok(place),
                None => Err(ConsoleError::Nowhere("it runs nowhere".into())),
            };
            let vm = "db".parse().unwrap();
            let endpoint = Endpoint::plain();
            attach(
                &vm,
                &endpoint,
                locate,
                input,
                &mut output,
                &AtomicBool::new(false),
            )
            .unwrap();
            String::from_utf8(output).unwrap()
        });
        // Typed until the second host has it: what is typed while nobody listens is lost.
        let bytes = loop {
            keyboard.write_all(b"x").unwrap();
            match at_guest.recv_timeout(Duration::from_millis(20)) {
                Ok(bytes) => break bytes,
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(&bytes, b"xx");
        keyboard.write_all(&[1, b'x']).unwrap();
        let output = session.join().unwrap();
        assert!(output.contains("from a"), "{output}");
        assert!(
            output.contains("[ftvm: connected again: db runs on b]"),
            "{output}"
        );
        assert!(output.contains("from b"), "{output}");
    }

    /// A console that is attached, and the daemon's side of it, which is closed when that ends.
    fn attached(input: UnixStream, cancel: &AtomicBool) {
        let (closed, is_closed) = mpsc::channel();
        let place = daemon("{\"ok\":true}\n", move |mut stream| {
            stream.write_all(b"login: ").unwrap();
            let mut typed = Vec::new();
            let _ = stream.read_to_end(&mut typed);
            closed.send(typed).unwrap();
        });
        let locate = || Ok(place.clone());
        let (vm, endpoint) = ("db".parse().unwrap(), Endpoint::plain());
        attach(&vm, &endpoint, locate, input, io::sink(), cancel).unwrap();
        let typed = is_closed.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(typed.is_empty(), "{typed:?}");
    }

    #[test]
    fn a_console_whose_terminal_is_gone_is_left_to_others() {
        let (keyboard, input) = UnixStream::pair().unwrap();
        drop(keyboard);
        attached(input, &AtomicBool::new(false));
    }

    #[test]
    fn a_console_ends_when_it_is_cancelled() {
        let (_keyboard, input) = UnixStream::pair().unwrap();
        let cancel = AtomicBool::new(false);
        thread::scope(|scope| {
            let session = scope.spawn(|| attached(input, &cancel));
            cancel.store(true, Ordering::Relaxed);
            session.join().unwrap();
        });
    }

    #[test]
    fn a_console_that_is_not_given_says_why() {
        let place = daemon("{\"error\":\"db does not run here\"}\n", |_| {});
        let (_keyboard, input) = UnixStream::pair().unwrap();
        let locate = || Ok(place.clone());
        let vm = "db".parse().unwrap();
        let cancel = AtomicBool::new(false);
        let error =
            attach(&vm, &Endpoint::plain(), locate, input, Vec::new(), &cancel).unwrap_err();
        let expected = "b does not give the console: db does not run here";
        assert_eq!(error.to_string(), expected);
    }
}
