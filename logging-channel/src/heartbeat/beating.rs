//! The thread that sends and hears heartbeats.

use std::io::{self, PipeReader, PipeWriter};
use std::net::UdpSocket;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use transport::{DatagramKey, MAC_LEN, wait_readable};

use super::{HEARTBEAT_LEN, Heartbeat, Role};
use crate::entry::Lsn;
use crate::loss::LossReason;
use crate::protocol::{Heard, Pulse};

/// When something was last heard over TCP; written by the thread that reads it.
#[derive(Debug)]
pub(crate) struct LastHeard {
    start: Instant,
    nanos: AtomicU64,
}

impl LastHeard {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            nanos: AtomicU64::new(0),
        }
    }

    pub(crate) fn set(&self) {
        let nanos = self.start.elapsed().as_nanos() as u64;
        self.nanos.store(nanos, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> Instant {
        self.start + Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }
}

/// What the heartbeat thread needs of the end that it serves.
pub(crate) trait Monitored: Send + Sync + 'static {
    /// Which end it is.
    const ROLE: Role;

    /// When something was last heard over TCP.
    fn traffic(&self) -> &LastHeard;

    /// How far outputs were released, as this end's heartbeats say.
    fn released(&self) -> Lsn;

    /// How long ago the disk server answered this end, as its heartbeats say.
    fn storage(&self, now: Instant) -> Option<Duration>;

    /// A heartbeat of the peer's has come.
    fn heard(&self, heard: &Heard);

    /// How often this end looks how its peer gets on, if not at every heartbeat.
    fn look_interval(&self) -> Option<Duration>;

    /// Looks how the peer gets on.
    fn look(&self, now: Instant);

    /// The peer is silent: the session is over.
    fn lose(&self, reason: LossReason);

    /// Whether the session is over.
    fn is_over(&self) -> bool;
}

/// A running heartbeat thread. Stops when dropped. The socket is left as it is: the sessions of a
/// listener have one for all of them.
#[derive(Debug)]
pub(crate) struct Beating {
    /// Closed to wake the thread.
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Beating {
    /// Starts the thread on `socket`, which is connected to the peer's, for a session of this version. With a key,
    /// only what has that is heard.
    pub(crate) fn start<M: Monitored>(
        (socket, key): (UdpSocket, Option<DatagramKey>),
        (session, version): (u64, u16),
        timeout: Duration,
        end: Arc<M>,
    ) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let (stopped, stop) = io::pipe()?;
        let named = thread::Builder::new().name("heartbeat".into());
        let beats = move || beat((&socket, key), &stopped, (session, version), timeout, &*end);
        let thread = confinement::spawn(named, &[], beats)?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Beating {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn beat<M: Monitored>(
    (socket, key): (&UdpSocket, Option<DatagramKey>),
    stopped: &PipeReader,
    (session, version): (u64, u16),
    timeout: Duration,
    end: &M,
) {
    raise_priority();
    let start = Instant::now();
    let mut ear = Ear {
        pulse: Pulse::new(M::ROLE, session, timeout, start),
        version,
        key,
        datagram: [0; MOST_LEN],
        end,
    };
    let interval = ear.pulse.interval();
    let look_interval = end
        .look_interval()
        .map_or(interval, |own| own.min(interval));
    let (mut next, mut next_look) = (start, start);
    while !end.is_over() {
        let now = Instant::now();
        if now >= next_look {
            end.look(now);
            next_look = now + look_interval;
        }
        if now >= next {
            let beat = ear.pulse.beat(now, end.released(), end.storage(now));
            // Errors are what a dead peer or network looks like: the detector's business.
            let _ = socket.send(&ear.sealed(&beat));

            ear.drain(socket);
            ear.pulse.hear_log(end.traffic().get());
            if let Some(silence) = ear.pulse.tick(now) {
                return end.lose(silence);
            }
            // From now, not from the last one: a process that was stopped owes no heartbeats.
            next = now + interval;
        }
        let wait = next
            .min(next_look)
            .saturating_duration_since(Instant::now());
        let wait = wait.max(Duration::from_millis(1));
        let heard = match wait_readable(&[socket.as_fd(), stopped.as_fd()], Some(wait)).as_deref() {
            Ok([_, true]) => return,
            Ok([false, _]) => true,
            _ => ear.drain(socket),
        };
        if !heard {
            // An unreachable port or network, which says nothing that silence does not. The pause
            // is there because this thread may run before all others: it must not spin.
            thread::sleep(wait.min(Duration::from_millis(5)));
        }
    }
}

/// More than any heartbeat of any version, so that a longer datagram does not look like one.
const MOST_LEN: usize = 2 * HEARTBEAT_LEN + MAC_LEN;

/// What is made of the peer's heartbeats.
struct Ear<'a, M> {
    pulse: Pulse,
    version: u16,
    key: Option<DatagramKey>,
    datagram: [u8; MOST_LEN],
    end: &'a M,
}

impl<M: Monitored> Ear<'_, M> {
    /// Takes the next datagram.
    fn hear(&mut self, socket: &UdpSocket) -> io::Result<()> {
        let len = socket.recv(&mut self.datagram)?;
        let heard = self
            .opened(&self.datagram[..len])
            .and_then(|datagram| Heartbeat::decode(datagram, self.version))
            .and_then(|beat| self.pulse.hear(&beat, Instant::now()));
        if let Some(heard) = heard {
            self.end.heard(&heard);
        }
        Ok(())
    }

    /// A heartbeat as it is sent.
    fn sealed(&self, beat: &Heartbeat) -> Vec<u8> {
        let mut datagram = beat.encode(self.version);
        if let Some(key) = &self.key {
            datagram.extend_from_slice(&key.mac(&datagram));
        }
        datagram
    }

    /// The heartbeat in a datagram, if that is genuine.
    fn opened<'d>(&self, datagram: &'d [u8]) -> Option<&'d [u8]> {
        let Some(key) = &self.key else {
            return Some(datagram);
        };
        let (beat, mac) = datagram.split_last_chunk::<MAC_LEN>()?;
        key.is_genuine(beat, mac).then_some(beat)
    }

    /// Takes everything that waits in the socket. Whether there was a datagram.
    fn drain(&mut self, socket: &UdpSocket) -> bool {
        // More than a sane peer can have sent: a flood must not keep the detector from deciding.
        const MOST: usize = 1024;
        let mut any = false;
        for _ in 0..MOST {
            match self.hear(socket) {
                Ok(()) => any = true,
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(_) => break,
            }
        }
        any
    }
}

/// Asks for the thread to run soon after it is woken, so that a busy host is not taken for dead.
fn raise_priority() {
    let param = libc::sched_param { sched_priority: 1 };
    // SAFETY: `param` is valid for the call; 0 means the calling thread.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &raw const param) } == 0 {
        return;
    }
    // SAFETY: takes numbers only; 0 means the calling thread.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -10) };
    if let Err(error) = Errno::result(result) {
        log::debug!("heartbeats run at normal priority: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const VERSION: u16 = crate::codec::PROTOCOL_VERSION;

    /// A primary that hears nobody.
    struct Alone(LastHeard);

    impl Monitored for Alone {
        const ROLE: Role = Role::Primary;

        fn traffic(&self) -> &LastHeard {
            &self.0
        }

        fn released(&self) -> Lsn {
            Lsn(0)
        }

        fn storage(&self, _: Instant) -> Option<Duration> {
            None
        }

        fn heard(&self, _: &Heard) {}

        fn look_interval(&self) -> Option<Duration> {
            None
        }

        fn look(&self, _: Instant) {}

        fn lose(&self, _: LossReason) {}

        fn is_over(&self) -> bool {
            false
        }
    }

    /// One that is shut for reading tells at once, and for ever, that nothing came: the next session's
    /// thread, which runs before all others, would not let go of the processor.
    #[test]
    fn the_next_session_finds_its_socket_open() {
        let bind = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        let (socket, peer) = (bind(), bind());
        socket
            .connect(peer.local_addr().expect("its address"))
            .expect("UDP has no handshake");
        let next = socket.try_clone().expect("another handle");
        let (hour, end) = (Duration::from_secs(3600), Arc::new(Alone(LastHeard::new())));
        drop(Beating::start((socket, None), (1, VERSION), hour, end).expect("a thread"));
        let nothing = next.recv(&mut [0]).map_err(|error| error.kind());
        assert_eq!(nothing, Err(io::ErrorKind::WouldBlock));
    }
}
