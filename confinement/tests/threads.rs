//! What threads of each kind cannot do once their process has started. One test, for a process of its own.

use std::fs::{self, File};
use std::io::{self, Read as _, Result, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{self, Command};
use std::sync::mpsc;
use std::thread::{self, Builder};
use std::time::Duration;

use confinement::{Calls, Capability, Confinement, Ports, Reach, Use};

/// What a thread tries, and the calls that it takes.
fn attempts(server: SocketAddr) -> [(Option<Calls>, &'static str, Result<()>); 8] {
    let new = std::env::temp_dir().join(format!("threads-test-{}", process::id()));
    [
        (
            Some(Calls::Files),
            "opens a file",
            File::open("/etc/passwd").map(drop),
        ),
        (
            Some(Calls::Files),
            "makes a file",
            File::create(&new).and_then(|_| fs::remove_file(&new)),
        ),
        (
            Some(Calls::Connect),
            "connects",
            TcpStream::connect(server).map(drop),
        ),
        (
            Some(Calls::Connect),
            "listens",
            TcpListener::bind("127.0.0.1:0").map(drop),
        ),
        (
            Some(Calls::Threads),
            "starts a thread",
            Builder::new().spawn(|| ()).map(drop),
        ),
        (
            Some(Calls::Guest),
            "locks memory",
            // SAFETY: takes numbers only; there is no memory to be locked.
            match unsafe { libc::mlock(std::ptr::null(), 0) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            },
        ),
        (
            None,
            "executes",
            Command::new("/bin/true").status().map(drop),
        ),
        (None, "makes a socket of the kernel's", netlink()),
    ]
}

fn netlink() -> Result<()> {
    // SAFETY: takes numbers only.
    match unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, 0) } {
        ..0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Has a thread with these calls try everything.
fn is_kept_to(calls: &'static [Calls], server: SocketAddr) {
    let tries = move || {
        for (needs, what, done) in attempts(server) {
            let may = needs.is_some_and(|needs| calls.contains(&needs));
            assert_eq!(done.is_ok(), may, "{calls:?} {what}: {done:?}");
            let refused = done.err().and_then(|error| error.raw_os_error());
            assert!(may || refused == Some(libc::EPERM), "{calls:?} {what}");
        }
        // What every thread does.
        let (mut reader, mut writer) = io::pipe().expect("a pipe");
        writer.write_all(b"x").expect("a pipe");
        reader.read_exact(&mut [0]).expect("a pipe");
        thread::sleep(Duration::from_millis(1));
        drop(vec![1; 1 << 20]);
        // Whatever it may do itself, it has others started, with their own lists.
        let opens = || File::open("/etc/passwd").is_ok();
        let other = confinement::spawn(Builder::new(), &[Calls::Files], opens);
        other.expect("a thread").join().expect("no panic")
    };
    let thread = confinement::spawn(Builder::new(), calls, tries).expect("a thread");
    assert!(thread.join().expect("all else is refused"));
}

/// The capabilities of this process's threads, but for those of the test's framework, by name.
fn capabilities() -> Vec<(String, String)> {
    let tasks = fs::read_dir("/proc/self/task").expect("a Linux process");
    let framework = process::id().to_string();
    let all = tasks
        .flatten()
        .filter(|task| *task.file_name() != *framework);
    let statuses = all.map(|task| fs::read_to_string(task.path().join("status")));
    let lines = |status: String| {
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.expect("it is told").trim().to_owned()
        };
        let sets = ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"].map(value);
        (value("Name:"), sets.join(" "))
    };
    statuses.flatten().map(lines).collect()
}

#[test]
fn threads_have_the_calls_of_their_work_and_no_capability() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let server = listener.local_addr().expect("it listens");
    // Landlock lets it do everything.
    let all = Reach::default()
        .with("/", Use::Own)
        .connecting(&Ports::Any)
        .binding(&Ports::Any);
    // As root, with one of each kind that no limit serves for.
    let held = [Capability::NetAdmin, Capability::Perfmon];
    let confinement = Confinement::begin(Reach::default(), all, &held).calling(&[
        Calls::Threads,
        Calls::Files,
        Calls::Storage,
        Calls::Accept,
        Calls::Connect,
        Calls::Guest,
    ]);
    let (works, work) = mpsc::channel::<bool>();
    let (says, said) = mpsc::channel();
    let early = move || {
        for narrows in work {
            if narrows {
                confinement::catch_up();
            }
            says.send(File::open("/etc/passwd").is_ok())
                .expect("it is heard");
        }
    };
    let named = Builder::new().name("early".into());
    let early = confinement::spawn(named, &[], early).expect("a thread");
    let early_opens = |narrows| {
        works.send(narrows).expect("it waits");
        said.recv().expect("it answers")
    };
    assert!(early_opens(true), "its process has not started");
    let none = ["0000000000000000"; 4].join(" ");
    let of_early = |(name, sets): &(String, String)| name == "early" && *sets == none;
    assert!(capabilities().iter().any(of_early), "{:?}", capabilities());

    confinement.has_started();
    assert!(
        capabilities().len() >= 3,
        "with the one that starts threads"
    );
    for (name, sets) in capabilities() {
        assert_eq!(sets, none, "{name}");
    }
    assert!(early_opens(false), "it has what its process has");
    assert!(!early_opens(true), "it has its own list");
    for calls in [
        &[][..],
        &[Calls::Guest],
        &[Calls::Files],
        &[Calls::Connect, Calls::Files],
        &[Calls::Threads, Calls::Storage],
    ] {
        is_kept_to(calls, server);
    }
    let accepts = |calls| {
        let listener = listener.try_clone().expect("a descriptor");
        TcpStream::connect(server).expect("the test may");
        let accept = move || listener.accept().is_ok();
        let thread = confinement::spawn(Builder::new(), calls, accept).expect("a thread");
        thread.join().expect("no panic")
    };
    // So many connections wait by now, and one by one is taken.
    assert!(!accepts(&[]) && accepts(&[Calls::Accept]));
    drop(works);
    early.join().expect("it ends");
}
