//! TLS records, without sockets: rustls's connection, with what it wants to send kept in order.
//!
//! It is the unbuffered kind of connection: the buffered kind reads 4 KiB at a time from a socket, which costs
//! half of the throughput.

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::CertificateDer;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedConnectionCommon,
    UnbufferedStatus,
};
use rustls::{CommonState, Error, PeerMisbehaved};

use crate::outbox::Outbox;

/// Length of a record's header.
const HEADER_LEN: usize = 5;

/// The most data in a record (RFC 8446, section 5.1), and what its encryption adds.
const FRAGMENT: usize = 16 * 1024;
const OVERHEAD: usize = HEADER_LEN + 1 + 16;

pub(crate) enum Connection {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// A connection's records.
pub(crate) struct Tls {
    connection: Connection,
    queue: Queue,
}

/// What the records of the peer bring, besides data.
#[derive(Default)]
struct Queue {
    /// Records that are not data, encoded and not yet given to who sends. They go before what is encrypted
    /// later.
    control: Vec<u8>,
    /// The peer has said that it says no more.
    has_ended: bool,
}

impl Queue {
    fn give_control(&mut self, out: &mut Outbox) {
        out.push(&self.control);
        self.control.clear();
    }
}

/// What is encrypted.
#[derive(Clone, Copy)]
enum Outbound<'a> {
    Data(&'a [u8]),
    End,
}

/// What a look at the connection found.
enum Step<'c, Data> {
    /// There may be more to do.
    Again,
    /// It needs more from the peer.
    Waits,
    /// It needs more from the peer, or something to encrypt.
    Open(rustls::unbuffered::WriteTraffic<'c, Data>),
    /// Nothing goes either way any more.
    Closed,
}

impl Tls {
    pub(crate) fn new(connection: Connection) -> Self {
        Self {
            connection,
            queue: Queue::default(),
        }
    }

    /// Takes whole records from the front of `incoming` until one had data, which `take` gets, or no whole one is
    /// left. Returns how many bytes are done with. After an error, what tells the peer so is in
    /// [`Tls::give_control`].
    pub(crate) fn receive(
        &mut self,
        incoming: &mut [u8],
        take: impl FnMut(&[u8]),
    ) -> Result<usize, Error> {
        let queue = &mut self.queue;
        let received = match &mut self.connection {
            Connection::Client(connection) => receive(&mut **connection, queue, incoming, take),
            Connection::Server(connection) => receive(&mut **connection, queue, incoming, take),
        };
        let (taken, has_data) = received.inspect_err(|_| self.collect_alert())?;
        // rustls leaves a handshake message that came by half in `incoming`, and counts on finding it there at
        // each call: what sends has an empty `incoming`. After the handshake such messages have a few bytes,
        // which nobody cuts up.
        if !has_data && !self.is_handshaking() && holds_record(&incoming[taken..]) {
            return Err(PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into());
        }
        Ok(taken)
    }

    fn collect_alert(&mut self) {
        while self.state().wants_write() {
            let queue = &mut self.queue;
            match &mut self.connection {
                Connection::Client(connection) => {
                    let _ = step(connection.process_tls_records(&mut []), queue, |_| {});
                }
                Connection::Server(connection) => {
                    let _ = step(connection.process_tls_records(&mut []), queue, |_| {});
                }
            }
        }
    }

    /// Encrypts `data`, behind what is in `out`.
    pub(crate) fn encrypt(&mut self, data: &[u8], out: &mut Outbox) -> Result<(), EncryptError> {
        self.write(Outbound::Data(data), out)
    }

    /// Says that nothing more comes from this side.
    pub(crate) fn end(&mut self, out: &mut Outbox) -> Result<(), EncryptError> {
        self.write(Outbound::End, out)
    }

    fn write(&mut self, what: Outbound<'_>, out: &mut Outbox) -> Result<(), EncryptError> {
        let queue = &mut self.queue;
        match &mut self.connection {
            Connection::Client(connection) => write(&mut **connection, queue, what, out),
            Connection::Server(connection) => write(&mut **connection, queue, what, out),
        }
    }

    /// Whether something is to be sent besides data.
    pub(crate) fn has_control(&self) -> bool {
        !self.queue.control.is_empty()
    }

    /// Puts what is to be sent besides data behind what is in `out`.
    pub(crate) fn give_control(&mut self, out: &mut Outbox) {
        self.queue.give_control(out);
    }

    /// Whether the peer has said that it says no more.
    pub(crate) fn has_ended(&self) -> bool {
        self.queue.has_ended
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.state().is_handshaking()
    }

    /// The peer's certificates, its own first.
    pub(crate) fn certificates(&self) -> &[CertificateDer<'static>] {
        self.state().peer_certificates().unwrap_or_default()
    }

    /// The service that both sides named.
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        self.state().alpn_protocol()
    }

    fn state(&self) -> &CommonState {
        match &self.connection {
            Connection::Client(connection) => connection,
            Connection::Server(connection) => connection,
        }
    }
}

/// Either side of a connection.
trait Records {
    type Data;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Records for UnbufferedConnectionCommon<ClientConnectionData> {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

impl Records for UnbufferedConnectionCommon<ServerConnectionData> {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

/// Gives how many bytes are done with, and whether there were data.
fn receive(
    records: &mut impl Records,
    queue: &mut Queue,
    incoming: &mut [u8],
    mut take: impl FnMut(&[u8]),
) -> Result<(usize, bool), Error> {
    let (mut taken, mut has_data) = (0, false);
    loop {
        let status = records.process(&mut incoming[taken..]);
        taken += status.discard;
        let step = step(status, queue, |data| {
            has_data = true;
            take(data);
        })?;
        if has_data || !matches!(step, Step::Again) {
            return Ok((taken, has_data));
        }
    }
}

fn write(
    records: &mut impl Records,
    queue: &mut Queue,
    what: Outbound<'_>,
    out: &mut Outbox,
) -> Result<(), EncryptError> {
    let len = match what {
        Outbound::Data(data) => data.len(),
        Outbound::End => 0,
    };
    let mut room = len + (len / FRAGMENT + 2) * OVERHEAD;
    loop {
        let traffic = step(records.process(&mut []), queue, |_| {});
        let mut traffic = match traffic {
            Ok(Step::Open(traffic)) => traffic,
            Ok(Step::Again) => continue,
            Ok(Step::Waits | Step::Closed) | Err(_) => return Err(EncryptError::EncryptExhausted),
        };
        queue.give_control(out);
        let room_for_it = out.room(room);
        let written = match what {
            Outbound::Data(data) => traffic.encrypt(data, room_for_it),
            Outbound::End => traffic.queue_close_notify(room_for_it),
        };
        match written {
            Ok(len) => {
                out.filled(len);
                return Ok(());
            }
            // A change of keys goes before the data.
            Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size }))
                if required_size > room =>
            {
                room = required_size;
            }
            Err(error) => return Err(error),
        }
    }
}

fn step<'c, Data>(
    status: UnbufferedStatus<'c, '_, Data>,
    queue: &mut Queue,
    mut take: impl FnMut(&[u8]),
) -> Result<Step<'c, Data>, Error> {
    match status.state? {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                take(record?.payload);
            }
            Ok(Step::Again)
        }
        ConnectionState::EncodeTlsData(mut data) => {
            let start = queue.control.len();
            if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) =
                data.encode(&mut [])
            {
                queue.control.resize(start + required_size, 0);
                let encoded = data.encode(&mut queue.control[start..]);
                encoded.map_err(|error| Error::General(error.to_string()))?;
            }
            Ok(Step::Again)
        }
        // It goes out in the order of `control`.
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Ok(Step::Again)
        }
        ConnectionState::PeerClosed => {
            queue.has_ended = true;
            Ok(Step::Again)
        }
        ConnectionState::BlockedHandshake => Ok(Step::Waits),
        ConnectionState::WriteTraffic(traffic) => Ok(Step::Open(traffic)),
        ConnectionState::Closed => {
            queue.has_ended = true;
            Ok(Step::Closed)
        }
        other => Err(Error::General(format!("an unexpected state: {other:?}"))),
    }
}

/// Whether a whole record is at the front of `bytes`.
pub(crate) fn holds_record(bytes: &[u8]) -> bool {
    bytes.first_chunk::<HEADER_LEN>().is_some_and(|header| {
        let len = u16::from_be_bytes([header[3], header[4]]);
        bytes.len() >= HEADER_LEN + usize::from(len)
    })
}
