//! The client of a guest that counts: it sends a line after the other over one TCP connection, with pauses, and is
//! answered with each line's number.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::client::{Client, ClientRecord};
use crate::network::Position;
use crate::worker::{Desk, Worker};

const PORT: u16 = 7;
/// How long one attempt to connect may take: many guests on few emulated processors take their time.
const ATTEMPT: Duration = Duration::from_secs(60);
/// How often it is looked whether to go on.
const LOOK: Duration = Duration::from_millis(100);
/// How long the last answer may take.
const LAST: Duration = Duration::from_secs(30);
/// The longest answer: a number, and the end of the line.
const ANSWER: usize = 21;

impl Client {
    /// Starts to connect to a guest that counts (`ftvm.do=count`), and sends it lines, with a pause of this length
    /// after each answer. A connection that breaks is the end: the guest would count from 1 again.
    #[must_use]
    pub fn counting(position: &Position, guest: Ipv4Addr, pause: Duration) -> Self {
        let position = position.clone();
        Self(Worker::start(move |desk: &Desk<ClientRecord>| {
            let Some(mut stream) = connect(&position, guest, desk) else {
                return;
            };
            if let Err(error) = count(&mut stream, pause, desk) {
                let mut record = desk.record();
                record.reconnects = 1;
                record.trouble = Some(format!("the connection broke: {error}"));
            }
        }))
    }
}

fn connect(position: &Position, guest: Ipv4Addr, desk: &Desk<ClientRecord>) -> Option<TcpStream> {
    while desk.goes_on() {
        let stream = position.connect(guest, PORT, ATTEMPT).and_then(|stream| {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(LOOK))?;
            Ok(stream)
        });
        match stream {
            Ok(stream) => return Some(stream),
            Err(error) => log::debug!("no connection yet: {error}"),
        }
        thread::sleep(LOOK);
    }
    None
}

fn count(stream: &mut TcpStream, pause: Duration, desk: &Desk<ClientRecord>) -> io::Result<()> {
    loop {
        // The last line's number is how many the guest has.
        let is_last = !desk.goes_on();
        stream.write_all(b"\n")?;
        let Some(number) = answer(stream, desk)? else {
            return Ok(());
        };
        let at = Instant::now();
        desk.record().reply(at, number);
        if is_last {
            desk.record().final_counter = Some(number);
            return Ok(());
        }
        while desk.goes_on() && at.elapsed() < pause {
            thread::sleep(LOOK);
        }
    }
}

/// The number in the next line; `None` if nobody waits for it any more.
fn answer(stream: &mut TcpStream, desk: &Desk<ClientRecord>) -> io::Result<Option<u64>> {
    let mut line = Vec::new();
    let mut byte = [0];
    let mut last = None;
    while line.len() < ANSWER {
        match stream.read(&mut byte) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) if byte == *b"\n" => break,
            Ok(_) => line.push(byte[0]),
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => {}
                ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                    let last = desk
                        .finishing()
                        .then(|| *last.get_or_insert_with(Instant::now));
                    if desk.abandoned() || last.is_some_and(|since| since.elapsed() > LAST) {
                        return Ok(None);
                    }
                }
                _ => return Err(error),
            },
        }
    }
    let text = String::from_utf8_lossy(&line).into_owned();
    let number = text.parse().map(Some);
    number.map_err(|_| io::Error::new(ErrorKind::InvalidData, format!("`{text}` is no number")))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// What the client has of a guest that answers so, and then closes the connection.
    fn told(answers: &'static [u8]) -> (io::Result<()>, ClientRecord) {
        let guest = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = guest.local_addr().expect("it has one");
        let mut stream = TcpStream::connect(address).expect("it listens");
        let (mut guest, _) = guest.accept().expect("a connection");
        guest.write_all(answers).expect("the client reads");
        guest.shutdown(std::net::Shutdown::Write).expect("an end");
        let desk = Desk::default();
        let end = count(&mut stream, Duration::ZERO, &desk);
        let record = desk.record().clone();
        (end, record)
    }

    #[test]
    fn a_broken_connection_ends_the_count() {
        let (end, record) = told(b"1\n2\n");
        assert_eq!(end.expect_err("it broke").kind(), ErrorKind::UnexpectedEof);
        assert_eq!((record.acked(), record.irregular), (2, None));
    }

    #[test]
    fn a_guest_that_counts_anew_is_noticed() {
        let (_, record) = told(b"1\n2\n1\n");
        assert_eq!(record.irregular, Some((1, 3)));
        let (end, _) = told(b"one\n");
        assert_eq!(end.expect_err("no number").kind(), ErrorKind::InvalidData);
    }
}
