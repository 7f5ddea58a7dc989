//! Bare TCP between the two ends, which no channel can outdo: the same direction, and writes of the same length.
//!
//! A piece begins with a byte that says whether it is the last one. What follows is of no interest.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use logging_channel::codec::HEADER_LEN;
use logging_channel::times::Times;

const MORE: u8 = 0;
const LAST: u8 = 1;

/// As long as an acknowledgement.
const ANSWER: [u8; HEADER_LEN] = [0; HEADER_LEN];

/// Whether there are more pieces, as what one begins with says.
fn is_last(piece: &[u8]) -> bool {
    piece[0] == LAST
}

/// A piece of this length, which is none of nothing.
fn piece(len: usize) -> Vec<u8> {
    let mut piece = vec![0xa5; len.max(1)];
    piece[0] = MORE;
    piece
}

/// Sends pieces of `len` bytes for so long, and waits for the other side to have all. Gives how many bytes there were.
///
/// # Errors
/// [`io::ErrorKind::Interrupted`] where `is_over`, and the system's.
pub(super) fn send(
    mut socket: &TcpStream,
    len: usize,
    time: Duration,
    is_over: impl Fn() -> bool,
) -> io::Result<u64> {
    socket.set_nodelay(true)?;
    let since = Instant::now();
    let mut piece = piece(len);
    let mut sent = 0;
    while !is_last(&piece) {
        if is_over() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if since.elapsed() >= time {
            piece[0] = LAST;
        }
        socket.write_all(&piece)?;
        sent += piece.len() as u64;
    }
    socket.read_exact(&mut ANSWER.clone())?;
    Ok(sent)
}

/// Sends pieces of `len` bytes for so long, each when the one before was answered. Gives how long answers took.
///
/// # Errors
/// As [`send`].
pub(super) fn ask(
    mut socket: &TcpStream,
    len: usize,
    time: Duration,
    is_over: impl Fn() -> bool,
) -> io::Result<Times> {
    socket.set_nodelay(true)?;
    let since = Instant::now();
    let mut piece = piece(len);
    let mut times = Times::default();
    while !is_last(&piece) {
        if is_over() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let asked = Instant::now();
        if asked - since >= time {
            piece[0] = LAST;
        }
        socket.write_all(&piece)?;
        socket.read_exact(&mut ANSWER.clone())?;
        times.note(asked.elapsed());
    }
    Ok(times)
}

/// When a piece is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answered {
    Each,
    Last,
}

/// The other side's end of [`send`] and of [`ask`], for pieces of the same length.
pub(super) fn take(mut socket: &TcpStream, len: usize, answered: Answered) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut piece = piece(len);
    while !is_last(&piece) {
        socket.read_exact(&mut piece)?;
        if answered == Answered::Each || is_last(&piece) {
            socket.write_all(&ANSWER)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::thread;

    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    fn ends() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let near = TcpStream::connect(address).expect("connected");
        (near, listener.accept().expect("a connection").0)
    }

    #[test]
    fn both_ends_come_to_the_last_piece() {
        let (near, far) = ends();
        let taking = thread::spawn(move || {
            take(&far, 1000, Answered::Last)?;
            take(&far, 56, Answered::Each)
        });
        let sent = send(&near, 1000, SOON, || false).expect("it is taken");
        assert!(sent > 0 && sent.is_multiple_of(1000), "{sent}");
        let asked = ask(&near, 56, SOON, || false).expect("answers");
        assert!(asked.count() > 0);
        taking.join().expect("no panic").expect("it got all");
    }

    #[test]
    fn who_is_to_end_does_at_once() {
        let (near, far) = ends();
        let taking = thread::spawn(move || take(&far, 1000, Answered::Each));
        let hours = Duration::from_secs(10_000);
        for ended in [
            send(&near, 1000, hours, || true).err(),
            ask(&near, 1000, hours, || true).err(),
        ] {
            let kind = ended.expect("it is over").kind();
            assert_eq!(kind, io::ErrorKind::Interrupted);
        }
        drop(near);
        (taking.join().expect("no panic")).expect_err("nobody is there");
    }

    #[test]
    fn an_end_that_goes_is_an_error_at_the_other() {
        let (near, far) = ends();
        drop(far);
        send(&near, 1000, SOON, || false).expect_err("nobody is there");
        let (near, far) = ends();
        drop(near);
        take(&far, 1000, Answered::Last).expect_err("nobody is there");
    }
}
