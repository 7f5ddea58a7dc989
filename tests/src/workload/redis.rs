//! The client: increments a counter in the guest's Redis over one TCP
//! connection, request by request, as fast as it can or with pauses.

use std::io;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::client::{Client, ClientRecord};
use super::resp::{Connection, RespError};
use crate::network::{GUEST, Position};
use crate::worker::{Desk, Worker};

const PORT: u16 = 6379;
const KEY: &str = "counter";
/// How long one attempt to connect may take.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Time between attempts: a port where nobody listens yet refuses at once.
const PAUSE: Duration = Duration::from_millis(50);
/// Between a reply and the next request of a client that leaves the hosts their time: a request takes some
/// 15 ms of their processors.
const REST: Duration = Duration::from_millis(100);
/// How often a wait for a reply looks whether it shall go on.
const LOOK: Duration = Duration::from_millis(100);
/// How long the last request may take, and a second connection to read the
/// counter when the first one broke.
const LAST: Duration = Duration::from_secs(30);

impl Client {
    /// Starts to connect to the guest's Redis from `position`, and goes on with increments of a
    /// counter, as fast as they are answered.
    #[must_use]
    pub fn redis(position: &Position) -> Self {
        Self::redis_that(false, position)
    }

    /// As [`Client::redis`], with a pause after each reply. A client that asks without one keeps a
    /// processor busy on both hosts of a pair, whatever a scenario waits for.
    #[must_use]
    pub fn redis_with_pauses(position: &Position) -> Self {
        Self::redis_that(true, position)
    }

    /// As [`Client::redis_with_pauses`] if it `rests`, and else as [`Client::redis`].
    pub(crate) fn redis_that(rests: bool, position: &Position) -> Self {
        let pause = if rests { REST } else { Duration::ZERO };
        let position = position.clone();
        Self(Worker::start(move |desk| work(desk, &position, pause)))
    }
}

fn work(desk: &Desk<ClientRecord>, position: &Position, pause: Duration) {
    let Some(mut connection) = connect(position, || desk.goes_on()) else {
        return;
    };
    if let Err(error) = increments(desk, &mut connection, pause) {
        if desk.abandoned() {
            return;
        }
        desk.record().trouble = Some(error.to_string());
        let deadline = Instant::now() + LAST;
        if matches!(error, RespError::Broken(_)) {
            desk.record().reconnects += 1;
            let waits = || !desk.abandoned() && Instant::now() < deadline;
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
    let give_up = || desk.abandoned() || Instant::now() > deadline;
    let counter = connection.counter(KEY, give_up);
    let mut record = desk.record();
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

fn increments(
    desk: &Desk<ClientRecord>,
    connection: &mut Connection<TcpStream>,
    pause: Duration,
) -> Result<(), RespError> {
    // The limit for the last request begins when it is known to be the last.
    let last = Mutex::new(None);
    while desk.goes_on() {
        let value = connection.increment(KEY, || {
            let mut last = last.lock();
            let since = desk
                .finishing()
                .then(|| *last.get_or_insert_with(Instant::now));
            desk.abandoned() || since.is_some_and(|since| since.elapsed() > LAST)
        })?;
        desk.record().reply(Instant::now(), value);
        thread::sleep(pause);
    }
    Ok(())
}
