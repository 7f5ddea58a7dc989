//! What the process of a guest that is replicated may reach: files and ports, by its command line.

use std::fs;
use std::net::SocketAddr;

use confinement::{Calls, Capability, Confinement, Ports, Reach, Use};
use disk_server::arbiter::ServerAddress;

use super::guest::GuestArgs;
use super::pair::{BackupArgs, PairArgs, PrimaryArgs};
use crate::config::VmConfig;
use crate::kvm::branch_counter::paranoid_level;

/// What is read for as long as the guest runs: of this process, and of the room that is left.
const READ: [&str; 4] = [
    "/proc/self",
    "/proc/meminfo",
    "/sys/fs/cgroup",
    "/sys/module",
];

/// What is read by the doctor, and where there is a performance counter.
const READ_AT_START: [&str; 3] = ["/proc/cpuinfo", "/proc/sys", "/sys"];

/// What names are resolved with: the C library's files, and those that services keep for it.
const RESOLVED_WITH: [&str; 5] = [
    "/etc",
    "/run/NetworkManager",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/usr/lib",
];

/// DNS, where an answer is too long for a datagram.
const DNS: u16 = 53;

/// To read and make files as root does, to attach the guest's network interface, to count, to lock the guest's
/// memory, and for heartbeats that come in time.
const AT_START: [Capability; 6] = [
    Capability::DacOverride,
    Capability::NetAdmin,
    Capability::NetBindService,
    Capability::Perfmon,
    Capability::IpcLock,
    Capability::SysNice,
];

/// Confines a primary. Before there is a second thread.
pub(super) fn primary(args: &PrimaryArgs, vm: &VmConfig) -> Confinement {
    let start = start(&args.guest, &args.pair, vm).binding(&port(args.listen));
    confine(start, later(&args.guest, &args.pair, vm))
}

/// Confines a backup, which needs no more when it has gone live. Before there is a second thread.
pub(super) fn backup(args: &BackupArgs, vm: &VmConfig) -> Confinement {
    // Who the primary is, and where it listens, an idle host does not know.
    let primary = args.connect.map_or(Ports::Any, port);
    let mut start = start(&args.guest, &args.pair, vm);
    let mut later = later(&args.guest, &args.pair, vm).connecting(&primary);
    match args.listen {
        Some(listen) => start = start.binding(&port(listen)),
        // At the primary's.
        None => later = later.binding(&primary),
    }
    if let Some(directory) = &args.cold.cold {
        // What is not there cannot be told the kernel. If it cannot be made, that is told when it is used.
        let _ = fs::create_dir_all(directory);
        later = later.with(directory, Use::Own);
    }
    confine(start, later)
}

fn confine(start: Reach, later: Reach) -> Confinement {
    let calls = [
        Calls::Threads,
        Calls::Guest,
        Calls::Accept,
        Calls::Connect,
        Calls::Files,
        Calls::Storage,
    ];
    let mut capabilities = AT_START.to_vec();
    if paranoid_level().is_some_and(|level| level >= 3) {
        capabilities.push(Capability::SysAdmin);
    }
    Confinement::begin(start, later, &capabilities).calling(&calls)
}

/// What is needed for a start only.
fn start(guest: &GuestArgs, pair: &PairArgs, vm: &VmConfig) -> Reach {
    let files = READ_AT_START.map(Into::into).into_iter();
    let files = files
        .chain([vm.kernel.clone()])
        .chain(vm.initrd.clone())
        .chain(guest.description().map(Into::into))
        .chain(pair.keys.files_of_host().map(|(key, _)| key.into()));
    let reach = files.fold(Reach::default(), |reach, file| reach.with(file, Use::Read));
    let reach = reach
        .with("/dev/kvm", Use::Device)
        .with("/dev/net/tun", Use::Device);
    match &pair.control {
        Some(socket) => reach.with_directory_of(socket, Use::Bind),
        None => reach,
    }
}

/// What is needed for as long as the guest runs.
fn later(guest: &GuestArgs, pair: &PairArgs, vm: &VmConfig) -> Reach {
    let reach = READ.into_iter();
    let mut reach = reach.fold(Reach::of_every_program(), |reach, file| {
        reach.with(file, Use::Read)
    });
    if let Some((_, trust)) = pair.keys.files_of_host() {
        reach = reach.with_replaced(trust, Use::Read);
    }
    for file in [pair.events.file(), guest.console_log()] {
        reach = file
            .into_iter()
            .fold(reach, |reach, file| reach.with_replaced(file, Use::Append));
    }
    let disk = vm.disk.as_ref().map(|disk| disk.server());
    for server in [Some(&pair.disk_server), disk].into_iter().flatten() {
        reach = reaching(reach, server);
    }
    reach
}

/// With a server, and what its name is resolved with.
fn reaching(reach: Reach, server: &ServerAddress) -> Reach {
    let text = server.as_str();
    if let Ok(address) = text.parse::<SocketAddr>() {
        return reach.connecting(&port(address));
    }
    let of_server = text
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok());
    let ports = of_server.into_iter().chain([DNS]).collect();
    RESOLVED_WITH
        .into_iter()
        .fold(reach.connecting(&ports), |reach, file| {
            reach.with(file, Use::Read)
        })
}

fn port(address: SocketAddr) -> Ports {
    [address.port()].into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::fs::{self, File};
    use std::io::Result;
    use std::net::{TcpListener, TcpStream};
    use std::path::Path;
    use std::process::Command as Program;

    use std::time::Duration;

    use clap::Parser as _;
    use disk_server::arbiter::{Arbiter, Settings};
    use transport::Endpoint;

    use super::*;
    use crate::cli::{Cli, Command};

    /// Where the process that is confined has its files.
    const FOLDER: &str = "CONFINED_TEST_FOLDER";
    /// What it calls this host, at which its disk server is.
    const HOST: &str = "CONFINED_TEST_HOST";

    fn confined(folder: &Path, server: &str) -> Confinement {
        let file = |name: &str| folder.join(name).display().to_string();
        let line = format!(
            "ftvm backup --kernel {} --disk-server {server} --plain --cold {} --events {} --control {}",
            file("vmlinux"),
            file("kept"),
            file("events"),
            file("sockets/control"),
        );
        match Cli::parse_from(line.split_whitespace()).command {
            Command::Backup(args) => backup(&args, &args.guest.vm().expect("it is complete")),
            _ => unreachable!("another command"),
        }
    }

    /// Whether this kernel has Landlock (landlock_create_ruleset(2)).
    fn has_landlock() -> bool {
        const VERSION: libc::c_int = 1;
        let call = libc::SYS_landlock_create_ruleset;
        // SAFETY: it reads nothing for this flag.
        unsafe { libc::syscall(call, std::ptr::null::<u8>(), 0, VERSION) > 0 }
    }

    /// Whatever a guest or a peer has a thread do.
    fn misuse(folder: &Path) -> [(&'static str, Result<()>); 7] {
        let own = |file: &str| folder.join(file);
        [
            ("a file of others", File::open("/usr/bin/env").map(drop)),
            ("the kernel's image", File::open(own("vmlinux")).map(drop)),
            (
                "a new socket",
                std::os::unix::net::UnixListener::bind(own("sockets/new")).map(drop),
            ),
            (
                "KVM",
                File::options()
                    .read(true)
                    .write(true)
                    .open("/dev/kvm")
                    .map(drop),
            ),
            (
                "a file where there is none to be",
                File::create(folder.with_extension("new")).map(drop),
            ),
            ("a program", Program::new("/bin/true").status().map(drop)),
            (
                "the interfaces",
                nix::ifaddrs::getifaddrs().map(drop).map_err(Into::into),
            ),
        ]
    }

    /// What the process does that the other test starts.
    #[test]
    fn a_process_of_its_own() {
        let Some(folder) = env::var_os(FOLDER) else {
            return;
        };
        let folder = Path::new(&folder);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("it listens").port();
        let host = env::var(HOST).expect("it is called something");
        let server = format!("{host}:{port}");
        let confinement = confined(folder, &server);
        let server: ServerAddress = server.parse().expect("an address");
        listener.set_nonblocking(true).expect("it can be");
        let start = File::open(folder.join("vmlinux"));
        start.expect("it is needed for a start");
        confinement.has_started();
        // The guest's thread, those that have strangers' words, and those that have files and servers.
        for (name, calls) in [
            ("guest", [Calls::Guest].as_slice()),
            ("log-receiver", &[]),
            ("control", &[]),
            ("door", &[Calls::Accept, Calls::Connect, Calls::Files]),
            ("disk-link", &[Calls::Connect, Calls::Files]),
            ("process", &[Calls::Threads, Calls::Files]),
        ] {
            let (folder, server) = (folder.to_owned(), server.clone());
            let misuses = move || {
                for (what, done) in misuse(&folder) {
                    assert!(done.is_err(), "{name}: {what}");
                }
                let own = fs::read_to_string("/proc/self/status");
                assert_eq!(
                    own.is_ok(),
                    calls.contains(&Calls::Files),
                    "{name}: {own:?}"
                );
                // Nobody answers.
                let settings = Settings {
                    answer_timeout: Duration::from_millis(100),
                    ..Settings::default()
                };
                let _ = Arbiter::new(server, Endpoint::plain(), settings).warm();
            };
            let thread = crate::threads::start(name, calls, misuses).expect("a thread");
            thread.join().expect("no misuse is possible");
            let came = listener.accept();
            assert_eq!(
                came.is_ok(),
                calls.contains(&Calls::Connect),
                "{name}: {came:?}"
            );
        }
        TcpStream::connect(server.as_str()).expect("it is the disk server");
        fs::write(folder.join("kept/ftvm-log-1"), "log").expect("it is its own");
        let events = File::options()
            .create(true)
            .append(true)
            .open(folder.join("events"));
        events.expect("as after a rotation");
        assert!(fs::read_to_string("/proc/thread-self/status").is_ok());
        assert!(crate::ram::Room::left().bytes > 0);
    }

    #[test]
    fn no_thread_opens_connects_or_executes_what_it_was_not_told() {
        if !has_landlock() {
            eprintln!("skipped: this kernel has no Landlock");
            return;
        }
        // A name has more files read, and is looked up after the start, too.
        for host in ["127.0.0.1", "localhost"] {
            let folder = tempfile::tempdir().expect("a directory");
            fs::write(folder.path().join("vmlinux"), "kernel").expect("a file");
            fs::create_dir(folder.path().join("sockets")).expect("a directory");
            let own = env::current_exe().expect("it has one");
            let confined = Program::new(own)
                .args(["--exact", "cli::confined::tests::a_process_of_its_own"])
                .env(FOLDER, folder.path())
                .env(HOST, host)
                .output()
                .expect("it starts");
            let text = String::from_utf8_lossy(&confined.stderr);
            assert!(confined.status.success(), "{host}: {text}");
        }
    }
}
