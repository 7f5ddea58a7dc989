//! One line of JSON asked and one answered, over a stream that may go on as bytes.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde::Serialize;
use transport::Stream;

/// The longest question, in bytes with its newline.
pub(crate) const MAX_QUESTION: usize = 4 << 10;

/// A stream whose reads and writes end after a while.
pub(crate) trait Timed {
    /// Ends each read after so long; never, with `None`.
    fn limit_reads(&self, limit: Option<Duration>) -> io::Result<()>;

    /// Ends each write after so long; never, with `None`.
    fn limit_writes(&self, limit: Option<Duration>) -> io::Result<()>;
}

impl Timed for Stream {
    fn limit_reads(&self, limit: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(limit)
    }

    fn limit_writes(&self, limit: Option<Duration>) -> io::Result<()> {
        self.set_write_timeout(limit)
    }
}

impl Timed for UnixStream {
    fn limit_reads(&self, limit: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(limit)
    }

    fn limit_writes(&self, limit: Option<Duration>) -> io::Result<()> {
        self.set_write_timeout(limit)
    }
}

/// Asks, and gives the answer, a line of at most `most` bytes; what is behind that is still to be read.
///
/// # Errors
/// As [`read_line`] and [`write_line`], where the answer is not there after `patience`.
pub(crate) fn ask<S>(
    stream: &S,
    question: &impl Serialize,
    most: usize,
    patience: Duration,
) -> io::Result<String>
where
    S: Timed,
    for<'a> &'a S: Read + Write,
{
    let deadline = Instant::now() + patience;
    stream.limit_writes(Some(patience))?;
    write_line(stream, question)?;
    stream.limit_writes(None)?;
    read_line(stream, most, deadline)
}

/// Reads a line of at most `most` bytes, and nothing behind it.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] where it is not there at the deadline, [`io::ErrorKind::InvalidData`] of one
/// that is longer, [`io::ErrorKind::UnexpectedEof`], and the system's.
pub(crate) fn read_line<S>(stream: &S, most: usize, deadline: Instant) -> io::Result<String>
where
    S: Timed,
    for<'a> &'a S: Read,
{
    let mut line = Vec::new();
    // What is behind the line is somebody else's, so that it is not taken.
    let mut byte = [0];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.limit_reads(Some(left))?;
        let mut reader = stream;
        match reader.read(&mut byte) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) if byte == *b"\n" => break,
            Ok(_) if line.len() + 1 >= most => {
                let text = format!("a line has at most {most} bytes");
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            Ok(_) => line.extend_from_slice(&byte),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        }
    }
    stream.limit_reads(None)?;
    String::from_utf8(line).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Writes a message as a line.
///
/// # Errors
/// The system's.
pub(crate) fn write_line(mut stream: impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    // Where a write has a limit, a part may have been taken that is not sent.
    stream.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_bounded_in_length_and_time_and_leaves_the_rest() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let soon = || Instant::now() + Duration::from_secs(60);
        (&theirs).write_all(b"one\ntwo").expect("there is room");
        assert_eq!(read_line(&ours, 4, soon()).expect("a line"), "one");
        let mut rest = [0; 3];
        (&ours).read_exact(&mut rest).expect("the rest");
        assert_eq!(&rest, b"two");
        (&theirs).write_all(b"four\n").expect("there is room");
        let error = read_line(&ours, 4, soon()).expect_err("too long");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let error = read_line(&ours, 9, Instant::now()).expect_err("too late");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        (&theirs).write_all(b"half").expect("there is room");
        drop(theirs);
        let error = read_line(&ours, 9, soon()).expect_err("half a line");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn who_asks_hears_a_line_or_that_the_connection_was_closed() {
        for answer in [Some("{\"ok\":true}\nthe rest"), None] {
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            let answers = std::thread::spawn(move || {
                let deadline = Instant::now() + Duration::from_secs(60);
                let asked = read_line(&theirs, MAX_QUESTION, deadline).expect("a line");
                let mut theirs = theirs;
                let told = theirs.write_all(answer.unwrap_or_default().as_bytes());
                told.map(|()| asked)
            });
            let question = serde_json::json!({ "ask": "status" });
            let told = ask(&ours, &question, 99, Duration::from_secs(60));
            let asked = answers.join().expect("it ends").expect("there is room");
            assert_eq!(asked, "{\"ask\":\"status\"}");
            match answer {
                Some(_) => assert_eq!(told.expect("a line"), "{\"ok\":true}"),
                None => {
                    let error = told.expect_err("it was closed");
                    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
                }
            }
        }
    }
}
