//! The primary's end of a session.
//!
//! ```text
//!   vCPU ──append──▶ buffer ──▶ sending thread ──TCP──▶ backup
//!     └───flush────────┴──(straight to the socket)──▶
//!   output gate ◀──Release── acknowledging thread ◀──TCP── backup
//! ```
//!
//! A backup that is heard may still not get on. The heartbeats' thread looks at that as well: how
//! long outputs wait, and whether a guest that is held up is held up in vain.
//!
//! Hosts may have one CPU, so the vCPU's thread avoids waking others: an entry that starts a batch
//! wakes the sending thread only if that sleeps for good, and [`Sender::flush`] writes to the
//! socket itself as long as the socket takes it without waiting.

mod link;
mod outgoing;
mod told;

use std::io;
use std::net::{TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use transport::Stream;

pub use link::Release;
use link::Shared;
pub use told::{Commit, Finish, SenderStats};

use self::link::Used;
use crate::entry::{Entry, Lsn};
use crate::handshake::Standby;
use crate::heartbeat::Beating;
use crate::loss::{ChannelEvent, LossReason};
use crate::memory::{self, MemoryStream};
pub use crate::protocol::Permit;
use crate::session::SessionInfo;
use crate::settings::Settings;

/// The primary's end of a session: a handle that can be cloned and used from any thread.
///
/// The session ends without a goodbye when the last handle is dropped.
#[derive(Debug, Clone)]
pub struct Sender {
    ends: Arc<Ends>,
}

/// What the handles share and the threads must not own.
#[derive(Debug)]
struct Ends {
    shared: Arc<Shared>,
    /// Stopped, like the threads, when the last handle goes.
    beating: Option<Beating>,
    threads: Vec<JoinHandle<()>>,
}

impl Sender {
    /// Starts the threads of a session whose handshake is done.
    pub(crate) fn start(
        stream: Stream,
        memory: Vec<Stream>,
        udp: UdpSocket,
        info: SessionInfo,
        settings: Settings,
    ) -> io::Result<Self> {
        let timeout = info.heartbeat_timeout;
        let session = (info.session, info.version);
        let key = stream.datagrams().cloned();
        let shared = Arc::new(Shared::new(stream, memory, info, settings));
        let mut ends = Ends {
            shared: Arc::clone(&shared),
            beating: None,
            threads: Vec::new(),
        };
        ends.beating = Some(Beating::start(
            (udp, key),
            session,
            timeout,
            Arc::clone(&shared),
        )?);
        let own = Arc::clone(&shared);
        let named = thread::Builder::new().name("log-sender".into());
        let sends = confinement::spawn(named, &[], move || own.send_loop())?;
        ends.threads.push(sends);
        let own = shared;
        let named = thread::Builder::new().name("log-acks".into());
        let hears = confinement::spawn(named, &[], move || own.ack_loop())?;
        ends.threads.push(hears);
        Ok(Self {
            ends: Arc::new(ends),
        })
    }

    /// Appends an entry to the log. For the vCPU's thread.
    ///
    /// Waits while the buffer is full. Once the backup is lost it never waits: entries are counted
    /// and dropped.
    ///
    /// # Panics
    /// If the entry cannot be logged: its point lies before the last one's, or it carries more
    /// than [`MAX_FRAME`](crate::codec::MAX_FRAME) bytes or
    /// [`MAX_HASHES`](crate::codec::MAX_HASHES) hashes.
    pub fn append(&self, entry: Entry) -> Lsn {
        self.ends.shared.append(&entry, true)
    }

    /// [`Sender::append`] and [`Sender::flush`] in one, which is cheaper than one after the other.
    pub fn append_and_flush(&self, entry: Entry) -> Lsn {
        let lsn = self.ends.shared.append(&entry, false);
        self.flush();
        lsn
    }

    /// Sends what is buffered at once: something waits for it.
    pub fn flush(&self) {
        self.ends.shared.flush();
    }

    /// Last entry that the backup has in its memory.
    #[must_use]
    pub fn acked(&self) -> Lsn {
        self.ends.shared.acked()
    }

    /// Waits until the backup has the entry `lsn` in its memory. Flushes nothing.
    ///
    /// An entry that was acknowledged stays committed when the backup is lost later.
    #[must_use]
    pub fn wait_committed(&self, lsn: Lsn, timeout: Duration) -> Commit {
        self.ends.shared.wait_committed(lsn, timeout)
    }

    /// Last entry that the backup said it has executed.
    #[must_use]
    pub fn executed(&self) -> Lsn {
        self.ends.shared.executed()
    }

    /// Waits until `arrived` says so, the session is over, or the time is. `arrived` is asked at
    /// every acknowledgement: it gets the last entry that the backup has in its memory, and the
    /// last one that it has executed. Flushes nothing.
    pub fn wait_acknowledged(&self, timeout: Duration, mut arrived: impl FnMut(Lsn, Lsn) -> bool) {
        let shared = &self.ends.shared;
        shared.wait_progress(timeout, || {
            arrived(shared.acked(), shared.executed()) || shared.loss.is_over()
        });
    }

    /// Age of the oldest entry that the backup has not executed; zero if it has executed all.
    #[must_use]
    pub fn lag(&self) -> Duration {
        self.ends.shared.lock_end().lag(Instant::now())
    }

    /// The backup's lag at each of its reports since this was asked last; see
    /// [`Times::take_recent`](crate::times::Times::take_recent).
    #[must_use]
    pub fn take_lags(&self) -> Vec<(u64, u64)> {
        self.ends.shared.lock_end().lags().take_recent()
    }

    /// Holds the guest up while the backup's lag is beyond [`Settings::max_lag`]. For the vCPU's
    /// thread, at every exit; costs one atomic load as long as the lag is within its bound.
    pub fn throttle(&self) {
        let shared = &self.ends.shared;
        if shared.behind.load(Ordering::Relaxed) {
            shared.hold();
        }
    }

    /// Has `release` called with every acknowledgement, before anybody else who waits for it hears
    /// of it. Only the first call counts.
    ///
    /// An output that was acknowledged may leave as long as it is certain that the backup has not
    /// gone live: until the heartbeat timeout has passed since this side sent the latest of what the
    /// backup is known to have received. One that finds the permit expired leaves with a later one.
    pub fn release_with(&self, release: Release) {
        let shared = &self.ends.shared;
        shared.releasing.set(release);
        // What was acknowledged before.
        shared.release(shared.permit());
    }

    /// What may leave now; see [`Sender::release_with`].
    #[must_use]
    pub fn permit(&self) -> Permit {
        self.ends.shared.permit()
    }

    /// Every output up to `lsn` has left this host. The backup learns of it with what is sent
    /// next, and re-sends only later outputs if it goes live.
    pub fn released(&self, lsn: Lsn) {
        self.ends.shared.note_released(lsn);
    }

    /// The entry at which the backup found its state to differ, if it asks for a transfer of the
    /// whole state; each request is given out once. Costs one atomic load when there is none.
    #[must_use]
    pub fn state_wanted(&self) -> Option<Lsn> {
        let shared = &self.ends.shared;
        if !shared.state_wanted.load(Ordering::Relaxed) {
            return None;
        }
        let mut end = shared.lock_end();
        let wanted = end.take_state_wanted();
        shared.publish(&end);
        wanted
    }

    /// Whether the backup asks for the whole state: then it has no use for what it executed last.
    #[must_use]
    pub fn wants_state(&self) -> bool {
        self.ends.shared.state_wanted.load(Ordering::Acquire)
    }

    /// Whether the backup differs, and does not take over before it has got the whole state.
    #[must_use]
    pub fn is_repairing(&self) -> bool {
        self.ends.shared.lock_end().is_repairing()
    }

    /// Whether a cold backup asks for the whole state, so that it has less to replay; each request is
    /// given out once. Costs one atomic load when there is none.
    #[must_use]
    pub fn renewal_wanted(&self) -> bool {
        let shared = &self.ends.shared;
        if !shared.renewal_wanted.load(Ordering::Relaxed) {
            return false;
        }
        let mut end = shared.lock_end();
        let wanted = end.take_renewal_wanted();
        shared.publish(&end);
        wanted
    }

    /// Has a cold backup told how much of a processor the guest has used, as `used` says. Only the first
    /// call counts.
    pub fn meter_with(&self, used: impl Fn() -> Duration + Send + Sync + 'static) {
        let shared = &self.ends.shared;
        if shared.info.standby == Standby::Cold {
            let _ = shared.used.set(Used(Box::new(used)));
        }
    }

    /// The streams that carry guest memory to the backup. For one user at a time.
    ///
    /// # Errors
    /// [`io::Error`], if the host has no room for more open files.
    pub fn memory_streams(&self) -> io::Result<Vec<MemoryStream>> {
        let shared = &self.ends.shared;
        let end = |stream: &Stream| {
            let session = Arc::clone(shared);
            MemoryStream::new(stream.clone(), move |reason| session.lose(reason))
        };
        shared.memory.iter().map(end).collect()
    }

    /// The sockets of the memory streams, in place of these: for who measures the network below the session.
    /// What goes over them is neither encrypted nor authenticated.
    ///
    /// # Errors
    /// [`io::Error`], if the host has no room for more open files.
    pub fn bare_sockets(&self) -> io::Result<Vec<TcpStream>> {
        memory::sockets(&self.ends.shared.memory)
    }

    /// Whether the backup finds counted stops: not any more once it said that its performance counter
    /// is lost, before it asked for the state with which [`Sender::state_wanted`] was given.
    #[must_use]
    pub fn takes_counts(&self) -> bool {
        !self.ends.shared.uncounted.load(Ordering::Acquire)
    }

    /// Ends the log in order: sends what is buffered, waits until the backup has it, and says
    /// goodbye. To be called after the last entry was appended.
    pub fn finish(&self, timeout: Duration) -> Finish {
        self.ends.shared.finish(timeout)
    }

    /// When the disk server answered the backup, as far as heartbeats have told; not later than it
    /// did.
    #[must_use]
    pub fn storage_answered_backup(&self) -> Option<Instant> {
        self.ends.shared.lock_end().storage_answered()
    }

    /// Since when the disk server, which the replay reads, does not answer this host; `None` if it
    /// does. A replay that stands still for that is not lost.
    pub fn storage_silent(&self, since: Option<Instant>) {
        self.ends.shared.lock_end().note_storage_silent(since);
    }

    /// Ends the session, because this host does not reach the disk server for so long and the backup
    /// does.
    pub fn give_way(&self, for_: Duration) {
        self.ends.shared.lose(LossReason::NoStorage { for_ });
    }

    /// Ends the session, because this host cannot serve it, for this reason.
    pub fn give_up(&self, why: String) {
        self.ends.shared.lose(LossReason::Unserved(why));
    }

    /// Ends the session: its connection does not take anything.
    pub(crate) fn peer_has_gone(&self) {
        self.ends.shared.lose(LossReason::Closed);
    }

    /// Ends the session, because the backup is to go on with the guest: it finds this host lost at once. No
    /// [permit](Sender::permit) is worth anything from then on.
    pub fn hand_over(&self) {
        self.ends.shared.lose(LossReason::HandedOver);
    }

    /// Where the end of the session is announced, exactly once; clones of the receiver share it.
    #[must_use]
    pub fn events(&self) -> crossbeam_channel::Receiver<ChannelEvent> {
        self.ends.shared.loss.events()
    }

    /// Why the session is over, or `None` while it is not.
    #[must_use]
    pub fn lost(&self) -> Option<LossReason> {
        self.ends.shared.loss.reason().cloned()
    }

    /// Waits until the session is over.
    pub fn wait_over(&self) {
        self.ends.shared.loss.wait();
    }

    /// Whether the session is over. Costs one atomic load.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.ends.shared.loss.is_over()
    }

    /// What was agreed in the handshake.
    #[must_use]
    pub fn session(&self) -> &SessionInfo {
        &self.ends.shared.info
    }

    /// What this end did so far.
    #[must_use]
    pub fn stats(&self) -> SenderStats {
        self.ends.shared.stats()
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.shared.lose(LossReason::Closed);
        self.beating = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl SenderStats {
    /// Where the two sides compare: entries that the backup has not acknowledged.
    #[must_use]
    pub fn unacknowledged(&self) -> u64 {
        self.appended.0.saturating_sub(self.acked.0)
    }
}
