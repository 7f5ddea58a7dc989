//! Which system calls a process cannot make once it has started. One test, for a process of its own.

use std::fs::{self, File};
use std::io::{Error, Result};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use confinement::{Calls, Confinement, Ports, Reach, Use};

fn is_refused<T>(done: Result<T>) -> bool {
    done.is_err_and(|error| error.raw_os_error() == Some(libc::EPERM))
}

/// Whether memory is made executable.
fn executable_memory() -> Result<()> {
    let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: new memory, at no address in particular.
    let memory = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
    match memory {
        libc::MAP_FAILED => Err(Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Asks whether a process can be signalled, which signals nothing.
fn signal_process() -> Result<()> {
    // SAFETY: takes numbers only.
    match unsafe { libc::kill(libc::getpid(), 0) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

fn outcome(result: libc::c_long) -> Result<()> {
    match result {
        ..0 => Err(Error::last_os_error()),
        _ => Ok(()),
    }
}

/// A process of its own, which ends at once, with these flags beside the signal of its end.
fn process(flags: libc::c_int) -> Result<()> {
    let flags = libc::c_long::from(flags | libc::SIGCHLD);
    // SAFETY: the child, if there is one, has this one's memory for itself, and calls nothing but what ends it.
    unsafe {
        let child = libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0);
        if child == 0 {
            libc::_exit(0);
        }
        outcome(child)
    }
}

/// Sends nothing to an address to which this socket is not connected.
fn send_at_once(socket: &TcpListener) -> Result<()> {
    let flags = libc::MSG_FASTOPEN;
    // SAFETY: nothing is read from nowhere.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            std::ptr::null(),
            0,
            flags,
            std::ptr::null(),
            0,
        )
    };
    outcome(sent as libc::c_long)
}

/// Has a signal sent to this process whenever something comes there, as to any other of its user's.
fn be_signalled(socket: &TcpListener) -> Result<()> {
    // SAFETY: takes numbers only.
    outcome(unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_SETOWN, libc::getpid()) }.into())
}

#[test]
fn what_is_not_listed_is_refused_to_all_threads() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("it listens");
    // Landlock lets it do everything.
    let all = Reach::default()
        .with("/", Use::Own)
        .connecting(&Ports::Any)
        .binding(&Ports::Any);
    let datagrams = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let to = datagrams.local_addr().expect("it is bound");
    let confinement =
        Confinement::begin(Reach::default(), all, &[]).calling(&[Calls::Threads, Calls::Files]);
    let (go, waits) = mpsc::channel();
    let early = thread::spawn(move || {
        waits.recv().expect("it is told");
        is_refused(TcpStream::connect(address))
    });
    TcpStream::connect(address).expect("everything is allowed before");

    confinement.has_started();
    go.send(()).expect("it waits");
    assert!(early.join().expect("no panic"), "a thread from before");
    let later = move || {
        assert!(fs::read("/proc/self/status").is_ok() && File::open("/etc/passwd").is_ok());
        assert!(is_refused(TcpStream::connect(address)));
        assert!(is_refused(UdpSocket::bind("127.0.0.1:0")));
        assert!(Command::new("/bin/true").status().is_err());
        assert!(is_refused(executable_memory()));
        assert!(is_refused(signal_process()));
        assert!(is_refused(process(0)) && is_refused(process(libc::CLONE_NEWUSER)));
        assert!(is_refused(send_at_once(&listener)));
        assert!(is_refused(datagrams.send_to(b"all", to)));
        assert!(is_refused(be_signalled(&listener)));
        assert!(is_refused(UnixDatagram::pair()) && UnixStream::pair().is_ok());
        listener
            .set_nonblocking(true)
            .expect("a request that is listed");
    };
    thread::spawn(later).join().expect("all are refused");
}
