//! As much of the Redis protocol (RESP) as a counter needs, over a stream that
//! is never replaced: what breaks stays broken, for the caller to see.

use std::io::{self, ErrorKind, Read, Write};

/// The longest first line of a reply.
const LINE: usize = 512;
/// The longest string in a reply.
const STRING: usize = 64 * 1024;

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    /// `:1`
    Integer(i64),
    /// `+OK`
    Status(String),
    /// `$3`, and a string; or none
    Text(Option<String>),
    /// `-ERR …`
    Error(String),
}

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub(super) enum RespError {
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    /// The other side sent what is no reply.
    #[error("the server does not speak RESP: {0}")]
    Nonsense(String),
    /// The other side said no.
    #[error("the server answered {0}")]
    Refused(String),
    /// The caller does not want to wait any longer.
    #[error("no reply came in time")]
    GivenUp,
}

/// A connection to a Redis server.
#[derive(Debug)]
pub(super) struct Connection<S> {
    stream: S,
    received: Vec<u8>,
}

impl<S: Read + Write> Connection<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            received: Vec::new(),
        }
    }

    /// Increments a counter and gives its new value. Whenever the stream's read
    /// timeout passes, `give_up` is asked.
    pub(super) fn increment(
        &mut self,
        key: &str,
        give_up: impl Fn() -> bool,
    ) -> Result<u64, RespError> {
        match self.ask(&["INCR", key], give_up)? {
            Reply::Integer(value) => number(&value.to_string()),
            other => Err(unexpected(other)),
        }
    }

    /// A counter's value; 0 if there is none.
    pub(super) fn counter(
        &mut self,
        key: &str,
        give_up: impl Fn() -> bool,
    ) -> Result<u64, RespError> {
        match self.ask(&["GET", key], give_up)? {
            Reply::Text(Some(text)) => number(&text),
            Reply::Text(None) => Ok(0),
            other => Err(unexpected(other)),
        }
    }

    /// A field of a hash; none if it is not there.
    pub(super) fn field(
        &mut self,
        key: &str,
        field: &str,
        give_up: impl Fn() -> bool,
    ) -> Result<Option<String>, RespError> {
        match self.ask(&["HGET", key, field], give_up)? {
            Reply::Text(text) => Ok(text),
            other => Err(unexpected(other)),
        }
    }

    fn ask(&mut self, words: &[&str], give_up: impl Fn() -> bool) -> Result<Reply, RespError> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.stream.write_all(request.as_bytes())?;
        let mut piece = [0; 4096];
        loop {
            if let Some((reply, length)) = parse(&self.received)? {
                self.received.drain(..length);
                if !self.received.is_empty() {
                    return Err(RespError::Nonsense("a reply to no request".to_owned()));
                }
                return Ok(reply);
            }
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(io::Error::from(ErrorKind::UnexpectedEof).into()),
                Ok(length) => self.received.extend_from_slice(&piece[..length]),
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock | ErrorKind::TimedOut if !give_up() => {}
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => return Err(RespError::GivenUp),
                    _ => return Err(error.into()),
                },
            }
        }
    }
}

fn number(text: &str) -> Result<u64, RespError> {
    text.parse()
        .map_err(|_| RespError::Nonsense(format!("`{text}` is no counter")))
}

fn unexpected(reply: Reply) -> RespError {
    match reply {
        Reply::Error(text) => RespError::Refused(text),
        other => RespError::Nonsense(format!("unexpected {other:?}")),
    }
}

/// The first reply in `bytes` and its length; none when it is not complete.
fn parse(bytes: &[u8]) -> Result<Option<(Reply, usize)>, RespError> {
    let nonsense = |what: &str| Err(RespError::Nonsense(what.to_owned()));
    let Some(&kind) = bytes.first() else {
        return Ok(None);
    };
    if !b":+-$".contains(&kind) {
        return nonsense(&format!("a reply that begins with byte {kind:#04x}"));
    }
    let Some(end) = bytes.iter().take(LINE).position(|byte| *byte == b'\n') else {
        if bytes.len() >= LINE {
            return nonsense("an endless line");
        }
        return Ok(None);
    };
    let Some(line) = bytes[1..end].strip_suffix(b"\r") else {
        return nonsense("a line that does not end with CR LF");
    };
    let line = String::from_utf8_lossy(line).into_owned();
    let next = end + 1;
    let reply = match kind {
        b'+' => Reply::Status(line),
        b'-' => Reply::Error(line),
        b':' => match line.parse() {
            Ok(value) => Reply::Integer(value),
            Err(_) => return nonsense(&format!("`{line}` as an integer")),
        },
        _ if line == "-1" => Reply::Text(None),
        _ => {
            let Some(length) = line.parse::<usize>().ok().filter(|n| *n <= STRING) else {
                return nonsense(&format!("`{line}` as the length of a string"));
            };
            let Some(rest) = bytes.get(next..next + length + 2) else {
                return Ok(None);
            };
            let Some(text) = rest.strip_suffix(b"\r\n") else {
                return nonsense("a string of another length");
            };
            let text = String::from_utf8_lossy(text).into_owned();
            return Ok(Some((Reply::Text(Some(text)), next + length + 2)));
        }
    };
    Ok(Some((reply, next)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives what it has, in pieces of this size, and then times out.
    struct Script {
        replies: Vec<u8>,
        piece: usize,
        asked: Vec<u8>,
        closes: bool,
    }

    impl Read for Script {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.replies.is_empty() {
                return match self.closes {
                    true => Ok(0),
                    false => Err(ErrorKind::WouldBlock.into()),
                };
            }
            let length = self.piece.min(self.replies.len());
            buffer[..length].copy_from_slice(&self.replies[..length]);
            self.replies.drain(..length);
            Ok(length)
        }
    }

    impl Write for Script {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.asked.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn answering(replies: &[u8]) -> Connection<Script> {
        Connection::new(Script {
            replies: replies.to_vec(),
            piece: 1,
            asked: Vec::new(),
            closes: false,
        })
    }

    #[test]
    fn a_counter_is_incremented_and_read() {
        let mut connection = answering(b":41\r\n");
        assert_eq!(connection.increment("n", || true).expect("a reply"), 41);
        assert_eq!(
            connection.stream.asked,
            b"*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n".to_vec()
        );
        let text = answering(b"$2\r\n41\r\n").counter("n", || true);
        assert_eq!(text.expect("a reply"), 41);
        let none = answering(b"$-1\r\n").counter("n", || true);
        assert_eq!(none.expect("a reply"), 0);
    }

    #[test]
    fn nonsense_is_an_error() {
        for nonsense in [
            &b"HTTP/1.1 400\r\n"[..],
            b":\r\n",
            b":12a\r\n",
            b":-1\r\n",
            b":1\n",
            b":99999999999999999999\r\n",
            b"$99999999\r\n",
            b"$-2\r\n",
            b"$2\r\n4141\r\n",
            b"+OK\r\n",
        ] {
            let result = answering(nonsense).increment("n", || true);
            assert!(result.is_err(), "{:?}", String::from_utf8_lossy(nonsense));
        }
        let mut two = answering(b":1\r\n:2\r\n");
        two.stream.piece = 8;
        let two = two.increment("n", || true);
        assert!(matches!(two, Err(RespError::Nonsense(_))));
        let endless = answering(&[b':'; 10_000]).increment("n", || true);
        assert!(matches!(endless, Err(RespError::Nonsense(_))));
        let refused = answering(b"-OOM no memory\r\n").increment("n", || true);
        assert!(matches!(refused, Err(RespError::Refused(_))));
    }

    #[test]
    fn a_closed_connection_is_broken_and_a_silent_one_is_given_up() {
        let silent = answering(b":4").increment("n", || true);
        assert!(matches!(silent, Err(RespError::GivenUp)));
        let mut closed = answering(b":4");
        closed.stream.closes = true;
        let closed = closed.increment("n", || false);
        assert!(matches!(closed, Err(RespError::Broken(_))));
    }
}
