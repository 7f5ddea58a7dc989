//! What can go wrong in the networks of a pair.

use std::time::{Duration, Instant};

use testbed::{Fabric, Host, Network, Result, Traffic, wait_until};

/// Whose link is disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Primary,
    Backup,
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// What the host sends.
    From(End),
    /// What it gets from the disk server, which can only be cut.
    To(End),
    /// What the disk server gets and sends, which can only be cut.
    DiskServer,
}

/// What is disturbed, and how netem is told to do it.
pub(super) type Disturbance = (Way, Network, Traffic, &'static str);

/// How long a fault that comes again and again lasts each time, around the output timeout and twice
/// that, and how long all is well after it, in milliseconds.
const PULSES: [u64; 7] = [1300, 1500, 1700, 1900, 2100, 2300, 2500];
const PAUSE: Duration = Duration::from_millis(2900);

/// A fault of a network.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fault {
    pub(super) name: &'static str,
    pub(super) disturbances: &'static [Disturbance],
    /// For a guest with a disk: where the backup gets what is read.
    pub(super) backup_reads: Option<&'static str>,
    /// It comes again and again.
    pub(super) pulses: bool,
}

/// The disturbance of what both hosts send to the logging network.
macro_rules! both {
    ($traffic:ident, $how:literal) => {
        &[
            (
                Way::From(End::Primary),
                Network::Logging,
                Traffic::$traffic,
                $how,
            ),
            (
                Way::From(End::Backup),
                Network::Logging,
                Traffic::$traffic,
                $how,
            ),
        ]
    };
}

/// One way of a host's link is cut, or more of them.
macro_rules! cut {
    ($network:ident: $($way:ident $end:ident),+) => {
        &[$((Way::$way(End::$end), Network::$network, Traffic::All, "loss 100%")),+]
    };
}

const fn fault(name: &'static str, disturbances: &'static [Disturbance]) -> Fault {
    Fault {
        name,
        disturbances,
        backup_reads: None,
        pulses: false,
    }
}

const fn with_disk(
    name: &'static str,
    reads: &'static str,
    disturbances: &'static [Disturbance],
) -> Fault {
    Fault {
        name,
        disturbances,
        backup_reads: Some(reads),
        pulses: false,
    }
}

const fn pulses_of_disk_server(name: &'static str, reads: &'static str) -> Fault {
    const CUT: &[Disturbance] = &[(Way::DiskServer, Network::Storage, Traffic::All, "loss 100%")];
    Fault {
        pulses: true,
        ..with_disk(name, reads, CUT)
    }
}

pub(super) const TCP_CUT: Fault = fault("TCP cut, UDP not", both!(Tcp, "loss 100%"));
pub(super) const LARGE_LOST: Fault =
    fault("packets of 1 KiB and more lost", both!(Large, "loss 100%"));

pub(super) const FAULTS: [Fault; 32] = [
    fault("no fault", &[]),
    fault("cut", both!(All, "loss 100%")),
    fault(
        "cut from the primary to the backup",
        cut!(Logging: From Primary),
    ),
    fault(
        "cut from the backup to the primary",
        cut!(Logging: From Backup),
    ),
    fault("UDP cut, TCP not", both!(Udp, "loss 100%")),
    TCP_CUT,
    LARGE_LOST,
    fault("10 % lost", both!(All, "loss 10%")),
    fault("30 % lost", both!(All, "loss 30%")),
    fault("60 % lost", both!(All, "loss 60%")),
    fault("5 % damaged", both!(All, "corrupt 5%")),
    fault("20 % twice", both!(All, "duplicate 20%")),
    fault(
        "5 % damaged, 20 % twice",
        both!(All, "corrupt 5% duplicate 20%"),
    ),
    fault(
        "half of the packets 10 ms late, so that others overtake them",
        both!(All, "delay 10ms reorder 50%"),
    ),
    fault("100 ms ± 80 ms late", both!(All, "delay 100ms 80ms")),
    fault(
        "storage network: the primary's link cut, no disk",
        cut!(Storage: From Primary, To Primary),
    ),
    fault(
        "storage network: cut from the primary to the disk server, no disk",
        cut!(Storage: From Primary),
    ),
    fault(
        "storage network: cut from the disk server to the primary, no disk",
        cut!(Storage: To Primary),
    ),
    fault(
        "storage network: the backup's link cut, no disk",
        cut!(Storage: From Backup, To Backup),
    ),
    fault(
        "storage network: cut from the backup to the disk server, no disk",
        cut!(Storage: From Backup),
    ),
    fault(
        "storage network: cut from the disk server to the backup, no disk",
        cut!(Storage: To Backup),
    ),
    with_disk(
        "storage network: the primary's link cut, a disk",
        "log",
        cut!(Storage: From Primary, To Primary),
    ),
    with_disk(
        "storage network: cut from the primary to the disk server, a disk",
        "log",
        cut!(Storage: From Primary),
    ),
    with_disk(
        "storage network: cut from the disk server to the primary, a disk",
        "log",
        cut!(Storage: To Primary),
    ),
    with_disk(
        "storage network: the backup's link cut, a disk",
        "log",
        cut!(Storage: From Backup, To Backup),
    ),
    with_disk(
        "storage network: cut from the backup to the disk server, a disk",
        "log",
        cut!(Storage: From Backup),
    ),
    with_disk(
        "storage network: cut from the disk server to the backup, a disk",
        "log",
        cut!(Storage: To Backup),
    ),
    with_disk(
        "storage network: the backup's link cut, `--backup-reads disk`",
        "disk",
        cut!(Storage: From Backup, To Backup),
    ),
    with_disk(
        "storage network: cut from the backup to the disk server, `--backup-reads disk`",
        "disk",
        cut!(Storage: From Backup),
    ),
    with_disk(
        "storage network: cut from the disk server to the backup, `--backup-reads disk`",
        "disk",
        cut!(Storage: To Backup),
    ),
    pulses_of_disk_server(
        "storage network: the disk server's link cut again and again for 1.3 to 2.5 s, a disk",
        "log",
    ),
    pulses_of_disk_server(
        "storage network: the disk server's link cut again and again for 1.3 to 2.5 s, \
         `--backup-reads disk`",
        "disk",
    ),
];

/// Where faults strike.
pub(super) struct FaultSite<'a> {
    pub(super) fabric: &'a Fabric,
    pub(super) primary: &'a Host,
    pub(super) backup: &'a Host,
}

impl FaultSite<'_> {
    fn host(&self, end: End) -> &Host {
        match end {
            End::Primary => self.primary,
            End::Backup => self.backup,
        }
    }
}

impl Fault {
    pub(super) fn strike(&self, site: &FaultSite<'_>) -> Result<()> {
        self.disturbances
            .iter()
            .try_for_each(|&(way, network, traffic, how)| match way {
                Way::From(end) => site.host(end).disturb(network, traffic, how),
                Way::To(end) => site.host(end).deafen_to_disk_server(),
                Way::DiskServer => site.fabric.cut_disk_server(),
            })
    }

    pub(super) fn heal(&self, site: &FaultSite<'_>) -> Result<()> {
        self.disturbances
            .iter()
            .try_for_each(|&(way, network, ..)| match way {
                Way::From(end) => site.host(end).undisturb(network),
                Way::To(end) => site.host(end).hear_disk_server(),
                Way::DiskServer => site.fabric.heal_disk_server(),
            })
    }

    /// Strikes for as long as its pulses last, one after the other.
    pub(super) fn strike_again_and_again(&self, site: &FaultSite<'_>) -> Result<()> {
        for pulse in PULSES.map(Duration::from_millis) {
            self.strike(site)?;
            pass("a pulse", pulse)?;
            self.heal(site)?;
            pass("a pause", PAUSE)?;
        }
        Ok(())
    }
}

fn pass(what: &str, time: Duration) -> Result<()> {
    let since = Instant::now();
    wait_until(what, time * 2, || Ok(since.elapsed() >= time))
}
