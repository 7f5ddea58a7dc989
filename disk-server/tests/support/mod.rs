//! Real servers for the tests.
#![allow(
    dead_code,
    reason = "several test programs share it, and none uses all"
)]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use disk_server::arbiter::{Arbiter, Settings};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use transport::{ConnectionError, Endpoint, Opening, Patience, Service, Stream};

/// How long a test waits for what must come. Nothing is measured against it.
pub(crate) const GENEROUS: Duration = Duration::from_secs(60);

/// A server process, killed when dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
    /// Where the disks are, if it was given some.
    pub(crate) nbd: Option<SocketAddr>,
    /// Where it tells metrics, if it was told to.
    pub(crate) metrics: Option<SocketAddr>,
    _stdout: BufReader<ChildStdout>,
}

pub(crate) fn command(listen: &str, state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_disk-server"));
    command
        .args(["--plain", "--listen", listen, "--state"])
        .arg(state)
        .env("RUST_LOG", "error")
        .stdin(Stdio::null());
    command
}

impl Process {
    pub(crate) fn start(listen: &str, state: &Path) -> Process {
        Self::start_with(&mut command(listen, state))
    }

    pub(crate) fn start_with(command: &mut Command) -> Process {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut address = |prefix: &str| {
            let mut line = String::new();
            stdout.read_line(&mut line).unwrap();
            let address = line.trim().strip_prefix(prefix);
            let address = address.unwrap_or_else(|| panic!("expected {prefix:?}, not {line:?}"));
            address.parse().unwrap()
        };
        let has = |option: &str| command.get_args().any(|argument| argument == option);
        Process {
            address: address("listening on "),
            nbd: has("--nbd-listen").then(|| address("nbd on ")),
            metrics: has("--metrics").then(|| address("metrics on ")),
            child,
            _stdout: stdout,
        }
    }

    pub(crate) fn arbiter(&self) -> Arbiter {
        Arbiter::new(self.address.into(), Endpoint::plain(), Settings::default())
    }

    /// What is answered to a GET by those who watch it.
    pub(crate) fn watched(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.metrics.unwrap()).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// The value of a metric, with its labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let metrics = self.watched("/metrics");
        let value = metrics
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = value.unwrap_or_else(|| panic!("no {name} in\n{metrics}"));
        value.parse().unwrap()
    }

    pub(crate) fn connect(&self) -> Stream {
        call(self.address).unwrap()
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// Sends a signal and tells whether the process ended with status 0.
    pub(crate) fn end_with(mut self, signal: Signal) -> bool {
        self.signal(signal);
        self.child.wait().unwrap().success()
    }

    /// How many file descriptors it has.
    pub(crate) fn descriptors(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.child.id());
        std::fs::read_dir(folder).unwrap().count()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails when it has ended, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection to an arbiter on which nothing was said yet.
pub(crate) fn call(arbiter: SocketAddr) -> Result<Stream, ConnectionError> {
    let socket = TcpStream::connect(arbiter).unwrap();
    let opening = Opening::Preface(Service::DiskServer);
    let stream = Endpoint::plain().call(socket, opening, &[], Patience::of(GENEROUS))?;
    stream.set_read_timeout(Some(GENEROUS)).unwrap();
    Ok(stream)
}

/// Runs a server that must not start; what it says.
pub(crate) fn refused(listen: &str, state: &Path) -> String {
    refused_by(&mut command(listen, state))
}

/// The same, of a server with further arguments.
pub(crate) fn refused_by(command: &mut Command) -> String {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut listening = String::new();
    // Ends with the process, or with the line that says that it runs.
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut listening)
        .unwrap();
    if !listening.is_empty() {
        child.kill().unwrap();
        child.wait().unwrap();
        panic!("it starts: {listening}");
    }
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    assert_eq!(status.code(), Some(1), "an error is exit status 1");
    String::from_utf8(stderr).unwrap()
}

/// Whether this is root, as in the whole suite, for a test that needs it: then nothing else may be
/// missing. Otherwise tells people that the test did not run.
pub(crate) fn is_root(test: &str) -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        skipped(test, "only root can");
    }
    is_root
}

/// Tells people that a test did not run.
fn skipped(test: &str, reason: &str) {
    // Not eprintln!, whose output nobody sees when the test passes.
    let line = format!("SKIPPED {test}: {reason}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// Runs a test in a mount namespace of its own, where it may mount what it likes. True in there;
/// elsewhere the test has run when this returns. `test` is its whole name.
pub(crate) fn has_own_mounts(test: &str) -> bool {
    const INSIDE: &str = "DISK_SERVER_TEST_OWN_MOUNTS";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let is_root = nix::unistd::geteuid().is_root();
    let isolated = |program: &OsStr| {
        let mut unshare = Command::new("unshare");
        if !is_root {
            unshare.args(["--user", "--map-root-user"]);
        }
        unshare.arg("--mount").arg(program);
        unshare
    };
    if !is_root {
        let folder = tempfile::tempdir().unwrap();
        let mut probe = isolated("mount".as_ref());
        probe.args(["-t", "tmpfs", "none"]).arg(folder.path());
        if !probe.output().is_ok_and(|output| output.status.success()) {
            skipped(
                test,
                "neither root nor allowed to mount in a user namespace",
            );
            return false;
        }
    }
    let this = std::env::current_exe().unwrap();
    let inside = isolated(this.as_os_str())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare is needed, of the package util-linux");
    let said =
        [inside.stdout, inside.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    let passed = inside.status.success() && said[0].contains(" 1 passed");
    assert!(passed, "{}{}", said[0], said[1]);
    false
}

/// A small file system, which goes away when dropped. For [`has_own_mounts`].
pub(crate) struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    pub(crate) fn new(size: &str) -> SmallDisk {
        let directory = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]);
        assert!(mount.arg(directory.path()).status().unwrap().success());
        SmallDisk(directory)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn remount(&self, how: &str) {
        let mut mount = Command::new("mount");
        mount
            .args(["-o", &format!("remount,{how}")])
            .arg(self.0.path());
        assert!(mount.status().unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

/// Sends bytes, ends the sending direction, and returns all that the server answers.
pub(crate) fn exchange(stream: &mut Stream, bytes: &[u8]) -> String {
    // The server may refuse and close before it has taken all.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// Sets a flag when dropped: ends helpers also when an assertion fails.
pub(crate) struct SetWhenDropped<'a>(pub(crate) &'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Waits until something is so.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + GENEROUS;
    while !is_so() {
        assert!(Instant::now() < end, "never came: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
