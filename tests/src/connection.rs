//! A connection to the agent of a host, for one request.

use std::io::{self, Read};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::protocol::{Exit, Frame};

/// How often a silent connection looks whether its host is still there.
const POLL: Duration = Duration::from_millis(100);

/// Tells whether a host still runs.
pub(crate) type Alive = Arc<dyn Fn() -> bool + Send + Sync>;

/// Which output a piece came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A connection to an agent, which fails when its host is gone.
#[derive(Clone)]
pub(crate) struct Connection {
    host: String,
    stream: Arc<TcpStream>,
    alive: Alive,
}

impl Connection {
    /// Opens one, if the host still runs.
    pub(crate) fn open(
        host: String,
        alive: Alive,
        connect: impl FnOnce() -> io::Result<TcpStream>,
    ) -> Result<Self> {
        let open = || {
            if !alive() {
                return Err(gone());
            }
            let stream = connect()?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(POLL))?;
            Ok(stream)
        };
        match open() {
            Ok(stream) => Ok(Self {
                host,
                stream: Arc::new(stream),
                alive,
            }),
            Err(source) => Err(Error::Agent { host, source }),
        }
    }

    /// The name of the host.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The error of this connection, or of what came over it.
    pub(crate) fn lost(&self, source: io::Error) -> Error {
        Error::Agent {
            host: self.host.clone(),
            source,
        }
    }

    pub(crate) fn send(&self, frame: &Frame) -> Result<()> {
        frame
            .write_to(&*self.stream)
            .map_err(|source| self.lost(source))
    }

    /// Reads frames up to the last one.
    pub(crate) fn receive(&self, mut sink: impl FnMut(Source, &[u8])) -> Result<Exit> {
        loop {
            match Frame::read_from(self).map_err(|source| self.lost(source))? {
                Some(Frame::Stdout(bytes)) => sink(Source::Stdout, &bytes),
                Some(Frame::Stderr(bytes)) => sink(Source::Stderr, &bytes),
                Some(Frame::Exit(exit)) => return Ok(exit),
                Some(Frame::Failed(reason)) => {
                    return Err(Error::Refused {
                        host: self.host.clone(),
                        reason,
                    });
                }
                Some(other) => {
                    let what = format!("the agent sent {other:?}");
                    return Err(self.lost(io::Error::new(io::ErrorKind::InvalidData, what)));
                }
                None => return Err(self.lost(io::ErrorKind::UnexpectedEof.into())),
            }
        }
    }

    pub(crate) fn close(&self) {
        // It may be closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Read for &Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match (&*self.stream).read(buffer) {
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) =>
                {
                    if !(self.alive)() {
                        return Err(gone());
                    }
                }
                result => return result,
            }
        }
    }
}

/// The error of a connection whose host has been killed.
fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the host is gone")
}
