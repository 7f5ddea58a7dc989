//! Who has to make room, and who is heard.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;
use std::thread;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};

use super::*;
use crate::handshake::Standby;
use crate::host::HostReport;
use crate::identity::Identity;

fn door() -> (Door, SocketAddr) {
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = tcp.local_addr().expect("bound");
    (Door::new(tcp, Endpoint::plain()).expect("a door"), address)
}

/// Connects from an address of this host's.
fn call(door: &mut Door, address: SocketAddr, from: [u8; 4], patience: Duration) -> TcpStream {
    let before = door.callers.len();
    let socket = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::empty(),
        None,
    );
    let socket = socket.expect("a socket");
    let [a, b, c, d] = from;
    bind(socket.as_raw_fd(), &SockaddrIn::new(a, b, c, d, 0)).expect("this host");
    let SocketAddr::V4(to) = address else {
        unreachable!("it is bound to one");
    };
    connect(socket.as_raw_fd(), &SockaddrIn::from(to)).expect("it listens");
    while door.callers.len() == before && door.callers.len() < MOST_CALLERS {
        door.let_in(patience);
    }
    socket.into()
}

#[test]
fn who_calls_often_keeps_out_nobody_else() {
    const LONG: Duration = Duration::from_secs(3600);
    let (mut door, address) = door();
    let first = call(&mut door, address, [127, 0, 0, 2], LONG);
    let mut others = Vec::new();
    while door.callers.len() < MOST_CALLERS {
        others.push(call(&mut door, address, [127, 0, 0, 3], LONG));
    }
    let is_in = |door: &Door, of: &TcpStream| {
        let of = of.local_addr().expect("bound");
        door.callers.iter().any(|caller| caller.peer == of)
    };
    for oldest in 0..2 * MOST_CALLERS {
        assert!(is_in(&door, &others[oldest]), "{oldest}");
        others.push(call(&mut door, address, [127, 0, 0, 3], LONG));
        let newest = others.last().expect("just pushed");
        while !is_in(&door, newest) {
            door.let_in(LONG);
        }
        assert!(is_in(&door, &first));
        assert!(!is_in(&door, &others[oldest]), "{oldest}");
    }
}

#[test]
fn what_was_said_in_time_is_heard_however_late() {
    let (mut door, address) = door();
    let mut caller = call(&mut door, address, [127, 0, 0, 1], Duration::ZERO);
    let memory = Message::Memory {
        session: 5,
        number: 0,
    };
    let said = [
        b"ftvmconn\x01\x00\x01\x01",
        &memory.encode(VERSIONS.newest).expect("valid")[..],
    ]
    .concat();
    caller.write_all(&said).expect("sent");
    // Its time is over by now.
    wait_readable(&[door.callers[0].line.as_fd()], None).expect("a wait");
    let visit = door.visit(None, Duration::ZERO).expect("a visit");
    assert!(matches!(visit, Some(Visit::Memory { session: 5, .. })));
}

#[test]
fn only_so_many_wait_for_another_one_s_streams() {
    let (mut door, address) = door();
    let identity = Identity {
        vm: "db".into(),
        image: [0; 32],
        cpu: [0; 32],
        memory_bytes: 1 << 27,
        tsc_khz: 1,
        arbiter: None,
        disk: None,
    };
    let hello = Message::Hello(Hello {
        identity,
        host: HostReport::default(),
        run: 1,
        udp_port: 1,
        standby: Standby::Hot,
    });
    let [versions, hello] = [Message::Versions(VERSIONS), hello]
        .map(|message| message.encode(VERSIONS.newest).expect("valid"));
    let said = [b"ftvmconn\x01\x00\x01\x01", &versions[..], &hello].concat();
    let come = || {
        let mut caller = TcpStream::connect(address).expect("it listens");
        caller.write_all(&said).expect("sent");
        caller
    };
    let (never, patience) = (AtomicBool::new(false), Duration::from_millis(100));
    let mut wait = |until: &dyn Fn(&Door) -> bool| {
        while !until(&door) {
            let streams = door.streams((1, None), 1, &never, patience);
            streams.expect_err("nobody opens one");
        }
        door.waiting.len()
    };
    let _waiting: Vec<_> = (0..MOST_WAITING).map(|_| come()).collect();
    wait(&|door| door.waiting.len() == MOST_WAITING);
    let mut another = come();
    let answer = thread::spawn(move || {
        another.read_exact(&mut [0; 12]).expect("a preface");
        Message::read_from(&mut another, VERSIONS).expect("what is spoken");
        Message::read_from(&mut another, VERSIONS)
    });
    assert_eq!(wait(&|_| answer.is_finished()), MOST_WAITING);
    match answer.join().expect("no panic") {
        Ok(Message::Refuse(refusal)) => assert_eq!(refusal.code, RefusalCode::NotNow),
        other => panic!("{other:?}"),
    }
}

#[test]
fn callers_cannot_fill_the_log() {
    let mut told = Told::default();
    let start = Instant::now();
    let lines = (0..1000).filter_map(|_| told.let_through(start));
    assert_eq!(lines.count(), Told::MOST as usize);
    let later = start + Told::PERIOD;
    assert_eq!(told.let_through(later), Some(1000 - u64::from(Told::MOST)));
    assert_eq!(told.let_through(later), Some(0));
}
