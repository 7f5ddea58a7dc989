//! Hosts with daemons: nobody starts the processes of a guest there, and nobody has a backup join.

use std::time::Duration;

use crate::error::Result;
use crate::fleet::{Daemon, Operator};
use crate::host::Host;
use crate::pair::{DiskServer, Guest};
use crate::testbed::Testbed;
use crate::wait::LIMIT;

/// The daemons of both hosts, and who asks the service.
#[derive(Debug)]
pub(super) struct Daemons {
    operator: Operator,
    running: [Option<Daemon>; 2],
    /// The guest that they look after.
    guest: Option<String>,
}

impl Daemons {
    pub(super) fn new(testbed: &Testbed, service: &DiskServer) -> Self {
        Self {
            operator: Operator::new(testbed, service),
            running: [None, None],
            guest: None,
        }
    }

    /// Has one on this host, as its boot would. Whether there was none.
    pub(super) fn start(
        &mut self,
        which: usize,
        host: &Host,
        service: &DiskServer,
    ) -> Result<bool> {
        let daemon = &mut self.running[which];
        let is_new = daemon.is_none();
        if is_new {
            *daemon = Some(Daemon::start(host, service)?);
        }
        Ok(is_new)
    }

    /// The host was killed, and the daemon with it.
    pub(super) fn killed(&mut self, which: usize) {
        self.running[which] = None;
    }

    /// Has a guest started, and waits until it is protected: on which host it runs.
    pub(super) fn run(
        &mut self,
        guest: &Guest,
        hosts: &[Host; 2],
        heartbeat_timeout: Duration,
    ) -> Result<usize> {
        self.operator.define(guest, &hosts[0], heartbeat_timeout)?;
        self.guest = Some(guest.name.clone());
        self.operator.start(&guest.name)?;
        let (primary, _) = self.operator.protected(&guest.name, LIMIT)?;
        Ok(usize::from(hosts[1].name() == primary))
    }

    /// Ends the guest in order.
    pub(super) fn end(&mut self) -> Result<()> {
        let Some(guest) = self.guest.take() else {
            return Ok(());
        };
        self.operator.stop(&guest, LIMIT)?;
        self.operator.undefine(&guest)
    }
}
