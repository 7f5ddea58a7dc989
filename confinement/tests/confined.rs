//! What a thread can do while its program starts, and afterwards. One test, for a process of its own.

use std::fs::{self, File};
use std::io::{ErrorKind, Result, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;

use confinement::{Calls, Capability, Confinement, Reach, Use};
use rustix::thread::{CapabilitySet, no_new_privs};

/// The version of this kernel's Landlock (landlock_create_ruleset(2)); none if it has none.
fn landlock() -> Option<i64> {
    const VERSION: libc::c_int = 1;
    // SAFETY: it reads nothing for this flag.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0,
            VERSION,
        )
    };
    (version > 0).then_some(version)
}

fn is_refused<T>(done: Result<T>) -> bool {
    match done {
        Ok(_) => false,
        Err(error) => error.kind() == ErrorKind::PermissionDenied,
    }
}

fn write(path: &Path) -> Result<()> {
    File::create(path)?.write_all(b"kept")
}

/// What this thread may have of capabilities.
fn permitted() -> CapabilitySet {
    let status = fs::read_to_string("/proc/thread-self/status").expect("it is read");
    let bits = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
    let bits = u64::from_str_radix(bits.expect("it is told").trim(), 16);
    CapabilitySet::from_bits_retain(bits.expect("a number"))
}

fn refuses_programs() -> bool {
    is_refused(Command::new("/bin/true").status())
}

#[test]
fn a_program_reaches_less_when_it_has_started() {
    let Some(version) = landlock() else {
        eprintln!("skipped: this kernel has no Landlock");
        return;
    };
    let folder = tempfile::tempdir().expect("a directory");
    let (image, own) = (folder.path().join("image"), folder.path().join("own"));
    let log = folder.path().join("log/events");
    fs::write(&image, "image").expect("a file");
    fs::create_dir(&own).expect("a directory");
    fs::create_dir(folder.path().join("log")).expect("a directory");
    let listen = || TcpListener::bind("127.0.0.1:0").expect("a port");
    let [server, stranger] = [listen(), listen()];
    let at = |listener: &TcpListener| listener.local_addr().expect("it listens");
    let (server, stranger): (SocketAddr, SocketAddr) = (at(&server), at(&stranger));

    let start = Reach::default().with(&image, Use::Read);
    let later = Reach::default()
        .with("/proc/self", Use::Read)
        .with(&own, Use::Own)
        .with_replaced(&log, Use::Append)
        .connecting(&[server.port()].into_iter().collect());
    let capabilities_kept = [Capability::NetAdmin, Capability::IpcLock];
    let calls = [Calls::Threads, Calls::Files, Calls::Accept, Calls::Connect];
    let confinement = Confinement::begin(start, later, &capabilities_kept).calling(&calls);
    assert_eq!(no_new_privs().ok(), Some(true));
    let held = permitted();
    // Where its limit cannot be raised, as in some containers.
    let without_limit = CapabilitySet::IPC_LOCK;
    assert!((CapabilitySet::NET_ADMIN | without_limit).contains(held));
    let is_confined = |has_started: bool| {
        assert_eq!(is_refused(fs::read(&image)), has_started);
        assert!(is_refused(fs::read("/etc/passwd")), "a file of others");
        assert!(is_refused(write(&folder.path().join("new"))));
        assert!(refuses_programs());
        let kept = own.join("kept");
        write(&kept).expect("it is its own");
        assert_eq!(fs::read(&kept).expect("it is its own"), b"kept");
        fs::rename(&kept, own.join("renamed")).expect("they are its own");
        fs::remove_file(own.join("renamed")).expect("it is its own");
        let append = || File::options().create(true).append(true).open(&log);
        append().expect("it is appended to");
        assert!(is_refused(fs::remove_file(&log)) && is_refused(fs::read(&log)));
        if version >= 4 {
            TcpStream::connect(server).expect("it is the program's server");
            assert!(is_refused(TcpStream::connect(stranger)));
            assert!(is_refused(TcpListener::bind("127.0.0.1:0")));
        }
    };
    is_confined(false);

    confinement.has_started();
    is_confined(true);
    let inherits = thread::spawn(|| (permitted(), refuses_programs()));
    let (held, refuses) = inherits.join().expect("it does not panic");
    assert!(without_limit.contains(held) && refuses, "{held:?}");
}
