//! What can happen to a host as a whole, and to its links.

use nix::sys::signal::Signal;

use super::Host;
use crate::error::Result;
use crate::network::Network;

impl Host {
    /// Kills the host at once, like a power failure.
    pub fn kill(&mut self) {
        // The kernel of a namespace would close the dead processes'
        // connections; a host without power says no farewell.
        if let Err(error) = self.links_follow_the_machine(false) {
            log::warn!("host {}: {error}", self.name);
        }
        self.machine.kill();
    }

    /// Stops the host's time: it does nothing and answers nothing.
    ///
    /// # Errors
    ///
    /// When its processes or links cannot be found.
    pub fn freeze(&self) -> Result<()> {
        self.links_follow_the_machine(false)?;
        self.machine.signal(Signal::SIGSTOP)
    }

    /// Lets a frozen host go on, as if no time had passed for it.
    ///
    /// # Errors
    ///
    /// When its processes or links cannot be found.
    pub fn thaw(&self) -> Result<()> {
        self.machine.signal(Signal::SIGCONT)?;
        self.links_follow_the_machine(true)
    }

    /// Stops the host's time as a hypervisor does that suspends a machine: its clocks stand too, so that
    /// it cannot know when it goes on. A namespace has this machine's clocks, and is frozen.
    ///
    /// # Errors
    ///
    /// When its machine does not obey.
    pub fn suspend(&self) -> Result<()> {
        self.links_follow_the_machine(false)?;
        self.machine.suspend()
    }

    /// Lets a suspended host go on.
    ///
    /// # Errors
    ///
    /// When its machine does not obey.
    pub fn resume(&self) -> Result<()> {
        self.machine.resume()?;
        self.links_follow_the_machine(true)
    }

    /// Takes the links of a machine down whose kernel would keep them alive.
    fn links_follow_the_machine(&self, up: bool) -> Result<()> {
        if !self.machine.shares_the_kernel() {
            return Ok(());
        }
        let cut = self.cut.lock();
        Network::ALL
            .into_iter()
            .filter(|network| !cut.contains(network))
            .try_for_each(|network| self.fabric.link(&self.name, network, up))
    }

    /// Cuts the host's link to a network. The host does not notice: its
    /// interface stays up, and nothing comes or goes.
    ///
    /// # Errors
    ///
    /// When the link cannot be changed.
    ///
    /// # Panics
    ///
    /// For the management network, which stays for the testbed's own use.
    pub fn cut(&self, network: Network) -> Result<()> {
        assert!(
            network != Network::Management,
            "the management network cannot be cut"
        );
        self.cut.lock().insert(network);
        self.fabric.link(&self.name, network, false)
    }

    /// Heals a link that was cut.
    ///
    /// # Errors
    ///
    /// When the link cannot be changed.
    pub fn heal(&self, network: Network) -> Result<()> {
        self.cut.lock().remove(&network);
        self.fabric.link(&self.name, network, true)
    }
}
