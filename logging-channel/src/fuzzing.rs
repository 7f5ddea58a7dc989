//! Fuzz targets: what reaches a logging port, and a backup from whoever answers in place of its primary, before
//! anybody has shown a key, or without keys at any time.
//!
//! Whatever that is, it is understood or refused with words that can be printed, what is understood means the same
//! when it is sent again, and nobody waits for more than a message may have. A violation panics. `tests/fuzz` has
//! libFuzzer run these.

#[cfg(test)]
mod tests;

use std::error::Error;
use std::time::{Duration, Instant};

use transport::{DatagramKey, MAC_LEN, Versions};

use crate::codec::{BATCH_MAGIC, Batch, BatchEncoder, HEADER_LEN, LogOrder, VERSIONS};
use crate::control::Control;
use crate::entry::{Entry, ExecutionPoint, Landmark, Lsn, Payload, StatePart};
use crate::handshake::{
    ENVELOPE_LEN, Envelope, Hello, LINK_MAGIC, MAX_ENVELOPE_BODY, Message, Refusal, RefusalCode,
    Standby, Title, Welcome,
};
use crate::heartbeat::{Echo, HEARTBEAT_LEN, Heartbeat, Role};
use crate::host::{CheckOutcome, HostCheck, HostReport};
use crate::identity::{DiskIdentity, Identity};
use crate::memory::{header, read_block};
use crate::protocol::Pulse;
use crate::session::{Heard, hear};
use crate::trial;

/// A fuzz target: its name, what is done with an input, and inputs that go deep.
pub type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// All of this crate.
pub const TARGETS: [Target; 5] = [
    ("handshake", handshake, handshakes),
    ("door", door, callers),
    ("heartbeat", heartbeat, heartbeats),
    ("batch", batch, batches),
    ("memory", memory, blocks),
];

/// First byte of an input: what follows is there as it is sent. Otherwise it gets the checksums that it needs, which
/// nobody finds by chance.
const AS_IT_IS: u8 = 0;
const SEALED: u8 = 1;

/// What is told of an error can be printed.
fn told(error: &dyn Error) {
    let mut next = Some(error);
    while let Some(error) = next {
        printable(&error.to_string());
        next = error.source();
    }
}

fn printable(words: &str) {
    assert!(
        !words.contains(char::is_control),
        "{words:?} goes into a log, and to terminals"
    );
}

fn identity() -> Identity {
    Identity {
        vm: "db".into(),
        image: [1; 32],
        cpu: [2; 32],
        memory_bytes: 1 << 30,
        tsc_khz: 1_000_000,
        arbiter: Some(7),
        disk: Some(DiskIdentity {
            bytes: 1 << 30,
            name: "db".into(),
        }),
    }
}

fn host() -> HostReport {
    let check = |name: &str, outcome, required| HostCheck {
        name: name.into(),
        outcome,
        required,
        measured: "3 runs alike".into(),
    };
    HostReport::new([
        check("exits", CheckOutcome::Passed, true),
        check("counter", CheckOutcome::NotChecked, false),
    ])
}

/// A message of the handshake: how it is sent, and it, or its kind (a byte) and its body.
pub fn handshake(input: &[u8]) {
    let bytes = match input {
        [AS_IT_IS, bytes @ ..] => bytes.to_vec(),
        [version, kind, body @ ..] => {
            // Ours, or one that is near.
            let version = VERSIONS.newest + u16::from(*version - SEALED);
            Envelope::seal(LINK_MAGIC, version, (*kind).into(), body)
        }
        _ => return,
    };
    // As a port hears it, whose caller may send a byte at a time.
    for len in 0..=bytes.len().min(ENVELOPE_LEN + 1) {
        match Message::needed(&bytes[..len]) {
            Ok(needed) => assert!(needed <= ENVELOPE_LEN + MAX_ENVELOPE_BODY, "{needed} bytes"),
            Err(error) => {
                told(&error);
                assert!(
                    Message::decode(&bytes, VERSIONS).is_err(),
                    "a part is wrong and all of it is not"
                );
                return;
            }
        }
    }
    let mut rest = &bytes[..];
    // As one reads it who has called.
    let message = match (
        Message::decode(&bytes, VERSIONS),
        Message::read_from(&mut rest, VERSIONS),
    ) {
        (Ok(message), Ok(read)) => {
            assert!(
                message == read && rest.is_empty(),
                "{message:?} and {read:?}"
            );
            message
        }
        (Err(error), read) => {
            told(&error);
            // Behind a message there may be others.
            assert!(read.is_err() || !rest.is_empty(), "{read:?} is {error}");
            return;
        }
        (Ok(message), Err(error)) => panic!("{message:?} is {error}"),
    };
    let again = message
        .encode(VERSIONS.newest)
        .expect("it is within all limits");
    assert_eq!(
        Message::decode(&again, VERSIONS).ok(),
        Some(message.clone()),
        "sent again"
    );
    match message {
        Message::Hello(hello) => {
            let refusals = [
                identity().difference(&hello.identity),
                host().shortfall(&hello.host),
            ];
            for refusal in refusals.into_iter().flatten() {
                printable(&refusal.to_string());
                Message::Refuse(refusal)
                    .encode(VERSIONS.newest)
                    .expect("it is within all limits");
            }
            for difference in host().differences(&hello.host) {
                printable(&difference.to_string());
            }
        }
        Message::Refuse(refusal) => printable(&refusal.to_string()),
        other => told(&other.unexpected()),
    }
}

fn messages() -> [Message; 8] {
    let (identity, host) = (identity(), host());
    let hello = |standby, identity| {
        Message::Hello(Hello {
            identity,
            host: host.clone(),
            run: 1,
            udp_port: 7430,
            standby,
        })
    };
    let welcome = Welcome {
        run: 1,
        session: 2,
        title: Title {
            epoch: 3,
            holder: "a/1".into(),
        },
        heartbeat_timeout: Duration::from_millis(500),
        udp_port: 7430,
        streams: 2,
        host: host.clone(),
    };
    let refusal = Refusal {
        code: RefusalCode::NotNow,
        message: "not now".into(),
    };
    let alone = Identity {
        arbiter: None,
        disk: None,
        ..identity.clone()
    };
    [
        Message::Versions(VERSIONS),
        hello(Standby::Hot, identity),
        hello(Standby::Cold, alone),
        Message::Welcome(welcome),
        Message::Refuse(refusal),
        Message::Ready {
            session: 2,
            claimant: "b/1".into(),
        },
        Message::Begin {
            session: 2,
            epoch: 4,
        },
        Message::Memory {
            session: 2,
            number: 1,
        },
    ]
}

fn handshakes() -> Vec<Vec<u8>> {
    let messages = messages();
    let seeds = messages.iter().flat_map(|message| {
        let bytes = message.encode(VERSIONS.newest).expect("it is valid");
        let sealed = [&[SEALED, bytes[10]], &bytes[ENVELOPE_LEN..]].concat();
        [[&[AS_IT_IS], &bytes[..]].concat(), sealed]
    });
    seeds.collect()
}

/// What a caller says: how it is sent, a byte that says in pieces of which length (0: all at once), and all of it, or of
/// each message the version (how far it is above the oldest), the kind, the length of the body (u16), and the body.
pub fn door(input: &[u8]) {
    let Some((&[how, piece], mut rest)) = input.split_first_chunk() else {
        return;
    };
    let mut said = Vec::new();
    while how == SEALED
        && let Some((&[version, kind, low, high], behind)) = rest.split_first_chunk()
    {
        let len = usize::from(u16::from_le_bytes([low, high])).min(behind.len());
        let (body, behind) = behind.split_at(len);
        let version = VERSIONS.oldest + u16::from(version);
        said.extend(Envelope::seal(LINK_MAGIC, version, kind.into(), body));
        rest = behind;
    }
    if how != SEALED {
        said.extend_from_slice(rest);
    }
    let piece = match piece {
        0 => said.len().max(1),
        piece => piece.into(),
    };
    let (heard, answers) = hear(&said, piece);
    assert!(answers < 2, "a version is agreed on {answers} times");
    match heard {
        Heard::Backup(version) => {
            assert!(VERSIONS.contains(version), "{version} is spoken");
            assert_eq!(answers, 1, "a backup knows what is spoken");
        }
        Heard::Memory => assert_eq!(answers, 0, "a memory stream speaks its session's"),
        Heard::Refused(refusal) => printable(&refusal.to_string()),
        Heard::Nothing => {}
    }
}

/// Each message behind one's versions, and alone.
fn callers() -> Vec<Vec<u8>> {
    let next = Versions {
        oldest: VERSIONS.newest,
        newest: VERSIONS.newest + 1,
    };
    let known = [VERSIONS, next, Versions::only(VERSIONS.newest + 1)].map(Message::Versions);
    let begins = known.map(Some).into_iter().chain([None]);
    let seeds = begins.flat_map(|versions| {
        messages().into_iter().flat_map(move |message| {
            let said = [versions.clone(), Some(message)].into_iter().flatten();
            let sent: Vec<_> = said
                .map(|it| it.encode(VERSIONS.newest).expect("it is valid"))
                .collect();
            let sealed = sent.iter().flat_map(|bytes| {
                let (head, body) = bytes.split_at(ENVELOPE_LEN);
                let version = (VERSIONS.newest - VERSIONS.oldest) as u8;
                let len = (body.len() as u16).to_le_bytes();
                [&[version, head[10]], &len[..], body].concat()
            });
            let sealed: Vec<u8> = sealed.collect();
            [
                [&[AS_IT_IS, 0], &sent.concat()[..]].concat(),
                [&[SEALED, 7], &sealed[..]].concat(),
            ]
        })
    });
    seeds.collect()
}

/// The session of a heartbeat's.
const SESSION: u64 = 0x0102_0304_0506_0708;

/// Datagrams at the port of a primary: how they are sent, and one after the other.
pub fn heartbeat(input: &[u8]) {
    let Some((&how, rest)) = input.split_first() else {
        return;
    };
    let key = DatagramKey::new(&[1; 32]);
    let now = Instant::now();
    let mut pulse = Pulse::new(Role::Primary, SESSION, Duration::from_millis(500), now);
    // What the peer may have heard of.
    let _ = pulse.beat(now, Lsn(1), None);
    let mut last = 0;
    for datagram in rest.chunks(HEARTBEAT_LEN + MAC_LEN) {
        if let Some((beat, mac)) = datagram.split_last_chunk::<MAC_LEN>() {
            assert!(!key.is_genuine(beat, mac), "a stranger is heard");
        }
        let mut datagram = datagram.to_vec();
        if how == SEALED && datagram.len() >= HEARTBEAT_LEN {
            datagram.truncate(HEARTBEAT_LEN);
            let crc = crc32fast::hash(&datagram[..HEARTBEAT_LEN - 4]);
            datagram[HEARTBEAT_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
        }
        let Some(beat) = Heartbeat::decode(&datagram, VERSIONS.newest) else {
            continue;
        };
        assert_eq!(
            Heartbeat::decode(&beat.encode(VERSIONS.newest), VERSIONS.newest),
            Some(beat),
            "sent again"
        );
        if pulse.hear(&beat, now).is_some() {
            assert!(beat.sequence > last, "one that is not new is heard");
            last = beat.sequence;
        }
        let _ = pulse.tick(now);
    }
}

fn heartbeats() -> Vec<Vec<u8>> {
    let beat = |sequence, echo, storage| {
        let (role, session, released) = (Role::Backup, SESSION, Lsn(0));
        let beat = Heartbeat {
            role,
            session,
            sequence,
            released,
            echo,
            storage,
        };
        beat.encode(VERSIONS.newest).to_vec()
    };
    let echo = Echo {
        sequence: 1,
        held: Duration::from_millis(3),
    };
    let first = beat(1, None, None);
    let next = beat(2, Some(echo), Some(Duration::from_secs(1)));
    let padded = [&first[..], &[0; MAC_LEN], &next[..]].concat();
    [AS_IT_IS, SEALED]
        .iter()
        .flat_map(|how| [&first, &next, &padded].map(|bytes| [&[*how], &bytes[..]].concat()))
        .collect()
}

/// What follows on a plain connection, in either direction: a control message, or a batch. How it is sent, and it, or,
/// of a batch, the number of its entries (u16) and its body.
pub fn batch(input: &[u8]) {
    let bytes = match input {
        [SEALED, low, high, body @ ..] => {
            let mut header = [0; HEADER_LEN];
            header[..4].copy_from_slice(&BATCH_MAGIC);
            header[4..8].copy_from_slice(&(body.len() as u32).to_le_bytes());
            header[8..16].copy_from_slice(&1u64.to_le_bytes());
            header[16..18].copy_from_slice(&[*low, *high]);
            header[20..24].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
            let crc = crc32fast::hash(&header[..24]);
            header[24..].copy_from_slice(&crc.to_le_bytes());
            [&header[..], body].concat()
        }
        [_, bytes @ ..] => bytes.to_vec(),
        [] => return,
    };
    if let Some(message) = bytes.first_chunk() {
        let mut sealed = *message;
        let crc = crc32fast::hash(&sealed[..HEADER_LEN - 4]);
        sealed[HEADER_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
        for message in [message, &sealed] {
            match Control::decode(message) {
                Ok(control) => assert_eq!(Control::decode(&control.encode()), Ok(control)),
                Err(error) => told(&error),
            }
        }
    }
    let batch = match Batch::decode(&bytes) {
        Ok((batch, _)) => batch,
        Err(error) => return told(&error),
    };
    if let Err(error) = LogOrder::default().admit(&batch) {
        return told(&error);
    }
    let mut encoder = BatchEncoder::new(batch.first);
    for entry in &batch.entries {
        encoder
            .push(entry)
            .expect("what was understood can be sent");
    }
    let again = encoder.take().expect("it has entries").seal();
    let (again, _) = Batch::decode(&again).expect("it was just made");
    assert_eq!(again, batch, "sent again");
}

fn batches() -> Vec<Vec<u8>> {
    let entry = |exits, payload| Entry {
        point: ExecutionPoint {
            exits,
            landmark: Some(Landmark {
                rip: 0xffff_ffff_8100_0000,
            }),
        },
        check: None,
        payload,
    };
    let entries = [
        trial::SMALL.entry(1),
        trial::SMALL.entry(2),
        trial::marker(2),
        entry(3, Payload::Tick(1_000_000)),
        entry(3, Payload::Interrupt(0x30)),
        entry(3, Payload::NetRx(vec![0xa5; 60])),
        entry(4, Payload::Progress),
        entry(4, Payload::State(StatePart::Rest(vec![1; 16]))),
        entry(4, Payload::State(StatePart::Commit(vec![1; 16]))),
    ];
    let mut all = BatchEncoder::new(Lsn::FIRST);
    let mut seeds = vec![[&[AS_IT_IS], &Control::Released(Lsn(1)).encode()[..]].concat()];
    let mut seed = |encoder: &mut BatchEncoder| {
        let bytes = encoder.take().expect("it has entries").seal();
        seeds.push([&[AS_IT_IS], &bytes[..]].concat());
        seeds.push([&[SEALED], &bytes[16..18], &bytes[HEADER_LEN..]].concat());
    };
    for entry in &entries {
        let mut alone = BatchEncoder::new(Lsn::FIRST);
        for encoder in [&mut all, &mut alone] {
            encoder.push(entry).expect("a valid entry");
        }
        seed(&mut alone);
    }
    seed(&mut all);
    seeds
}

/// What a plain memory stream carries: how it is sent, and the headers and blocks, or of one transfer (u32), length
/// (u32) and block.
pub fn memory(input: &[u8]) {
    const ROOM: usize = 512;
    let bytes = match input {
        [SEALED, a, b, c, d, e, f, g, h, block @ ..] => {
            let transfer = u32::from_le_bytes([*a, *b, *c, *d]);
            let len = u32::from_le_bytes([*e, *f, *g, *h]);
            [&header(transfer, len)[..], block].concat()
        }
        [_, bytes @ ..] => bytes.to_vec(),
        [] => return,
    };
    let (mut rest, mut room) = (&bytes[..], [0; ROOM]);
    let error = loop {
        let before = rest;
        match read_block(&mut rest, &mut room) {
            Ok((transfer, block)) => {
                let again = [&header(transfer, block.len() as u32)[..], block].concat();
                assert!(before.starts_with(&again), "sent again");
            }
            Err(error) => break error,
        }
    };
    printable(&error.to_string());
}

fn blocks() -> Vec<Vec<u8>> {
    let block = |transfer, bytes: &[u8]| [&header(transfer, bytes.len() as u32), bytes].concat();
    let all = [block(1, &[0xa5; 60]), block(2, &[]), block(2, b"memory")].concat();
    let sealed = [
        &[SEALED],
        &1u32.to_le_bytes()[..],
        &6u32.to_le_bytes(),
        b"memory",
    ]
    .concat();
    vec![[&[AS_IT_IS], &all[..]].concat(), sealed]
}
