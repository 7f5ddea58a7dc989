//! One client: its negotiation, and its requests, of which several are under way at a time.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::buffers::{Buffer, Buffers};
use super::negotiation::{Agreed, NegotiationError, negotiate};
use super::protocol::{Command, ProtocolError, RequestHeader};
use super::reply::Failure;
use super::timed::{Incoming, Outgoing, prepare};
use super::transmission::{
    PIECE, check, end_write, memory, perform, perform_now, refuse, write_piece,
};
use crate::export::Exports;
use crate::fence::WaitLimit;
use crate::logging::Limited;

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
    #[error("the client does not speak the protocol")]
    Protocol(#[from] ProtocolError),
}

/// Serves one client until it leaves, errs, or is too slow. When this returns, none of its requests
/// is under way. From when `ending` is true, requests are refused.
pub(crate) fn serve(
    stream: &TcpStream,
    exports: &Exports,
    limits: SessionLimits,
    ending: &AtomicBool,
) {
    let peer = stream.peer_addr().ok();
    match converse(stream, exports, limits, ending) {
        Ok(()) | Err(SessionError::Negotiation(NegotiationError::Left)) => {
            log::debug!("NBD client {peer:?} left");
        }
        Err(SessionError::Io(error)) => log::debug!("NBD client {peer:?}: {error}"),
        Err(error) => {
            if let Some(left_out) = SENT_AWAY.let_through() {
                let error = anyhow::Error::from(error);
                log::info!("NBD client {peer:?} sent away: {error:#}{left_out}");
            }
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
}

fn converse(
    stream: &TcpStream,
    exports: &Exports,
    limits: SessionLimits,
    ending: &AtomicBool,
) -> Result<(), SessionError> {
    prepare(stream, limits.message.min(limits.negotiation))?;
    let mut incoming = Incoming::new(stream);
    let outgoing = Outgoing::new(stream, limits.message);
    let deadline = Instant::now() + limits.negotiation;
    let agreed = {
        let limit = WaitLimit::with(limits.clearing, stream);
        negotiate(&mut incoming, &outgoing, exports, limit, deadline, ending)?
    };
    let peer = stream.peer_addr().ok();
    if agreed.access.is_multi_conn() {
        log::debug!("NBD client {peer:?} opened {}", agreed.name);
    } else if let Some(left_out) = COMING.let_through() {
        // A host that runs a machine: an operator wants to know which it is.
        log::info!("NBD client {peer:?} opened {}{left_out}", agreed.name);
    }
    let session = Session {
        agreed,
        outgoing,
        buffers: Buffers::new(limits.memory.max(PIECE)),
        limits,
        ending,
    };
    session.transmit(&mut incoming)
}

struct Session<'a> {
    agreed: Agreed,
    outgoing: Outgoing<'a>,
    buffers: Buffers,
    limits: SessionLimits,
    ending: &'a AtomicBool,
}

/// A request on its way to a worker, with its memory.
type Job<'a> = (RequestHeader, Buffer<'a>);

impl Session<'_> {
    /// Reads requests and has them done by workers, of which there are as many as are busy at a
    /// time, and at most [`SessionLimits::requests`].
    fn transmit(&self, incoming: &mut Incoming<'_>) -> Result<(), SessionError> {
        // Without room: a request that is handed over is in a worker's hands, and who cannot hand
        // one over reads no further.
        let (jobs, queue) = bounded::<Job<'_>>(0);
        let mut leftover = None;
        let result = thread::scope(|scope| {
            let mut workers = 0;
            let mut replies = Vec::new();
            let result = loop {
                let job = match self.next(incoming, &mut replies) {
                    Ok(Some(job)) => job,
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                };
                let Some(job) = offer(&jobs, job) else {
                    continue;
                };
                if workers < self.limits.requests {
                    let queue = queue.clone();
                    let spawned = thread::Builder::new()
                        .name("nbd-request".to_owned())
                        .spawn_scoped(scope, move || self.work(&queue));
                    match spawned {
                        Ok(_) => workers += 1,
                        Err(error) if workers == 0 => {
                            log::warn!(
                                "no thread for requests, which are done one by one: {error}"
                            );
                            self.answer(job);
                            continue;
                        }
                        Err(error) => log::warn!("no further thread for requests: {error}"),
                    }
                }
                if jobs.send(job).is_err() {
                    // Workers leave when the channel is closed, which is below.
                    break Ok(());
                }
            };
            // Ends the workers, once they are done, which the disk decides.
            leftover = Some(self.agreed.access.leave_behind());
            drop(jobs);
            result
        });
        drop(leftover);
        result
    }

    fn work(&self, queue: &Receiver<Job<'_>>) {
        for job in queue {
            self.answer(job);
        }
    }

    fn answer(&self, (header, mut room): Job<'_>) {
        // When the client is gone, the reader finds out as well.
        let _ = perform(&header, &mut room, &self.agreed, &self.outgoing);
    }

    /// The next request that is to be done by a worker; `None` when the client says farewell, or
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

/// Hands a job to a worker that waits for one. The job comes back when there is none.
fn offer<'a>(jobs: &Sender<Job<'a>>, job: Job<'a>) -> Option<Job<'a>> {
    match jobs.try_send(job) {
        Ok(()) => None,
        Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => Some(job),
    }
}
