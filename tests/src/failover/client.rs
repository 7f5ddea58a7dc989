//! The client: increments a counter in the guest's Redis over one TCP
//! connection, request by request, as fast as it can.

use std::io;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::resp::{Connection, RespError};
use crate::network::{GUEST, Position};

const PORT: u16 = 6379;
const KEY: &str = "counter";
/// How long one attempt to connect may take.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Time between attempts: a port where nobody listens yet refuses at once.
const PAUSE: Duration = Duration::from_millis(50);
/// How often a wait for a reply looks whether it shall go on.
const LOOK: Duration = Duration::from_millis(100);
/// How long the last request may take, and a second connection to read the
/// counter when the first one broke.
const LAST: Duration = Duration::from_secs(30);

/// What the client saw.
#[derive(Debug, Clone, Default)]
pub struct ClientRecord {
    /// Every reply: when, and the counter in it.
    pub replies: Vec<(Instant, u64)>,
    /// The first reply that was not its predecessor plus one, and what it
    /// should have been.
    pub irregular: Option<(u64, u64)>,
    /// Connections after the first one.
    pub reconnects: u32,
    /// The counter at the end.
    pub final_counter: Option<u64>,
    /// What went wrong.
    pub trouble: Option<String>,
}

impl ClientRecord {
    /// The highest counter that was acknowledged.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.replies
            .iter()
            .map(|(_, value)| *value)
            .max()
            .unwrap_or(0)
    }

    fn reply(&mut self, at: Instant, value: u64) {
        let expected = self.replies.last().map_or(0, |(_, value)| *value) + 1;
        if value != expected && self.irregular.is_none() {
            self.irregular = Some((value, expected));
        }
        self.replies.push((at, value));
    }
}

#[derive(Debug, Default)]
struct Shared {
    record: Mutex<ClientRecord>,
    /// Send no more increments.
    finish: AtomicBool,
    /// Wait for nothing any more.
    abandon: AtomicBool,
}

impl Shared {
    fn record(&self) -> MutexGuard<'_, ClientRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finishing(&self) -> bool {
        self.finish.load(Ordering::Relaxed)
    }

    fn abandoned(&self) -> bool {
        self.abandon.load(Ordering::Relaxed)
    }
}

/// A client at work. It stops when this value is dropped.
#[derive(Debug)]
pub struct CounterClient {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl CounterClient {
    /// Starts to connect from `position`, and goes on with increments.
    #[must_use]
    pub fn start(position: &Position) -> Self {
        let shared = Arc::new(Shared::default());
        let thread = thread::spawn({
            let (shared, position) = (Arc::clone(&shared), position.clone());
            move || work(&shared, &position)
        });
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// The counter in the newest reply, and 0 before the first one.
    #[must_use]
    pub fn counter(&self) -> u64 {
        self.last_reply().map_or(0, |(_, value)| value)
    }

    /// The first reply.
    #[must_use]
    pub fn first_reply(&self) -> Option<(Instant, u64)> {
        self.shared.record().replies.first().copied()
    }

    /// The newest reply.
    #[must_use]
    pub fn last_reply(&self) -> Option<(Instant, u64)> {
        self.shared.record().replies.last().copied()
    }

    /// What went wrong, if something did.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.shared.record().trouble.clone()
    }

    /// Sends no more increments, reads the counter over the same connection,
    /// and gives what was seen.
    #[must_use]
    pub fn finish(mut self) -> ClientRecord {
        self.shared.finish.store(true, Ordering::Relaxed);
        self.join();
        self.shared.record().clone()
    }

    /// Waits for nothing any more, and gives what was seen.
    #[must_use]
    pub fn abandon(mut self) -> ClientRecord {
        self.shared.abandon.store(true, Ordering::Relaxed);
        self.join();
        self.shared.record().clone()
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // It does not panic; if it did, the message is printed.
            let _ = thread.join();
        }
    }
}

impl Drop for CounterClient {
    fn drop(&mut self) {
        self.shared.abandon.store(true, Ordering::Relaxed);
        self.join();
    }
}

fn work(shared: &Shared, position: &Position) {
    let waits = || !shared.abandoned() && !shared.finishing();
    let Some(mut connection) = connect(position, waits) else {
        return;
    };
    if let Err(error) = increments(shared, &mut connection) {
        if shared.abandoned() {
            return;
        }
        shared.record().trouble = Some(error.to_string());
        let deadline = Instant::now() + LAST;
        if matches!(error, RespError::Broken(_)) {
            shared.record().reconnects += 1;
            let waits = || !shared.abandoned() && Instant::now() < deadline;
            match connect(position, waits) {
                Some(second) => connection = second,
                None => return,
            }
        } else {
            // A late reply would be taken for that of the next request.
            return;
        }
    }
    let deadline = Instant::now() + LAST;
    let give_up = || shared.abandoned() || Instant::now() > deadline;
    let counter = connection.counter(KEY, give_up);
    let mut record = shared.record();
    match counter {
        Ok(value) => record.final_counter = Some(value),
        Err(error) => {
            if matches!(error, RespError::Broken(_)) {
                record.reconnects += 1;
            }
            let trouble = format!("the counter cannot be read: {error}");
            record.trouble.get_or_insert(trouble);
        }
    }
}

/// Tries to connect to the guest's Redis for as long as somebody waits for it.
pub(super) fn connect(
    position: &Position,
    waits: impl Fn() -> bool,
) -> Option<Connection<TcpStream>> {
    while waits() {
        let stream = position
            .connect(GUEST, PORT, ATTEMPT)
            .and_then(|stream| prepare(&stream).map(|()| stream));
        match stream {
            Ok(stream) => return Some(Connection::new(stream)),
            Err(error) => log::debug!("no connection yet: {error}"),
        }
        thread::sleep(PAUSE);
    }
    None
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(LOOK))
}

fn increments(shared: &Shared, connection: &mut Connection<TcpStream>) -> Result<(), RespError> {
    // The limit for the last request begins when it is known to be the last.
    let last = Mutex::new(None);
    while !shared.finishing() && !shared.abandoned() {
        let value = connection.increment(KEY, || {
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            let since = shared
                .finishing()
                .then(|| *last.get_or_insert_with(Instant::now));
            shared.abandoned() || since.is_some_and(|since| since.elapsed() > LAST)
        })?;
        shared.record().reply(Instant::now(), value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_and_a_repetition_are_noticed() {
        let now = Instant::now();
        let seen = |values: &[u64]| {
            let mut record = ClientRecord::default();
            for value in values {
                record.reply(now, *value);
            }
            record
        };
        assert_eq!(seen(&[1, 2, 3]).irregular, None);
        assert_eq!(seen(&[1, 2, 2, 3]).irregular, Some((2, 3)));
        assert_eq!(seen(&[1, 3]).irregular, Some((3, 2)));
        assert_eq!(seen(&[2]).irregular, Some((2, 1)));
        assert_eq!(seen(&[1, 2, 1]).acked(), 2);
    }
}
