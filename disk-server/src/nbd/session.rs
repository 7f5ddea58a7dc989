//! One client: its negotiation, and its requests, of which several are under way at a time.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use confinement::Calls;
use parking_lot::{Condvar, Mutex};
use transport::{ConnectionError, Endpoint, Mode, Opening, Patience, Stream};

use super::buffers::{Buffer, Buffers};
use super::haggling::{NegotiationError, await_tls, greet};
use super::negotiation::{Agreed, Offer, negotiate};
use super::protocol::{ClientFlags, Command, ProtocolError, RequestHeader};
use super::reply::Failure;
use super::timed::{Incoming, Outgoing, prepare};
use super::transmission::{
    PIECE, check, end_write, memory, perform, perform_now, refuse, write_piece,
};
use crate::export::{Exports, LeftBehind};
use crate::fence::WaitLimit;
use crate::logging::Limited;
use crate::policy::{Caller, Denied, Guard};
use crate::stream::CLIENTS;

/// Replies to requests that were done at once are sent together, up to so many bytes.
const SENT_TOGETHER: usize = 64 << 10;

/// Clients that come, and clients that are sent away, are told in the log as often as this lets.
static COMING: Limited = Limited::new();
static SENT_AWAY: Limited = Limited::new();

/// How patient sessions are, and how much they do at a time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SessionLimits {
    /// For a whole negotiation.
    pub(crate) negotiation: Duration,
    /// For one message: for a request to arrive once it has begun, and for the client to take a
    /// reply.
    pub(crate) message: Duration,
    /// Requests of one client under way.
    pub(crate) requests: usize,
    /// For writes of others that must have landed before the client's export is open.
    pub(crate) clearing: Duration,
    /// How much data these have together, in bytes.
    pub(crate) memory: usize,
}

/// Why a session ended other than by the client's farewell.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Negotiation(#[from] NegotiationError),
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error("the client is not let in")]
    Unopened(#[source] ConnectionError),
    #[error("the client does not speak the protocol")]
    Protocol(#[from] ProtocolError),
    #[error("the client may not use the export any more")]
    Denied(#[from] Denied),
}

impl From<ConnectionError> for SessionError {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::Io(error) => Self::Io(error),
            ConnectionError::HungUp | ConnectionError::Cancelled => {
                Self::Negotiation(NegotiationError::Left)
            }
            error => Self::Unopened(error),
        }
    }
}

/// What clients are served of, and who may have it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) exports: &'a Exports,
    pub(crate) guard: &'a Guard,
    pub(crate) endpoint: &'a Endpoint,
}

/// Serves one client until it leaves, errs, or is too slow. When this returns, none of its requests
/// is under way. From when `ending` is true, requests are refused. `has_place` says whether there is a place for a
/// client of which it is known who it is.
pub(crate) fn serve(
    socket: Arc<TcpStream>,
    subject: Subject<'_>,
    limits: SessionLimits,
    (ending, has_place): (&AtomicBool, &dyn Fn() -> bool),
) {
    // Until there is TLS, or for ever where it is not asked for.
    let clear = Stream::plain(socket.clone());
    let peer = crate::stream::peer(&clear);
    match converse(&clear, socket, subject, limits, (ending, has_place)) {
        Ok(()) | Err(SessionError::Negotiation(NegotiationError::Left)) => {
            log::debug!("NBD client {peer} left");
        }
        Err(SessionError::Io(error)) => log::debug!("NBD client {peer}: {error}"),
        Err(error) => {
            if matches!(error, SessionError::Unopened(_)) {
                subject.guard.not_let_in();
            }
            if let Some(left_out) = SENT_AWAY.let_through() {
                let error = anyhow::Error::from(error);
                log::info!("NBD client {peer} sent away: {error:#}{left_out}");
            }
        }
    }
    let _ = clear.shutdown(Shutdown::Both);
}

fn converse(
    clear: &Stream,
    socket: Arc<TcpStream>,
    subject: Subject<'_>,
    limits: SessionLimits,
    (ending, has_place): (&AtomicBool, &dyn Fn() -> bool),
) -> Result<(), SessionError> {
    prepare(clear, limits.message.min(limits.negotiation))?;
    let deadline = Instant::now() + limits.negotiation;
    let mut incoming = Incoming::new(clear);
    let outgoing = Outgoing::new(clear, limits.message);
    let flags = greet(&mut incoming, &outgoing, deadline)?;
    let opened = Opened {
        flags,
        deadline,
        limits,
        ending,
    };
    match subject.endpoint.mode() {
        Mode::Plain => opened.serve(clear, (incoming, outgoing), subject),
        Mode::Secure => {
            await_tls(&mut incoming, &outgoing, deadline, ending)?;
            let patience = Patience {
                deadline,
                cancel: Some(ending),
            };
            let stream = (subject.endpoint).answer(socket, Opening::Bare, CLIENTS, patience)?;
            if !has_place() {
                return Ok(());
            }
            let halves = (
                Incoming::new(&stream),
                Outgoing::new(&stream, limits.message),
            );
            let served = opened.serve(&stream, halves, subject);
            // Says farewell, which the socket's own end does not.
            let _ = stream.shutdown(Shutdown::Both);
            served
        }
    }
}

/// A connection on which options may be asked.
struct Opened<'a> {
    flags: ClientFlags,
    /// Of the negotiation.
    deadline: Instant,
    limits: SessionLimits,
    ending: &'a AtomicBool,
}

impl Opened<'_> {
    fn serve(
        &self,
        stream: &Stream,
        (mut incoming, outgoing): (Incoming<'_>, Outgoing<'_>),
        subject: Subject<'_>,
    ) -> Result<(), SessionError> {
        let peer = crate::stream::peer(stream);
        let offer = Offer {
            exports: subject.exports,
            guard: subject.guard,
            caller: &Caller::of(stream),
            from: &peer,
        };
        let limit = WaitLimit::with(self.limits.clearing, stream);
        // What changes from now on is seen by the first request at the latest.
        let permitted = subject.guard.generation();
        let halves = (&mut incoming, &outgoing);
        let agreed = negotiate(halves, self.flags, offer, limit, self.deadline, self.ending)?;
        if agreed.access.is_multi_conn() {
            log::debug!("NBD client {peer} opened {}", agreed.name);
        } else if let Some(left_out) = COMING.let_through() {
            // A host that runs a machine: an operator wants to know which it is.
            log::info!("NBD client {peer} opened {}{left_out}", agreed.name);
        }
        let session = Session {
            agreed,
            offer,
            permitted: AtomicU64::new(permitted),
            outgoing,
            buffers: Buffers::new(self.limits.memory.max(PIECE)),
            limits: self.limits,
            ending: self.ending,
        };
        session.transmit(&mut incoming)
    }
}

struct Session<'a> {
    agreed: Agreed,
    offer: Offer<'a>,
    /// The [generation](Guard::generation) of what operators have defined in which the client may use the export.
    permitted: AtomicU64,
    outgoing: Outgoing<'a>,
    buffers: Buffers,
    limits: SessionLimits,
    ending: &'a AtomicBool,
}

/// A request that is to be done, with its memory.
type Job<'a> = (RequestHeader, Buffer<'a>);

/// What the threads of a session share. One of them at a time reads; a request that may have to wait is
/// done by whoever read it, once it has left the reading to another one. So nobody waits for a thread to
/// wake up where requests come one at a time.
struct Crew<'a, 'b> {
    reader: Mutex<Reader<'a, 'b>>,
    /// Requests under way.
    under_way: Mutex<usize>,
    fewer: Condvar,
}

struct Reader<'a, 'b> {
    incoming: &'a mut Incoming<'b>,
    /// To requests that were done at once.
    replies: Vec<u8>,
    /// Each of them reads, waits to read, or has a request under way.
    threads: usize,
    end: Option<(Result<(), SessionError>, LeftBehind)>,
}

impl Crew<'_, '_> {
    /// Waits until so few requests are under way that another one can be, which begins. How many there
    /// are then.
    fn begin(&self, most: usize) -> usize {
        let mut under_way = self.under_way.lock();
        self.fewer
            .wait_while(&mut under_way, |under_way| *under_way >= most);
        *under_way += 1;
        *under_way
    }

    fn end(&self) {
        *self.under_way.lock() -= 1;
        self.fewer.notify_one();
    }
}

impl Session<'_> {
    /// Does requests with as many threads as are busy at a time, at most [`SessionLimits::requests`], and
    /// one more that reads.
    fn transmit(&self, incoming: &mut Incoming<'_>) -> Result<(), SessionError> {
        let crew = Crew {
            reader: Mutex::new(Reader {
                incoming,
                replies: Vec::new(),
                threads: 1,
                end: None,
            }),
            under_way: Mutex::new(0),
            fewer: Condvar::new(),
        };
        // All files are open, and whoever gets hold of one of these opens no other.
        confinement::narrow(&[Calls::Threads, Calls::Storage]);
        // Ends when all are done, which the disk decides.
        thread::scope(|scope| self.work(&crew, scope));
        let end = crew.reader.into_inner().end;
        end.map_or(Ok(()), |(result, _leftover)| result)
    }

    fn work<'scope>(
        &'scope self,
        crew: &'scope Crew<'_, '_>,
        scope: &'scope thread::Scope<'scope, '_>,
    ) {
        let most = self.limits.requests.max(1);
        loop {
            let mut guard = crew.reader.lock();
            let reader = &mut *guard;
            if reader.end.is_some() {
                return;
            }
            let job = match self.next(reader.incoming, &mut reader.replies) {
                Ok(Some(job)) => job,
                ended => {
                    let leftover = self.agreed.access.leave_behind();
                    reader.end = Some((ended.map(drop), leftover));
                    return;
                }
            };
            let under_way = crew.begin(most);
            // Nobody waits to read.
            if under_way == reader.threads && reader.threads <= most {
                let spawned = thread::Builder::new()
                    .name("nbd-request".to_owned())
                    .spawn_scoped(scope, move || self.work(crew, scope));
                match spawned {
                    Ok(_) => reader.threads += 1,
                    Err(error) => no_thread(&error),
                }
            }
            drop(guard);
            self.answer(job);
            crew.end();
        }
    }

    fn answer(&self, (header, mut room): Job<'_>) {
        // When the client is gone, the reader finds out as well.
        let _ = perform(&header, &mut room, &self.agreed, &self.outgoing);
    }

    /// The next request that may have to wait; `None` when the client says farewell, or
    /// leaves between two requests. What waits for nothing is done on the way, and what makes no
    /// sense is answered; `replies` are those that were not sent yet.
    fn next<'a>(
        &'a self,
        incoming: &mut Incoming<'_>,
        replies: &mut Vec<u8>,
    ) -> Result<Option<Job<'a>>, SessionError> {
        loop {
            if !incoming.holds(RequestHeader::LEN) || replies.len() >= SENT_TOGETHER {
                self.send(replies)?;
            }
            if !incoming.wait()? {
                return Ok(None);
            }
            let mut deadline = Instant::now() + self.limits.message;
            let header = RequestHeader::decode(&incoming.read_array(deadline)?)?;
            if header.command == Command::Disconnect {
                self.send(replies)?;
                return Ok(None);
            }
            self.permit_still()?;
            let writes = header.command == Command::Write;
            let sense = if self.ending.load(Ordering::Relaxed) {
                Err(Failure::shutdown())
            } else {
                check(&header, &self.agreed)
            };
            if let Err(failure) = sense {
                self.send(replies)?;
                if writes {
                    // However long it is: it is not kept.
                    incoming.skip(header.length.into(), deadline)?;
                }
                self.outgoing
                    .send(&refuse(&header, &self.agreed, &failure))?;
                continue;
            }
            if perform_now(&header, &self.agreed, replies) {
                continue;
            }
            self.send(replies)?;
            if writes && header.length as usize > self.buffers.limit() {
                self.write_in_pieces(&header, incoming, deadline)?;
                continue;
            }
            let asked = Instant::now();
            let mut room = self.buffers.take(memory(&header, &self.agreed));
            if writes {
                // Time that was spent waiting for memory is not the client's.
                deadline += asked.elapsed();
                incoming.read_exact(&mut room[..header.length as usize], deadline)?;
            }
            return Ok(Some((header, room)));
        }
    }

    /// Ends the session of a client that may not use the export any more: another definition of its guest names
    /// other hosts.
    fn permit_still(&self) -> Result<(), Denied> {
        let generation = self.offer.guard.generation();
        if generation != self.permitted.load(Ordering::Relaxed) {
            self.offer.permit_still(&self.agreed.name)?;
            self.permitted.store(generation, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Sends replies that are ready.
    fn send(&self, replies: &mut Vec<u8>) -> io::Result<()> {
        if !replies.is_empty() {
            self.outgoing.send(replies)?;
            replies.clear();
        }
        Ok(())
    }

    /// Takes a write for which there is no room at once, and does it meanwhile.
    fn write_in_pieces(
        &self,
        header: &RequestHeader,
        incoming: &mut Incoming<'_>,
        mut deadline: Instant,
    ) -> Result<(), SessionError> {
        let mut room = self.buffers.take(PIECE);
        let mut written = Ok(());
        let mut at = header.offset;
        let mut left = header.length as usize;
        while left > 0 {
            let piece = &mut room[..left.min(PIECE)];
            incoming.read_exact(piece, deadline)?;
            if written.is_ok() {
                let began = Instant::now();
                written = write_piece(at, piece, &self.agreed);
                // Time that was spent in the storage is not the client's.
                deadline += began.elapsed();
            }
            at += piece.len() as u64;
            left -= piece.len();
        }
        Ok(self
            .outgoing
            .send(&end_write(header, written, &self.agreed))?)
    }
}

/// It goes on: whoever has a request under way reads when that is done.
fn no_thread(error: &io::Error) {
    static NO_THREAD: Limited = Limited::new();
    if let Some(left_out) = NO_THREAD.let_through() {
        log::warn!("no further thread for requests: {error}{left_out}");
    }
}
