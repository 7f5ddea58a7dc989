//! One client: its negotiation, and its requests, of which several are under way at a time.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::budget::{Budget, Share};
use super::negotiation::{Agreed, NegotiationError, negotiate};
use super::protocol::{Command, ProtocolError, RequestHeader};
use super::timed::{Incoming, Outgoing, prepare};
use super::transmission::{Request, check, memory, perform, refuse};
use crate::export::Exports;
use crate::fence::WaitLimit;

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
/// is under way.
pub(crate) fn serve(stream: &TcpStream, exports: &Exports, budget: &Budget, limits: SessionLimits) {
    let peer = stream.peer_addr().ok();
    match converse(stream, exports, budget, limits) {
        Ok(()) | Err(SessionError::Negotiation(NegotiationError::Left)) => {
            log::debug!("NBD client {peer:?} left");
        }
        Err(SessionError::Io(error)) => log::debug!("NBD client {peer:?}: {error}"),
        Err(error) => {
            let error = anyhow::Error::from(error);
            log::info!("NBD client {peer:?} sent away: {error:#}");
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
}

fn converse(
    stream: &TcpStream,
    exports: &Exports,
    budget: &Budget,
    limits: SessionLimits,
) -> Result<(), SessionError> {
    prepare(stream, limits.message)?;
    let mut incoming = Incoming::new(stream);
    let outgoing = Outgoing::new(stream, limits.message);
    let deadline = Instant::now() + limits.negotiation;
    let agreed = {
        let limit = WaitLimit::with(limits.clearing, stream);
        negotiate(&mut incoming, &outgoing, exports, limit, deadline)?
    };
    if agreed.access.is_multi_conn() {
        log::debug!(
            "NBD client {:?} opened {}",
            stream.peer_addr().ok(),
            agreed.name
        );
    } else {
        // A host that runs a machine: an operator wants to know which it is.
        log::info!(
            "NBD client {:?} opened {}",
            stream.peer_addr().ok(),
            agreed.name
        );
    }
    let session = Session {
        agreed,
        outgoing,
        budget,
        limits,
    };
    session.transmit(&mut incoming)
}

struct Session<'a> {
    agreed: Agreed,
    outgoing: Outgoing<'a>,
    budget: &'a Budget,
    limits: SessionLimits,
}

/// A request on its way to a worker, with the memory that it takes.
type Job<'a> = (Request, Share<'a>);

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
            let result = loop {
                let job = match self.next(incoming) {
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

    fn answer(&self, (request, share): Job<'_>) {
        let reply = perform(&request, &self.agreed);
        drop(request);
        // When the client is gone, the reader finds out as well.
        let _ = self.outgoing.send(&reply);
        drop(share);
    }

    /// The next request that is to be done; `None` when the client says farewell, or leaves between
    /// two requests. Requests that make no sense are answered on the way.
    fn next(&self, incoming: &mut Incoming<'_>) -> Result<Option<Job<'_>>, SessionError> {
        while incoming.wait()? {
            let deadline = Instant::now() + self.limits.message;
            let header = RequestHeader::decode(&incoming.read_array(deadline)?)?;
            if header.command == Command::Disconnect {
                return Ok(None);
            }
            let writes = header.command == Command::Write;
            if let Err(failure) = check(&header, &self.agreed) {
                if writes {
                    // However long it is: it is not kept.
                    incoming.skip(header.length.into(), deadline)?;
                }
                self.outgoing
                    .send(&refuse(&header, &self.agreed, &failure))?;
                continue;
            }
            let share = self.budget.take(memory(&header));
            let mut data = Vec::new();
            if writes {
                data.resize(header.length as usize, 0);
                // Time that was spent waiting for memory is not the client's.
                incoming.read_exact(&mut data, Instant::now() + self.limits.message)?;
            }
            return Ok(Some((Request { header, data }, share)));
        }
        Ok(None)
    }
}

/// Hands a job to a worker that waits for one. The job comes back when there is none.
fn offer<'a>(jobs: &Sender<Job<'a>>, job: Job<'a>) -> Option<Job<'a>> {
    match jobs.try_send(job) {
        Ok(()) => None,
        Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => Some(job),
    }
}
