//! The server's side of "Fixed newstyle negotiation" as far as it is about no export: greetings, one option after
//! the other, and TLS before all others where that is asked for ("The NBD server's use of TLS", `FORCEDTLS`).

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::protocol::{
    ClientFlags, Greeting, HandshakeFlags, OptionHeader, OptionReplyHeader, OptionType,
    ProtocolError, ReplyType,
};
use super::timed::{Incoming, Outgoing};
use crate::logging::excerpt;

/// The most data of an option: names, and some queries. Larger ones are passed over.
const MAX_OPTION: u32 = 64 << 10;

/// Why a negotiation came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NegotiationError {
    #[error("the client left without choosing an export")]
    Left,
    #[error("the connection failed in the negotiation")]
    Io(#[from] io::Error),
    #[error("the client does not speak the protocol")]
    Protocol(#[from] ProtocolError),
    #[error("the client set flags that do not exist: {0:#x}")]
    Flags(u32),
    #[error("the client asked for {0} in the old way, which has no answer for errors")]
    Refused(String),
    #[error("the client, or somebody on the way, went on in clear behind its wish for TLS")]
    Early,
}

/// Why an option is refused.
pub(super) struct OptionError {
    pub(super) reply: ReplyType,
    pub(super) message: String,
}

impl OptionError {
    pub(super) fn new(reply: ReplyType, message: impl Into<String>) -> OptionError {
        let message = message.into();
        OptionError { reply, message }
    }
}

/// Exchanges greetings.
pub(crate) fn greet(
    incoming: &mut Incoming<'_>,
    outgoing: &Outgoing<'_>,
    deadline: Instant,
) -> Result<ClientFlags, NegotiationError> {
    let flags = HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES;
    outgoing.send(&Greeting { flags }.encode())?;
    let flags = u32::from_be_bytes(incoming.read_array(deadline)?);
    ClientFlags::from_bits(flags).ok_or(NegotiationError::Flags(flags))
}

/// The next option, with its data. What has too much of it is refused on the way.
pub(super) fn next_option(
    incoming: &mut Incoming<'_>,
    outgoing: &Outgoing<'_>,
    deadline: Instant,
) -> Result<(OptionType, Vec<u8>), NegotiationError> {
    loop {
        let header = OptionHeader::decode(&incoming.read_array(deadline)?)?;
        if header.length > MAX_OPTION {
            incoming.skip(header.length.into(), deadline)?;
            let error = OptionError::new(ReplyType::ErrTooBig, "the option has too much data");
            refuse(outgoing, header.option, &error)?;
            continue;
        }
        let mut data = vec![0; header.length as usize];
        incoming.read_exact(&mut data, deadline)?;
        return Ok((header.option, data));
    }
}

/// Refuses all options until the client asks for TLS, which follows at once.
pub(crate) fn await_tls(
    incoming: &mut Incoming<'_>,
    outgoing: &Outgoing<'_>,
    deadline: Instant,
    ending: &AtomicBool,
) -> Result<(), NegotiationError> {
    loop {
        let (option, data) = next_option(incoming, outgoing, deadline)?;
        let error = match option {
            OptionType::Abort => return Err(leave(outgoing)),
            OptionType::ExportName => {
                let name = excerpt(&String::from_utf8_lossy(&data));
                return Err(NegotiationError::Refused(format!("{name} without TLS")));
            }
            _ if ending.load(Ordering::Relaxed) => ends(),
            OptionType::StartTls if data.is_empty() => {
                // What came with it was not encrypted, and would be taken for what comes behind the handshake.
                if incoming.holds(1) {
                    return Err(NegotiationError::Early);
                }
                reply(outgoing, option, ReplyType::Ack, &[])?;
                return Ok(());
            }
            OptionType::StartTls => no_data(),
            _ => OptionError::new(
                ReplyType::ErrTlsRequired,
                "this server asks for TLS, with a key that it knows",
            ),
        };
        refuse(outgoing, option, &error)?;
    }
}

/// The client has said farewell.
pub(super) fn leave(outgoing: &Outgoing<'_>) -> NegotiationError {
    // Clients need not wait for it.
    let _ = reply(outgoing, OptionType::Abort, ReplyType::Ack, &[]);
    NegotiationError::Left
}

pub(super) fn ends() -> OptionError {
    OptionError::new(ReplyType::ErrShutdown, "the server is ending")
}

pub(super) fn no_data() -> OptionError {
    OptionError::new(ReplyType::ErrInvalid, "the option has no data")
}

pub(super) fn reply(
    outgoing: &Outgoing<'_>,
    option: OptionType,
    reply: ReplyType,
    data: &[u8],
) -> io::Result<()> {
    let header = OptionReplyHeader {
        option,
        reply,
        length: data.len() as u32,
    };
    outgoing.send(&[&header.encode(), data].concat())
}

pub(super) fn refuse(
    outgoing: &Outgoing<'_>,
    option: OptionType,
    error: &OptionError,
) -> io::Result<()> {
    log::debug!("{option:?} refused: {}", excerpt(&error.message));
    reply(outgoing, option, error.reply, error.message.as_bytes())
}
