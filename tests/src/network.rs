//! The networks that join hosts, clients and the disk server.
//!
//! ```text
//!              client 10.77.0.0/24   logging .1   storage .2   management .3
//! guest             .10 (bridged by the host it runs on)
//! one of several    .20+n
//! host n            .10+n               .10+n        .10+n        .10+n
//! client            .100
//! disk server                                        .1
//! testbed                                                         .1
//! ```
//!
//! Every network is a bridge in one namespace, the *fabric*, where the QEMU
//! processes run. Clients and the disk server have a namespace each, on a veth
//! pair. The management network carries only the testbed's own requests, so
//! that a host whose other links are cut can still be asked what it sees.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::host_kind::HostKind;
use crate::netns::{Namespace, output};
use crate::run_lock;
use crate::wait::{LIMIT, wait_until};

/// How long an attempt to connect may take, of several.
const ATTEMPT: Duration = Duration::from_secs(2);
/// One of the networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Network {
    /// Where clients reach the guest.
    Client,
    /// Where the hosts exchange the log and heartbeats.
    Logging,
    /// Where the hosts reach the disk server.
    Storage,
    /// Where the testbed reaches the hosts' agents; it cannot be cut.
    Management,
}

impl Network {
    /// All of them, in the order of a host's interfaces.
    pub const ALL: [Self; 4] = [Self::Client, Self::Logging, Self::Storage, Self::Management];

    /// Its name, which is the name of its bridge and of a host's interface too.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Logging => "logging",
            Self::Storage => "storage",
            Self::Management => "management",
        }
    }

    /// Its third octet.
    fn subnet(self) -> u8 {
        self as u8
    }

    /// An address in it.
    #[must_use]
    pub fn address(self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.subnet(), last)
    }

    /// The address of the host with this number (from 1).
    #[must_use]
    pub fn host_address(self, number: u8) -> Ipv4Addr {
        self.address(10 + number)
    }

    /// The MAC address of the host with this number.
    pub(crate) fn host_mac(self, number: u8) -> String {
        format!("52:54:00:77:{:02x}:{number:02x}", self.subnet())
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The guest's address on the client network.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 10);

/// The guest's MAC address: `ftvm`'s default.
pub const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0x00, 0xf7, 0x00, 0x01];

/// The address of the guest with this number, from 1, where there are several.
#[must_use]
pub fn guest_address(number: u8) -> Ipv4Addr {
    Network::Client.address(20 + number)
}

/// Its MAC address.
#[must_use]
pub(crate) fn guest_mac(number: u8) -> [u8; 6] {
    let [.., last] = guest_address(number).octets();
    [0x52, 0x54, 0x00, 0xf7, 0x00, last]
}

/// The disk server's port of the storage network.
const DISK_PORT: &str = "p-disk";
/// That of the machine that takes its place.
const NEXT_DISK_PORT: &str = "p-disk-2";
const NEXT_DISK_MAC: &str = "02:77:00:00:02:02";

/// A place outside the hosts: a namespace with one address.
#[derive(Debug, Clone)]
pub struct Position {
    namespace: Namespace,
    address: Ipv4Addr,
}

impl Position {
    /// Its namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// A command that will run here.
    ///
    /// # Errors
    ///
    /// When the namespace cannot be opened.
    pub fn command(&self, program: &str) -> Result<Command> {
        let mut command = Command::new(program);
        self.namespace.adopt(&mut command)?;
        Ok(command)
    }

    /// Opens a TCP connection from here.
    ///
    /// # Errors
    ///
    /// When it is not made in time.
    pub fn connect(&self, to: Ipv4Addr, port: u16, limit: Duration) -> std::io::Result<TcpStream> {
        self.namespace
            .connect(SocketAddr::new(IpAddr::V4(to), port), limit)
    }

    /// The same, once something listens there. What is read from the connection has to come within the
    /// limit, too.
    ///
    /// # Errors
    ///
    /// When nothing does within the limit.
    pub fn connect_once_it_listens(
        &self,
        to: Ipv4Addr,
        port: u16,
        limit: Duration,
    ) -> Result<TcpStream> {
        let mut connection = self.connect(to, port, ATTEMPT);
        wait_until("a connection to a guest's server", limit, || {
            if connection.is_err() {
                connection = self.connect(to, port, ATTEMPT);
            }
            Ok(connection.is_ok())
        })?;
        let limited = connection.and_then(|connection| {
            connection.set_read_timeout(Some(limit))?;
            Ok(connection)
        });
        limited.map_err(|error| Error::Client {
            what: "connection to a guest's server".to_owned(),
            trouble: error.to_string(),
        })
    }
}

/// All the networks of one run.
#[derive(Debug)]
pub struct Fabric {
    id: String,
    namespace: Namespace,
    client: Position,
    disk: Position,
    /// Whether the networks go when this value does.
    owned: bool,
}

impl Fabric {
    /// Makes the networks of a run; they go when the value is dropped.
    pub(crate) fn create(id: &str) -> Result<Self> {
        let fabric = Self::at(id, true);
        run_lock::interrupt_removes(id);
        fabric.make()?;
        Ok(fabric)
    }

    /// The networks called `id`, which stay when the value is dropped. They
    /// need not be there yet: see [`Fabric::ensure`].
    pub(crate) fn lasting(id: &str) -> Self {
        Self::at(id, false)
    }

    /// Makes the networks if they are not there.
    pub(crate) fn ensure(&self) -> Result<()> {
        if self.namespace.exists() {
            return Ok(());
        }
        self.make().inspect_err(|_| {
            // Half of them would be taken for all of them the next time.
            if let Err(error) = self.remove() {
                log::warn!("namespaces stay behind: {error}");
            }
        })
    }

    fn at(id: &str, owned: bool) -> Self {
        let namespace = |what| Namespace::named(run_lock::namespace_name(id, what));
        Self {
            id: id.to_owned(),
            namespace: namespace("fabric"),
            client: Position {
                namespace: namespace("client"),
                address: Network::Client.address(100),
            },
            disk: Position {
                namespace: namespace("disk"),
                address: Network::Storage.address(1),
            },
            owned,
        }
    }

    fn make(&self) -> Result<()> {
        self.namespace.create()?;
        // With an address of its own, or it would have that of one of its ports: another one whenever a host
        // comes or goes, and the other host would speak to the old one for minutes.
        let bridges: String = Network::ALL
            .map(|network| {
                let [.., subnet, host] = network.address(1).octets();
                format!(
                    "link add {network} address 02:77:00:00:{subnet:02x}:{host:02x} \
                     type bridge forward_delay 0 mcast_snooping 0\n\
                     link set {network} addrgenmode none up\n"
                )
            })
            .concat();
        let testbed = Network::Management.address(1);
        self.namespace.ip(&format!(
            "{bridges}address add {testbed}/24 dev management\n"
        ))?;
        self.place(&self.client, Network::Client, "p-client")?;
        self.place(&self.disk, Network::Storage, DISK_PORT)
    }

    /// Makes a position.
    fn place(&self, position: &Position, network: Network, port: &str) -> Result<()> {
        position.namespace.create()?;
        self.namespace.ip(&format!(
            "link add {port} type veth peer name eth0 netns {namespace}\n\
             link set {port} addrgenmode none master {network} up\n",
            namespace = position.namespace.name(),
        ))?;
        position.namespace.ip(&format!(
            "link set eth0 addrgenmode none up\naddress add {}/24 dev eth0\n",
            position.address
        ))
    }

    /// Another machine takes over the disk server's address. The one that had it is without power first:
    /// it says no farewell, and its processes go on unheard. Once in a run.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn replace_disk_server(&self) -> Result<Position> {
        self.namespace.ip(&format!("link set {DISK_PORT} down\n"))?;
        let position = Position {
            namespace: Namespace::named(run_lock::namespace_name(&self.id, "disk-2")),
            address: self.disk.address,
        };
        self.place(&position, Network::Storage, NEXT_DISK_PORT)?;
        // An announcement would be lost before.
        wait_until("the other machine's link", LIMIT, || {
            let mut bridge = self.bridge();
            bridge.args(["link", "show", "dev", NEXT_DISK_PORT]);
            Ok(output(&mut bridge)?.contains("state forwarding"))
        })?;
        position.namespace.announce("eth0", NEXT_DISK_MAC)?;
        Ok(position)
    }

    /// The namespace with the bridges, where hosts run.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Where clients run.
    #[must_use]
    pub fn client(&self) -> &Position {
        &self.client
    }

    /// Where the disk server runs.
    #[must_use]
    pub fn disk(&self) -> &Position {
        &self.disk
    }

    /// Cuts the disk server's link to the storage network. Neither it nor a host notices: nothing comes
    /// or goes.
    ///
    /// # Errors
    ///
    /// When the link cannot be changed.
    pub fn cut_disk_server(&self) -> Result<()> {
        self.port_of_disk_server("0")
    }

    /// Heals [`Fabric::cut_disk_server`].
    ///
    /// # Errors
    ///
    /// When the link cannot be changed.
    pub fn heal_disk_server(&self) -> Result<()> {
        self.port_of_disk_server("3")
    }

    /// The state of the bridge's port, as `bridge(8)` numbers them: 0 is disabled, 3 is forwarding.
    fn port_of_disk_server(&self, state: &str) -> Result<()> {
        let mut bridge = self.bridge();
        bridge.args(["link", "set", "dev", DISK_PORT, "state", state]);
        output(&mut bridge).map(drop)
    }

    fn bridge(&self) -> Command {
        let mut bridge = Command::new("bridge");
        bridge.args(["-n", self.namespace.name()]);
        bridge
    }

    /// Connects a host: TAPs for an emulated machine to open, or the ends of
    /// veth pairs in a namespace made for it.
    pub(crate) fn plug(&self, host: &str, kind: HostKind) -> Result<()> {
        let namespace = self.host_namespace(host);
        if kind == HostKind::Namespace {
            namespace.create()?;
        }
        let script: String = Network::ALL
            .map(|network| {
                let link = link_name(host, network);
                let make = match kind {
                    HostKind::Qemu | HostKind::Debian => format!("tuntap add dev {link} mode tap"),
                    HostKind::Namespace => format!(
                        "link add {link} type veth peer name {network} netns {}",
                        namespace.name()
                    ),
                };
                format!("{make}\nlink set {link} addrgenmode none master {network} up\n")
            })
            .concat();
        self.namespace.ip(&script)
    }

    /// Takes a host's links away, and its namespace if it has one.
    pub(crate) fn unplug(&self, host: &str) -> Result<()> {
        let script: String = Network::ALL
            .map(|network| format!("link delete {}\n", link_name(host, network)))
            .concat();
        self.namespace.ip(&script)?;
        self.host_namespace(host).remove()
    }

    /// The namespace of a host that is one.
    pub(crate) fn host_namespace(&self, host: &str) -> Namespace {
        Namespace::named(run_lock::namespace_name(&self.id, &format!("host-{host}")))
    }

    /// Cuts or heals a host's link.
    pub(crate) fn link(&self, host: &str, network: Network, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        self.namespace
            .ip(&format!("link set {} {state}\n", link_name(host, network)))
    }

    /// The host that a network has a MAC address at: whose frames it has seen come from there last.
    /// `None` if that is no host, or the address is not known.
    ///
    /// # Errors
    ///
    /// When the network cannot be asked.
    pub fn host_behind(&self, network: Network, mac: [u8; 6]) -> Result<Option<String>> {
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        let mut bridge = self.bridge();
        bridge.args(["fdb", "show", "br", network.name()]);
        let known = output(&mut bridge)?;
        let line = known.lines().find(|line| line.starts_with(&mac));
        let port = line.and_then(|line| {
            line.split_whitespace()
                .skip_while(|word| *word != "dev")
                .nth(1)
        });
        let suffix = link_name("", network);
        Ok(port
            .and_then(|port| port.strip_suffix(&suffix))
            .map(str::to_owned))
    }

    /// Removes all of it.
    pub(crate) fn remove(&self) -> Result<()> {
        run_lock::remove_namespaces(&self.id)
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        if self.owned
            && let Err(error) = self.remove()
        {
            log::warn!("namespaces stay behind: {error}");
        }
    }
}

/// The name of a host's link on the fabric's side (interface names have at most 15 bytes).
pub(crate) fn link_name(host: &str, network: Network) -> String {
    format!("{host}-{:.4}", network.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_as_documented() {
        assert_eq!(
            Network::Logging.host_address(2),
            Ipv4Addr::new(10, 77, 1, 12)
        );
        assert_eq!(Network::Storage.address(1), Ipv4Addr::new(10, 77, 2, 1));
        assert_eq!(Network::Management.host_mac(3), "52:54:00:77:03:03");
        assert_eq!(link_name("a", Network::Management), "a-mana");
    }
}
