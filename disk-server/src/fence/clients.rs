//! Clients that connect anew: what an earlier connection left in the server does not land any more.
//!
//! A client that lost its connection sends again what was not answered. What it sent before may
//! still wait here: in a socket, or for a worker. If that landed after the newer request, and after
//! what the client wrote on top of it, it would bring old data back. So a client may say who it is
//! ([`ClientTag`]), and its newest connection to an export takes over from the ones before, as a
//! machine's host does within an epoch.
//!
//! ```text
//!     first connection     write ── pwrite ── done    queued write: refused
//!     second connection          join ········ answered, reads and writes
//!                                (the first one's right ends; its writes are waited for)
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::barrier::Barrier;
use super::waiting::{Waiting, wait_until};
use super::{NotYet, Refusal, WaitLimit};
use crate::nbd::ClientTag;

/// How many clients without a connection are remembered.
const MOST_AWAY: usize = 1024;

/// The clients of one export that said who they are.
#[derive(Debug, Default)]
pub struct Clients {
    state: Mutex<State>,
    left: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Clients with a connection, and those that are away.
    clients: BTreeMap<ClientTag, Client>,
    /// Clients that came in an epoch and have no connection now, the longest away first.
    away: VecDeque<ClientTag>,
    /// Connections that wait.
    joining: Waiting,
}

#[derive(Debug, Default)]
struct Client {
    /// Between the writes of one connection and the next connection: the last time that it was raised
    /// is the number of the newest one, which may have ended.
    barrier: Barrier,
    /// The machine's epoch when it came first, if the export has a machine.
    since: Option<u64>,
    /// How many connections it has, with those that were superseded.
    open: usize,
}

impl Clients {
    /// Makes a connection the only one of its client that may write. When this has returned well, no
    /// write of its earlier ones is under way, and none will be. `epoch` is the current one of the
    /// machine that owns the export.
    ///
    /// # Errors
    /// Such a write is still under way. None will be any more: the client may ask again.
    pub fn join(
        self: &Arc<Self>,
        tag: ClientTag,
        epoch: Option<u64>,
        limit: WaitLimit<'_>,
    ) -> Result<Membership, NotYet> {
        let mut state = self.state.lock();
        let client = state.clients.entry(tag).or_default();
        let number = client.barrier.raise();
        client.open += 1;
        client.since = client.since.or(epoch);
        // From here on it is given back, whatever happens.
        let membership = Membership {
            clients: Arc::clone(self),
            tag,
            number,
            since: client.since,
        };
        state.away.retain(|away| *away != tag);
        let waited = wait_until(
            &self.left,
            &mut state,
            limit,
            |state| &mut state.joining,
            |state| {
                let client = state.clients.get(&tag);
                client.is_none_or(|client| client.barrier.is_clear(number))
            },
        );
        // A membership that is given back needs it.
        drop(state);
        waited?;
        Ok(membership)
    }
}

/// One connection of a client, until it is dropped.
#[derive(Debug)]
pub struct Membership {
    clients: Arc<Clients>,
    tag: ClientTag,
    number: u64,
    since: Option<u64>,
}

impl Membership {
    /// The machine's epoch when the client came first, as far as is remembered; `None` if the export
    /// has no machine.
    #[must_use]
    pub fn since(&self) -> Option<u64> {
        self.since
    }

    /// Lets a modifying request begin. It is over when the permit is dropped.
    ///
    /// # Errors
    /// The client has a newer connection.
    pub fn enter(&self) -> Result<ClientPermit<'_>, Refusal> {
        let mut state = self.clients.state.lock();
        match state.clients.get_mut(&self.tag) {
            Some(client) if client.barrier.last() == self.number => Ok(ClientPermit {
                membership: self,
                entered: client.barrier.enter(),
            }),
            _ => Err(Refusal::NewerConnection),
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut state = self.clients.state.lock();
        let Some(client) = state.clients.get_mut(&self.tag) else {
            return;
        };
        client.open -= 1;
        if client.open > 0 {
            return;
        }
        // Nobody is left who could be refused.
        if client.since.is_some() {
            state.away.push_back(self.tag);
        } else {
            state.clients.remove(&self.tag);
        }
        if state.away.len() > MOST_AWAY
            && let Some(longest) = state.away.pop_front()
        {
            state.clients.remove(&longest);
        }
    }
}

/// A modifying request of a client that is under way.
#[derive(Debug)]
pub struct ClientPermit<'a> {
    membership: &'a Membership,
    entered: u64,
}

impl Drop for ClientPermit<'_> {
    fn drop(&mut self) {
        let Membership { clients, tag, .. } = self.membership;
        let mut state = clients.state.lock();
        let client = state.clients.get_mut(tag);
        if client.is_some_and(|client| client.barrier.leave(self.entered)) {
            clients.left.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    const TAG: ClientTag = ClientTag::new(7);

    fn join(clients: &Arc<Clients>, tag: ClientTag, epoch: Option<u64>) -> Membership {
        let generous = WaitLimit::of(std::time::Duration::from_secs(60));
        clients.join(tag, epoch, generous).unwrap()
    }

    #[test]
    fn the_newest_connection_of_a_client_writes() {
        let clients = Arc::new(Clients::default());
        let first = join(&clients, TAG, None);
        let other = join(&clients, ClientTag::new(8), None);
        assert!(first.enter().is_ok());
        let second = join(&clients, TAG, None);
        assert_eq!(first.enter().unwrap_err(), Refusal::NewerConnection);
        assert!(second.enter().is_ok());
        assert!(other.enter().is_ok(), "another client is none of it");
        // The right does not come back when the newest one leaves.
        drop(second);
        assert_eq!(first.enter().unwrap_err(), Refusal::NewerConnection);
        let third = join(&clients, TAG, None);
        assert!(third.enter().is_ok());
        drop((first, third, other));
        assert!(
            clients.state.lock().clients.is_empty(),
            "nobody is kept for ever"
        );
    }

    #[test]
    fn a_client_that_comes_back_is_as_old_as_before_and_not_all_are_remembered() {
        let clients = Arc::new(Clients::default());
        let first = join(&clients, TAG, Some(3));
        assert_eq!(join(&clients, TAG, Some(5)).since(), Some(3));
        drop(first);
        assert_eq!(join(&clients, TAG, Some(5)).since(), Some(3));
        for number in 100..100 + MOST_AWAY as u64 {
            drop(join(&clients, ClientTag::new(number), Some(5)));
        }
        assert_eq!(clients.state.lock().clients.len(), MOST_AWAY);
        assert_eq!(join(&clients, TAG, Some(5)).since(), Some(5));
    }

    #[test]
    fn a_new_connection_waits_for_the_writes_of_the_one_before() {
        let clients = Arc::new(Clients::default());
        let first = join(&clients, TAG, None);
        let stranger = join(&clients, ClientTag::new(8), None);
        let _others_write = stranger.enter().unwrap();
        let write = first.enter().unwrap();
        thread::scope(|scope| {
            let joined = scope.spawn(|| join(&clients, TAG, None));
            while first.enter().is_ok() {
                thread::yield_now();
            }
            assert!(!joined.is_finished(), "it did not wait");
            drop(write);
            assert!(joined.join().unwrap().enter().is_ok());
        });
    }

    /// What happened, in the order in which it did: a connection was let in, or wrote.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        Joined(u64),
        Landed(u64),
    }

    /// Writers that use every connection they ever saw, while new ones are made.
    fn run(connections: usize, writers: usize, hold: u32) -> Vec<Step> {
        let clients = Arc::new(Clients::default());
        let log = Mutex::new(Vec::new());
        let open: Mutex<Vec<Arc<Membership>>> = Mutex::default();
        let done = AtomicBool::new(false);
        let landed = AtomicU64::new(0);
        thread::scope(|scope| {
            for seed in 0..writers {
                let (log, open, done, landed) = (&log, &open, &done, &landed);
                scope.spawn(move || {
                    for turn in seed.. {
                        if done.load(Ordering::SeqCst) {
                            return;
                        }
                        let member = {
                            let open = open.lock();
                            let back = [0, 0, 1, 0, 2, turn][turn % 6] % open.len().max(1);
                            match open.iter().rev().nth(back) {
                                Some(member) => Arc::clone(member),
                                None => continue,
                            }
                        };
                        let Ok(_permit) = member.enter() else {
                            continue;
                        };
                        for _ in 0..hold {
                            thread::yield_now();
                        }
                        log.lock().push(Step::Landed(member.number));
                        landed.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            for _ in 0..connections {
                let member = Arc::new(join(&clients, TAG, None));
                log.lock().push(Step::Joined(member.number));
                open.lock().push(member);
                // Until somebody wrote: the newest one always may.
                let before = landed.load(Ordering::SeqCst);
                while landed.load(Ordering::SeqCst) == before {
                    thread::yield_now();
                }
            }
            done.store(true, Ordering::SeqCst);
        });
        log.into_inner()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// The order in which things happen is the threads', so a failure may not come again.
        #[test]
        fn after_a_client_connected_anew_nothing_older_lands(
            connections in 2..8_usize,
            writers in 1..5_usize,
            hold in 0..4_u32,
        ) {
            let mut newest = 0;
            for step in run(connections, writers, hold) {
                match step {
                    Step::Joined(number) => newest = number,
                    Step::Landed(number) => prop_assert!(
                        number >= newest,
                        "connection {number} wrote after {newest} was let in"
                    ),
                }
            }
        }
    }
}
