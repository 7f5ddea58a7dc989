//! The testbed's side of the agent protocol: commands and files in hosts.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::connection::{Alive, Connection, Source};
use crate::error::{Error, Result};
use crate::netns::Namespace;
use crate::process::HostProcess;
use crate::protocol::{AGENT_PORT, CHUNK, Exit, Frame, Request, TerminalSize};

/// How long a connection to an agent may take.
const CONNECT: Duration = Duration::from_secs(5);

/// What a command printed and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub exit: Exit,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Reaches the agent of one host.
#[derive(Clone)]
pub struct AgentClient {
    host: String,
    namespace: Namespace,
    address: Ipv4Addr,
    alive: Alive,
}

impl std::fmt::Debug for AgentClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentClient")
            .field("host", &self.host)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl AgentClient {
    /// The agent at `address`, reached from inside `namespace`. `alive` tells
    /// whether the host still runs: the network of a host that was killed is
    /// silent, and connections to it would wait for ever.
    pub(crate) fn new(
        host: &str,
        namespace: Namespace,
        address: Ipv4Addr,
        alive: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            host: host.to_owned(),
            namespace,
            address,
            alive: Arc::new(alive),
        }
    }

    /// Whether the agent takes a connection within `limit`.
    pub(crate) fn answers(&self, limit: Duration) -> bool {
        self.dial(limit).is_ok()
    }

    fn dial(&self, limit: Duration) -> Result<Connection> {
        let (host, alive) = (self.host.clone(), Arc::clone(&self.alive));
        let address = SocketAddr::new(IpAddr::V4(self.address), AGENT_PORT);
        Connection::open(host, alive, || self.namespace.connect(address, limit))
    }

    fn request(&self, request: Request) -> Result<Connection> {
        let connection = self.dial(CONNECT)?;
        connection.send(&Frame::Request(request))?;
        Ok(connection)
    }

    /// Runs a command to its end and gives what it printed to `sink` as it comes.
    ///
    /// # Errors
    ///
    /// When the host does not answer, or cannot start the command.
    pub fn stream(
        &self,
        argv: &[&str],
        env: &BTreeMap<String, String>,
        sink: impl FnMut(Source, &[u8]),
    ) -> Result<Exit> {
        let connection = self.start(argv, env, None)?;
        connection.send(&Frame::EndOfInput)?;
        connection.receive(sink)
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    ///
    /// When the host does not answer, or cannot start the command. A command
    /// that fails is no error here: look at [`Output::exit`].
    pub fn run(&self, argv: &[&str]) -> Result<Output> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let exit = self.stream(argv, &BTreeMap::new(), |source, bytes| match source {
            Source::Stdout => stdout.extend_from_slice(bytes),
            Source::Stderr => stderr.extend_from_slice(bytes),
        })?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Output {
            exit,
            stdout: text(stdout),
            stderr: text(stderr),
        })
    }

    /// Starts a command and lets it run; `log` takes all that it prints.
    ///
    /// # Errors
    ///
    /// When the host does not answer.
    pub fn spawn(
        &self,
        argv: &[&str],
        env: &BTreeMap<String, String>,
        log: Option<File>,
    ) -> Result<HostProcess> {
        let connection = self.start(argv, env, None)?;
        Ok(HostProcess::follow(argv.join(" "), connection, log))
    }

    /// Runs a command in a terminal of its own to its end. `input` is read on a
    /// thread that goes on until it ends or the command has ended.
    ///
    /// # Errors
    ///
    /// When the host does not answer, or cannot start the command.
    pub fn interact(
        &self,
        argv: &[&str],
        env: &BTreeMap<String, String>,
        size: TerminalSize,
        mut input: impl Read + Send + 'static,
        sink: impl FnMut(Source, &[u8]),
    ) -> Result<Exit> {
        let connection = self.start(argv, env, Some(size))?;
        thread::spawn({
            let connection = connection.clone();
            move || {
                let mut buffer = vec![0; CHUNK];
                while let Ok(length @ 1..) = input.read(&mut buffer) {
                    if connection
                        .send(&Frame::Input(buffer[..length].to_vec()))
                        .is_err()
                    {
                        break;
                    }
                }
            }
        });
        connection.receive(sink)
    }

    fn start(
        &self,
        argv: &[&str],
        env: &BTreeMap<String, String>,
        terminal: Option<TerminalSize>,
    ) -> Result<Connection> {
        let argv = argv.iter().map(|&word| word.to_owned()).collect();
        self.request(Request::Run {
            argv,
            env: env.clone(),
            terminal,
        })
    }

    /// Copies a file into the host, with its permission bits.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, the host does not answer, or it cannot
    /// write the file.
    pub fn put(&self, local: &Path, remote: &str) -> Result<()> {
        let failed = |source| Error::File {
            path: local.to_owned(),
            source,
        };
        let mut file = File::open(local).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
        let connection = self.request(Request::Put {
            path: remote.to_owned(),
            mode,
        })?;
        let mut buffer = vec![0; CHUNK];
        loop {
            let frame = match file.read(&mut buffer).map_err(failed)? {
                0 => Frame::EndOfInput,
                length => Frame::Input(buffer[..length].to_vec()),
            };
            // When the host refuses, its reason is waiting to be read.
            if connection.send(&frame).is_err() || frame == Frame::EndOfInput {
                break;
            }
        }
        connection.receive(|_, _| ()).map(drop)
    }

    /// Copies a file out of the host.
    ///
    /// # Errors
    ///
    /// When the host does not answer or has no such file, or the local file
    /// cannot be written.
    pub fn get(&self, remote: &str, local: &Path) -> Result<()> {
        let connection = self.request(Request::Get {
            path: remote.to_owned(),
        })?;
        let mut contents = Vec::new();
        connection.receive(|_, bytes| contents.extend_from_slice(bytes))?;
        fs::write(local, contents).map_err(|source| Error::File {
            path: local.to_owned(),
            source,
        })
    }

    /// Reads small files of the host, as good as at one moment: paths and contents, in the order asked
    /// for. A directory `*` stands for every one that is there; what cannot be read is left out.
    ///
    /// # Errors
    ///
    /// When the host does not answer.
    pub fn glance(&self, paths: Vec<String>) -> Result<Vec<(String, String)>> {
        let connection = self.request(Request::Glance { paths })?;
        let mut json = Vec::new();
        connection.receive(|_, bytes| json.extend_from_slice(bytes))?;
        serde_json::from_slice(&json).map_err(|error| connection.lost(error.into()))
    }

    /// The host's name.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }
}
