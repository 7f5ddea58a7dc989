//! How a backup comes to its primary: by an address, or by the view service's proposal.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use disk_server::views::{MISSED_PINGS, PING_INTERVAL};
use logging_channel::Settings;
use logging_channel::receiver::Receiver;
use logging_channel::session::Listener;
use transport::Endpoint;

use crate::assembly::Guest;
use crate::events::{Event, Events};
use crate::roles::RoleError;
use crate::roles::claim::Rights;
use crate::roles::pinging::Pinging;
use crate::state::Baseline;

/// How long an idle host tries to reach a primary to which it is proposed: as long as the proposal stands.
const PROPOSED: Duration = PING_INTERVAL.saturating_mul(MISSED_PINGS);

/// A host on its way to be the backup of a guest.
pub(super) struct Applicant<'a> {
    pub(super) guest: &'a mut Guest,
    pub(super) channel: &'a Settings,
    pub(super) endpoint: &'a Endpoint,
    pub(super) rights: &'a Rights,
    /// Where it takes backups when it has gone live. If not told, that is opened when there is a primary.
    pub(super) listener: Option<Listener>,
    /// A hot backup's: it takes the guest's memory.
    pub(super) baseline: Option<Baseline>,
}

impl Applicant<'_> {
    /// Begins a session with the primary at `address`; tries that for so long.
    pub(super) fn meet(
        &mut self,
        address: SocketAddr,
        patience: Duration,
    ) -> Result<Receiver, RoleError> {
        if self.listener.is_none() {
            self.listener = Some(Listener::bind(own_address(address), self.endpoint)?);
        }
        // A host without room for it must not begin a session: the primary's guest would lose its backup. A
        // cold one takes it when it needs it.
        if self.channel.keep.is_none() && self.baseline.is_none() {
            self.baseline = Some(self.guest.baseline()?);
        }
        let receiver = Receiver::connect(
            (address, self.endpoint),
            (&self.guest.identity, self.rights.claimant().as_str()),
            &self.guest.host_report,
            self.channel,
            Instant::now() + patience,
            &AtomicBool::new(false),
            |title, primary| self.rights.vouch_for(title, primary),
        )?;
        Ok(receiver)
    }

    /// Waits for a proposal that leads to a session.
    pub(super) fn wait(&mut self, pinging: &Pinging, events: &Events) -> Receiver {
        let vm = self.guest.identity.vm.clone();
        let told_where = self.listener.is_some();
        let mut told = String::new();
        // Its images have their place.
        let idle = self.guest.resident_bytes();
        pinging.reserve(idle);
        log::info!("{vm}: idle, until the disk server proposes this host to a primary");
        loop {
            let proposal = pinging.proposal();
            let address = proposal.address;
            log::info!(
                "{vm}: proposed as the backup of {}, in view {}, at {address}",
                proposal.primary,
                proposal.view
            );
            events.emit(&Event::Proposed {
                vm: vm.clone(),
                view: proposal.view,
                primary: proposal.primary.to_string(),
                address,
            });
            // Before it is taken: what this host has does not become less by that.
            let takes = self.channel.keep.is_none();
            pinging.reserve(if takes {
                self.guest.footprint().of_backup()
            } else {
                idle
            });
            let error = match self.meet(address, PROPOSED) {
                Ok(receiver) => return receiver,
                Err(error) => error,
            };
            let cause = error.cause();
            let error = anyhow::Error::new(error);
            let failed = format!(
                "not the backup of {}, and idle again: {error:#}",
                proposal.primary
            );
            // Where no other host fits it is proposed again every few seconds.
            if failed != told {
                log::warn!("{vm}: {failed}");
            }
            told = failed;
            if !told_where {
                // The next primary may be on the way to another network.
                self.listener = None;
            }
            if self.baseline.is_none() {
                pinging.reserve(idle);
            }
            pinging.decline(cause, &format!("{error:#}"));
        }
    }
}

/// This host's address towards a primary, with the same port.
fn own_address(primary: SocketAddr) -> SocketAddr {
    let any: IpAddr = match primary {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // Nothing is sent: this asks for the route.
    let towards = UdpSocket::bind((any, 0))
        .and_then(|socket| socket.connect(primary).and_then(|()| socket.local_addr()));
    SocketAddr::new(towards.map_or(any, |own| own.ip()), primary.port())
}
