//! The testbed: hosts that can really be killed, the networks that join them,
//! and faults as verbs.
//!
//! A [`Host`] is a QEMU process that emulates a machine with SVM, boots
//! Debian's cloud kernel and has its own `/dev/kvm`; where this machine's
//! `/dev/kvm` can run guests, it is a network namespace. Hosts, clients and the
//! disk server are joined by [`Network`]s in network namespaces of the run's
//! own. An [`agent`] in each host runs commands for the scenario:
//!
//! ```no_run
//! # fn main() -> testbed::Result<()> {
//! use testbed::{Network, Testbed};
//!
//! let testbed = Testbed::new("example")?;
//! let [mut a, b] = testbed.start_hosts(["a", "b"])?;
//! a.check(&["ftvm", "doctor"])?;
//! testbed.cut(&b, Network::Logging)?;
//! testbed.heal(&b, Network::Logging)?;
//! a.kill();
//! testbed.succeed();
//! # Ok(())
//! # }
//! ```

pub mod agent;
mod client;
mod connection;
mod debian_boot;
mod disturbance;
mod error;
pub mod failover;
pub mod fleet;
mod host;
mod host_kind;
mod image;
pub mod joins;
mod kept;
mod keys;
mod layout;
mod machine;
pub mod matrix;
mod namespace_machine;
mod netns;
mod network;
mod paging;
pub mod pair;
mod ping;
mod plan;
mod process;
pub mod protocol;
mod qemu;
mod qmp;
mod refused_calls;
pub mod rounds;
mod run_lock;
mod snapshot;
pub mod soak;
pub mod sparse;
mod testbed;
mod wait;
mod wiretap;
mod worker;
pub mod workload;

pub use client::{AgentClient, Output};
pub use connection::Source;
pub use disturbance::Traffic;
pub use error::{Error, Result};
pub use host::Host;
pub use host_kind::{HOSTS_VARIABLE, HostKind};
pub use image::file_stamp;
pub use kept::KeptHosts;
pub use keys::Keys;
pub use layout::{HOST_AGENT, Layout, NEXT_DISK_SERVER, PROGRAMS_VARIABLE, SABOTAGED_FTVM};
pub use netns::Namespace;
pub use network::{Fabric, GUEST, GUEST_MAC, Network, Position, guest_address};
pub use nix::sys::signal::Signal;
pub use paging::Paging;
pub use ping::{PingRecord, Pinger};
pub use process::{HostProcess, Line, LocalProcess};
pub use protocol::{Exit, TerminalSize};
pub use snapshot::prepare_hosts;
pub use testbed::{KEEP_LOGS_VARIABLE, Testbed};
pub use wait::{LIMIT, wait_until};
pub use wiretap::Wiretap;
