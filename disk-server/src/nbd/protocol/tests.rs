use proptest::prelude::*;

use super::*;

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[ -~]{0,40}", "\\PC{0,40}"]
}

fn command_flags() -> impl Strategy<Value = CommandFlags> {
    any::<u16>().prop_map(CommandFlags::from_bits_retain)
}

fn block_size() -> impl Strategy<Value = BlockSize> {
    (0..=16_u32, 9..=20_u32, any::<u32>()).prop_map(|(minimum, preferred, max)| {
        let preferred = 1 << preferred.max(minimum);
        BlockSize {
            minimum: 1 << minimum,
            preferred,
            max_payload: max.max(preferred),
        }
    })
}

fn info() -> impl Strategy<Value = Info> {
    prop_oneof![
        (any::<u64>(), any::<u16>()).prop_map(|(size, flags)| {
            let flags = TransmissionFlags::from_bits_retain(flags);
            Info::Export(ExportInfo { size, flags })
        }),
        text().prop_map(Info::Name),
        text().prop_map(Info::Description),
        block_size().prop_map(Info::BlockSize),
        (4_u16..).prop_map(Info::Other),
    ]
}

proptest! {
    #[test]
    fn headers_survive_the_wire(a: u16, b: u16, c: u32, d: u32, x: u64, y: u64) {
        let greeting = Greeting { flags: HandshakeFlags::from_bits_retain(a) };
        prop_assert_eq!(Greeting::decode(&greeting.encode()).unwrap(), greeting);
        let option = OptionHeader { option: c.into(), length: d };
        prop_assert_eq!(OptionHeader::decode(&option.encode()).unwrap(), option);
        let reply = OptionReplyHeader { option: c.into(), reply: d.into(), length: c };
        prop_assert_eq!(OptionReplyHeader::decode(&reply.encode()).unwrap(), reply);
        let export = ExportInfo { size: x, flags: TransmissionFlags::from_bits_retain(a) };
        prop_assert_eq!(ExportInfo::decode(&export.encode()).unwrap(), export);
        let request = RequestHeader {
            flags: CommandFlags::from_bits_retain(a),
            command: b.into(),
            cookie: x,
            offset: y,
            length: c,
        };
        prop_assert_eq!(RequestHeader::decode(&request.encode()).unwrap(), request);
        let simple = SimpleReply { error: (c != 0).then(|| c.into()), cookie: x };
        let bytes = simple.encode();
        prop_assert_eq!(ReplyHeader::rest(&bytes).unwrap(), 0);
        prop_assert_eq!(ReplyHeader::decode(&bytes).unwrap(), ReplyHeader::Simple(simple));
        let chunk = ChunkHeader {
            flags: ChunkFlags::from_bits_retain(a),
            kind: b.into(),
            cookie: y,
            length: d,
        };
        let bytes = chunk.encode();
        let rest = ReplyHeader::rest(bytes.first_chunk().unwrap()).unwrap();
        prop_assert_eq!(ReplyHeader::PREFIX + rest, bytes.len());
        prop_assert_eq!(ReplyHeader::decode(&bytes).unwrap(), ReplyHeader::Chunk(chunk));
    }

    #[test]
    fn numbers_keep_their_value(code: u32, short: u16) {
        prop_assert_eq!(u32::from(OptionType::from(code)), code);
        prop_assert_eq!(u32::from(ReplyType::from(code)), code);
        prop_assert_eq!(u32::from(ErrorCode::from(code)), code);
        prop_assert_eq!(u16::from(InfoType::from(short)), short);
        prop_assert_eq!(u16::from(Command::from(short)), short);
        prop_assert_eq!(u16::from(ChunkType::from(short)), short);
    }

    #[test]
    fn payloads_of_options_survive_the_wire(
        info in info(),
        name in text(),
        description in text(),
        infos in prop::collection::vec(any::<u16>().prop_map(InfoType::from), 0..8),
        queries in prop::collection::vec(text(), 0..5),
        id: u32,
    ) {
        prop_assert_eq!(Info::decode(&info.encode()).unwrap(), info);
        let request = ExportRequest { name: name.clone(), infos };
        prop_assert_eq!(ExportRequest::decode(&request.encode()).unwrap(), request);
        let listed = ListedExport { name: name.clone(), description };
        prop_assert_eq!(ListedExport::decode(&listed.encode()).unwrap(), listed);
        let contexts = MetaContextRequest { export: name.clone(), queries };
        prop_assert_eq!(MetaContextRequest::decode(&contexts.encode()).unwrap(), contexts);
        let context = MetaContext { id, name };
        prop_assert_eq!(MetaContext::decode(&context.encode()).unwrap(), context);
    }

    #[test]
    fn payloads_of_replies_survive_the_wire(
        offset: u64,
        length in 1_u32..,
        context: u32,
        extents in prop::collection::vec((1_u32.., any::<u32>()), 1..20),
        code in 1_u32..,
        message in text(),
        at: Option<u64>,
    ) {
        let hole = HoleChunk { offset, length };
        prop_assert_eq!(HoleChunk::decode(&hole.encode()).unwrap(), hole);
        let extents = extents
            .into_iter()
            .map(|(length, flags)| Extent { length, flags: ExtentFlags::from_bits_retain(flags) })
            .collect();
        let status = StatusChunk { context, extents };
        prop_assert_eq!(StatusChunk::decode(&status.encode()).unwrap(), status);
        let error = ErrorChunk { code: code.into(), message, offset: at };
        prop_assert_eq!(ErrorChunk::decode(error.kind(), &error.encode()).unwrap(), error);
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        kind: u16,
        flags in command_flags(),
    ) {
        let _ = Info::decode(&bytes);
        let _ = ExportRequest::decode(&bytes);
        let _ = ListedExport::decode(&bytes);
        let _ = MetaContextRequest::decode(&bytes);
        let _ = MetaContext::decode(&bytes);
        let _ = ReplyHeader::decode(&bytes);
        let _ = HoleChunk::decode(&bytes);
        let _ = StatusChunk::decode(&bytes);
        let _ = ErrorChunk::decode(kind.into(), &bytes);
        // Half of a payload is an error, whichever half.
        let request = ExportRequest { name: "disk".into(), infos: vec![InfoType::BlockSize] };
        let encoded = request.encode();
        let cut = usize::from(flags.bits()) % encoded.len();
        prop_assert!(ExportRequest::decode(&encoded[..cut]).is_err());
    }
}

/// Bytes from the specification's own drawings, written down by hand.
#[test]
fn the_bytes_are_those_of_the_specification() {
    let request = RequestHeader {
        flags: CommandFlags::FUA,
        command: Command::Write,
        cookie: 0x0102_0304_0506_0708,
        offset: 0x1000,
        length: 512,
    };
    let expected = [
        0x25, 0x60, 0x95, 0x13, 0, 1, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0x10, 0, 0,
        0, 2, 0,
    ];
    assert_eq!(request.encode(), expected);
    let greeting = Greeting {
        flags: HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES,
    };
    assert_eq!(&greeting.encode()[..], b"NBDMAGICIHAVEOPT\0\x03");
    let option = OptionHeader {
        option: OptionType::Go,
        length: 6,
    };
    assert_eq!(&option.encode()[..], b"IHAVEOPT\0\0\0\x07\0\0\0\x06");
    let reply = OptionReplyHeader {
        option: OptionType::Go,
        reply: ReplyType::ErrUnknown,
        length: 0,
    };
    let expected = [
        0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9, 0, 0, 0, 7, 0x80, 0, 0, 6, 0, 0, 0, 0,
    ];
    assert_eq!(reply.encode(), expected);
    let simple = SimpleReply {
        error: Some(ErrorCode::NoSpace),
        cookie: 7,
    };
    let expected = [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 28, 0, 0, 0, 0, 0, 0, 0, 7];
    assert_eq!(simple.encode(), expected);
    let chunk = ChunkHeader {
        flags: ChunkFlags::DONE,
        kind: ChunkType::ErrorOffset,
        cookie: 7,
        length: 14,
    };
    let expected = [
        0x66, 0x8e, 0x33, 0xef, 0, 1, 0x80, 2, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 14,
    ];
    assert_eq!(chunk.encode(), expected);
}

#[test]
fn what_breaks_the_rules_is_refused() {
    let export = Info::Export(ExportInfo {
        size: 1,
        flags: TransmissionFlags::HAS_FLAGS,
    });
    let extra = [&export.encode()[..], &[0]].concat();
    assert!(matches!(
        Info::decode(&extra),
        Err(ProtocolError::Extra { extra: 1, .. })
    ));
    for (minimum, preferred, max_payload) in [
        (0, 4096, 1 << 25),
        (3, 4096, 1 << 25),
        (1 << 17, 1 << 17, 1 << 25),
        (1, 256, 1 << 25),
        (1, 5000, 1 << 25),
        (1, 4096, 512),
    ] {
        let size = Info::BlockSize(BlockSize {
            minimum,
            preferred,
            max_payload,
        });
        let decoded = Info::decode(&size.encode());
        assert!(
            matches!(decoded, Err(ProtocolError::Invalid { .. })),
            "{size:?}"
        );
    }
    let long = "é".repeat(MAX_STRING);
    let listed = ListedExport {
        name: long.clone(),
        description: long,
    };
    let cut = ListedExport::decode(&listed.encode()).unwrap();
    assert_eq!(cut.name.len(), MAX_STRING);
    let mut bytes = (MAX_STRING as u32 + 1).to_be_bytes().to_vec();
    bytes.resize(bytes.len() + MAX_STRING + 1, b'x');
    assert!(matches!(
        ListedExport::decode(&bytes),
        Err(ProtocolError::TooLong { .. })
    ));
    let bad = [0, 0, 0, 1, 0xff];
    assert!(matches!(
        ListedExport::decode(&bad),
        Err(ProtocolError::Utf8 { .. })
    ));
    assert!(Greeting::decode(b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53\0\0").is_err());
    assert!(ReplyHeader::rest(&[0; 16]).is_err());
    assert!(HoleChunk::decode(&[0; 12]).is_err());
    assert!(StatusChunk::decode(&[0; 4]).is_err());
    assert!(StatusChunk::decode(&[0; 12]).is_err());
    assert!(ErrorChunk::decode(ChunkType::Error, &[0; 6]).is_err());
}
