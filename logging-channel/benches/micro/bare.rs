//! Bare TCP over loopback: what no channel can do better.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;

/// As much as a reader takes at a time.
const READ: usize = 256 * 1024;

/// A connection whose other end answers.
pub(crate) struct Bare {
    stream: TcpStream,
}

impl Bare {
    /// After each `len` bytes come `answer` bytes.
    pub(crate) fn new(len: usize, answer: usize) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let stream = TcpStream::connect(address).expect("connected");
        let (mut other, _) = listener.accept().expect("a connection");
        for end in [&stream, &other] {
            end.set_nodelay(true).expect("set");
        }
        thread::spawn(move || {
            let mut buffer = vec![0; READ];
            let answer = vec![0; answer];
            let mut left = len;
            while let Ok(read @ 1..) = other.read(&mut buffer[..left.min(READ)]) {
                left -= read;
                if left == 0 {
                    left = len;
                    other.write_all(&answer).expect("sent");
                }
            }
        });
        Self { stream }
    }

    /// Sends each of the pieces by itself, and waits for the answer.
    pub(crate) fn exchange(&mut self, pieces: &[Vec<u8>], answer: &mut [u8]) {
        for piece in pieces {
            self.stream.write_all(piece).expect("sent");
        }
        self.stream.read_exact(answer).expect("an answer");
    }
}
