//! Sockets with deadlines: a client that stops in the middle of a message does not hold a thread.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

/// Requests are small; large payloads pass the buffer by.
const BUFFER: usize = 16 << 10;

/// Makes the kernel find out that a client is gone, and small messages leave at once.
/// `limit` is for how long the client may take nothing of what it is sent.
pub(super) fn prepare(stream: &TcpStream, limit: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(limit))?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    // After a minute of silence, six probes at intervals of ten seconds.
    setsockopt(stream, sockopt::TcpKeepIdle, &60)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &10)?;
    setsockopt(stream, sockopt::TcpKeepCount, &6)?;
    Ok(())
}

/// What a client sends.
pub(super) struct Incoming<'a> {
    reader: BufReader<&'a TcpStream>,
    /// The socket's timeout as it is now.
    timeout: Option<Duration>,
}

impl<'a> Incoming<'a> {
    pub(super) fn new(stream: &'a TcpStream) -> Incoming<'a> {
        Incoming {
            reader: BufReader::with_capacity(BUFFER, stream),
            timeout: None,
        }
    }

    /// Waits for a message to begin, as long as it takes. False when the client has left.
    pub(super) fn wait(&mut self) -> io::Result<bool> {
        if !self.reader.buffer().is_empty() {
            return Ok(true);
        }
        self.set_timeout(None)?;
        loop {
            match self.reader.fill_buf() {
                Ok(bytes) => return Ok(!bytes.is_empty()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn read_exact(&mut self, mut data: &mut [u8], deadline: Instant) -> io::Result<()> {
        while !data.is_empty() {
            if self.reader.buffer().is_empty() {
                self.set_timeout(Some(left(deadline)?))?;
            }
            match self.reader.read(data) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => data = &mut data[n..],
                Err(error) if is_transient(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(super) fn read_array<const N: usize>(&mut self, deadline: Instant) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read_exact(&mut bytes, deadline)?;
        Ok(bytes)
    }

    /// Takes bytes that nobody wants.
    pub(super) fn skip(&mut self, mut length: u64, deadline: Instant) -> io::Result<()> {
        let mut bytes = [0; BUFFER];
        while length > 0 {
            let piece = length.min(BUFFER as u64);
            self.read_exact(&mut bytes[..piece as usize], deadline)?;
            length -= piece;
        }
        Ok(())
    }

    fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if self.timeout != timeout {
            self.reader.get_ref().set_read_timeout(timeout)?;
            self.timeout = timeout;
        }
        Ok(())
    }
}

/// What a client is sent, by any number of threads.
pub(super) struct Outgoing<'a> {
    stream: &'a TcpStream,
    /// How long a message may take to leave.
    limit: Duration,
    /// Whether a message left in part only, after which nothing makes sense.
    broken: Mutex<bool>,
}

impl<'a> Outgoing<'a> {
    pub(super) fn new(stream: &'a TcpStream, limit: Duration) -> Outgoing<'a> {
        Outgoing {
            stream,
            limit,
            broken: Mutex::new(false),
        }
    }

    /// Sends a message whole, or ends the connection.
    pub(super) fn send(&self, message: &[u8]) -> io::Result<()> {
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        if *broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let sent = self.write_all(message, Instant::now() + self.limit);
        if sent.is_err() {
            *broken = true;
            // Wakes the reader too.
            let _ = self.stream.shutdown(Shutdown::Both);
        }
        sent
    }

    fn write_all(&self, mut message: &[u8], deadline: Instant) -> io::Result<()> {
        let mut stream = self.stream;
        while !message.is_empty() {
            match stream.write(message) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => message = &message[n..],
                Err(error) if is_transient(&error) => {
                    left(deadline)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A timeout that passed is looked at once more where the deadline is known.
fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "it stopped in the middle of a message",
        ));
    }
    // Zero means "for ever" to the kernel, which counts in microseconds.
    Ok(left.max(Duration::from_millis(1)))
}
