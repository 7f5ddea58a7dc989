//! What the process of a guest that is replicated may reach: files and ports, by its command line.

use std::fs;
use std::net::SocketAddr;

use confinement::{Capability, Confinement, Ports, Reach, Use};
use disk_server::arbiter::ServerAddress;

use super::guest::GuestArgs;
use super::pair::{BackupArgs, PairArgs, PrimaryArgs};
use crate::config::VmConfig;

/// What is read for as long as the guest runs: of this process, and of the room that is left.
const READ: [&str; 7] = [
    "/proc/self",
    "/proc/meminfo",
    "/sys/fs/cgroup",
    "/sys/module",
    // By the C library, for the memory that it gives.
    "/proc/sys/vm",
    "/sys/devices/system/cpu",
    "/sys/kernel/mm",
];

/// What is read by the doctor, and where there is a performance counter.
const READ_AT_START: [&str; 3] = ["/proc/cpuinfo", "/proc/sys", "/sys"];

/// What names are resolved with: the C library's files, and those that services keep for it.
const RESOLVED_WITH: [&str; 4] = [
    "/etc",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/usr/lib",
];

/// DNS, where an answer is too long for a datagram.
const DNS: u16 = 53;

/// To attach the guest's network interface, to count, and to read and make files as root does.
const AT_START: [Capability; 4] = [
    Capability::DacOverride,
    Capability::NetAdmin,
    Capability::NetBindService,
    Capability::Perfmon,
];

/// Confines a primary. Before there is a second thread.
pub(super) fn primary(args: &PrimaryArgs, vm: &VmConfig) -> Confinement {
    let start = start(&args.guest, &args.pair, vm).binding(&port(args.listen));
    Confinement::begin(start, later(&args.guest, &args.pair, vm), &AT_START)
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
    Confinement::begin(start, later, &AT_START)
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
    let mut reach = reach.fold(Reach::default(), |reach, file| reach.with(file, Use::Read));
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
