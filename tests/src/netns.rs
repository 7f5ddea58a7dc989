//! Network namespaces.

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::{Error, Result};

/// Which TCP congestion control is used in a namespace.
const CONGESTION_CONTROL: &str = "/proc/sys/net/ipv4/tcp_congestion_control";
/// Which ones every user of this machine may choose.
const ALLOWED_CONGESTION_CONTROLS: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";
/// What Linux uses where nobody chose another one.
const STOCK_CONGESTION_CONTROL: &str = "cubic";

/// A named network namespace, as `ip netns` makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// The namespace called `name`, which need not exist yet.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it exists.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.path().exists()
    }

    /// Makes it, with its loopback interface up, and with the congestion control of a stock Linux: a
    /// new namespace inherits this machine's, and what clients and the disk server send would depend
    /// on that.
    ///
    /// # Errors
    ///
    /// When it exists already, or we are not root.
    pub fn create(&self) -> Result<()> {
        ip(&["netns", "add", &self.name])?;
        self.ip("link set lo up")?;
        if let Err(error) = self.choose_stock_congestion_control() {
            log::warn!(
                "TCP in {} keeps this machine's congestion control, not {STOCK_CONGESTION_CONTROL}: \
                 {error}",
                self.name
            );
        }
        Ok(())
    }

    fn choose_stock_congestion_control(&self) -> io::Result<()> {
        if self.congestion_control()? == STOCK_CONGESTION_CONTROL {
            return Ok(());
        }
        // A namespace other than the machine's own can choose only what every user may choose.
        let allowed = fs::read_to_string(ALLOWED_CONGESTION_CONTROLS)?;
        if !allowed
            .split_whitespace()
            .any(|name| name == STOCK_CONGESTION_CONTROL)
        {
            let allowed = format!("{} {STOCK_CONGESTION_CONTROL}", allowed.trim());
            fs::write(ALLOWED_CONGESTION_CONTROLS, allowed)?;
        }
        self.within(|| fs::write(CONGESTION_CONTROL, STOCK_CONGESTION_CONTROL))?
    }

    /// Gives an interface another MAC address, and tells everybody there that its IP addresses are at that one
    /// now (gratuitous ARP).
    pub(crate) fn announce(&self, interface: &str, mac: &str) -> Result<()> {
        // Linux announces with this what changes.
        let path = PathBuf::from(format!("/proc/sys/net/ipv4/conf/{interface}/arp_notify"));
        let set = self.within(|| fs::write(&path, "1")).flatten();
        set.map_err(|source| Error::File { path, source })?;
        self.ip(&format!("link set {interface} address {mac}\n"))
    }

    /// Its TCP congestion control.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn congestion_control(&self) -> io::Result<String> {
        let read = self.within(|| fs::read_to_string(CONGESTION_CONTROL))?;
        read.map(|name| name.trim().to_owned())
    }

    /// Kills what runs in it and removes it, if it exists.
    ///
    /// # Errors
    ///
    /// When it cannot be removed.
    pub fn remove(&self) -> Result<()> {
        if !self.exists() {
            return Ok(());
        }
        for pid in self.processes()? {
            // It may have ended meanwhile.
            let _ = kill(pid, Signal::SIGKILL);
        }
        ip(&["netns", "delete", &self.name])
    }

    /// The processes that run in it.
    ///
    /// # Errors
    ///
    /// When they cannot be listed.
    pub fn processes(&self) -> Result<Vec<Pid>> {
        let pids = output(Command::new("ip").args(["netns", "pids", &self.name]))?;
        Ok(pids
            .lines()
            .filter_map(|pid| pid.trim().parse().ok())
            .map(Pid::from_raw)
            .collect())
    }

    /// Carries out commands of `ip` in it, one per line.
    ///
    /// # Errors
    ///
    /// When one fails; those after it are not tried.
    pub fn ip(&self, script: &str) -> Result<()> {
        use std::io::Write as _;
        let line = format!("ip -n {} -batch: {}", self.name, script.trim());
        let start = |source| Error::Start {
            command: line.clone(),
            source,
        };
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(start)?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(script.as_bytes()).map_err(start)?;
        }
        let output = child.wait_with_output().map_err(start)?;
        if output.status.success() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Error::Command {
            command: line,
            stderr,
        })
    }

    /// Lets `command` run in it.
    ///
    /// # Errors
    ///
    /// When the namespace cannot be opened.
    pub fn adopt(&self, command: &mut Command) -> Result<()> {
        let namespace = self.open()?;
        // SAFETY: between fork and exec the closure makes a single system call
        // on a descriptor opened before, and allocates nothing.
        unsafe {
            command.pre_exec(move || Ok(setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?));
        }
        Ok(())
    }

    /// Opens a TCP connection from inside it; the connection stays usable
    /// outside.
    ///
    /// # Errors
    ///
    /// When the connection is not made in time.
    pub fn connect(&self, address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
        self.within(|| TcpStream::connect_timeout(&address, limit))?
    }

    /// Calls `work` on a thread that is in the namespace. Sockets made there
    /// belong to it for good.
    ///
    /// # Errors
    ///
    /// When the namespace cannot be entered.
    ///
    /// # Panics
    ///
    /// When `work` panics.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        let namespace = File::open(self.path())?;
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
                    Ok(work())
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn open(&self) -> Result<File> {
        File::open(self.path()).map_err(|source| Error::Namespace {
            name: self.name.clone(),
            source,
        })
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }
}

/// Runs `ip` with arguments.
pub(crate) fn ip(arguments: &[&str]) -> Result<()> {
    output(Command::new("ip").args(arguments)).map(drop)
}

/// Runs a command on this machine and gives its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = format!("{command:?}");
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Start {
            command: line.clone(),
            source,
        })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Command {
        command: line,
        stderr,
    })
}
