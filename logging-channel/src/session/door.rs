//! The primary's open port: takes connections and their Hellos, several at a time, so that a peer
//! which says nothing, or nonsense, keeps nobody else out.

#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::mem;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use transport::{ConnectionError, Endpoint, Handshake, Peer, Stream, Versions, wait_readable};

use super::patient::CANCEL_TICK;
use super::{ENDS, OPENING};
use crate::codec::VERSIONS;
use crate::handshake::{HandshakeError, Hello, Message, Refusal, RefusalCode};
use crate::identity::other_version;

/// Most connections that are heard at a time. Of those whose key is not known yet, the oldest from the address with
/// the most makes room for the next: who calls often keeps out nobody else.
const MOST_CALLERS: usize = 32;

/// Most backups that wait while another one's memory streams are waited for.
const MOST_WAITING: usize = 8;

/// The port and those who stand in it.
#[derive(Debug)]
pub(super) struct Door {
    tcp: TcpListener,
    endpoint: Endpoint,
    callers: Vec<Caller>,
    /// Backups that came while another's memory streams were waited for.
    waiting: VecDeque<Visitor>,
    /// Of those whose key is listed.
    told: Told,
    /// Of the others, who must not use up what is told of these.
    strangers: Told,
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
    line: Line,
    peer: SocketAddr,
    said: Vec<u8>,
    /// Which version is spoken with it, when it has told which it knows.
    version: Option<u16>,
    /// Refused: what it still says is read and thrown away, because closing a connection with
    /// unread bytes resets it, and a reset can overtake the refusal.
    leaving: bool,
    deadline: Instant,
}

/// How far a caller's connection is.
#[derive(Debug)]
enum Line {
    Opening(Box<Handshake>),
    Open(Stream),
}

/// Why a caller goes.
enum Gone {
    /// By itself, or refused before.
    Silently,
    /// It has no business here.
    Stranger(ConnectionError),
    Refused(Stream, Refusal),
}

/// A first message that was understood.
enum Said {
    /// In this version.
    Hello(Box<Hello>, u16),
    Memory {
        session: u64,
        number: u8,
    },
}

/// A backup whose Hello was understood.
#[derive(Debug)]
pub(super) struct Visitor {
    pub(super) stream: Stream,
    pub(super) peer: SocketAddr,
    pub(super) hello: Box<Hello>,
    /// The version that is spoken with it.
    pub(super) version: u16,
}

/// Who says what it has come for.
enum Visit {
    Backup(Visitor),
    Memory {
        stream: Stream,
        peer: SocketAddr,
        session: u64,
        number: u8,
    },
}

impl Door {
    pub(super) fn new(tcp: TcpListener, endpoint: Endpoint) -> io::Result<Self> {
        tcp.set_nonblocking(true)?;
        Ok(Self {
            tcp,
            endpoint,
            callers: Vec::new(),
            waiting: VecDeque::new(),
            told: Told::default(),
            strangers: Told::default(),
        })
    }

    /// Waits for a Hello, at most `tick`, or until the port is closed. A caller has `patience` to
    /// say it.
    pub(super) fn next(
        &mut self,
        tick: Option<Duration>,
        patience: Duration,
    ) -> io::Result<Option<Visitor>> {
        if let Some(visitor) = self.waiting.pop_front() {
            return Ok(Some(visitor));
        }
        match self.visit(tick, patience)? {
            Some(Visit::Backup(visitor)) => Ok(Some(visitor)),
            Some(Visit::Memory { stream, peer, .. }) => {
                self.refuse(stream, peer, &no_such_session(), patience);
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// Waits for the memory streams of a session, `count` of them and of `whom`, at most `patience`.
    pub(super) fn streams(
        &mut self,
        (session, whom): (u64, Option<&Peer>),
        count: u8,
        cancel: &AtomicBool,
        patience: Duration,
    ) -> io::Result<Vec<Stream>> {
        let deadline = Instant::now() + patience;
        let mut streams: Vec<Option<Stream>> = (0..count).map(|_| None).collect();
        while streams.iter().any(Option::is_none) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || cancel.load(Ordering::Relaxed) {
                return Err(io::Error::other("it did not open its memory streams"));
            }
            match self.visit(Some(left.min(CANCEL_TICK)), patience)? {
                None => {}
                Some(Visit::Backup(visitor)) if self.waiting.len() < MOST_WAITING => {
                    self.waiting.push_back(visitor);
                }
                Some(Visit::Backup(Visitor { stream, peer, .. })) => {
                    self.refuse(stream, peer, &too_many(), patience);
                }
                Some(Visit::Memory {
                    stream,
                    peer,
                    session: wanted,
                    number,
                }) => match streams.get_mut(usize::from(number)) {
                    Some(place @ None) if wanted == session && stream.peer() == whom => {
                        keep_alive(&stream)?;
                        *place = Some(stream);
                    }
                    _ => self.refuse(stream, peer, &no_such_session(), patience),
                },
            }
        }
        Ok(streams.into_iter().flatten().collect())
    }

    fn visit(&mut self, tick: Option<Duration>, patience: Duration) -> io::Result<Option<Visit>> {
        let now = Instant::now();
        let first = self.callers.iter().map(|caller| caller.deadline).min();
        let left = first.map(|deadline| deadline.saturating_duration_since(now));
        let wait = match (tick, left) {
            (Some(tick), Some(left)) => Some(tick.min(left)),
            (tick, left) => tick.or(left),
        };
        let mut fds = vec![self.tcp.as_fd()];
        fds.extend(self.callers.iter().map(|caller| caller.line.as_fd()));
        let ready = wait_readable(&fds, wait)?;

        // Backwards, so that those who go do not shift those who come.
        for n in (0..self.callers.len()).rev() {
            if ready[n + 1]
                && let Some(visit) = self.listen_to(n, patience)
            {
                return Ok(Some(visit));
            }
        }
        // Only now: this thread may have been busy with another backup while they spoke.
        self.turn_out(now);
        if ready[0] {
            self.let_in(patience);
        }
        Ok(None)
    }

    /// Has those go whose time was over at `now`.
    fn turn_out(&mut self, now: Instant) {
        for caller in self.callers.extract_if(.., |caller| caller.deadline <= now) {
            let peer = caller.peer;
            match caller.line {
                _ if caller.leaving => {}
                Line::Opening(handshake) => self.strangers.turned_away(peer, &handshake.give_up()),
                Line::Open(_) => self.told.warn(format_args!(
                    "{peer} connected to the logging port but said nothing"
                )),
            }
        }
    }

    /// Warns of something that callers can cause, unless that was done too often lately.
    pub(super) fn warn(&mut self, what: fmt::Arguments<'_>) {
        self.told.warn(what);
    }

    fn let_in(&mut self, patience: Duration) {
        match self.tcp.accept() {
            Ok((socket, peer)) => {
                let handshake = match self.endpoint.begin_answer(socket, OPENING, ENDS) {
                    Ok(handshake) => handshake,
                    Err(error) => return self.strangers.turned_away(peer, &error),
                };
                if self.callers.len() >= MOST_CALLERS {
                    self.make_room();
                }
                self.callers.push(Caller {
                    line: Line::Opening(Box::new(handshake)),
                    peer,
                    said: Vec::new(),
                    version: None,
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

    /// Has one go.
    fn make_room(&mut self) {
        let strangers = || {
            (self.callers.iter().enumerate())
                .filter(|(_, caller)| matches!(caller.line, Line::Opening(_)))
        };
        let from = |ip| {
            strangers()
                .filter(|(_, other)| other.peer.ip() == ip)
                .count()
        };
        // Where several are as many, and of those from one address, the one that came first.
        let goes = strangers()
            .min_by_key(|(_, caller)| (Reverse(from(caller.peer.ip())), caller.deadline))
            .map_or(0, |(n, _)| n);
        self.callers.remove(goes);
    }

    /// Reads what caller `n` says. It stays unless it is through or gone.
    fn listen_to(&mut self, n: usize, patience: Duration) -> Option<Visit> {
        let mut caller = self.callers.swap_remove(n);
        match caller.listen() {
            Ok(None) => self.callers.push(caller),
            Ok(Some((stream, said))) => {
                let peer = caller.peer;
                return Some(match said {
                    Said::Hello(hello, version) => Visit::Backup(Visitor {
                        stream,
                        peer,
                        hello,
                        version,
                    }),
                    Said::Memory { session, number } => Visit::Memory {
                        stream,
                        peer,
                        session,
                        number,
                    },
                });
            }
            Err(Gone::Silently) => {}
            Err(Gone::Stranger(error)) => {
                let told = match error {
                    ConnectionError::WrongRole { .. } => &mut self.told,
                    _ => &mut self.strangers,
                };
                told.turned_away(caller.peer, &error);
            }
            Err(Gone::Refused(stream, refusal)) => {
                self.refuse(stream, caller.peer, &refusal, patience);
            }
        }
        None
    }

    /// Sends a refusal and sees the caller out.
    pub(super) fn refuse(
        &mut self,
        stream: Stream,
        peer: SocketAddr,
        refusal: &Refusal,
        patience: Duration,
    ) {
        self.warn(format_args!("refused a backup at {peer}: {refusal}"));
        // Every version reads it.
        if let Ok(bytes) = Message::Refuse(refusal.clone()).encode(VERSIONS.newest) {
            // Fits the empty buffer of a new connection; if not, the caller sees it closed.
            let _ = stream.send_now(&bytes);
        }
        let _ = stream.shutdown(Shutdown::Write);
        if self.callers.len() < MOST_CALLERS {
            self.callers.push(Caller {
                line: Line::Open(stream),
                peer,
                said: Vec::new(),
                version: None,
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

    fn turned_away(&mut self, peer: SocketAddr, error: &ConnectionError) {
        self.warn(format_args!(
            "turned {peer} away from the logging port: {error}"
        ));
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
    /// Hears what there is. `Err`: it goes.
    fn listen(&mut self) -> Result<Option<(Stream, Said)>, Gone> {
        let stream = match &mut self.line {
            Line::Open(stream) => stream.clone(),
            Line::Opening(handshake) => {
                let Some(stream) = handshake.advance().map_err(Gone::Stranger)? else {
                    return Ok(None);
                };
                self.line = Line::Open(stream.clone());
                stream
            }
        };
        let refused = |refusal| Gone::Refused(stream.clone(), refusal);
        let mut buffer = [0; 512];
        loop {
            let n = match stream.read_now(&mut buffer) {
                Ok(0) => return Err(Gone::Silently),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Err(Gone::Silently),
            };
            if self.leaving {
                // A flood is not read to its end: the deadline has a say too.
                return Ok(None);
            }
            self.said.extend_from_slice(&buffer[..n]);
            if let Some(said) = self.understand(&stream).map_err(refused)? {
                return Ok(Some((stream, said)));
            }
        }
    }

    /// What it has come for, if it has said that. What it speaks it says before, and hears the same.
    fn understand(&mut self, stream: &Stream) -> Result<Option<Said>, Refusal> {
        loop {
            let needed = Message::needed(&self.said).map_err(|error| misunderstood(&error))?;
            if self.said.len() < needed {
                return Ok(None);
            }
            let rest = self.said.split_off(needed);
            let said = mem::replace(&mut self.said, rest);
            let spoken = self.version.map_or(VERSIONS, Versions::only);
            match (Message::decode(&said, spoken), self.version) {
                (Ok(Message::Versions(theirs)), None) => {
                    self.version = Some(agree(stream, theirs)?);
                }
                (Ok(Message::Hello(hello)), Some(version)) if self.said.is_empty() => {
                    return Ok(Some(Said::Hello(Box::new(hello), version)));
                }
                (Ok(Message::Memory { session, number }), None) if self.said.is_empty() => {
                    return Ok(Some(Said::Memory { session, number }));
                }
                (Ok(other), _) => return Err(misunderstood(&other.unexpected())),
                (Err(HandshakeError::OtherVersion { theirs, ours }), _) => {
                    return Err(other_version(ours, theirs));
                }
                (Err(error), _) => return Err(misunderstood(&error)),
            }
        }
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Line::Opening(handshake) => handshake.as_fd(),
            Line::Open(stream) => stream.as_fd(),
        }
    }
}

/// Nothing is sent over a memory stream for as long as no state is: whatever is in between is not to forget it.
fn keep_alive(stream: &Stream) -> io::Result<()> {
    const SECONDS: u32 = 30;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &SECONDS)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &SECONDS)?;
    Ok(())
}

/// Finds with a backup that speaks `theirs` which version both speak, and tells it what this side does.
fn agree(stream: &Stream, theirs: Versions) -> Result<u16, Refusal> {
    let version = VERSIONS
        .common(theirs)
        .ok_or_else(|| other_version(VERSIONS, theirs))?;
    if let Ok(bytes) = Message::Versions(VERSIONS).encode(version) {
        // Fits the empty buffer of a new connection; if not, the caller sees it closed.
        let _ = stream.send_now(&bytes);
    }
    Ok(version)
}

fn no_such_session() -> Refusal {
    Refusal {
        code: RefusalCode::NotUnderstood,
        message: "no session waits for this memory stream: start the backup again".into(),
    }
}

fn too_many() -> Refusal {
    Refusal {
        code: RefusalCode::NotNow,
        message: "the primary is taking another backup, and others wait: try again in a moment"
            .into(),
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
