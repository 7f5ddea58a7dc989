//! The consoles of this host's guests, for operators elsewhere, and nobody else: a line asks for one, and from the answer on
//! it is bytes in both directions.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use disk_server::arbiter::VmName;
use disk_server::logging::Limited;
use nix::sys::socket::{setsockopt, sockopt};
use serde::{Deserialize, Serialize};
use transport::{Endpoint, Opening, Patience, Role, Service, Stream};

use super::control;
use super::folders::Folders;
use super::serving::serve;
use crate::lines::{MAX_QUESTION, read_line, write_line};

/// For a line, on either side.
const PATIENCE: Duration = Duration::from_secs(10);
/// An operator's host that says nothing for so long, in seconds, is asked whether it is there.
const IDLE_S: u32 = 30;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    console: VmName,
}

#[derive(Serialize)]
struct Refused {
    error: String,
}

/// Gives the consoles of the guests with these directories to operators.
///
/// # Errors
/// The host has no thread for it.
pub(super) fn give(listener: TcpListener, endpoint: Endpoint, folders: Folders) -> io::Result<()> {
    let accept = move || Ok(listener.accept()?.0);
    serve("consoles", accept, move |socket: TcpStream| {
        let from = socket.peer_addr();
        let opening = Opening::Preface(Service::Console);
        match endpoint.answer(socket, opening, &[Role::Operator], Patience::of(PATIENCE)) {
            Ok(stream) => {
                if let Err(error) = relay(&stream, &folders) {
                    log::debug!("a console's connection: {error}");
                }
            }
            Err(error) => {
                static NOT_OPENED: Limited = Limited::new();
                if let (Ok(from), Some(left_out)) = (from, NOT_OPENED.let_through()) {
                    log::warn!("no console for {from}: {error}{left_out}");
                }
            }
        }
    })
}

fn relay(operator: &Stream, folders: &Folders) -> io::Result<()> {
    operator.set_nodelay(true)?;
    // One that is gone without a word must not keep the console from others.
    setsockopt(operator, sockopt::KeepAlive, &true)?;
    setsockopt(operator, sockopt::TcpKeepIdle, &IDLE_S)?;
    operator.set_write_timeout(Some(PATIENCE))?;
    let line = read_line(operator, MAX_QUESTION, Instant::now() + PATIENCE)?;
    let (answer, guest) = match open(&line, folders) {
        Ok(opened) => opened,
        Err(error) => return write_line(operator, &Refused { error }),
    };
    let mut to_operator = operator;
    to_operator.write_all(answer.as_bytes())?;
    to_operator.write_all(b"\n")?;
    to_operator.flush()?;
    // Whoever does not read now may go on later: the guest's process does not wait for that.
    operator.set_write_timeout(None)?;
    join(operator, &guest)
}

/// The guest whose console this line asks for.
pub(crate) fn asked_for(line: &str) -> Result<VmName, String> {
    let request: Request = serde_json::from_str(line)
        .map_err(|error| format!("not a request for a console: {error}"))?;
    Ok(request.console)
}

/// The answer of the guest's process, and what comes behind it.
fn open(line: &str, folders: &Folders) -> Result<(String, UnixStream), String> {
    let vm = asked_for(line)?;
    let socket = folders.guest(&vm).and_then(|guest| guest.control());
    let socket = socket.map_err(|error| error.to_string())?;
    let absent = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            format!("{vm} has no process on this host: `ftvm vm status {vm}` says where it runs")
        }
        _ => format!("the process of {vm} does not answer: {error}"),
    };
    control::ask(&socket, "console", PATIENCE).map_err(absent)
}

/// Carries bytes both ways until either side closes.
fn join(operator: &Stream, guest: &UnixStream) -> io::Result<()> {
    let end = || {
        // Either may be closed already.
        let _ = operator.shutdown(Shutdown::Both);
        let _ = guest.shutdown(Shutdown::Both);
    };
    thread::scope(|scope| {
        let typed = thread::Builder::new().spawn_scoped(scope, || {
            carry(operator, guest);
            end();
        });
        if typed.is_ok() {
            carry(guest, operator);
        }
        end();
        typed.map(drop)
    })
}

/// Ends as its side does: there is nobody to tell an error.
fn carry(mut from: impl Read, mut to: impl Write) {
    let _ = io::copy(&mut from, &mut to);
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::os::unix::net::UnixListener;

    use super::*;

    /// The consoles of a host, and the control socket of its guest `db`.
    fn host() -> (tempfile::TempDir, SocketAddr, UnixListener) {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path();
        let folders = Folders::make(&path.join("run"), &path.join("state")).expect("it can be");
        let guest = folders
            .guest(&"db".parse().expect("a name"))
            .expect("a plain name");
        guest.make().expect("it can be made");
        let control = UnixListener::bind(guest.control().expect("short")).expect("it is free");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it has one");
        give(listener, Endpoint::plain(), folders).expect("a thread");
        (folder, address, control)
    }

    fn connect(address: SocketAddr) -> Stream {
        let socket = TcpStream::connect(address).expect("it listens");
        let opening = Opening::Preface(Service::Console);
        let called = Endpoint::plain().call(socket, opening, &[], Patience::of(PATIENCE));
        called.expect("it answers")
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn bytes_go_both_ways_until_a_side_closes() {
        let (_folder, address, control) = host();
        let mut operator = connect(address);
        operator
            .write_all(b"{\"console\":\"db\"}\nls\n")
            .expect("it reads");
        let (mut guest, _) = control.accept().expect("it is asked");
        let asked = read_line(&guest, MAX_QUESTION, soon()).expect("a line");
        assert_eq!(asked, "{\"ask\":\"console\"}");
        guest
            .write_all(b"{\"ok\":true}\nlogin: ")
            .expect("it reads");
        let answer = read_line(&operator, MAX_QUESTION, soon()).expect("a line");
        assert_eq!(answer, "{\"ok\":true}");
        let mut output = [0; 7];
        operator
            .read_exact(&mut output)
            .expect("the guest's output");
        assert_eq!(&output, b"login: ");
        assert_eq!(read_line(&guest, 9, soon()).expect("what was typed"), "ls");
        drop(guest);
        assert_eq!(operator.read(&mut output).expect("the end"), 0);
    }

    #[test]
    fn a_guest_that_is_not_here_and_a_wrong_line_are_answered() {
        let (_folder, address, control) = host();
        drop(control);
        for (line, words) in [
            ("{\"console\":\"db\"}", "db has no process on this host"),
            ("{\"console\":\"web\"}", "web has no process on this host"),
            ("{\"console\":\"../db\"}", "no directory of its name"),
            ("hello", "not a request"),
        ] {
            let mut operator = connect(address);
            writeln!(operator, "{line}").expect("it reads");
            let answer = read_line(&operator, MAX_QUESTION, soon()).expect("a line");
            assert!(
                answer.contains("\"error\"") && answer.contains(words),
                "{answer}"
            );
        }
    }
}
