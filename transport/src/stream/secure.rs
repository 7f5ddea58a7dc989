//! What a connection with keys has besides its socket.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::datagram::DatagramKey;
use crate::outbox::Outbox;
use crate::peer::Peer;
use crate::tls::Tls;

/// What is read from the socket at once.
const RECEIVE_ROOM: usize = 256 * 1024;

/// The two directions of it, and who is at the other end.
pub(crate) struct Secure {
    pub(super) peer: Peer,
    /// It is not listed any more.
    is_revoked: Arc<AtomicBool>,
    pub(super) datagrams: Option<DatagramKey>,
    /// Taken after either of the others, for as long as it takes to encrypt or decrypt what is there.
    pub(super) tls: Mutex<Tls>,
    pub(super) receiving: Mutex<Receiving>,
    /// What is encrypted and not sent.
    pub(super) sending: Mutex<Outbox>,
}

/// What came of it.
pub(super) struct Receiving {
    /// From the socket, and not decrypted: `start..end`.
    pub(super) bytes: Vec<u8>,
    pub(super) start: usize,
    pub(super) end: usize,
    /// Decrypted, and not taken: from `taken`.
    pub(super) data: Vec<u8>,
    pub(super) taken: usize,
    /// What is wrong with what came.
    pub(super) broken: Option<String>,
}

impl Receiving {
    /// Gives what is decrypted.
    pub(super) fn give(&mut self, buffer: &mut [u8]) -> usize {
        let data = &self.data[self.taken..];
        let given = data.len().min(buffer.len());
        buffer[..given].copy_from_slice(&data[..given]);
        self.taken += given;
        given
    }

    /// Room for more from the socket. What is there is less than a record.
    pub(super) fn room(&mut self) -> &mut [u8] {
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        &mut self.bytes[self.end..]
    }
}

impl Secure {
    /// Of a connection that is open, with what came of it already, encrypted and as data, and what is still to be
    /// sent.
    pub(crate) fn new(
        tls: Tls,
        (peer, is_revoked): (Peer, Arc<AtomicBool>),
        datagrams: Option<DatagramKey>,
        incoming: &[u8],
        data: Vec<u8>,
        sending: Outbox,
    ) -> Self {
        let mut bytes = vec![0; RECEIVE_ROOM.max(incoming.len())];
        bytes[..incoming.len()].copy_from_slice(incoming);
        Self {
            peer,
            is_revoked,
            datagrams,
            tls: Mutex::new(tls),
            receiving: Mutex::new(Receiving {
                bytes,
                start: 0,
                end: incoming.len(),
                data,
                taken: 0,
                broken: None,
            }),
            sending: Mutex::new(sending),
        }
    }

    /// Whether its peer is still one of those who are trusted.
    pub(super) fn check(&self) -> io::Result<()> {
        if !self.is_revoked.load(Ordering::SeqCst) {
            return Ok(());
        }
        let text = format!("the {} is not listed any more", self.peer);
        Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
    }

    /// Sends what is encrypted.
    pub(super) fn push(&self, write: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<()> {
        self.sending.lock().send(write)
    }
}
