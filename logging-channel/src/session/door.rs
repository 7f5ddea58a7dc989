//! The primary's open port: takes connections and their Hellos, several at a time, so that a peer
//! which says nothing, or nonsense, keeps nobody else out.

use std::fmt;
use std::io::{self, Read};
use std::mem;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::handshake::{HandshakeError, Hello, Message, Refusal, RefusalCode};
use crate::identity::version_difference;
use crate::socket::{send_now, wait_readable};

/// Most connections that are heard at a time. The oldest makes room for the next.
const MOST_CALLERS: usize = 32;

/// The port and those who stand in it.
#[derive(Debug)]
pub(super) struct Door {
    tcp: TcpListener,
    callers: Vec<Caller>,
    told: Told,
}

/// What the log was told of callers, who may come at any rate.
#[derive(Debug, Default)]
struct Told {
    /// Since when.
    since: Option<Instant>,
    lines: u32,
    /// Lines that were too many since the last one.
    left_out: u64,
}

/// A connection that has not said its Hello, or was refused.
#[derive(Debug)]
struct Caller {
    stream: TcpStream,
    peer: SocketAddr,
    said: Vec<u8>,
    /// Refused: what it still says is read and thrown away, because closing a connection with
    /// unread bytes resets it, and a reset can overtake the refusal.
    leaving: bool,
    deadline: Instant,
}

/// A backup whose Hello was understood.
pub(super) struct Visitor {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) hello: Hello,
}

impl Door {
    pub(super) fn new(tcp: TcpListener) -> io::Result<Self> {
        tcp.set_nonblocking(true)?;
        Ok(Self {
            tcp,
            callers: Vec::new(),
            told: Told::default(),
        })
    }

    /// Waits for a Hello, at most `tick`, or until the port is closed. A caller has `patience` to
    /// say it.
    pub(super) fn next(
        &mut self,
        tick: Option<Duration>,
        patience: Duration,
    ) -> io::Result<Option<Visitor>> {
        let now = Instant::now();
        self.callers.retain(|caller| {
            let stays = caller.deadline > now;
            if !stays && !caller.leaving {
                self.told.warn(format_args!(
                    "{} connected to the logging port but said nothing",
                    caller.peer
                ));
            }
            stays
        });
        let first = self.callers.iter().map(|caller| caller.deadline).min();
        let left = first.map(|deadline| deadline - now);
        let wait = match (tick, left) {
            (Some(tick), Some(left)) => Some(tick.min(left)),
            (tick, left) => tick.or(left),
        };
        let mut fds = vec![self.tcp.as_fd()];
        fds.extend(self.callers.iter().map(|caller| caller.stream.as_fd()));
        let ready = wait_readable(&fds, wait)?;

        // Backwards, so that those who go do not shift those who come.
        for n in (0..self.callers.len()).rev() {
            if ready[n + 1]
                && let Some(visitor) = self.listen_to(n, patience)
            {
                return Ok(Some(visitor));
            }
        }
        if ready[0] {
            self.let_in(patience);
        }
        Ok(None)
    }

    /// Warns of something that callers can cause, unless that was done too often lately.
    pub(super) fn warn(&mut self, what: fmt::Arguments<'_>) {
        self.told.warn(what);
    }

    fn let_in(&mut self, patience: Duration) {
        match self.tcp.accept() {
            Ok((stream, peer)) => {
                if stream.set_nonblocking(true).is_err() {
                    return;
                }
                if self.callers.len() >= MOST_CALLERS {
                    self.callers.remove(0);
                }
                self.callers.push(Caller {
                    stream,
                    peer,
                    said: Vec::new(),
                    leaving: false,
                    deadline: Instant::now() + patience,
                });
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The port was closed to end the wait.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            Err(error) => {
                self.warn(format_args!(
                    "cannot take a connection to the logging port: {error}"
                ));
                // Out of descriptors, most likely: it stays readable, so do not spin.
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    /// Reads what caller `n` says. It stays unless it is through or gone.
    fn listen_to(&mut self, n: usize, patience: Duration) -> Option<Visitor> {
        let mut caller = self.callers.swap_remove(n);
        match caller.listen() {
            Ok(None) => self.callers.push(caller),
            Ok(Some(hello)) => {
                let _ = caller.stream.set_nonblocking(false);
                return Some(Visitor {
                    stream: caller.stream,
                    peer: caller.peer,
                    hello,
                });
            }
            Err(None) => {}
            Err(Some(refusal)) => self.refuse(caller.stream, caller.peer, &refusal, patience),
        }
        None
    }

    /// Sends a refusal and sees the caller out.
    pub(super) fn refuse(
        &mut self,
        stream: TcpStream,
        peer: SocketAddr,
        refusal: &Refusal,
        patience: Duration,
    ) {
        self.warn(format_args!("refused a backup at {peer}: {refusal}"));
        if let Ok(bytes) = Message::Refuse(refusal.clone()).encode() {
            // Fits the empty buffer of a new connection; if not, the caller sees it closed.
            let _ = send_now(&stream, &bytes);
        }
        let _ = stream.shutdown(Shutdown::Write);
        if stream.set_nonblocking(true).is_ok() && self.callers.len() < MOST_CALLERS {
            self.callers.push(Caller {
                stream,
                peer,
                said: Vec::new(),
                leaving: true,
                deadline: Instant::now() + patience,
            });
        }
    }
}

impl Told {
    /// At most so many lines in [`Told::PERIOD`].
    const MOST: u32 = 10;
    const PERIOD: Duration = Duration::from_secs(60);

    fn warn(&mut self, what: fmt::Arguments<'_>) {
        match self.let_through(Instant::now()) {
            None => {}
            Some(0) => log::warn!("{what}"),
            Some(left_out) => log::warn!("{what} ({left_out} more like this before)"),
        }
    }

    /// Whether a line may be told, and how many were left out before it.
    fn let_through(&mut self, now: Instant) -> Option<u64> {
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= Self::PERIOD {
            self.since = Some(now);
            self.lines = 0;
        }
        if self.lines == Self::MOST {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(mem::take(&mut self.left_out))
    }
}

impl Caller {
    /// Reads what there is. `Err`: it goes, refused or not.
    fn listen(&mut self) -> Result<Option<Hello>, Option<Refusal>> {
        let mut buffer = [0; 512];
        loop {
            let n = match self.stream.read(&mut buffer) {
                Ok(0) => return Err(None),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Err(None),
            };
            if self.leaving {
                // A flood is not read to its end: the deadline has a say too.
                return Ok(None);
            }
            self.said.extend_from_slice(&buffer[..n]);
            let needed =
                Message::needed(&self.said).map_err(|error| Some(misunderstood(&error)))?;
            if self.said.len() < needed {
                continue;
            }
            return match Message::decode(&self.said) {
                Ok(Message::Hello(hello)) => Ok(Some(hello)),
                Ok(_) => Err(Some(misunderstood(&"the first message must be a Hello"))),
                Err(HandshakeError::OtherVersion { found }) => Err(version_difference(found)),
                Err(error) => Err(Some(misunderstood(&error))),
            };
        }
    }
}

fn misunderstood(why: &dyn std::fmt::Display) -> Refusal {
    Refusal {
        code: RefusalCode::NotUnderstood,
        message: format!(
            "what the peer sent is not an ftvm handshake ({why}): only an ftvm backup may connect to the logging port"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_cannot_fill_the_log() {
        let mut told = Told::default();
        let start = Instant::now();
        let lines = (0..1000).filter_map(|_| told.let_through(start));
        assert_eq!(lines.count(), Told::MOST as usize);
        let later = start + Told::PERIOD;
        assert_eq!(told.let_through(later), Some(1000 - u64::from(Told::MOST)));
        assert_eq!(told.let_through(later), Some(0));
    }
}
