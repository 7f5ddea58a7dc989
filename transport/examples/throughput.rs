//! What keys cost over loopback: how much goes one way, and how long a word takes there and back, plain and secure
//! in turn.
//!
//!     cargo run --release -p transport --example throughput

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use transport::{Endpoint, Opening, Patience, Role, Service, Stream, key_set};

const ROUNDS: usize = 5;
const BYTES: usize = 2 << 30;
const WORDS: u32 = 20_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let set = key_set(folder.path(), &[(Role::Host, "a"), (Role::Host, "b")])?;
    let secure = [
        Endpoint::read(&set.key("a"), &set.trust())?,
        Endpoint::read(&set.key("b"), &set.trust())?,
    ];
    let plain = [Endpoint::plain(), Endpoint::plain()];
    for piece in [32 << 10, 256 << 10] {
        for _ in 0..ROUNDS {
            let [plain, secure] = [one_way(&plain, piece)?, one_way(&secure, piece)?];
            println!(
                "pieces of {} KiB: plain {plain:.2} GB/s, secure {secure:.2} GB/s, ratio {:.2}",
                piece >> 10,
                secure / plain
            );
        }
    }
    for _ in 0..ROUNDS {
        let [plain, secure] = [there_and_back(&plain)?, there_and_back(&secure)?];
        println!(
            "a word there and back: plain {plain:.1?}, secure {secure:.1?}, ratio {:.2}",
            secure.as_secs_f64() / plain.as_secs_f64()
        );
    }
    Ok(())
}

/// Opens a connection.
fn open([caller, answerer]: &[Endpoint; 2]) -> io::Result<[Stream; 2]> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let socket = TcpStream::connect(listener.local_addr()?)?;
    let (accepted, _) = listener.accept()?;
    for socket in [&socket, &accepted] {
        socket.set_nodelay(true)?;
    }
    let (log, hosts) = (Opening::Preface(Service::Log), &[Role::Host]);
    let patience = || Patience::of(Duration::from_secs(60));
    thread::scope(|scope| {
        let answered = scope.spawn(|| answerer.answer(accepted, log, hosts, patience()));
        let called = caller.call(socket, log, hosts, patience())?;
        let answered = answered.join().expect("no panic")?;
        Ok([called, answered])
    })
}

/// Bytes in a nanosecond.
fn one_way(ends: &[Endpoint; 2], piece: usize) -> io::Result<f64> {
    let [from, to] = open(ends)?;
    let started = Instant::now();
    thread::scope(|scope| {
        let reading = scope.spawn(|| -> io::Result<()> {
            let mut buffer = vec![0; piece];
            for _ in 0..BYTES / piece {
                (&to).read_exact(&mut buffer)?;
            }
            Ok(())
        });
        let bytes = vec![7; piece];
        for _ in 0..BYTES / piece {
            (&from).write_all(&bytes)?;
        }
        (&from).flush()?;
        reading.join().expect("no panic")
    })?;
    Ok(BYTES as f64 / started.elapsed().as_nanos() as f64)
}

fn there_and_back(ends: &[Endpoint; 2]) -> io::Result<Duration> {
    let [near, far] = open(ends)?;
    let started = Instant::now();
    thread::scope(|scope| {
        let echoing = scope.spawn(|| -> io::Result<()> {
            let mut word = [0; 28];
            for _ in 0..WORDS {
                (&far).read_exact(&mut word)?;
                (&far).write_all(&word)?;
            }
            Ok(())
        });
        let mut word = [0; 28];
        for _ in 0..WORDS {
            (&near).write_all(&word)?;
            (&near).read_exact(&mut word)?;
        }
        echoing.join().expect("no panic")
    })?;
    Ok(started.elapsed() / WORDS)
}
