//! Servers of one file, each a process of its own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{io, thread};

use disk_server::nbd::client::{Connection, connect};
use transport::Endpoint;

/// More than a server takes to start.
const LONG: Duration = Duration::from_secs(30);
/// Between two looks whether it has.
const PAUSE: Duration = Duration::from_millis(20);
/// The name of the export.
pub(crate) const DISK: &str = "disk";

/// A program that serves disks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Program {
    Ftvm,
    QemuNbd,
    Nbdkit,
}

impl Program {
    pub(crate) const ALL: [Self; 3] = [Self::Ftvm, Self::QemuNbd, Self::Nbdkit];

    /// As benchmarks are named.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ftvm => "ftvm",
            Self::QemuNbd => "qemu-nbd",
            Self::Nbdkit => "nbdkit",
        }
    }

    fn command(self, port: u16, image: &Path, state: &Path) -> Command {
        let mut command;
        match self {
            Self::Ftvm => {
                command = ftvm(free_port(), state);
                command
                    .args(["--nbd-listen", &format!("127.0.0.1:{port}")])
                    .args(["--export", &format!("{DISK}={}", image.display())]);
            }
            Self::QemuNbd => {
                command = Command::new("qemu-nbd");
                command
                    .args(["--format=raw", "--persistent", "--bind=127.0.0.1"])
                    .args([format!("--port={port}"), format!("--export-name={DISK}")])
                    .arg(image);
            }
            Self::Nbdkit => {
                command = Command::new("nbdkit");
                command
                    .args(["--foreground", "--ipaddr=127.0.0.1"])
                    .args([format!("--port={port}"), format!("--exportname={DISK}")])
                    .arg("file")
                    .arg(image);
            }
        }
        command
    }

    /// Starts it.
    pub(crate) fn serve(self, image: &Path, state: &Path) -> Server {
        let port = free_port();
        Server::start(self.command(port, image, state), port)
    }
}

/// Our server without disks.
pub(crate) fn arbiter(state: &Path) -> Server {
    let port = free_port();
    Server::start(ftvm(port, state), port)
}

fn ftvm(port: u16, state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_disk-server"));
    command
        .args([
            "--plain",
            "--listen",
            &format!("127.0.0.1:{port}"),
            "--state",
        ])
        .arg(state);
    command
}

/// One that nothing listens at now.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("bound").port()
}

/// A server, which is killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    fn start(mut command: Command, port: u16) -> Self {
        let started = command
            .env("RUST_LOG", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        let child = started.unwrap_or_else(|error| {
            panic!(
                "{}: {error}: `cargo xtask bench --micro` installs what is needed",
                command.get_program().display()
            )
        });
        Self {
            child,
            address: (Ipv4Addr::LOCALHOST, port).into(),
        }
    }

    /// A connection to its disk, as soon as it takes one.
    pub(crate) fn connect(&self) -> Connection {
        let deadline = Instant::now() + LONG;
        loop {
            match connect(&self.address.into(), DISK, &Endpoint::plain(), LONG) {
                Ok(connection) => return connection,
                Err(error) if Instant::now() >= deadline => panic!("{error}"),
                Err(_) => thread::sleep(PAUSE),
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let ended: io::Result<_> = self.child.kill().and_then(|()| self.child.wait());
        ended.expect("it is a child of this process");
    }
}
