//! The client against servers that say what a script tells them to.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::thread::{self, JoinHandle};

use super::*;
use crate::nbd::protocol::{
    ChunkFlags, ChunkHeader, ChunkType, Command, CommandFlags, DISK_NAME, ErrorChunk, ErrorCode,
    ExportInfo, Greeting, HandshakeFlags, HoleChunk, Info, MetaContext, OptionHeader,
    OptionReplyHeader, OptionType, ReplyType, RequestHeader, SimpleReply, TransmissionFlags,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Serves one connection with `script`.
fn server(
    script: impl FnOnce(&mut TcpStream) -> io::Result<()> + Send + 'static,
) -> (ServerAddress, JoinHandle<io::Result<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().into();
    let serving = thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        script(&mut stream)
    });
    (address, serving)
}

fn take<const N: usize>(stream: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn option(stream: &mut TcpStream) -> io::Result<(OptionType, Vec<u8>)> {
    let header = OptionHeader::decode(&take(stream)?).unwrap();
    let mut data = vec![0; header.length as usize];
    stream.read_exact(&mut data)?;
    Ok((header.option, data))
}

fn answer(
    stream: &mut TcpStream,
    option: OptionType,
    reply: ReplyType,
    data: &[u8],
) -> io::Result<()> {
    let header = OptionReplyHeader {
        option,
        reply,
        length: data.len() as u32,
    };
    stream.write_all(&[&header.encode(), data].concat())
}

fn greet(stream: &mut TcpStream) -> io::Result<()> {
    let flags = HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES;
    stream.write_all(&Greeting { flags }.encode())?;
    take::<4>(stream).map(|_| ())
}

/// A whole negotiation, up to the transmission.
fn negotiate(stream: &mut TcpStream, structured: bool) -> io::Result<()> {
    negotiate_as(stream, structured, None, TransmissionFlags::HAS_FLAGS)
}

/// The same, of a server that may have a name for the disk, and can do something.
fn negotiate_as(
    stream: &mut TcpStream,
    structured: bool,
    name: Option<&str>,
    flags: TransmissionFlags,
) -> io::Result<()> {
    greet(stream)?;
    assert_eq!(option(stream)?.0, OptionType::StructuredReply);
    let reply = if structured {
        ReplyType::Ack
    } else {
        ReplyType::ErrUnsupported
    };
    answer(stream, OptionType::StructuredReply, reply, &[])?;
    if structured {
        contexts(stream, name)?;
    }
    assert_eq!(option(stream)?.0, OptionType::Go);
    let size = 1 << 20;
    let info = Info::Export(ExportInfo { size, flags });
    answer(stream, OptionType::Go, ReplyType::Info, &info.encode())?;
    answer(stream, OptionType::Go, ReplyType::Ack, &[])
}

/// Tells what the disk is called, or nothing.
fn contexts(stream: &mut TcpStream, name: Option<&str>) -> io::Result<()> {
    let list = OptionType::ListMetaContext;
    assert_eq!(option(stream)?.0, list);
    if let Some(name) = name {
        let name = format!("{DISK_NAME}={name}");
        let context = MetaContext { id: 0, name }.encode();
        answer(stream, list, ReplyType::MetaContext, &context)?;
    }
    answer(stream, list, ReplyType::Ack, &[])
}

fn request(stream: &mut TcpStream) -> io::Result<RequestHeader> {
    Ok(RequestHeader::decode(&take(stream)?).unwrap())
}

fn chunk(
    stream: &mut TcpStream,
    cookie: u64,
    kind: ChunkType,
    last: bool,
    payload: &[u8],
) -> io::Result<()> {
    let flags = if last {
        ChunkFlags::DONE
    } else {
        ChunkFlags::empty()
    };
    let header = ChunkHeader {
        flags,
        kind,
        cookie,
        length: payload.len() as u32,
    };
    stream.write_all(&[&header.encode(), payload].concat())
}

fn data(offset: u64, bytes: &[u8]) -> Vec<u8> {
    [&offset.to_be_bytes(), bytes].concat()
}

fn simple(stream: &mut TcpStream, cookie: u64, error: Option<ErrorCode>) -> io::Result<()> {
    stream.write_all(&SimpleReply { error, cookie }.encode())
}

/// Until the client goes.
fn drain(stream: &mut TcpStream) -> io::Result<()> {
    io::copy(stream, &mut io::sink()).map(|_| ())
}

#[test]
fn replies_come_in_any_order_and_in_pieces() {
    let (address, serving) = server(|stream| {
        negotiate(stream, true)?;
        let (first, second, third) = (request(stream)?, request(stream)?, request(stream)?);
        assert_eq!((first.offset, first.length), (4096, 8));
        assert_eq!(third.command, Command::Write);
        assert_eq!(&take::<4>(stream)?, b"text");
        chunk(
            stream,
            1,
            ChunkType::OffsetData,
            false,
            &data(4100, b"late"),
        )?;
        simple(stream, 3, None)?;
        let hole = HoleChunk {
            offset: 4096,
            length: 4,
        };
        chunk(stream, 1, ChunkType::OffsetHole, false, &hole.encode())?;
        let error = ErrorChunk {
            code: ErrorCode::Io,
            message: "bad sector".into(),
            offset: None,
        };
        chunk(stream, second.cookie, error.kind(), true, &error.encode())?;
        chunk(stream, 1, ChunkType::None, true, &[])?;
        drain(stream)
    });
    let mut connection = connect(&address, "disk", &Endpoint::plain(), PATIENCE).unwrap();
    assert_eq!(connection.export.size, 1 << 20);
    let requests = &mut connection.requests;
    requests.read(1, 4096, 8).unwrap();
    requests.read(2, 0, 8).unwrap();
    requests.write(3, 512, b"text").unwrap();
    requests.flush_buffer().unwrap();
    let replies: Vec<Reply> = (0..3)
        .map(|_| connection.replies.next_reply().unwrap())
        .collect();
    let reply = |cookie, result| Reply { cookie, result };
    assert_eq!(
        replies,
        [
            reply(3, Ok(vec![])),
            reply(2, Err(ErrorCode::Io)),
            reply(1, Ok(b"\0\0\0\0late".to_vec())),
        ]
    );
    drop(connection);
    serving.join().unwrap().unwrap();
}

#[test]
fn a_server_without_structured_replies_will_do() {
    let (address, serving) = server(|stream| {
        negotiate(stream, false)?;
        let read = request(stream)?;
        simple(stream, read.cookie, None)?;
        stream.write_all(b"12345678")?;
        let flush = request(stream)?;
        assert_eq!(flush.command, Command::Flush);
        simple(stream, flush.cookie, Some(ErrorCode::NoSpace))?;
        drain(stream)
    });
    let mut connection = connect(&address, "disk", &Endpoint::plain(), PATIENCE).unwrap();
    connection.requests.read(7, 0, 8).unwrap();
    connection.requests.flush(8).unwrap();
    connection.requests.flush_buffer().unwrap();
    let replies = &mut connection.replies;
    assert_eq!(
        replies.next_reply().unwrap().result,
        Ok(b"12345678".to_vec())
    );
    assert_eq!(
        replies.next_reply().unwrap().result,
        Err(ErrorCode::NoSpace)
    );
    drop(connection);
    serving.join().unwrap().unwrap();
}

#[test]
fn our_own_server_is_asked_to_look_for_no_holes() {
    let plain = TransmissionFlags::HAS_FLAGS;
    let whole = plain | TransmissionFlags::SEND_DF;
    for (structured, name, can, expected) in [
        (true, Some("1/disk"), whole, CommandFlags::DF),
        (true, Some("1/disk"), plain, CommandFlags::empty()),
        // Another server may refuse long ones.
        (true, None, whole, CommandFlags::empty()),
        (false, None, whole, CommandFlags::empty()),
    ] {
        let (address, serving) = server(move |stream| {
            negotiate_as(stream, structured, name, can)?;
            assert_eq!(request(stream)?.flags, expected);
            let write = request(stream)?;
            assert_eq!(write.flags, CommandFlags::empty());
            take::<8>(stream).map(|_| ())
        });
        let mut connection = connect(&address, "disk", &Endpoint::plain(), PATIENCE).unwrap();
        connection.requests.read(1, 0, 1 << 20).unwrap();
        connection.requests.write(2, 0, &[1; 8]).unwrap();
        connection.requests.flush_buffer().unwrap();
        serving.join().unwrap().unwrap();
    }
}

/// Sends a read of 8 bytes at 4096 with cookie 1; `script` answers. The error that comes of it.
fn misled(script: impl FnOnce(&mut TcpStream) -> io::Result<()> + Send + 'static) -> ReceiveError {
    let (address, serving) = server(|stream| {
        negotiate(stream, true)?;
        request(stream)?;
        script(stream)?;
        drain(stream)
    });
    let mut connection = connect(&address, "disk", &Endpoint::plain(), PATIENCE).unwrap();
    connection.requests.read(1, 4096, 8).unwrap();
    connection.requests.flush_buffer().unwrap();
    let error = connection.replies.next_reply().unwrap_err();
    assert!(
        connection.replies.next_reply().is_err(),
        "the connection is over"
    );
    drop(connection);
    let _ = serving.join().unwrap();
    error
}

#[test]
fn lies_end_the_connection() {
    type Script = fn(&mut TcpStream) -> io::Result<()>;
    let lies: [(&str, Script); 9] = [
        ("no request", |s| simple(s, 2, None)),
        ("simple reply to a read", |s| simple(s, 1, None)),
        ("not asked for", |s| {
            chunk(s, 1, ChunkType::OffsetData, true, &data(4095, b"x"))
        }),
        ("not asked for", |s| {
            chunk(s, 1, ChunkType::OffsetData, true, &data(4100, b"12345"))
        }),
        ("not asked for", |s| {
            chunk(s, 1, ChunkType::OffsetData, false, &data(4096, b"1234"))?;
            chunk(s, 1, ChunkType::OffsetData, true, &data(4099, b"45"))
        }),
        ("lacks a part", |s| {
            chunk(s, 1, ChunkType::OffsetData, true, &data(4096, b"1234"))
        }),
        ("too long", |s| {
            chunk(s, 1, ChunkType::Error, true, &[0; 100_000])
        }),
        ("without data", |s| {
            chunk(s, 1, ChunkType::OffsetData, true, &[0; 8])
        }),
        ("magic number", |s| s.write_all(&[7; 64])),
    ];
    for (words, script) in lies {
        let error = misled(script).to_string();
        assert!(error.contains(words), "{words:?} is not in {error:?}");
    }
    let gone = misled(|stream| stream.shutdown(Shutdown::Both));
    assert!(matches!(
        gone,
        ReceiveError::Closed | ReceiveError::Broken(_)
    ));
}

fn refused(script: impl FnOnce(&mut TcpStream) -> io::Result<()> + Send + 'static) -> ConnectError {
    let (address, serving) = server(script);
    let error = connect(&address, "disk", &Endpoint::plain(), PATIENCE).unwrap_err();
    let _ = serving.join().unwrap();
    error
}

#[test]
fn what_is_wrong_with_a_server_is_told() {
    let unknown = refused(|stream| {
        greet(stream)?;
        option(stream)?;
        answer(stream, OptionType::StructuredReply, ReplyType::Ack, &[])?;
        contexts(stream, None)?;
        let (_, name) = option(stream)?;
        assert!(name.windows(4).any(|w| w == b"disk"));
        answer(
            stream,
            OptionType::Go,
            ReplyType::ErrUnknown,
            b"no\x1b such",
        )?;
        let farewell = option(stream).expect("it says that it leaves");
        assert_eq!(farewell, (OptionType::Abort, Vec::new()));
        drain(stream)
    });
    let text = unknown.to_string();
    assert!(
        text.contains("no export \"disk\": no such; `nbdinfo"),
        "{text}"
    );

    let old = refused(|stream| {
        let flags = HandshakeFlags::empty();
        stream.write_all(&Greeting { flags }.encode())?;
        drain(stream)
    });
    assert!(old.to_string().contains("fixed newstyle"), "{old}");

    let other = refused(|stream| {
        stream.write_all(b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n")?;
        drain(stream)
    });
    assert!(matches!(other, ConnectError::Protocol { .. }));

    let endless = refused(|stream| {
        greet(stream)?;
        option(stream)?;
        answer(stream, OptionType::StructuredReply, ReplyType::Ack, &[])?;
        contexts(stream, None)?;
        loop {
            answer(stream, OptionType::Go, ReplyType::Info, &[0, 99])?;
        }
    });
    assert!(endless.to_string().contains("without an end"), "{endless}");

    let huge = refused(|stream| {
        greet(stream)?;
        option(stream)?;
        let header = OptionReplyHeader {
            option: OptionType::StructuredReply,
            reply: ReplyType::Ack,
            length: u32::MAX,
        };
        stream.write_all(&header.encode())?;
        drain(stream)
    });
    assert!(matches!(huge, ConnectError::Protocol { .. }), "{huge}");

    let gone = refused(|_| Ok(()));
    assert!(matches!(gone, ConnectError::Broken { .. }), "{gone}");
}

#[test]
fn a_silent_server_costs_no_more_than_the_time_given() {
    let (address, serving) = server(drain);
    let error = connect(
        &address,
        "disk",
        &Endpoint::plain(),
        Duration::from_millis(100),
    )
    .unwrap_err();
    let ConnectError::Broken { source, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(source.kind(), io::ErrorKind::TimedOut);
    serving.join().unwrap().unwrap();
}
