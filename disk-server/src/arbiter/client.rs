//! The client: what a virtual machine monitor uses to claim an epoch.

mod listing;

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use transport::{Endpoint, Peer};

use super::address::ServerAddress;
use super::connection::{CallError, Connection};
use super::decision::{Next, Record};
use super::lines::CANCEL_POLL;
use super::names::{Claimant, ServerNumber, VmName};
use super::protocol::{Request, Response};
use crate::fleet::{Answer, Operation, Order};
use crate::views::Ping;

/// How patient a client is.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// For a connection to come about.
    pub connect_timeout: Duration,
    /// For an answer on a new connection. A slow disk under the server must fit in.
    pub answer_timeout: Duration,
    /// For an answer on a connection that was open before: the server's host may have died
    /// without a word, so this is short. A claim is then repeated on a new connection.
    pub warm_answer_timeout: Duration,
    /// The pause after the first failed attempt. It doubles with each further one.
    pub first_pause: Duration,
    /// The longest pause between attempts.
    pub longest_pause: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            connect_timeout: Duration::from_secs(1),
            answer_timeout: Duration::from_secs(5),
            warm_answer_timeout: Duration::from_millis(300),
            first_pause: Duration::from_millis(10),
            longest_pause: Duration::from_millis(500),
        }
    }
}

/// The outcome of a claim.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Claim {
    /// This claimant, and nobody else, holds `epoch`: go live.
    Won {
        /// The epoch won: the expected one plus one.
        epoch: u64,
    },
    /// Somebody else moved the epoch on: halt.
    Lost {
        /// The current epoch.
        epoch: u64,
        /// Who holds it.
        holder: Option<Claimant>,
    },
}

/// Why a claim ended without an outcome.
///
/// The claim may have been won nevertheless, its answer lost. Who got this error must not go live;
/// it may repeat the claim with the same claimant.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// The caller cancelled.
    #[error("the claim was cancelled")]
    Cancelled,
    /// The server refuses this request and will refuse it again.
    #[error("the claim cannot be made")]
    Refused(#[source] CallError),
    /// The server knows an older epoch than the claimant lived in: its state was lost, or it is
    /// not the server that gave out that epoch. Nobody may go live on its word.
    #[error(
        "the disk server at {address} is at epoch {found}, but this VM already was at epoch \
         {expected}: its state was lost or it is the wrong server"
    )]
    WentBack {
        /// The server.
        address: ServerAddress,
        /// The epoch of this claimant.
        expected: u64,
        /// The epoch of the server.
        found: u64,
    },
}

/// Why a claim still waits, for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitReason(String);

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl WaitReason {
    fn new(error: &CallError) -> WaitReason {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        WaitReason(text)
    }
}

/// A client of one disk server. It keeps one connection open between calls, and opens a new one
/// when that has gone stale.
#[derive(Debug)]
pub struct Arbiter {
    address: ServerAddress,
    endpoint: Endpoint,
    settings: Settings,
    /// The connection for the next call.
    warm: Mutex<Option<Connection>>,
    /// Which server answered first.
    server: OnceLock<Answerer>,
    /// The version that was spoken last; 0: none yet.
    spoken: AtomicU16,
}

/// Which server it is that answers: its number is no secret, so that its key counts too.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answerer {
    /// `None` where it is an older one.
    number: Option<ServerNumber>,
    /// `None` in plain mode.
    peer: Option<Peer>,
}

impl Arbiter {
    /// A client of the server at `address`, with the key of `endpoint`. Nothing is connected yet.
    #[must_use]
    pub fn new(address: ServerAddress, endpoint: Endpoint, settings: Settings) -> Arbiter {
        Arbiter {
            address,
            endpoint,
            settings,
            warm: Mutex::new(None),
            server: OnceLock::new(),
            spoken: AtomicU16::new(0),
        }
    }

    /// The server's address.
    #[must_use]
    pub fn address(&self) -> &ServerAddress {
        &self.address
    }

    /// With whose key it speaks.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The version of the protocol that was spoken last with the server; `None` before it has answered.
    #[must_use]
    pub fn version(&self) -> Option<u16> {
        Some(self.spoken.load(Ordering::Relaxed)).filter(|version| *version > 0)
    }

    /// Sees to it that a connection is open, and that a server answers on it: a later claim then
    /// needs one round trip. A server closes connections that are idle for a minute, so call this
    /// every few seconds; it costs a round trip.
    ///
    /// # Errors
    /// See [`CallError`]. The caller can go on, and may tell the user.
    pub fn warm(&self) -> Result<(), CallError> {
        match self.call(&Request::Echo {}, None)? {
            Response::Echo {} => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    /// The record of `vm`, without a holder when nobody ever claimed.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn read(&self, vm: &VmName) -> Result<Record, CallError> {
        match self.call(&Request::Read { vm: vm.clone() }, None)? {
            Response::Record(record) => Ok(record),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Says as `holder` that the backup of the view `epoch` of `vm` has taken over the guest's state. The
    /// record, which has that if that still is the view. To be repeated where it failed.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn acknowledge(
        &self,
        vm: &VmName,
        epoch: u64,
        holder: &Claimant,
    ) -> Result<Record, CallError> {
        let request = Request::Acknowledge {
            vm: vm.clone(),
            epoch,
            holder: holder.clone(),
        };
        match self.call(&request, None)? {
            Response::Record(record) => Ok(record),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Tells the server of this host: the record of its guest, and what it is to do.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn ping(&self, ping: &Ping) -> Result<(Option<Record>, Option<Order>), CallError> {
        match self.call(&Request::Ping(ping.clone()), None)? {
            Response::Pinged { record, order } => Ok((record, order)),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Asks as an operator. An answer that got lost may be asked for again: to ask twice is to want the same.
    ///
    /// # Errors
    /// See [`CallError`]. What cannot be granted is [`CallError::Refused`].
    pub fn operate(&self, operation: Operation) -> Result<Answer, CallError> {
        match self.call(&Request::Operate { operation }, None)? {
            Response::Operated { outcome } => Ok(outcome),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Has the server remove the record of `vm`. Its epochs are not given again all the same.
    ///
    /// # Errors
    /// See [`CallError`]. It is refused while somebody runs the machine, and while the server exports
    /// a disk of it.
    pub fn forget(&self, vm: &VmName) -> Result<(), CallError> {
        match self.call(&Request::Forget { vm: vm.clone() }, None)? {
            Response::Forgotten {} => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Which server it is; `None` if it does not say so, because it is an older one. Asks if it was
    /// not asked yet.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn server(&self) -> Result<Option<ServerNumber>, CallError> {
        if let Some(server) = self.server.get() {
            return Ok(server.number);
        }
        self.warm()?;
        Ok(self.server.get().and_then(|server| server.number))
    }

    /// Claims the epoch after `expected` as `claimant`, for what `next` says, and *waits* as long as no
    /// server answers, for only the arbiter knows whether the peer went live.
    ///
    /// `on_wait` hears why it waits, each time that the reason changes. `cancel` ends the wait
    /// within about the connect timeout.
    ///
    /// # Errors
    /// See [`ClaimError`].
    pub fn claim(
        &self,
        vm: &VmName,
        expected: u64,
        (claimant, next): (&Claimant, Next),
        cancel: &AtomicBool,
        mut on_wait: impl FnMut(&WaitReason),
    ) -> Result<Claim, ClaimError> {
        let request = Request::CompareAndSet {
            vm: vm.clone(),
            expected_epoch: expected,
            claimant: claimant.clone(),
            next,
        };
        let mut told = None;
        let mut pause = self.settings.first_pause;
        loop {
            if cancel.load(Ordering::Relaxed) {
                return Err(ClaimError::Cancelled);
            }
            let error = match self.call(&request, Some(cancel)) {
                Ok(Response::Won { epoch }) if expected.checked_add(1) == Some(epoch) => {
                    return Ok(Claim::Won { epoch });
                }
                Ok(Response::Lost { epoch, .. }) if epoch < expected => {
                    return Err(ClaimError::WentBack {
                        address: self.address.clone(),
                        expected,
                        found: epoch,
                    });
                }
                Ok(Response::Lost { epoch, holder }) => return Ok(Claim::Lost { epoch, holder }),
                Ok(other) => self.unexpected(&other),
                Err(CallError::Cancelled) => return Err(ClaimError::Cancelled),
                Err(error @ CallError::Refused { .. }) => return Err(ClaimError::Refused(error)),
                Err(error) => error,
            };
            let reason = WaitReason::new(&error);
            if told.as_ref() != Some(&reason) {
                on_wait(&reason);
                told = Some(reason);
            }
            sleep_unless(cancel, pause);
            pause = (pause * 2).min(self.settings.longest_pause);
        }
    }

    /// One call: on the connection at hand, and if that fails at once on a new one. That is safe
    /// for every request, because repeating any of them does no harm.
    fn call(&self, request: &Request, cancel: Option<&AtomicBool>) -> Result<Response, CallError> {
        let at_hand = self.warm.lock().take();
        if let Some(mut connection) = at_hand {
            match connection.call(request, self.settings.warm_answer_timeout, cancel) {
                Ok(response) => {
                    *self.warm.lock() = Some(connection);
                    return Ok(response);
                }
                Err(
                    error @ (CallError::Cancelled
                    | CallError::Refused { .. }
                    | CallError::Denied { .. }),
                ) => {
                    return Err(error);
                }
                Err(error) => log::debug!("stale connection: {error}"),
            }
        }
        let settings = &self.settings;
        let (connect, answer) = (settings.connect_timeout, settings.answer_timeout);
        let mut connection =
            Connection::open(&self.address, &self.endpoint, connect, answer, cancel)?;
        let found = Answerer {
            number: connection.server(),
            peer: connection.peer().cloned(),
        };
        let expected = self.server.get_or_init(|| found.clone());
        let is_another_number = expected.number.is_some() && found.number != expected.number;
        if is_another_number || found.peer != expected.peer {
            // It was not asked: a claim that it granted would be a right that nobody has.
            return Err(CallError::OtherServer {
                address: self.address.clone(),
            });
        }
        self.spoken.store(connection.version(), Ordering::Relaxed);
        let response = connection.call(request, answer, cancel)?;
        *self.warm.lock() = Some(connection);
        Ok(response)
    }

    fn unexpected(&self, response: &Response) -> CallError {
        CallError::NotAnArbiter {
            address: self.address.clone(),
            what: format!("its answer does not fit the request: {response:?}"),
        }
    }
}

fn sleep_unless(cancel: &AtomicBool, time: Duration) {
    let end = Instant::now() + time;
    while !cancel.load(Ordering::Relaxed) {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::sleep(left.min(CANCEL_POLL));
    }
}
