//! An open connection.

mod secure;

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::secure::Receiving;
pub(crate) use self::secure::Secure;
use crate::datagram::DatagramKey;
use crate::mode::Mode;
use crate::peer::Peer;
use crate::socket::{receive_now, send_now, wait_readable};
use crate::tls::holds_record;

/// What is encrypted and sent at once. Reading waits that long.
const SEND_CHUNK: usize = 128 * 1024;

/// An open connection, to be used as a [`TcpStream`] is: reading and writing at a time, by a thread each, and any
/// number of handles of it (it is cloned as an `Arc` is).
///
/// What differs on a secure one:
/// - A read that got a part of a record only, and so nothing to give, ends with [`io::ErrorKind::Interrupted`]:
///   who has a deadline looks at it then, and everybody else tries again anyway.
/// - A write that took bytes may still hold some that the socket did not take: with a timeout, or without waiting.
///   They go before the next bytes, or with [`Stream::flush`]. A write fails only if it took nothing.
/// - When the last handle goes, the peer is told that this was on purpose, as [`Stream::shutdown`] does.
/// - A connection that ends without its peer having said so is [`io::ErrorKind::UnexpectedEof`].
/// - One whose peer is not listed any more is [`io::ErrorKind::PermissionDenied`], also for what came before.
#[derive(Clone)]
pub struct Stream(Arc<Inner>);

struct Inner {
    socket: Arc<TcpStream>,
    secure: Option<Secure>,
}

impl Stream {
    /// A connection that is not authenticated and not encrypted.
    #[must_use]
    pub fn plain(socket: impl Into<Arc<TcpStream>>) -> Self {
        Self::new(socket.into(), None)
    }

    pub(crate) fn new(socket: Arc<TcpStream>, secure: Option<Secure>) -> Self {
        Self(Arc::new(Inner { socket, secure }))
    }

    /// Who is at the other end; `None` on a plain connection, where that is not known.
    #[must_use]
    pub fn peer(&self) -> Option<&Peer> {
        self.0.secure.as_ref().map(|secure| &secure.peer)
    }

    /// Whether it is authenticated and encrypted.
    #[must_use]
    pub fn mode(&self) -> Mode {
        match self.0.secure {
            Some(_) => Mode::Secure,
            None => Mode::Plain,
        }
    }

    /// For datagrams that belong to this connection: both ends have the same. `None` on a plain connection, and on
    /// one that was opened [bare](crate::Opening::Bare).
    #[must_use]
    pub fn datagrams(&self) -> Option<&DatagramKey> {
        self.0.secure.as_ref()?.datagrams.as_ref()
    }

    /// The address of the other end.
    ///
    /// # Errors
    /// The system's.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.0.socket.peer_addr()
    }

    /// The address of this end.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.socket.local_addr()
    }

    /// See [`TcpStream::set_nodelay`].
    ///
    /// # Errors
    /// The system's.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.0.socket.set_nodelay(nodelay)
    }

    /// How long one call of the system's may wait in [`Read::read`]; see [`TcpStream::set_read_timeout`].
    ///
    /// # Errors
    /// The system's.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.socket.set_read_timeout(timeout)
    }

    /// How long one call of the system's may wait in [`Write::write`]; see [`TcpStream::set_write_timeout`].
    ///
    /// # Errors
    /// The system's.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.socket.set_write_timeout(timeout)
    }

    /// Ends one direction or both, and wakes whoever waits in this connection's calls. Nothing is waited for; the
    /// peer is told that this was on purpose unless another thread is just sending.
    ///
    /// # Errors
    /// The system's.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if how != Shutdown::Read {
            self.0.say_goodbye();
        }
        self.0.socket.shutdown(how)
    }

    /// Whether something came that can be read without a look at the socket.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.0.secure.as_ref().is_some_and(|secure| {
            let receiving = secure.receiving.lock();
            receiving.taken < receiving.data.len()
                || holds_record(&receiving.bytes[receiving.start..receiving.end])
        })
    }

    /// Waits until there is something to read here, or one of `others` can be read, at most `timeout` (`None`: for
    /// ever). Gives for each whether it is so, this one first. What there is may turn out to be less than
    /// [`Stream::read_now`] can give.
    ///
    /// # Errors
    /// The system's.
    pub fn wait_readable(
        &self,
        others: &[BorrowedFd<'_>],
        timeout: Option<Duration>,
    ) -> io::Result<Vec<bool>> {
        let holds = self.holds();
        let timeout = if holds { Some(Duration::ZERO) } else { timeout };
        let fds: Vec<_> = [self.as_fd()]
            .into_iter()
            .chain(others.iter().copied())
            .collect();
        let mut ready = wait_readable(&fds, timeout)?;
        ready[0] |= holds;
        Ok(ready)
    }

    /// Reads what there is, without waiting; 0 bytes at the end of the stream.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if there is nothing, and those of [`Read::read`].
    pub fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.0.secure {
            None => receive_now(&*self.0.socket, buffer),
            Some(secure) => {
                let read = self.receive(secure, buffer, |room| receive_now(&*self.0.socket, room));
                read.map_err(|error| match error.kind() {
                    io::ErrorKind::Interrupted => io::ErrorKind::WouldBlock.into(),
                    _ => error,
                })
            }
        }
    }

    /// Reads what there is, and waits for it until `deadline` if there is nothing; 0 bytes at the end of the
    /// stream.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`], and those of [`Read::read`].
    pub fn read_until(&self, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
        loop {
            match self.read_now(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.wait_readable(&[], Some(left))?;
        }
    }

    /// Takes what can be sent without waiting. Some of it may still have to be sent, as [`Stream::flush_now`]
    /// says.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if it takes nothing, and the system's.
    pub fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.0.secure {
            None => send_now(&*self.0.socket, bytes),
            Some(secure) => self.send(secure, &[IoSlice::new(bytes)], |bytes| {
                send_now(&*self.0.socket, bytes)
            }),
        }
    }

    /// Sends what was taken, as far as that goes without waiting. Whether all of it is sent.
    ///
    /// # Errors
    /// The system's.
    pub fn flush_now(&self) -> io::Result<bool> {
        let Some(secure) = &self.0.secure else {
            return Ok(true);
        };
        match secure.push(|bytes| send_now(&*self.0.socket, bytes)) {
            Ok(()) => Ok(true),
            Err(error) if is_full(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn receive(
        &self,
        secure: &Secure,
        buffer: &mut [u8],
        read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let mut receiving = secure.receiving.lock();
        if let Some(given) = self.give(secure, &mut receiving, buffer)? {
            return Ok(given);
        }
        let came = read(receiving.room())?;
        if came == 0 {
            secure.check()?;
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        receiving.end += came;
        match self.give(secure, &mut receiving, buffer)? {
            Some(given) => Ok(given),
            None => Err(io::ErrorKind::Interrupted.into()),
        }
    }

    /// Decrypts what came, into `buffer` as far as there is room; 0 bytes at the end of the stream. `None` if there
    /// is nothing yet.
    fn give(
        &self,
        secure: &Secure,
        receiving: &mut Receiving,
        buffer: &mut [u8],
    ) -> io::Result<Option<usize>> {
        secure.check()?;
        let mut given = receiving.give(buffer);
        while given < buffer.len() {
            if let Some(broken) = &receiving.broken {
                return match given {
                    0 => Err(io::Error::new(io::ErrorKind::InvalidData, broken.clone())),
                    given => Ok(Some(given)),
                };
            }
            receiving.data.clear();
            receiving.taken = 0;
            let before = given;
            let mut tls = secure.tls.lock();
            let came = &mut receiving.bytes[receiving.start..receiving.end];
            let taken = tls.receive(came, |data| {
                let fits = data.len().min(buffer.len() - given);
                buffer[given..given + fits].copy_from_slice(&data[..fits]);
                given += fits;
                receiving.data.extend_from_slice(&data[fits..]);
            });
            let (has_control, has_ended) = (tls.has_control(), tls.has_ended());
            drop(tls);
            if has_control {
                self.send_control(secure);
            }
            match taken {
                Ok(taken) => receiving.start += taken,
                Err(error) => {
                    // Somebody on the way has a hand in it: nothing that comes is of use any more.
                    receiving.broken = Some(format!("what came was not sent so: {error}"));
                    let _ = self.0.socket.shutdown(Shutdown::Both);
                    continue;
                }
            }
            if given == before {
                return Ok((given > 0 || has_ended).then_some(given));
            }
        }
        Ok(Some(given))
    }

    /// Sends what is no data. If that does not go without waiting, it goes before the next data.
    fn send_control(&self, secure: &Secure) {
        if let Some(mut sending) = secure.sending.try_lock() {
            secure.tls.lock().give_control(&mut sending);
            let _ = sending.send(|bytes| send_now(&*self.0.socket, bytes));
        }
    }

    fn send(
        &self,
        secure: &Secure,
        parts: &[IoSlice<'_>],
        write: impl Fn(&[u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        secure.check()?;
        let mut sending = secure.sending.lock();
        sending.send(&write)?;
        let mut taken = 0;
        {
            let mut tls = secure.tls.lock();
            for part in parts {
                let chunk = &part[..part.len().min(SEND_CHUNK - taken)];
                let encrypted = tls.encrypt(chunk, &mut sending);
                encrypted.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
                taken += chunk.len();
            }
        }
        match sending.send(&write) {
            Err(error) if !is_full(&error) => Err(error),
            _ => Ok(taken),
        }
    }
}

impl Inner {
    /// Sends what is encrypted, and that nothing follows, as far as that goes without waiting.
    fn say_goodbye(&self) {
        if let Some(secure) = &self.secure
            && let Some(mut sending) = secure.sending.try_lock()
        {
            // Once: after it nothing is encrypted any more.
            let _ = secure.tls.lock().end(&mut sending);
            let _ = sending.send(|bytes| send_now(&*self.socket, bytes));
        }
    }
}

impl Drop for Inner {
    /// Who is done with a connection ends it on purpose.
    fn drop(&mut self) {
        self.say_goodbye();
    }
}

/// The socket takes no more for now, or did not in its time.
fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut socket = &*self.0.socket;
        match &self.0.secure {
            None => socket.read(buffer),
            Some(secure) => self.receive(secure, buffer, |room| socket.read(room)),
        }
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut socket = &*self.0.socket;
        match &self.0.secure {
            None => socket.write_vectored(parts),
            Some(secure) => self.send(secure, parts, |bytes| (&*self.0.socket).write(bytes)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &self.0.secure {
            None => Ok(()),
            Some(secure) => secure.push(|bytes| (&*self.0.socket).write(bytes)),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self).write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&*self).flush()
    }
}

impl AsFd for Stream {
    /// For options of the socket, and to wait; see [`Stream::holds`] before that.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.socket.as_fd()
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("socket", &self.0.socket)
            .field("peer", &self.peer())
            .finish_non_exhaustive()
    }
}
