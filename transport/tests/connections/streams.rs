//! Reading and writing without waiting.

use std::io::{self, Read as _, Write as _};
use std::time::{Duration, Instant};

use transport::{Endpoint, Stream};

use crate::members::{GENEROUS, Members, open};

fn pairs() -> [[Stream; 2]; 2] {
    let members = Members::new();
    let plain = Endpoint::plain();
    let ends = [
        open(&members.endpoint("a"), &members.endpoint("b")),
        open(&plain, &plain),
    ];
    ends.map(|(called, answered)| [called.expect("open"), answered.expect("open")])
}

#[test]
fn what_a_full_socket_does_not_take_comes_later_and_once() {
    for [from, mut to] in pairs() {
        let said: Vec<u8> = (0..64_000_000u32).map(|n| (n % 253) as u8).collect();
        let mut taken = 0;
        while let Ok(count) = from.send_now(&said[taken..]) {
            taken += count;
        }
        assert!(taken < said.len(), "no socket has room for that");
        let mut heard = Vec::new();
        let mut buffer = vec![0; 50_000];
        while !from.flush_now().expect("open") {
            let count = to.read(&mut buffer).expect("open");
            heard.extend_from_slice(&buffer[..count]);
        }
        drop(from);
        loop {
            match to.read(&mut buffer) {
                Ok(count @ 1..) => heard.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        assert!(heard == said[..taken]);
    }
}

#[test]
fn what_is_here_already_is_not_waited_for() {
    for [mut from, to] in pairs() {
        from.write_all(&[9; 100_000]).expect("there is room");
        let mut heard = 0;
        let mut buffer = [0; 7];
        while heard < 100_000 {
            let ready = to.wait_readable(&[], Some(GENEROUS)).expect("open");
            assert!(ready[0], "the rest after {heard} bytes");
            match to.read_now(&mut buffer) {
                Ok(count) => heard += count,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        assert!(!to.holds());
        let soon = Instant::now() + Duration::from_millis(5);
        let late = to.read_until(&mut buffer, soon).expect_err("nothing more");
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    }
}
