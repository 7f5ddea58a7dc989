//! Sockets with deadlines: a client that stops in the middle of a message, or gives and takes a byte
//! now and then, does not hold a thread.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use parking_lot::{Mutex, MutexGuard};
use transport::Stream;

/// Requests are small; large payloads pass the buffer by.
const BUFFER: usize = 16 << 10;

/// Makes the kernel find out that a client is gone, and small messages leave at once.
/// `limit` is for how long a message may take.
pub(super) fn prepare(stream: &Stream, limit: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // The kernel's timeouts are for one call, and deadlines are looked at between calls. To set
    // the kernel's to what is left each time would cost a system call for every request.
    // Zero means "for ever" to the kernel, which counts in microseconds.
    let call = (limit / 4).max(Duration::from_millis(1));
    stream.set_read_timeout(Some(call))?;
    stream.set_write_timeout(Some(call))?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    // After a minute of silence, six probes at intervals of ten seconds.
    setsockopt(stream, sockopt::TcpKeepIdle, &60)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &10)?;
    setsockopt(stream, sockopt::TcpKeepCount, &6)?;
    Ok(())
}

/// What a client sends.
pub(crate) struct Incoming<'a> {
    reader: BufReader<&'a Stream>,
}

impl<'a> Incoming<'a> {
    pub(crate) fn new(stream: &'a Stream) -> Incoming<'a> {
        Incoming {
            reader: BufReader::with_capacity(BUFFER, stream),
        }
    }

    /// Whether so many bytes are here, and reading them waits for nothing.
    pub(crate) fn holds(&self, bytes: usize) -> bool {
        self.reader.buffer().len() >= bytes
    }

    /// Waits for a message to begin, as long as it takes. False when the client has left.
    pub(super) fn wait(&mut self) -> io::Result<bool> {
        loop {
            match self.reader.fill_buf() {
                Ok(bytes) => return Ok(!bytes.is_empty()),
                Err(error) if is_transient(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn read_exact(&mut self, mut data: &mut [u8], deadline: Instant) -> io::Result<()> {
        while !data.is_empty() {
            if self.reader.buffer().is_empty() {
                look_at(deadline)?;
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
}

/// What a client is sent, by any number of threads.
pub(crate) struct Outgoing<'a> {
    stream: &'a Stream,
    /// How long a message may take to leave.
    limit: Duration,
    /// Whether a message left in part only, after which nothing makes sense.
    broken: Mutex<bool>,
}

impl<'a> Outgoing<'a> {
    pub(crate) fn new(stream: &'a Stream, limit: Duration) -> Outgoing<'a> {
        Outgoing {
            stream,
            limit,
            broken: Mutex::new(false),
        }
    }

    /// Sends a message whole, or ends the connection.
    pub(super) fn send(&self, message: &[u8]) -> io::Result<()> {
        self.begin()?.send(message)
    }

    /// Waits for the messages before, and begins one that is sent in parts.
    pub(super) fn begin(&self) -> io::Result<Message<'_>> {
        let broken = self.broken.lock();
        if *broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(Message {
            stream: self.stream,
            left: self.limit,
            broken,
        })
    }
}

/// A message that is being sent.
pub(super) struct Message<'a> {
    stream: &'a Stream,
    /// How long the client may still take for it. Between two parts its time stands still.
    left: Duration,
    broken: MutexGuard<'a, bool>,
}

impl Message<'_> {
    /// Sends a part, or ends the connection.
    pub(super) fn send(&mut self, part: &[u8]) -> io::Result<()> {
        let deadline = Instant::now() + self.left;
        let sent = self.write_all(part, deadline);
        self.left = deadline.saturating_duration_since(Instant::now());
        if sent.is_err() {
            self.break_off();
        }
        sent
    }

    /// Ends the connection: the rest of the message cannot be had.
    pub(super) fn break_off(&mut self) {
        *self.broken = true;
        // Wakes the reader too.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn write_all(&self, mut part: &[u8], deadline: Instant) -> io::Result<()> {
        let mut stream = self.stream;
        while !part.is_empty() {
            match stream.write(part) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => part = &part[n..],
                Err(error) if is_transient(&error) => {}
                Err(error) => return Err(error),
            }
            if !part.is_empty() {
                look_at(deadline)?;
            }
        }
        // What was taken is not sent yet, where it had to be encrypted and the client takes little.
        while let Err(error) = stream.flush() {
            if !is_transient(&error) {
                return Err(error);
            }
            look_at(deadline)?;
        }
        Ok(())
    }
}

/// The kernel's timeout passed, or a signal came: it is for the deadline to say what that means.
fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

fn look_at(deadline: Instant) -> io::Result<()> {
    if Instant::now() < deadline {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        "it stopped in the middle of a message, or was too slow",
    ))
}
