//! What a caller says to a logging port behind its preface, where no keys are asked for: which versions it speaks,
//! and what it has come for.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use transport::Stream;

use super::{Caller, Gone, Line, Said};
use crate::codec::VERSIONS;
use crate::handshake::{ENVELOPE_LEN, MAX_ENVELOPE_BODY, Message, Refusal};

/// What a caller has come to.
pub(crate) enum Heard {
    /// It is a backup, with which this version is spoken.
    Backup(u16),
    Memory,
    Refused(Refusal),
    /// It went before it was through.
    Nothing,
}

/// Hears one who says this, in pieces of this length, and goes. Gives how often it was answered, too.
///
/// # Panics
/// If one who has gone is waited for, more is kept than a message has, or an answer is none.
pub(crate) fn hear(said: &[u8], piece: usize) -> (Heard, usize) {
    let (ours, mut theirs) = UnixStream::pair().expect("two sockets");
    theirs.set_nonblocking(true).expect("a socket");
    let mut caller = Caller {
        line: Line::Open(Stream::plain(TcpStream::from(OwnedFd::from(ours)))),
        peer: (Ipv4Addr::LOCALHOST, 1).into(),
        said: Vec::new(),
        version: None,
        leaving: false,
        deadline: Instant::now(),
    };
    for piece in said.chunks(piece) {
        theirs.write_all(piece).expect("there is room");
        if let Some(heard) = listen(&mut caller) {
            return (heard, answers(theirs));
        }
    }
    theirs.shutdown(Shutdown::Write).expect("it is open");
    let heard = listen(&mut caller).expect("who has gone is not waited for");
    (heard, answers(theirs))
}

fn listen(caller: &mut Caller) -> Option<Heard> {
    let heard = match caller.listen() {
        Ok(None) => {
            let kept = caller.said.len();
            assert!(
                kept < ENVELOPE_LEN + MAX_ENVELOPE_BODY,
                "{kept} bytes are kept"
            );
            return None;
        }
        Ok(Some((_, Said::Hello(_, version)))) => Heard::Backup(version),
        Ok(Some((_, Said::Memory { .. }))) => Heard::Memory,
        Err(Gone::Refused(_, refusal)) => Heard::Refused(refusal),
        Err(Gone::Silently) => Heard::Nothing,
        Err(Gone::Stranger(error)) => panic!("who is open is no stranger: {error}"),
    };
    Some(heard)
}

/// How often this side has said which versions it speaks, and nothing else.
fn answers(mut caller: UnixStream) -> usize {
    let mut told = Vec::new();
    // Its end is that it would have to wait.
    let _ = caller.read_to_end(&mut told);
    let mut rest = &told[..];
    let mut count = 0;
    while !rest.is_empty() {
        let message = Message::read_from(&mut rest, VERSIONS).expect("an answer");
        assert_eq!(message, Message::Versions(VERSIONS));
        count += 1;
    }
    count
}
