//! How a connection is opened, as a machine that waits for nothing: a port can serve many callers with one thread.

use std::fmt;
use std::io;
use std::mem;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom as _, SystemRandom};
use webpki::KeyUsage;

use crate::admission::{self, Secret};
use crate::credential::Credential;
use crate::datagram::DatagramKey;
use crate::error::ConnectionError;
use crate::fingerprint::Fingerprint;
use crate::outbox::Outbox;
use crate::peer::{Peer, Role};
use crate::preface::{PREFACE_LEN, Preface, Service};
use crate::socket::{receive_now, send_now, wait_readable};
use crate::stream::{Secure, Stream};
use crate::tls::Tls;
use crate::verifier::Verifier;

/// The most bytes that a handshake has. Some 2 KiB are usual.
pub(crate) const MOST_BYTES: usize = 32 * 1024;

/// How often a wait looks whether it was cancelled.
const CANCEL_TICK: Duration = Duration::from_millis(50);

/// What goes before TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// The preface of a service of ftvm's.
    Preface(Service),
    /// Nothing: both sides have agreed on TLS by other means. On a plain endpoint nothing is done at all.
    Bare,
}

/// How long to wait.
#[derive(Debug, Clone, Copy)]
pub struct Patience<'a> {
    /// Until then.
    pub deadline: Instant,
    /// Ends the wait early.
    pub cancel: Option<&'a AtomicBool>,
}

impl Patience<'_> {
    /// Until so long from now.
    #[must_use]
    pub fn of(time: Duration) -> Patience<'static> {
        Patience {
            deadline: Instant::now() + time,
            cancel: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Caller,
    Answerer,
}

/// What a handshake on a secure endpoint needs.
pub(crate) struct Means {
    pub(crate) side: Side,
    pub(crate) tls: Tls,
    pub(crate) verifier: Arc<Verifier>,
    /// This side's key.
    pub(crate) own: Fingerprint,
}

/// A connection that is being opened.
pub struct Handshake {
    socket: Arc<TcpStream>,
    side: Side,
    /// What this side says of itself; `None` where nothing goes before TLS.
    preface: Option<Preface>,
    /// `None`: plain.
    means: Option<Means>,
    /// Who may be at the other end.
    roles: &'static [Role],
    phase: Phase,
    /// What came and is not done with.
    incoming: Vec<u8>,
    /// Data that came.
    data: Vec<u8>,
    /// How many bytes came in all.
    received: usize,
    outbox: Outbox,
}

#[derive(Debug)]
enum Phase {
    Preface,
    Tls,
    /// The caller waits to be admitted.
    Admission(Peer),
    /// The answerer waits until the caller has gone, for this reason: closing a connection with unread bytes
    /// resets it, and a reset can overtake what says why.
    Leaving(ConnectionError),
}

impl Handshake {
    pub(crate) fn new(
        socket: Arc<TcpStream>,
        side: Side,
        preface: Option<Preface>,
        means: Option<Means>,
        roles: &'static [Role],
    ) -> Self {
        let mut outbox = Outbox::default();
        if let (Side::Caller, Some(preface)) = (side, preface) {
            outbox.push(&preface.encode());
        }
        let mut means = means;
        if let (Side::Caller, Some(means)) = (side, &mut means) {
            // The first message of TLS goes with the preface. An error shows at the next step.
            let _ = means.tls.receive(&mut [], |_| {});
            means.tls.give_control(&mut outbox);
        }
        Self {
            socket,
            side,
            preface,
            means,
            roles,
            phase: match preface {
                Some(_) => Phase::Preface,
                None => Phase::Tls,
            },
            incoming: Vec::new(),
            data: Vec::new(),
            received: 0,
            outbox,
        }
    }

    /// Goes on with what is there, without waiting: `None` until the connection is open. To be called at once, and
    /// again each time that the socket can be read.
    ///
    /// # Errors
    /// [`ConnectionError`]: there will be no connection.
    pub fn advance(&mut self) -> Result<Option<Stream>, ConnectionError> {
        loop {
            match self.go_on() {
                Ok(Some(stream)) => return Ok(Some(stream)),
                Ok(None) => self.send()?,
                Err(error) => self.fail(error)?,
            }
            if !self.receive()? {
                return Ok(None);
            }
        }
    }

    /// Goes on until the connection is open, and waits for that.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub fn finish(mut self, patience: Patience<'_>) -> Result<Stream, ConnectionError> {
        loop {
            if let Some(stream) = self.advance()? {
                return Ok(stream);
            }
            if patience.cancel.is_some_and(|c| c.load(Ordering::Relaxed)) {
                return Err(ConnectionError::Cancelled);
            }
            let left = patience.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.give_up());
            }
            let wait = match patience.cancel {
                Some(_) => left.min(CANCEL_TICK),
                None => left,
            };
            wait_readable(&[self.socket.as_fd()], Some(wait)).map_err(ConnectionError::Io)?;
        }
    }

    /// Its time is over. Says why there is no connection.
    #[must_use]
    pub fn give_up(self) -> ConnectionError {
        match self.phase {
            Phase::Leaving(reason) => reason,
            _ => ConnectionError::TimedOut,
        }
    }

    /// How many bytes it has room for, of what came and what is to be sent.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn held(&self) -> usize {
        self.incoming.capacity() + self.data.capacity() + self.outbox.capacity()
    }

    fn go_on(&mut self) -> Result<Option<Stream>, ConnectionError> {
        loop {
            match &self.phase {
                Phase::Preface => {
                    let Some(preface) = self.preface else {
                        unreachable!("there is a preface to be compared with");
                    };
                    if !Preface::begins(&self.incoming) {
                        return Err(ConnectionError::NotFtvm);
                    }
                    let Some(theirs) = self.incoming.first_chunk::<PREFACE_LEN>().copied() else {
                        return Ok(None);
                    };
                    self.incoming.clear();
                    if self.side == Side::Answerer {
                        self.outbox.push(&preface.encode());
                    }
                    preface.compare(&theirs)?;
                    if self.means.is_none() {
                        return self.open_plain().map(Some);
                    }
                    self.phase = Phase::Tls;
                }
                Phase::Tls => {
                    let Some(means) = &mut self.means else {
                        return self.open_plain().map(Some);
                    };
                    means.take_records(&mut self.incoming, &mut self.data, &mut self.outbox)?;
                    if means.tls.is_handshaking() {
                        return Ok(None);
                    }
                    let peer = self.identify()?;
                    match (self.side, self.preface) {
                        (Side::Caller, Some(_)) => self.phase = Phase::Admission(peer),
                        (Side::Answerer, Some(_)) => {
                            let secret = self.admit()?;
                            return self.open(peer, Some(secret)).map(Some);
                        }
                        (_, None) => return self.open(peer, None).map(Some),
                    }
                }
                Phase::Admission(peer) => {
                    let peer = peer.clone();
                    let means = self.means.as_mut().expect("it is secure");
                    means.take_records(&mut self.incoming, &mut self.data, &mut self.outbox)?;
                    let Some((secret, len)) = admission::read(&self.data)? else {
                        return Ok(None);
                    };
                    self.data.drain(..len);
                    return self.open(peer, Some(secret)).map(Some);
                }
                Phase::Leaving(_) => {
                    self.incoming.clear();
                    return Ok(None);
                }
            }
        }
    }

    /// Who is at the other end, if it is somebody who may be.
    fn identify(&mut self) -> Result<Peer, ConnectionError> {
        let means = self.means.as_mut().expect("it is secure");
        if let Some(preface) = self.preface
            && means.tls.alpn() != Some(preface.service.alpn())
        {
            return Err(ConnectionError::Tls("it means another service".into()));
        }
        let credential = means.credential()?;
        let Some(peer) = means.verifier.trust.identify(&credential) else {
            return Err(ConnectionError::UnknownKey(credential.fingerprint));
        };
        if self.roles.contains(&peer.role) {
            return Ok(peer);
        }
        let error = ConnectionError::WrongRole {
            peer,
            wanted: self.roles,
        };
        if self.side == Side::Answerer && self.preface.is_some() {
            let words = admission::refuse(&error.to_string());
            // Who has gone already is not told.
            let _ = means.tls.encrypt(&words, &mut self.outbox);
        }
        Err(error)
    }

    fn admit(&mut self) -> Result<Secret, ConnectionError> {
        let mut secret = Secret::default();
        let failed = |_| ConnectionError::Tls("the system gives no random numbers".into());
        SystemRandom::new().fill(&mut secret).map_err(failed)?;
        let means = self.means.as_mut().expect("it is secure");
        let encrypted = means
            .tls
            .encrypt(&admission::admit(&secret), &mut self.outbox);
        encrypted.map_err(|_| ConnectionError::HungUp)?;
        Ok(secret)
    }

    fn open_plain(&mut self) -> Result<Stream, ConnectionError> {
        self.send()?;
        Ok(Stream::new(Arc::clone(&self.socket), None))
    }

    fn open(&mut self, peer: Peer, secret: Option<Secret>) -> Result<Stream, ConnectionError> {
        self.send()?;
        let means = self.means.take().expect("it is secure");
        let credential = means.credential()?;
        let trust = &means.verifier.trust;
        let is_revoked = trust.watch(credential, peer.clone(), &self.socket)?;
        let secure = Secure::new(
            means.tls,
            (peer, is_revoked),
            secret.map(|secret| DatagramKey::new(&secret)),
            &self.incoming,
            mem::take(&mut self.data),
            mem::take(&mut self.outbox),
        );
        Ok(Stream::new(Arc::clone(&self.socket), Some(secure)))
    }

    /// Sees the other side out, which is told why as far as it can be.
    fn fail(&mut self, error: ConnectionError) -> Result<(), ConnectionError> {
        let sent = self.send();
        if self.side == Side::Caller || sent.is_err() {
            return Err(error);
        }
        let _ = self.socket.shutdown(Shutdown::Write);
        self.phase = Phase::Leaving(error);
        Ok(())
    }

    /// Sends what there is. What does not go at once, which is rare with so little, goes at the next step.
    fn send(&mut self) -> Result<(), ConnectionError> {
        match self.outbox.send(|bytes| send_now(&*self.socket, bytes)) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(self.ended(error)),
            _ => Ok(()),
        }
    }

    /// Reads what there is. Whether something came.
    fn receive(&mut self) -> Result<bool, ConnectionError> {
        let mut buffer = [0; 4096];
        let room = match self.phase {
            // What is behind it on a plain connection is the service's.
            Phase::Preface => &mut buffer[..PREFACE_LEN - self.incoming.len()],
            _ => &mut buffer[..],
        };
        match receive_now(&*self.socket, room) {
            Ok(0) => Err(self.ended(io::ErrorKind::UnexpectedEof.into())),
            Ok(count) if self.received + count > MOST_BYTES => {
                Err(self.ended(io::Error::other("it says more than a handshake has")))
            }
            Ok(count) => {
                self.received += count;
                self.incoming.extend_from_slice(&buffer[..count]);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(self.ended(error)),
        }
    }

    /// The connection has ended: because of what was wrong before, or by itself.
    fn ended(&mut self, error: io::Error) -> ConnectionError {
        match mem::replace(&mut self.phase, Phase::Leaving(ConnectionError::HungUp)) {
            Phase::Leaving(reason) => reason,
            _ if error.kind() == io::ErrorKind::UnexpectedEof => ConnectionError::HungUp,
            _ => ConnectionError::Io(error),
        }
    }
}

impl Means {
    /// Takes what came.
    fn take_records(
        &mut self,
        incoming: &mut Vec<u8>,
        data: &mut Vec<u8>,
        outbox: &mut Outbox,
    ) -> Result<(), ConnectionError> {
        let taken = self
            .tls
            .receive(incoming, |record| data.extend_from_slice(record));
        self.tls.give_control(outbox);
        let taken = taken.map_err(|error| ConnectionError::of_tls(&error, self.own))?;
        incoming.drain(..taken);
        Ok(())
    }

    /// What the other side has shown.
    fn credential(&self) -> Result<Credential, ConnectionError> {
        let usage = match self.side {
            Side::Caller => KeyUsage::server_auth(),
            Side::Answerer => KeyUsage::client_auth(),
        };
        let [own, above @ ..] = self.tls.certificates() else {
            return Err(ConnectionError::Tls("it has shown no certificate".into()));
        };
        Credential::read(own, above, &self.verifier.algorithms, usage)
            .map_err(|error| ConnectionError::of_tls(&error, self.own))
    }
}

impl AsFd for Handshake {
    /// To wait until it can be read.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake")
            .field("socket", &self.socket)
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}
