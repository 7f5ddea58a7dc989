//! The two ends of a session in one process, and peers made by hand that do as they please.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::LazyLock;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use logging_channel::codec::{HEADER_LEN, VERSIONS};
use logging_channel::control::Control;
use logging_channel::entry::{Entry, Lsn};
use logging_channel::handshake::{Hello, Message, Standby, Title, Welcome};
use logging_channel::heartbeat::{Echo, Heartbeat, Role};
use logging_channel::receiver::{Next, Receiver};
use logging_channel::sender::Sender;
use logging_channel::session::{
    AcceptError, Admission, BindError, Confirmation, ConnectError, Listener,
};
use logging_channel::{
    ChannelEvent, CheckOutcome, HostCheck, HostReport, Identity, LossReason, Settings,
};
use transport::{
    Endpoint, MAC_LEN, Opening, Patience, Peer, Role as Whose, Service, Stream, Versions, key_set,
};

/// More than anything here takes on a busy machine. Nothing waits for it unless it fails.
pub(crate) const LONG: Duration = Duration::from_secs(30);

pub(crate) static NEVER: AtomicBool = AtomicBool::new(false);

pub(crate) const EPOCH: u64 = 7;

/// The version that our two ends speak with each other.
pub(crate) const VERSION: u16 = VERSIONS.newest;

/// Says to a peer which versions are spoken, and hears the same of it.
pub(crate) fn agree(stream: &mut Stream, ours: Versions) -> Versions {
    let message = Message::Versions(ours);
    let said = stream.write_all(&message.encode(ours.newest).expect("valid"));
    said.expect("sent");
    match Message::read_from(stream, ours).expect("an answer") {
        Message::Versions(theirs) => theirs,
        other => panic!("{other:?}"),
    }
}

/// The hosts' keys, and that of an operator.
pub(crate) struct Keys {
    pub(crate) hosta: Endpoint,
    pub(crate) hostb: Endpoint,
    pub(crate) anna: Endpoint,
}

pub(crate) static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a directory");
    let members = [
        (Whose::Host, "hosta"),
        (Whose::Host, "hostb"),
        (Whose::Operator, "anna"),
    ];
    let set = key_set(folder.path(), &members).expect("keys");
    let read = |name| Endpoint::read(&set.key(name), &set.trust()).expect("just made");
    Keys {
        hosta: read("hosta"),
        hostb: read("hostb"),
        anna: read("anna"),
    }
});

/// A connection of hostb's to a logging port.
pub(crate) fn dial(address: SocketAddr) -> Stream {
    dial_as(&KEYS.hostb, address)
}

pub(crate) fn dial_as(endpoint: &Endpoint, address: SocketAddr) -> Stream {
    let socket = TcpStream::connect(address).expect("connected");
    let log = Opening::Preface(Service::Log);
    let opened = endpoint.call(socket, log, &[Whose::Host], Patience::of(LONG));
    opened.expect("it is opened")
}

/// A connection that somebody makes to hosta's logging port.
pub(crate) fn answer(listener: &TcpListener) -> Stream {
    answer_as(&KEYS.hosta, listener)
}

pub(crate) fn answer_as(endpoint: &Endpoint, listener: &TcpListener) -> Stream {
    let (socket, _) = listener.accept().expect("a connection");
    // As a real primary does: a reset throws away what Nagle still holds back.
    socket.set_nodelay(true).expect("set");
    let log = Opening::Preface(Service::Log);
    let opened = endpoint.answer(socket, log, &[Whose::Host], Patience::of(LONG));
    opened.expect("it is opened")
}

/// Who the backup is to the arbiter.
pub(crate) const BACKUP: &str = "hostb/77aa";

pub(crate) fn title() -> Title {
    Title {
        epoch: EPOCH,
        holder: "hosta/1f0c".into(),
    }
}

/// The arbiter's word for a primary about itself.
pub(crate) fn held(backup: &str, peer: Option<&Peer>) -> Admission {
    assert!(!backup.is_empty());
    assert_eq!(peer.expect("it has a key").name, "hostb");
    Admission::Admitted(EPOCH + 1)
}

/// Waits for a backup of the VM of the tests.
pub(crate) fn accept(
    listener: &mut Listener,
    settings: &Settings,
    cancel: Option<&AtomicBool>,
) -> Result<Sender, AcceptError> {
    let title = |_: Option<&Peer>| Ok(title());
    listener.accept_backup(&identity(), &host(), title, settings, cancel, held)
}

/// The arbiter's word for a backup about its primary.
pub(crate) fn trusted(_: &Title, peer: Option<&Peer>) -> Confirmation {
    assert_eq!(peer.expect("it has a key").name, "hosta");
    Confirmation::Held
}

pub(crate) fn localhost() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

pub(crate) fn identity() -> Identity {
    Identity {
        vm: "redis".into(),
        image: [0x12; 32],
        cpu: [0x34; 32],
        memory_bytes: 128 << 20,
        tsc_khz: 2_000_000,
        arbiter: Some(1),
        disk: None,
    }
}

/// What a host can do that has no performance counter.
pub(crate) fn host() -> HostReport {
    let check = |name: &str, outcome, required| HostCheck {
        name: name.into(),
        outcome,
        required,
        measured: String::new(),
    };
    HostReport::new([
        check("exits", CheckOutcome::Passed, true),
        check("counter", CheckOutcome::Failed, false),
    ])
}

/// As [`patient`], over a relay that takes one connection at a time: there is none for memory.
pub(crate) fn for_relay() -> Settings {
    Settings {
        memory_streams: 0,
        ..patient()
    }
}

/// A free port, and where that is.
pub(crate) fn bound() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(localhost()).expect("a free port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

/// Settings with which a slow machine loses nobody.
pub(crate) fn patient() -> Settings {
    Settings {
        heartbeat_timeout: Duration::from_secs(60),
        max_lag: Duration::from_secs(60),
        ..Settings::default()
    }
}

/// Settings with which a silent peer is soon lost.
pub(crate) fn impatient() -> Settings {
    Settings {
        heartbeat_timeout: Duration::from_millis(200),
        ..patient()
    }
}

pub(crate) fn listen() -> Listener {
    listen_at(localhost()).expect("a free port")
}

pub(crate) fn listen_at(address: SocketAddr) -> Result<Listener, BindError> {
    Listener::bind(address, &KEYS.hosta)
}

pub(crate) fn connect(
    address: SocketAddr,
    identity: &Identity,
    settings: &Settings,
) -> Result<Receiver, ConnectError> {
    Receiver::connect(
        (address, &KEYS.hostb),
        (identity, BACKUP),
        &host(),
        settings,
        Instant::now() + LONG,
        &NEVER,
        trusted,
    )
}

/// Both ends of a session.
pub(crate) struct Pair {
    pub(crate) listener: Listener,
    pub(crate) sender: Sender,
    pub(crate) receiver: Receiver,
}

pub(crate) fn pair(primary: &Settings, backup: &Settings) -> Pair {
    let mut listener = listen();
    let address = listener.local_addr();
    thread::scope(|scope| {
        let receiver = scope.spawn(|| connect(address, &identity(), backup));
        let sender = accept(&mut listener, primary, None).expect("a backup");
        Pair {
            sender,
            receiver: receiver.join().expect("no panic").expect("a session"),
            listener,
        }
    })
}

/// Waits until `condition` holds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The next `count` entries, whose LSNs must go on from `after`.
pub(crate) fn take(receiver: &mut Receiver, after: u64, count: usize) -> Vec<Entry> {
    (after + 1..)
        .take(count)
        .map(|lsn| match receiver.next(LONG) {
            Next::Entry(found, entry) => {
                assert_eq!(found, Lsn(lsn));
                entry
            }
            other => panic!("LSN {lsn}: {other:?}"),
        })
        .collect()
}

/// The announced end of a session, which must be the only announcement.
pub(crate) fn announced(events: &crossbeam_channel::Receiver<ChannelEvent>) -> LossReason {
    let ChannelEvent::PeerLost(reason) = events.recv_timeout(LONG).expect("an event");
    assert!(events.try_recv().is_err(), "a second event");
    reason
}

/// A backup made by hand.
pub(crate) struct FakeBackup {
    pub(crate) tcp: Stream,
    pub(crate) memory: Vec<Stream>,
    pub(crate) udp: UdpSocket,
    pub(crate) welcome: Welcome,
    /// What is spoken with it.
    version: u16,
}

impl FakeBackup {
    /// Connects to a listener that accepts it, and says Hello.
    pub(crate) fn join(listener: &mut Listener, settings: &Settings) -> (Self, Sender) {
        Self::join_speaking(VERSIONS, listener, settings)
    }

    /// The same, of a program that speaks other versions.
    pub(crate) fn join_speaking(
        versions: Versions,
        listener: &mut Listener,
        settings: &Settings,
    ) -> (Self, Sender) {
        let address = listener.local_addr();
        thread::scope(|scope| {
            let backup = scope.spawn(move || {
                let mut memory = Vec::new();
                let udp = UdpSocket::bind(localhost()).expect("a free port");
                let hello = Message::Hello(Hello {
                    identity: identity(),
                    host: host(),
                    run: 42,
                    udp_port: udp.local_addr().expect("bound").port(),
                    standby: Standby::Hot,
                });
                let mut tcp = dial(address);
                let theirs = agree(&mut tcp, versions);
                let version = versions.common(theirs).expect("they have one in common");
                let spoken = Versions::only(version);
                tcp.write_all(&hello.encode(version).expect("valid"))
                    .expect("sent");
                let welcome = match Message::read_from(&mut tcp, spoken).expect("an answer") {
                    Message::Welcome(welcome) => welcome,
                    other => panic!("{other:?}"),
                };
                assert_eq!(welcome.run, 42);
                let session = welcome.session;
                let ready = Message::Ready {
                    session,
                    claimant: BACKUP.into(),
                };
                tcp.write_all(&ready.encode(version).expect("valid"))
                    .expect("sent");
                for number in 0..welcome.streams {
                    let hello = Message::Memory { session, number };
                    let mut stream = dial(address);
                    stream
                        .write_all(&hello.encode(version).expect("valid"))
                        .expect("sent");
                    memory.push(stream);
                }
                match Message::read_from(&mut tcp, spoken).expect("an answer") {
                    Message::Begin { session: begun, .. } => assert_eq!(begun, session),
                    other => panic!("{other:?}"),
                }
                udp.connect((address.ip(), welcome.udp_port))
                    .expect("connected");
                udp.set_read_timeout(Some(LONG)).expect("set");
                Self {
                    tcp,
                    memory,
                    udp,
                    welcome,
                    version,
                }
            });
            let sender = accept(listener, settings, None).expect("a backup");
            (backup.join().expect("no panic"), sender)
        })
    }

    pub(crate) fn say(&mut self, control: Control) {
        self.tcp.write_all(&control.encode()).expect("sent");
    }

    /// A connection that says Hello and Ready, and opens no memory streams.
    pub(crate) fn lazy(address: SocketAddr) -> Stream {
        Self::lazy_with_session(address).0
    }

    /// The same, with the number of the session that it was offered.
    pub(crate) fn lazy_with_session(address: SocketAddr) -> (Stream, u64) {
        let hello = Message::Hello(Hello {
            identity: identity(),
            host: host(),
            run: 43,
            udp_port: 1,
            standby: Standby::Hot,
        });
        let mut tcp = dial(address);
        agree(&mut tcp, VERSIONS);
        tcp.write_all(&hello.encode(VERSION).expect("valid"))
            .expect("sent");
        let Ok(Message::Welcome(Welcome { session, .. })) = Message::read_from(&mut tcp, VERSIONS)
        else {
            panic!("no welcome");
        };
        let ready = Message::Ready {
            session,
            claimant: BACKUP.into(),
        };
        tcp.write_all(&ready.encode(VERSION).expect("valid"))
            .expect("sent");
        (tcp, session)
    }

    /// The primary's next heartbeat.
    pub(crate) fn hear(&self) -> Heartbeat {
        let mut datagram = [0; 100];
        let len = self.udp.recv(&mut datagram).expect("a heartbeat");
        let (beat, mac) = datagram[..len].split_at(len - MAC_LEN);
        let key = self.tcp.datagrams().expect("it has a key");
        assert!(key.is_genuine(beat, mac));
        Heartbeat::decode(beat, self.version).expect("valid")
    }

    pub(crate) fn beat(&self, session: u64, sequence: u64) {
        self.beat_with(session, sequence, None);
    }

    pub(crate) fn beat_with(&self, session: u64, sequence: u64, echo: Option<Echo>) {
        let beat = Heartbeat {
            role: Role::Backup,
            session,
            sequence,
            released: Lsn(0),
            echo,
            storage: None,
        };
        let _ = self.udp.send(&self.sealed(&beat));
    }

    /// A heartbeat as it is sent.
    pub(crate) fn sealed(&self, beat: &Heartbeat) -> Vec<u8> {
        let beat = beat.encode(self.version);
        let key = self.tcp.datagrams().expect("it has a key");
        [&beat[..], &key.mac(&beat)].concat()
    }
}

/// A primary made by hand.
pub(crate) struct FakePrimary {
    pub(crate) tcp: Stream,
    pub(crate) udp: UdpSocket,
}

impl FakePrimary {
    /// Welcomes a real backup.
    pub(crate) fn welcome(settings: &Settings) -> (Self, Receiver) {
        Self::welcome_speaking(VERSIONS, settings)
    }

    /// The same, of a program that speaks other versions.
    pub(crate) fn welcome_speaking(versions: Versions, settings: &Settings) -> (Self, Receiver) {
        let (listener, address) = bound();
        let timeout = settings.heartbeat_timeout;
        thread::scope(|scope| {
            let primary = scope.spawn(move || {
                let mut tcp = answer(&listener);
                let theirs = agree(&mut tcp, versions);
                let version = versions.common(theirs).expect("they have one in common");
                let spoken = Versions::only(version);
                let Ok(Message::Hello(hello)) = Message::read_from(&mut tcp, spoken) else {
                    panic!("no hello");
                };
                let udp = UdpSocket::bind(localhost()).expect("a free port");
                udp.connect((address.ip(), hello.udp_port))
                    .expect("connected");
                let welcome = Message::Welcome(Welcome {
                    run: hello.run,
                    session: 99,
                    title: title(),
                    heartbeat_timeout: timeout,
                    udp_port: udp.local_addr().expect("bound").port(),
                    host: host(),
                    streams: 0,
                });
                tcp.write_all(&welcome.encode(version).expect("valid"))
                    .expect("sent");
                assert!(matches!(
                    Message::read_from(&mut tcp, spoken),
                    Ok(Message::Ready { session: 99, .. })
                ));
                let begin = Message::Begin {
                    session: 99,
                    epoch: EPOCH + 1,
                };
                tcp.write_all(&begin.encode(version).expect("valid"))
                    .expect("sent");
                Self { tcp, udp }
            });
            let receiver = connect(address, &identity(), settings).expect("a session");
            (primary.join().expect("no panic"), receiver)
        })
    }

    pub(crate) fn say(&mut self, bytes: &[u8]) {
        self.tcp.write_all(bytes).expect("sent");
    }

    /// Waits until the backup has said something.
    pub(crate) fn await_word(&self) {
        let ready = self.tcp.wait_readable(&[], Some(LONG)).expect("open");
        assert!(ready[0], "the backup says nothing");
    }

    pub(crate) fn hear(&mut self) -> Control {
        let mut bytes = [0; HEADER_LEN];
        self.tcp.read_exact(&mut bytes).expect("a message");
        Control::decode(&bytes).expect("valid")
    }
}
