//! Disturbances of what a host sends to a network, as its own kernel makes them (`tc`, netem).

use std::time::Duration;

use crate::error::Result;
use crate::host::Host;
use crate::network::Network;

/// Which packets are disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// All.
    All,
    /// TCP only.
    Tcp,
    /// UDP only.
    Udp,
    /// Those of 1 KiB or more: a network whose packets are smaller than the hosts believe.
    Large,
}

impl Traffic {
    /// What finds these packets, for `tc filter … u32`; none for all packets.
    fn matches(self) -> Vec<String> {
        const TCP: u8 = 6;
        const UDP: u8 = 17;
        let protocol = |number| vec![format!("ip protocol {number} 0xff")];
        match self {
            Self::All => Vec::new(),
            Self::Tcp => protocol(TCP),
            Self::Udp => protocol(UDP),
            // The total length, which the IP header has at byte 2: one of its upper bits.
            Self::Large => (10..16)
                .map(|bit| format!("u16 {0:#06x} {0:#06x} at 2", 1u32 << bit))
                .collect(),
        }
    }
}

impl Host {
    /// Delays everything that the host sends to a network.
    ///
    /// # Errors
    ///
    /// When the host does not answer.
    pub fn delay(&self, network: Network, by: Duration) -> Result<()> {
        let by = format!("delay {}us", by.as_micros());
        self.disturb(network, Traffic::All, &by)
    }

    /// Loses a part (0.0 to 1.0) of what the host sends to a network.
    ///
    /// # Errors
    ///
    /// When the host does not answer.
    pub fn lose(&self, network: Network, part: f64) -> Result<()> {
        self.disturb(network, Traffic::All, &format!("loss {}%", part * 100.0))
    }

    /// Disturbs some of what the host sends to a network, as netem does it that is told `how`. What
    /// disturbed the network before ends.
    ///
    /// # Errors
    ///
    /// When the host does not answer, or netem does not know that.
    pub fn disturb(&self, network: Network, traffic: Traffic, how: &str) -> Result<()> {
        let matches = traffic.matches();
        if matches.is_empty() {
            return self.tc(&format!("qdisc replace dev {network} root netem {how}"));
        }
        // Three bands, and everything in the first one but for what is to be disturbed.
        let first = "0 ".repeat(16);
        self.tc(&format!(
            "qdisc replace dev {network} root handle 1: prio bands 3 priomap {first}"
        ))?;
        self.tc(&format!(
            "qdisc replace dev {network} parent 1:3 handle 3: netem {how}"
        ))?;
        for what in matches {
            self.tc(&format!(
                "filter add dev {network} parent 1: protocol ip prio 1 u32 match {what} flowid 1:3"
            ))?;
        }
        Ok(())
    }

    /// Ends all disturbances of what the host sends to a network.
    ///
    /// # Errors
    ///
    /// When the host does not answer, or there was none.
    pub fn undisturb(&self, network: Network) -> Result<()> {
        self.tc(&format!("qdisc delete dev {network} root"))
    }

    /// Cuts what the disk server sends to the host, and nothing else: it goes to an address on the
    /// storage network that nobody has, so that the server notices nothing.
    ///
    /// # Errors
    ///
    /// When the disk server's position is gone.
    pub fn deafen_to_disk_server(&self) -> Result<()> {
        const NOBODY: &str = "02:00:00:00:00:01";
        self.neighbour_of_disk_server(&format!(
            "replace {} lladdr {NOBODY} nud permanent",
            self.address(Network::Storage)
        ))
    }

    /// Ends [`Host::deafen_to_disk_server`].
    ///
    /// # Errors
    ///
    /// When that was not so.
    pub fn hear_disk_server(&self) -> Result<()> {
        self.neighbour_of_disk_server(&format!("delete {}", self.address(Network::Storage)))
    }

    fn neighbour_of_disk_server(&self, words: &str) -> Result<()> {
        let disk = self.fabric().disk().namespace();
        disk.ip(&format!("neighbour {words} dev eth0\n"))
    }

    fn tc(&self, words: &str) -> Result<()> {
        let argv: Vec<&str> = ["tc"].into_iter().chain(words.split_whitespace()).collect();
        self.check(&argv).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_packets_are_those_with_an_upper_bit_of_their_length() {
        let matches = Traffic::Large.matches();
        assert_eq!(matches.len(), 6);
        assert_eq!(matches[0], "u16 0x0400 0x0400 at 2");
        assert_eq!(matches[5], "u16 0x8000 0x8000 at 2");
    }
}
