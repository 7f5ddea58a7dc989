//! Fuzz targets: what a stranger can send to the disk server, what one can answer who takes its place, and what
//! whoever connects can say where no keys are asked for.
//!
//! Whatever that is, it is answered as the protocol says or refused, the other side's end is everybody's end, and no
//! more is kept than the longest message has. A violation panics. `tests/fuzz` has libFuzzer run these.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use transport::Stream;

use crate::arbiter::lines::{Lines, Patience};
use crate::arbiter::protocol::{
    ErrorCode, Greeting, MAX_LINE, Request, Response, VERSIONS, VmRecord, encode,
};
use crate::arbiter::{Next, Record};
use crate::fleet::{
    Answer, Definition, HostVerb, Image, ImageDigest, LagBounds, NamedHosts, Operation, Verb,
};
use crate::monitoring::http::{Response as Page, converse};
use crate::nbd::client::negotiation::{ConnectError, Negotiation};
use crate::nbd::haggling::{await_tls, greet};
use crate::nbd::protocol::{
    self as nbd, BlockSize, ClientFlags, ExportInfo, ExportRequest, HandshakeFlags, Info,
    MetaContext, OptionHeader, OptionReplyHeader, OptionType, ReplyType, TransmissionFlags,
};
use crate::nbd::timed::{Incoming, Outgoing};
use crate::policy::Act;
use crate::views::{Capabilities, Paging, Ping, Role, Text};

/// A fuzz target: its name, what is done with an input, and inputs that go deep.
pub type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// All of this crate.
pub const TARGETS: [Target; 4] = [
    ("nbd-server", nbd_server, nbd_clients),
    ("nbd-client", nbd_client, nbd_servers),
    ("http", http, requests),
    ("arbiter", arbiter, lines),
];

/// More than anything here takes: whoever waits for the other side waits in vain, because that one has gone.
const PATIENCE: Duration = Duration::from_secs(600);

/// Of an input, so that all answers to it have room in a socket.
const MOST_SENT: usize = 2048;

/// A connection whose other side has sent this and has gone, but for what it would still read.
fn connection(sent: &[u8]) -> (TcpStream, UnixStream) {
    let (ours, mut theirs) = UnixStream::pair().expect("two sockets");
    theirs.set_nonblocking(true).expect("a socket");
    theirs.write_all(sent).expect("there is room");
    theirs.shutdown(Shutdown::Write).expect("it is open");
    (OwnedFd::from(ours).into(), theirs)
}

/// What this side has answered.
fn answered(mut theirs: UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Its end is that it would have to wait.
    let _ = theirs.read_to_end(&mut bytes);
    bytes
}

fn at_most(input: &[u8], len: usize) -> &[u8] {
    &input[..input.len().min(len)]
}

/// What an NBD client sends before it has shown a key, behind a byte whose lowest bit says that the server is ending.
pub fn nbd_server(input: &[u8]) {
    let Some((&how, sent)) = input.split_first() else {
        return;
    };
    let (socket, client) = connection(at_most(sent, MOST_SENT));
    let (stream, ending) = (Stream::plain(socket), AtomicBool::new(how & 1 == 1));
    let (mut incoming, outgoing) = (Incoming::new(&stream), Outgoing::new(&stream, PATIENCE));
    let deadline = Instant::now() + PATIENCE;
    let greeted = greet(&mut incoming, &outgoing, deadline);
    let agreed = greeted.and_then(|_| await_tls(&mut incoming, &outgoing, deadline, &ending));
    assert!(
        agreed.is_err() || !incoming.holds(1),
        "TLS begins with what was not encrypted"
    );

    let answers = answered(client);
    let (greeting, mut answers) = answers.split_first_chunk().expect("a greeting");
    nbd::Greeting::decode(greeting).expect("a greeting");
    let mut is_over = false;
    while let Some((header, rest)) = answers.split_first_chunk() {
        let header = OptionReplyHeader::decode(header).expect("an answer");
        let told = rest.get(..header.length as usize).expect("all of it");
        assert!(!is_over, "an answer behind the last one");
        assert!(
            header.reply.is_error() || told.is_empty(),
            "something is told to a stranger"
        );
        is_over = !header.reply.is_error();
        answers = &rest[told.len()..];
    }
    assert!(answers.is_empty(), "half an answer");
    assert!(
        agreed.is_err() || is_over,
        "TLS follows, and the client is not told"
    );
}

fn option(option: OptionType, data: &[u8]) -> Vec<u8> {
    let header = OptionHeader {
        option,
        length: data.len() as u32,
    };
    [&header.encode(), data].concat()
}

fn nbd_clients() -> Vec<Vec<u8>> {
    let flags = ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES;
    let go = ExportRequest {
        name: "db".into(),
        infos: vec![nbd::InfoType::BlockSize],
    }
    .encode();
    let asked = [
        option(OptionType::StartTls, &[]),
        option(OptionType::StructuredReply, &[]),
        option(OptionType::List, &[]),
        option(OptionType::Go, &go),
        option(OptionType::ExportName, b"db"),
        option(OptionType::Abort, &[]),
        option(OptionType::StartTls, b"x"),
    ];
    let all = [&asked[1], &asked[2], &asked[3], &asked[0]]
        .map(Vec::as_slice)
        .concat();
    let seeds = asked.iter().chain([&all]).flat_map(|options| {
        [0, 1].map(|how| [&[how], &flags.bits().to_be_bytes()[..], &options[..]].concat())
    });
    seeds.collect()
}

/// What an NBD client of ours is answered by who has not shown a key, behind a byte whose lowest bit says that none is
/// asked for.
pub fn nbd_client(input: &[u8]) {
    let Some((&how, sent)) = input.split_first() else {
        return;
    };
    let (socket, _server) = connection(at_most(sent, MOST_SENT));
    let stream = Stream::plain(socket);
    let address = "disk.example:10809".parse().expect("an address");
    let new = || Negotiation::new(&stream, &address, "db", Instant::now() + PATIENCE);
    let negotiated = new().greet().and_then(|()| match how & 1 {
        0 => new().start_tls(),
        _ => new().run().map(drop),
    });
    if let Err(error) = negotiated {
        let words = error.to_string();
        assert!(
            !words.contains(char::is_control),
            "{words:?} goes into a log, and to terminals"
        );
        let timed_out = matches!(&error, ConnectError::Broken { source, .. }
            if source.kind() == std::io::ErrorKind::TimedOut);
        assert!(!timed_out, "it waits for who has gone");
    }
}

fn nbd_servers() -> Vec<Vec<u8>> {
    let flags = HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES;
    let greeting = nbd::Greeting { flags }.encode();
    let reply = |option, reply, data: &[u8]| {
        let header = OptionReplyHeader {
            option,
            reply,
            length: data.len() as u32,
        };
        [&header.encode(), data].concat()
    };
    let (structured, contexts, go) = (
        OptionType::StructuredReply,
        OptionType::ListMetaContext,
        OptionType::Go,
    );
    let size = ExportInfo {
        size: 1 << 30,
        flags: TransmissionFlags::HAS_FLAGS,
    };
    let blocks = BlockSize {
        minimum: 1,
        preferred: 4096,
        max_payload: 1 << 25,
    };
    let context = |name: &str| {
        MetaContext {
            id: 0,
            name: name.into(),
        }
        .encode()
    };
    let opened = [
        reply(structured, ReplyType::Ack, &[]),
        reply(
            contexts,
            ReplyType::MetaContext,
            &context(&format!("{}=db", nbd::DISK_NAME)),
        ),
        reply(contexts, ReplyType::Ack, &[]),
        reply(go, ReplyType::Info, &Info::Export(size).encode()),
        reply(go, ReplyType::Info, &Info::BlockSize(blocks).encode()),
        reply(go, ReplyType::Ack, &[]),
    ];
    let refused = [
        reply(structured, ReplyType::ErrUnsupported, b"no"),
        reply(go, ReplyType::ErrUnknown, b"there is none"),
    ];
    let tls = |kind, text: &[u8]| reply(OptionType::StartTls, kind, text);
    [
        (0, tls(ReplyType::Ack, &[])),
        (0, tls(ReplyType::ErrPolicy, b"plain")),
        (1, opened.concat()),
        (1, refused.concat()),
    ]
    .map(|(how, replies)| [&[how], &greeting[..], &replies[..]].concat())
    .to_vec()
}

/// What comes to a port of metrics.
pub fn http(input: &[u8]) {
    let (socket, watcher) = connection(input);
    let mut asked = None;
    let conversed = converse(&socket, PATIENCE, |path| {
        asked = Some(path.to_owned());
        Page::well()
    });
    let answer = answered(watcher);
    assert_eq!(
        conversed.is_ok(),
        !answer.is_empty(),
        "answered once, or not at all"
    );
    assert!(
        asked.is_none() || answer.starts_with(b"HTTP/1.1 200 "),
        "what was found is told"
    );
    let path = asked.unwrap_or_default();
    assert!(
        path.len() <= input.len(),
        "{path:?} is longer than what was sent"
    );
}

fn requests() -> Vec<Vec<u8>> {
    let heads = [
        "GET /metrics HTTP/1.1\r\nHost: a:9740\r\nUser-Agent: Prometheus/2.53\r\nAccept: text/plain;q=0.5\r\n\r\n",
        "GET /healthz/vm/d%20b/primary?x=1 HTTP/1.0\r\n\r\n",
        "HEAD / HTTP/1.1\r\n\r\n",
        "POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
    ];
    heads.map(|head| head.as_bytes().to_vec()).to_vec()
}

/// What comes to the arbiter's port, or from there to a host.
pub fn arbiter(input: &[u8]) {
    let (socket, _client) = connection(input);
    let mut lines = Lines::new(Stream::plain(socket));
    let patience = Patience {
        idle: PATIENCE,
        line: PATIENCE,
        cancel: None,
    };
    loop {
        let next = lines.next(patience);
        let held = lines.held();
        assert!(held <= 4 * MAX_LINE, "it holds {held} bytes");
        let Ok(line) = next else {
            return;
        };
        assert!(line.len() < MAX_LINE, "{} bytes are no line", line.len());
        if let Some(greeting) = same_again::<Greeting>(&line)
            && let Some(version) = greeting.common()
        {
            assert!(VERSIONS.contains(version), "{version} is spoken");
        }
        same_again::<Response>(&line);
        if let Some(request) = same_again::<Request>(&line) {
            let _ = Act::of(&request);
        }
    }
}

/// What is understood means the same when it is sent again.
fn same_again<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(
    line: &[u8],
) -> Option<T> {
    let message: T = serde_json::from_slice(line).ok()?;
    let again = serde_json::from_slice(&encode(&message));
    assert_eq!(again.ok().as_ref(), Some(&message), "sent again");
    Some(message)
}

/// Greeting, and each kind of message, on a line each.
fn lines() -> Vec<Vec<u8>> {
    let vm = || "db".parse().expect("a name");
    let host = || "a/1".parse().expect("a name");
    let name = || "a".parse().expect("a name");
    let by = || Text::cut("anna");
    let carries = Capabilities {
        memory_mib: 4096,
        processor: Text::cut("a processor"),
        instructions: 1,
        paging: Paging::Shadow,
        exports: ["db".parse().expect("a name")].into(),
    };
    let image = || Image {
        path: "/images/vmlinux".into(),
        sha256: ImageDigest([1; 32]),
    };
    let definition = Definition {
        vm: vm(),
        memory_mib: 512,
        kernel: image(),
        initrd: Some(image()),
        append: "quiet".into(),
        mac: "52:54:00:01:02:03".into(),
        clock: "utc".into(),
        disk: Some("nbd://disk/db".into()),
        export: Some("db".parse().expect("a name")),
        heartbeat_timeout_ms: Some(500),
        lag: LagBounds {
            yellow_ms: 1,
            red_ms: 2,
        },
        hosts: NamedHosts::default(),
    };
    let next = Next::With("b/2".parse().expect("a name"));
    let ping = Ping {
        host: host(),
        number: 3,
        carries,
        role: Role::Idle {
            vm: vm(),
            declined: None,
        },
    };
    let operations = [
        Operation::Define {
            definition: Box::new(definition.clone()),
            by: by(),
        },
        Operation::Undefine { vm: vm(), by: by() },
        Operation::Definition { vm: vm() },
        Operation::Guest {
            vm: vm(),
            verb: Verb::MigrateBackup { to: name() },
            by: by(),
        },
        Operation::Host {
            host: name(),
            verb: HostVerb::Drain,
            by: by(),
        },
        Operation::OwnHost {
            host: name(),
            verb: HostVerb::Undrain,
        },
        Operation::Status { vm: vm() },
        Operation::List { after: Some(vm()) },
        Operation::History {
            vm: Some(vm()),
            before: Some(9),
        },
    ];
    let asked = [
        Request::CompareAndSet {
            vm: vm(),
            expected_epoch: 4,
            claimant: host(),
            next,
        },
        Request::Acknowledge {
            vm: vm(),
            epoch: 5,
            holder: host(),
        },
        Request::Read { vm: vm() },
        Request::List { after: Some(vm()) },
        Request::ListExports { after: None },
        Request::ListHosts { after: None },
        Request::Ping(ping),
        Request::Forget { vm: vm() },
        Request::Echo {},
    ];
    let operated = operations.map(|operation| Request::Operate { operation });
    let record = Record {
        epoch: 5,
        holder: Some(host()),
        backup: None,
        acknowledged: true,
    };
    let told = [
        Response::Won { epoch: 5 },
        Response::Lost {
            epoch: 5,
            holder: Some(host()),
        },
        Response::Record(record.clone()),
        Response::Page {
            vms: vec![VmRecord {
                vm: vm(),
                record: record.clone(),
            }],
            more: true,
        },
        Response::Pinged {
            record: Some(record),
            order: None,
        },
        Response::Operated {
            outcome: Answer::Definition(Box::new(definition)),
        },
        Response::Error {
            code: ErrorCode::Busy,
            message: "later".into(),
        },
    ];
    let asked = asked.iter().chain(&operated).map(encode);
    let mut seeds: Vec<_> = asked.chain(told.iter().map(encode)).collect();
    let session = [encode(&Greeting::ours()), seeds.concat()].concat();
    let next = Greeting {
        version: VERSIONS.newest,
        newest: Some(VERSIONS.newest + 1),
        ..Greeting::ours()
    };
    seeds.extend([session, encode(&next)]);
    seeds
}

#[cfg(test)]
#[path = "../../tests/fuzz/inputs.rs"]
mod inputs;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::inputs::inputs;
    use super::*;

    proptest! {
        #[test]
        fn a_stranger_gets_no_further_than_to_tls(input in inputs(nbd_clients())) {
            nbd_server(&input);
        }

        #[test]
        fn a_client_bears_with_any_server(input in inputs(nbd_servers())) {
            nbd_client(&input);
        }

        #[test]
        fn anything_is_answered_to_anything_over_http(input in inputs(requests())) {
            http(&input);
        }

        #[test]
        fn a_line_is_understood_or_refused(input in inputs(lines())) {
            arbiter(&input);
        }
    }
}
