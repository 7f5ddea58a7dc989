//! As much of HTTP/1.1 (RFC 9112) as a GET takes that is answered and over.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 8 << 10;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    /// Number and reason.
    status: &'static str,
    content: &'static str,
    /// Further fields, each with its line's end.
    fields: &'static str,
    body: String,
}

const PLAIN: &str = "text/plain; charset=utf-8";

impl Response {
    /// Metrics in Prometheus' text format.
    pub(crate) fn metrics(body: String) -> Self {
        Self {
            content: "text/plain; version=0.0.4; charset=utf-8",
            body,
            ..Self::line("200 OK", "")
        }
    }

    /// What was asked for does its work.
    pub(crate) fn well() -> Self {
        Self::line("200 OK", "ok")
    }

    /// It does not.
    pub(crate) fn unwell(why: &str) -> Self {
        Self::line("503 Service Unavailable", why)
    }

    /// Nothing has this path.
    pub(crate) fn not_found(what: &str) -> Self {
        Self::line("404 Not Found", what)
    }

    fn bad(what: &str) -> Self {
        Self::line("400 Bad Request", what)
    }

    fn line(status: &'static str, text: &str) -> Self {
        Self {
            status,
            content: PLAIN,
            fields: "",
            body: format!("{text}\n"),
        }
    }

    fn text(&self) -> String {
        let Self {
            status,
            content,
            fields,
            body,
        } = self;
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: {content}\r\nContent-Length: {}\r\n\
             Cache-Control: no-store\r\nConnection: close\r\n{fields}\r\n{body}",
            body.len()
        )
    }
}

/// Takes a request, and gives what `respond` says to its path. After `patience` no more is read or written, whatever
/// took so long.
///
/// # Errors
/// The other side is too slow, leaves, or sends more than a request.
pub(crate) fn converse(
    mut socket: &TcpStream,
    patience: Duration,
    respond: impl FnOnce(&str) -> Response,
) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    let head = read_head(socket, deadline)?;
    let response = path(&head).map_or_else(|refused| refused, |path| respond(&path));
    let text = response.text();
    let mut left = text.as_bytes();
    while !left.is_empty() {
        socket.set_write_timeout(Some(until(deadline)?))?;
        let written = socket.write(left)?;
        left = &left[written..];
    }
    socket.shutdown(Shutdown::Write)
}

/// What is left of the time.
fn until(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    match left.is_zero() {
        true => Err(io::ErrorKind::TimedOut.into()),
        false => Ok(left),
    }
}

/// Reads up to the empty line.
fn read_head(mut socket: &TcpStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() >= MAX_HEAD {
            let text = format!("the head of a request has at most {MAX_HEAD} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        socket.set_read_timeout(Some(until(deadline)?))?;
        match socket.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => head.extend_from_slice(&piece[..n]),
        }
    }
    Ok(head)
}

/// The path that is asked for, decoded and without a query.
fn path(head: &[u8]) -> Result<String, Response> {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| Response::bad("not a request"))?;
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Response::bad("not a request"));
    };
    if !version.starts_with("HTTP/1.") || !target.starts_with('/') {
        return Err(Response::bad("not a request"));
    }
    if method != "GET" {
        return Err(Response {
            fields: "Allow: GET\r\n",
            ..Response::line("405 Method Not Allowed", "only GET is answered here")
        });
    }
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    decoded(path).ok_or_else(|| Response::bad("the path is not encoded as RFC 3986 says"))
}

/// Takes percent-encoding away (RFC 3986, section 2.1).
fn decoded(path: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut pieces = path.split('%');
    bytes.extend_from_slice(pieces.next()?.as_bytes());
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(2)?;
        let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        bytes.push(is_hex.then(|| u8::from_str_radix(digits, 16).ok())??);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn paths_are_decoded_once() {
        for (path, expected) in [
            ("/a", Some("/a")),
            ("/%2Fa%25b", Some("//a%b")),
            ("/%2541", Some("/%41")),
            ("/%", None),
            ("/%4", None),
            ("/%+4", None),
            ("/%ff", None),
            ("/%é", None),
        ] {
            assert_eq!(decoded(path).as_deref(), expected, "{path}");
        }
    }

    /// How it ends with a client that sends `request` and then does nothing.
    fn with_one_who_sends(request: &[u8], patience: Duration, body: usize) -> io::ErrorKind {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (served, _) = listener.accept().unwrap();
        client.write_all(request).unwrap();
        let answer = |_: &str| Response::metrics("x".repeat(body));
        converse(&served, patience, answer).unwrap_err().kind()
    }

    #[test]
    fn who_is_slow_is_left() {
        let patience = Duration::from_millis(100);
        let kinds = [
            with_one_who_sends(b"GET / HT", patience, 0),
            // Who asks and does not read.
            with_one_who_sends(b"GET / HTTP/1.1\r\n\r\n", patience, 64 << 20),
        ];
        for kind in kinds {
            let is_patience = matches!(kind, io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock);
            assert!(is_patience, "{kind}");
        }
    }
}
