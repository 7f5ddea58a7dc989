//! Waiting for what others do, with an end: a disk that hangs holds up what depends on it, and not
//! the clients that ask for it.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::{Condvar, MutexGuard};
use transport::Stream;

/// The most that wait for the same disk at a time. Who comes then is told at once to come back.
const MOST_WAITING: usize = 8;

/// How soon a wait notices that its client has left.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Why a wait ended without what it was for. What was waited for still comes: ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotYet {
    /// It took too long.
    #[error(
        "the disk has not done yet what was asked of it before; if that lasts, see the kernel's log of the disk server's host"
    )]
    Slow,
    /// Too many wait for the same.
    #[error(
        "{MOST_WAITING} others wait already for what the disk has not done yet; if that lasts, see the kernel's log of the disk server's host"
    )]
    Crowded,
    /// Nobody wants to know any more.
    #[error("the client left while it waited")]
    Left,
}

/// How long somebody waits, and for whom.
#[derive(Clone, Copy)]
pub struct WaitLimit<'a> {
    time: Duration,
    client: Option<&'a Stream>,
}

impl<'a> WaitLimit<'a> {
    /// Waits for so long, or until the client has left. A client that has ended its own sending
    /// direction counts as one that left.
    #[must_use]
    pub fn with(time: Duration, client: &'a Stream) -> WaitLimit<'a> {
        let client = Some(client);
        WaitLimit { time, client }
    }

    /// Waits for so long, for nobody in particular.
    #[must_use]
    pub const fn of(time: Duration) -> WaitLimit<'static> {
        WaitLimit { time, client: None }
    }
}

/// Those who wait for the same.
#[derive(Debug)]
pub(super) struct Waiting {
    now: usize,
    most: usize,
}

impl Default for Waiting {
    fn default() -> Self {
        Waiting {
            now: 0,
            most: MOST_WAITING,
        }
    }
}

impl Waiting {
    /// Any number of them.
    pub(super) fn unlimited() -> Waiting {
        Waiting {
            now: 0,
            most: usize::MAX,
        }
    }
}

/// Waits until something is so. `condvar` is told of every change of it.
pub(super) fn wait_until<T>(
    condvar: &Condvar,
    guard: &mut MutexGuard<'_, T>,
    limit: WaitLimit<'_>,
    waiting: impl Fn(&mut T) -> &mut Waiting,
    is_so: impl Fn(&T) -> bool,
) -> Result<(), NotYet> {
    if is_so(guard) {
        return Ok(());
    }
    let others = waiting(guard);
    if others.now >= others.most {
        return Err(NotYet::Crowded);
    }
    others.now += 1;
    let started = Instant::now();
    let ended = loop {
        let left = limit.time.saturating_sub(started.elapsed());
        if left.is_zero() {
            break Err(NotYet::Slow);
        }
        condvar.wait_for(guard, left.min(LOOK_INTERVAL));
        if is_so(guard) {
            break Ok(());
        }
        if limit.client.is_some_and(has_left) {
            break Err(NotYet::Left);
        }
    };
    waiting(guard).now -= 1;
    ended
}

/// Whether the other side has closed the connection, also behind data that nobody has read.
fn has_left(client: &Stream) -> bool {
    // The bit that nix has no name for.
    let closed = PollFlags::from_bits_retain(libc::POLLRDHUP);
    let mut fds = [PollFd::new(client.as_fd(), closed)];
    // Errors and hang-ups are told unasked.
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(told) if told > 0)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use parking_lot::Mutex;

    use super::*;

    const GENEROUS: Duration = Duration::from_secs(60);

    fn wait(gate: &(Mutex<(Waiting, bool)>, Condvar), limit: WaitLimit<'_>) -> Result<(), NotYet> {
        let mut guard = gate.0.lock();
        wait_until(
            &gate.1,
            &mut guard,
            limit,
            |state| &mut state.0,
            |state| state.1,
        )
    }

    #[test]
    fn a_wait_ends_with_its_time_its_client_or_what_it_is_for() {
        let gate = (Mutex::new((Waiting::default(), false)), Condvar::new());
        let short = WaitLimit::of(Duration::from_millis(1));
        assert_eq!(wait(&gate, short), Err(NotYet::Slow));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = Stream::plain(listener.accept().unwrap().0);
        thread::scope(|scope| {
            let waits: Vec<_> = (0..MOST_WAITING)
                .map(|_| scope.spawn(|| wait(&gate, WaitLimit::with(GENEROUS, &server))))
                .collect();
            while gate.0.lock().0.now < MOST_WAITING {
                thread::yield_now();
            }
            assert_eq!(wait(&gate, WaitLimit::of(GENEROUS)), Err(NotYet::Crowded));
            // It leaves behind a request that nobody reads meanwhile.
            std::io::Write::write_all(&mut client, b"and then").unwrap();
            drop(client);
            for waited in waits {
                assert_eq!(waited.join().unwrap(), Err(NotYet::Left));
            }
            let waited = scope.spawn(|| wait(&gate, WaitLimit::of(GENEROUS)));
            while gate.0.lock().0.now == 0 {
                thread::yield_now();
            }
            gate.0.lock().1 = true;
            gate.1.notify_all();
            assert_eq!(waited.join().unwrap(), Ok(()));
        });
        assert_eq!(wait(&gate, short), Ok(()));
        assert_eq!(gate.0.lock().0.now, 0);
    }
}
