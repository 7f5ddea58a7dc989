//! Disturbances of what a host sends to a network, as its own kernel makes them (`tc`, netem), and of
//! what it gets from there, as the kernel at the other end of its link makes them.

use std::process::Command;
use std::time::Duration;

use crate::error::Result;
use crate::host::Host;
use crate::netns::output;
use crate::network::{Network, link_name};

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
        disturb(network.name(), traffic, how, |words| self.tc(words))
    }

    /// Ends all disturbances of what the host sends to a network.
    ///
    /// # Errors
    ///
    /// When the host does not answer, or there was none.
    pub fn undisturb(&self, network: Network) -> Result<()> {
        self.tc(&end(network.name()))
    }

    /// As [`Host::disturb`], for what the host gets from a network.
    ///
    /// # Errors
    ///
    /// When the host has no link, or netem does not know that.
    pub fn disturb_incoming(&self, network: Network, traffic: Traffic, how: &str) -> Result<()> {
        let link = link_name(self.name(), network);
        disturb(&link, traffic, how, |words| self.tc_at_the_other_end(words))
    }

    /// Ends all disturbances of what the host gets from a network.
    ///
    /// # Errors
    ///
    /// When the host has no link, or there was none.
    pub fn undisturb_incoming(&self, network: Network) -> Result<()> {
        self.tc_at_the_other_end(&end(&link_name(self.name(), network)))
    }

    fn tc(&self, words: &str) -> Result<()> {
        let argv: Vec<&str> = ["tc"].into_iter().chain(words.split_whitespace()).collect();
        self.check(&argv).map(drop)
    }

    fn tc_at_the_other_end(&self, words: &str) -> Result<()> {
        let mut tc = Command::new("tc");
        tc.args(words.split_whitespace());
        self.fabric().namespace().adopt(&mut tc)?;
        output(&mut tc).map(drop)
    }
}

/// Disturbs what goes out by an interface.
fn disturb(
    interface: &str,
    traffic: Traffic,
    how: &str,
    tc: impl Fn(&str) -> Result<()>,
) -> Result<()> {
    let matches = traffic.matches();
    if matches.is_empty() {
        return tc(&format!("qdisc replace dev {interface} root netem {how}"));
    }
    // Three bands, and everything in the first one but for what is to be disturbed.
    let first = "0 ".repeat(16);
    tc(&format!(
        "qdisc replace dev {interface} root handle 1: prio bands 3 priomap {first}"
    ))?;
    tc(&format!(
        "qdisc replace dev {interface} parent 1:3 handle 3: netem {how}"
    ))?;
    matches.iter().try_for_each(|what| {
        tc(&format!(
            "filter add dev {interface} parent 1: protocol ip prio 1 u32 match {what} flowid 1:3"
        ))
    })
}

fn end(interface: &str) -> String {
    format!("qdisc delete dev {interface} root")
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
