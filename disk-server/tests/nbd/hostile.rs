//! Clients that misbehave, and servers that must not start.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use disk_server::nbd::protocol::{
    ClientFlags, Command, CommandFlags, ExportRequest, Greeting, OptionHeader, OptionType,
    RequestHeader,
};
use disk_server::server::Limits;

use crate::client::Client;
use crate::disks::{Gated, Local};
use crate::support::{GENEROUS, Process, command, until};

const WRITE: (Command, CommandFlags) = (Command::Write, CommandFlags::empty());

fn image(directory: &Path) -> String {
    let path = directory.join("disk.img");
    File::create(&path).unwrap().set_len(1 << 20).unwrap();
    format!("disk={}", path.display())
}

fn start(directory: &Path, more: &[&str]) -> Process {
    Process::start_with(
        command("127.0.0.1:0", &directory.join("state"))
            .args(["--nbd-listen", "127.0.0.1:0", "--export", &image(directory)])
            .args(more),
    )
}

/// A whole conversation that writes, as bytes.
fn conversation() -> Vec<u8> {
    let go = ExportRequest {
        name: "disk".to_owned(),
        infos: Vec::new(),
    }
    .encode();
    let option = OptionHeader {
        option: OptionType::Go,
        length: u32::try_from(go.len()).unwrap(),
    };
    let write = RequestHeader {
        flags: CommandFlags::FUA,
        command: Command::Write,
        cookie: 1,
        offset: 4096,
        length: 4096,
    };
    [
        &ClientFlags::FIXED_NEWSTYLE.bits().to_be_bytes()[..],
        &option.encode(),
        &go,
        &write.encode(),
        &[1; 4096],
    ]
    .concat()
}

/// Sends bytes and leaves, and takes what the server has to say until it closes the connection.
fn say(address: std::net::SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(GENEROUS)).unwrap();
    // The server may close before it has taken all.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    // A reset is a way of closing.
    if let Err(error) = stream.read_to_end(&mut answer) {
        let kind = error.kind();
        assert_eq!(kind, std::io::ErrorKind::ConnectionReset, "{error}");
    }
}

#[test]
fn a_client_may_stop_anywhere() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = start(directory.path(), &[]);
    let address = server.nbd.unwrap();
    let whole = conversation();
    let ends = (0..100).chain((100..whole.len()).step_by(97));
    for end in ends {
        say(address, &whole[..end]);
    }
    for end in [10, 40, whole.len() - 1] {
        // Without a farewell, and with unread answers: a reset.
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(&whole[..end]).unwrap();
        drop(stream);
    }
    assert!(server.is_running());
    let mut client = Client::open(address, "disk");
    assert_eq!(client.read(4096, 4096).unwrap(), [0; 4096], "half a write");
    say(address, &whole);
    until("the write of a client that left", || {
        client.read(4096, 4096).unwrap() == [1; 4096]
    });
}

#[test]
fn noise_closes_the_connection_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = start(directory.path(), &[]);
    let address = server.nbd.unwrap();
    let mut random = fastrand::Rng::with_seed(4);
    for flips in 0..200 {
        let mut bytes = conversation();
        for _ in 0..=flips % 8 {
            let at = random.usize(..200);
            bytes[at] = random.u8(..);
        }
        say(address, &bytes);
    }
    for bytes in [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"{\"ftvm\":\"arbiter\",\"version\":4}\n".to_vec(),
        vec![0xff; 1 << 20],
        vec![0; 1 << 20],
    ] {
        say(address, &bytes);
    }
    assert!(server.is_running());
    Client::open(address, "disk").flush().unwrap();
}

#[test]
fn clients_that_take_nothing_or_vanish_with_requests_under_way_hold_nobody_up() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = start(directory.path(), &[]);
    let address = server.nbd.unwrap();
    let mut idle = Vec::new();
    for n in 0..12 {
        let mut client = Client::open(address, "disk");
        for _ in 0..40 {
            // More than the socket's buffers hold, and it is never read.
            let read = (Command::Read, CommandFlags::DF);
            client.send(read, 0, 1 << 20, &[]).unwrap();
        }
        if n % 2 == 0 {
            idle.push(client);
        }
    }
    let mut client = Client::open(address, "disk");
    client.write(0, &[1; 512]).unwrap();
    client.flush().unwrap();
    assert_eq!(client.read(0, 512).unwrap(), [1; 512]);
    assert!(server.is_running());
    // Nor do they keep the server from ending.
    assert!(server.end_with(nix::sys::signal::Signal::SIGTERM));
    drop(idle);
}

#[test]
fn slow_clients_are_sent_away() {
    let short = Duration::from_millis(50);
    let closed = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(GENEROUS)).unwrap();
        let mut rest = Vec::new();
        let end = stream.read_to_end(&mut rest);
        assert!(end.is_ok() || end.unwrap_err().kind() == std::io::ErrorKind::ConnectionReset);
    };
    // In the negotiation.
    let limits = Limits {
        negotiation: short,
        ..Limits::default()
    };
    let server = Local::start_with(Gated::new(1 << 20), false, limits);
    let mut silent = TcpStream::connect(server.nbd).unwrap();
    let mut greeting = [0; Greeting::LEN];
    silent.read_exact(&mut greeting).unwrap();
    closed(&mut silent);
    // In the middle of a request.
    let limits = Limits {
        message: short,
        ..Limits::default()
    };
    let server = Local::start_with(Gated::new(1 << 20), false, limits);
    let mut half = Client::open(server.nbd, "disk");
    half.send(WRITE, 0, 4096, &[1; 100]).unwrap();
    closed(&mut half.stream);
    // But not between requests.
    let mut patient = Client::open(server.nbd, "disk");
    std::thread::sleep(3 * short);
    assert_eq!(patient.read(0, 4096).unwrap(), [0; 4096]);
}

#[test]
fn too_many_clients_are_turned_away_and_claims_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path(), &["--max-connections", "3"]);
    let address = server.nbd.unwrap();
    let mut held: Vec<_> = (0..3).map(|_| Client::open(address, "disk")).collect();
    assert!(Client::try_open(address, "disk").is_err());
    server.arbiter().warm().unwrap();
    held.pop();
    until("there is room again", || {
        Client::try_open(address, "disk").is_ok()
    });
}

#[test]
fn the_usual_limit_of_open_files_is_enough_for_all_clients() {
    let directory = tempfile::tempdir().unwrap();
    let limited = |limits: &str, state: &str| {
        let mut program = std::process::Command::new("sh");
        program
            .args(["-c", &format!("ulimit {limits} && exec \"$0\" \"$@\"")])
            .arg(env!("CARGO_BIN_EXE_disk-server"))
            .args(["--plain", "--listen", "127.0.0.1:0"])
            .args(["--nbd-listen", "127.0.0.1:0"])
            .args([
                "--state",
                &directory.path().join(state).display().to_string(),
            ])
            .args(["--export", &image(directory.path())])
            .args(["--max-connections", "60"])
            .env("RUST_LOG", "error");
        program
    };
    // As a shell or systemd gives it: the soft limit is low, the hard one is not.
    let server = Process::start_with(&mut limited("-Sn 64", "soft"));
    let idle = server.descriptors();
    let one_each = |server: &Process, idle: usize, connections: usize| {
        until("no descriptor but one for each connection", || {
            server.descriptors() == idle + connections
        });
    };
    let open = |server: &Process| Client::try_open(server.nbd.unwrap(), "disk");
    let arbiter = |server: &Process| {
        let mut stream = server.connect();
        // Its greeting: somebody serves it.
        stream.read_exact(&mut [0]).unwrap();
        stream
    };
    let clients: Vec<_> = (0..60).map(|_| open(&server).unwrap().unwrap()).collect();
    one_each(&server, idle, 60);
    let arbiters: Vec<_> = (0..59).map(|_| arbiter(&server)).collect();
    assert!(open(&server).is_err(), "one too many is closed");
    server.arbiter().list().unwrap();
    one_each(&server, idle, 60 + 59);
    drop((server, clients, arbiters));
    // Where it cannot be raised, fewer are let in, and no further one hangs.
    let server = Process::start_with(&mut limited("-n 64", "hard"));
    let idle = server.descriptors();
    let mut clients = Vec::new();
    while let Ok(client) = open(&server) {
        clients.push(client.unwrap());
    }
    assert!((8..32).contains(&clients.len()), "{}", clients.len());
    let arbiters: Vec<_> = (1..clients.len()).map(|_| arbiter(&server)).collect();
    server.arbiter().list().unwrap();
    one_each(&server, idle, clients.len() + arbiters.len());
}

#[test]
fn servers_that_cannot_export_say_why() {
    let directory = tempfile::tempdir().unwrap();
    let refused = |arguments: &[&str]| {
        let output = command("127.0.0.1:0", &directory.path().join("other"))
            .args(arguments)
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let listen = ["--nbd-listen", "127.0.0.1:0", "--export"];
    let with = |export: &str| refused(&[&listen[..], &[export]].concat());
    let export = image(directory.path());
    let server = start(directory.path(), &[]);
    let message = with(&export);
    assert!(message.contains("exported already"), "{message}");
    let message = with(&format!("{export},read-only"));
    assert!(message.contains("exported already"), "{message}");
    drop(server);
    let message = refused(&[&listen[..], &[&export, "--export", &export]].concat());
    assert!(message.contains("exported already"), "{message}");
    let read_only = format!("{export},read-only");
    let message = refused(&[&listen[..], &[&read_only, "--export", &read_only]].concat());
    assert!(message.contains("two exports are called disk"), "{message}");
    let missing = format!("disk={}/none", directory.path().display());
    let message = with(&missing);
    assert!(message.contains("make it first"), "{message}");
    let message = with(&format!("disk={}", directory.path().display()));
    assert!(
        message.contains("neither a file nor a block device"),
        "{message}"
    );
    assert!(with("disk").contains("NAME=PATH"));
    assert!(refused(&["--export", &export]).contains("--nbd-listen"));
    assert!(refused(&["--nbd-listen", "127.0.0.1:0"]).contains("--export"));
    let server = start(directory.path(), &[]);
    let taken = server.nbd.unwrap().to_string();
    let other = directory.path().join("other.img");
    File::create(&other).unwrap();
    let export = format!("disk={}", other.display());
    let message = refused(&["--nbd-listen", &taken, "--export", &export]);
    assert!(message.contains("--nbd-listen"), "{message}");
}
