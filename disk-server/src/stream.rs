//! Connections of either kind of client: connecting, reading and writing until a deadline.
//!
//! These ask for a system call more than what they do. The server's side of NBD, where that counts, has
//! [another way](crate::nbd).

use std::io::{self, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use transport::{Role, Stream};

use crate::arbiter::ServerAddress;
use crate::lookup::addresses;

/// Who may be at a client's other end.
pub(crate) const SERVERS: &[Role] = &[Role::DiskServer];
/// Who may be at a server's other end. What each of them may do is the [policy](crate::policy)'s to say.
pub(crate) const CLIENTS: &[Role] = &Role::ALL;

/// Connects to the first of a name's addresses where somebody listens. Each has its share of the time.
pub(crate) fn connect(address: &ServerAddress, deadline: Instant) -> io::Result<TcpStream> {
    let targets = addresses(address, deadline)?;
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for (tried, target) in targets.iter().enumerate() {
        let share = left(deadline)? / (targets.len() - tried) as u32;
        match TcpStream::connect_timeout(target, share.max(Duration::from_millis(1))) {
            // Where nobody listens, the kernel may give our end the very port that we ask for, and
            // connect it to itself.
            Ok(stream) if stream.local_addr().ok() == Some(*target) => {
                last = io::ErrorKind::ConnectionRefused.into();
            }
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Who is at the other end, for the log.
pub(crate) fn peer(stream: &Stream) -> String {
    let address = match stream.peer_addr() {
        Ok(address) => address.to_string(),
        // The connection ended already.
        Err(_) => "at an unknown address".to_owned(),
    };
    match stream.peer() {
        Some(peer) => format!("{address} ({peer})"),
        None => address,
    }
}

/// Fills a buffer. Who sends a byte now and then does not get more time for it.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] at the deadline, [`io::ErrorKind::UnexpectedEof`], and the system's.
pub(crate) fn read_exact(
    stream: &Stream,
    mut buffer: &mut [u8],
    deadline: Instant,
) -> io::Result<()> {
    while !buffer.is_empty() {
        match stream.read_until(buffer, deadline)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => buffer = &mut buffer[n..],
        }
    }
    Ok(())
}

/// Writes a few bytes, for which an open connection has room.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] at the deadline, and the system's.
pub(crate) fn write_all(mut stream: &Stream, bytes: &[u8], deadline: Instant) -> io::Result<()> {
    stream.set_write_timeout(Some(left(deadline)?))?;
    let written = stream.write_all(bytes).and_then(|()| stream.flush());
    written.map_err(|error| {
        if is_timeout(&error) {
            io::ErrorKind::TimedOut.into()
        } else {
            error
        }
    })
}

/// How the kernel says that its timeout passed.
fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// Never zero, which is "for ever" to the kernel.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn a_byte_now_and_then_gains_no_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let generous = Instant::now() + Duration::from_secs(60);
        let address = listener.local_addr().unwrap().into();
        let client = Stream::plain(connect(&address, generous).unwrap());
        let server = Stream::plain(listener.accept().unwrap().0);
        thread::scope(|scope| {
            scope.spawn(move || {
                // Until the other side is gone.
                while (&server).write_all(&[1]).is_ok() {
                    thread::yield_now();
                    let _ = server.read_until(&mut [0], Instant::now() + Duration::from_millis(1));
                }
            });
            let mut byte = [0];
            read_exact(&client, &mut byte, generous).unwrap();
            assert_eq!(byte, [1]);
            let deadline = Instant::now() + Duration::from_millis(20);
            let filled = read_exact(&client, &mut vec![0; 1 << 20], deadline);
            assert_eq!(filled.unwrap_err().kind(), io::ErrorKind::TimedOut);
            drop(client);
        });
    }

    #[test]
    fn a_connection_to_itself_is_none() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
        let address = closed.unwrap().into();
        let deadline = Instant::now() + Duration::from_secs(60);
        let refused = connect(&address, deadline).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let passed = connect(&address, Instant::now()).unwrap_err();
        assert_eq!(passed.kind(), io::ErrorKind::TimedOut);
    }
}
