//! Handshake messages as bytes.

use std::time::Duration;

use logging_channel::codec::{PROTOCOL_VERSION, VERSIONS};
use logging_channel::handshake::{
    HandshakeError, Hello, MAX_REFUSAL_MESSAGE, Message, Refusal, RefusalCode, Standby, Welcome,
};
use proptest::prelude::*;

use transport::Versions;

use crate::peers::{VERSION, host, identity, title};

fn messages() -> Vec<Message> {
    vec![
        Message::Versions(VERSIONS),
        Message::Hello(Hello {
            identity: identity(),
            host: host(),
            run: 1,
            udp_port: 2,
            standby: Standby::Cold,
        }),
        Message::Welcome(Welcome {
            run: 1,
            session: 2,
            title: title(),
            heartbeat_timeout: Duration::from_millis(500),
            udp_port: 4,
            host: host(),
            streams: 0,
        }),
        Message::Refuse(Refusal {
            code: RefusalCode::OtherImage,
            message: "another image: start both with the same".into(),
        }),
        Message::Ready {
            session: 2,
            claimant: "hostb/77aa".into(),
        },
        Message::Begin {
            session: 2,
            epoch: 9,
        },
        Message::Memory {
            session: 2,
            number: 1,
        },
    ]
}

#[test]
fn messages_survive_and_their_prefixes_and_flipped_bits_do_not() {
    for message in messages() {
        let bytes = message.encode(VERSION).expect("valid");
        assert_eq!(Message::decode(&bytes, VERSIONS).expect("decodes"), message);
        assert_eq!(
            Message::read_from(&mut &bytes[..], VERSIONS).expect("decodes"),
            message
        );
        for len in 0..bytes.len() {
            assert!(Message::decode(&bytes[..len], VERSIONS).is_err());
            assert!(Message::read_from(&mut &bytes[..len], VERSIONS).is_err());
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(
                Message::decode(&flipped, VERSIONS).is_err(),
                "bit {bit} of {message:?}"
            );
        }
    }
}

#[test]
fn only_ranges_and_refusals_cross_versions() {
    for message in messages() {
        let bytes = message.encode(VERSION).expect("valid");
        let spoken = Versions::only(VERSION + 1);
        match (Message::decode(&bytes, spoken), &message) {
            (Ok(decoded), Message::Refuse(_) | Message::Versions(_)) => {
                assert_eq!(decoded, message);
            }
            (Err(HandshakeError::OtherVersion { theirs, ours }), _) => {
                assert_eq!((theirs, ours), (Versions::only(VERSION), spoken));
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Every version sends and reads these bytes, with its own number in place of the first 14 and so another checksum.
#[test]
fn the_layout_of_a_range_is_fixed_forever() {
    let versions = Message::Versions(Versions {
        oldest: 13,
        newest: 14,
    });
    #[rustfmt::skip]
    let expected = [
        b'f', b't', b'v', b'm', b'l', b'i', b'n', b'k',
        14, 0,
        8, 0,
        4, 0, 0, 0,
        0x4f, 0x2a, 0xad, 0x4d,
        0x13, 0xdc, 0x8d, 0x0c,
        13, 0, 14, 0,
    ];
    assert_eq!(versions.encode(14).expect("valid"), expected);
}

/// Every version sends and reads these bytes, with its own number in place of the 12 and so another checksum.
#[test]
fn the_layout_of_a_refusal_is_fixed_forever() {
    let refusal = Message::Refuse(Refusal {
        code: RefusalCode::OtherVersion,
        message: "no".into(),
    });
    #[rustfmt::skip]
    let expected = [
        b'f', b't', b'v', b'm', b'l', b'i', b'n', b'k',
        12, 0,
        3, 0,
        6, 0, 0, 0,
        0x6d, 0x80, 0xe4, 0xf6,
        0x4d, 0x9f, 0xaf, 0xf9,
        1, 0, 2, 0, b'n', b'o',
    ];
    assert_eq!(refusal.encode(12).expect("valid"), expected);
}

#[test]
fn codes_of_later_versions_keep_their_number() {
    let later = Message::Refuse(Refusal {
        code: RefusalCode::Unknown(77),
        message: "something new".into(),
    });
    let bytes = later.encode(VERSION).expect("valid");
    assert_eq!(Message::decode(&bytes, VERSIONS).expect("decodes"), later);
}

#[test]
fn a_long_refusal_is_shortened_between_characters() {
    let refusal = Message::Refuse(Refusal {
        code: RefusalCode::Ending,
        message: "é".repeat(MAX_REFUSAL_MESSAGE),
    });
    let bytes = refusal.encode(VERSION).expect("valid");
    match Message::decode(&bytes, VERSIONS).expect("decodes") {
        Message::Refuse(refusal) => {
            assert_eq!(refusal.message, "é".repeat(MAX_REFUSAL_MESSAGE / 2));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_hostile_length_is_refused_before_room_is_made() {
    let mut bytes = messages()[1].encode(VERSION).expect("valid");
    bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..20]);
    bytes[20..24].copy_from_slice(&crc.to_le_bytes());
    assert!(matches!(
        Message::read_from(&mut &bytes[..], VERSIONS),
        Err(HandshakeError::TooLong(u32::MAX))
    ));
}

proptest! {
    #[test]
    fn any_bytes_end_in_a_message_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Message::decode(&bytes, VERSIONS).is_err());
        prop_assert!(Message::read_from(&mut &bytes[..], VERSIONS).is_err());
    }

    /// Right envelope, any body.
    #[test]
    fn any_body_ends_in_a_message_or_an_error(
        kind in 0u16..9,
        body in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut bytes = b"ftvmlink".to_vec();
        bytes.extend_from_slice(&PROTOCOL_VERSION.to_le_bytes());
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(&body);
        let _ = Message::decode(&bytes, VERSIONS);
    }
}
