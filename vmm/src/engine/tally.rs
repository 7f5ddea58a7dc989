//! Counts the guest's exits by what they were for: the figures that say where time goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::cpu::{Exit, PortAccess};
use crate::devices::apic::Apic;
use crate::devices::pit::Pit;
use crate::devices::virtio::transport;
use crate::devices::{PCI_BARS, console, pci, pm_timer};
use crate::rewrite::TSC_PORT;
use crate::traps::TscTrap;

/// What an exit was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitKind {
    /// A time stamp counter read in the kernel.
    Tsc,
    /// A place that the rewritten kernel traps at: CR4 writes, the #GP handler.
    Trap,
    /// The 8259 pair.
    Pic,
    /// The 8254.
    Pit,
    /// The PM timer.
    PmTimer,
    /// The serial console.
    Console,
    /// PCI configuration space.
    Pci,
    /// A virtio driver tells of buffers.
    VirtioNotify,
    /// A virtio driver asks why it was interrupted.
    VirtioIsr,
    /// Another register of a virtio device.
    VirtioOther,
    /// Another port.
    OtherPort,
    /// Memory that is no RAM.
    Mmio,
    /// A register of the local APIC.
    Apic,
    /// Another filtered model specific register.
    Msr,
    /// HLT.
    Halt,
    /// The end of the guest.
    TripleFault,
    /// The guest was stopped where it made no exit, for an input that waited.
    Stop,
    /// The guest can take an interrupt now. Not deterministic.
    InterruptWindow,
    /// A signal of the host. Not deterministic.
    Kicked,
}

impl ExitKind {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 19] = [
        Self::Tsc,
        Self::Trap,
        Self::Pic,
        Self::Pit,
        Self::PmTimer,
        Self::Console,
        Self::Pci,
        Self::VirtioNotify,
        Self::VirtioIsr,
        Self::VirtioOther,
        Self::OtherPort,
        Self::Mmio,
        Self::Apic,
        Self::Msr,
        Self::Halt,
        Self::TripleFault,
        Self::Stop,
        Self::InterruptWindow,
        Self::Kicked,
    ];

    /// A short name, as statistics show it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tsc => "tsc",
            Self::Trap => "trap",
            Self::Pic => "pic",
            Self::Pit => "pit",
            Self::PmTimer => "pm-timer",
            Self::Console => "console",
            Self::Pci => "pci",
            Self::VirtioNotify => "virtio-notify",
            Self::VirtioIsr => "virtio-isr",
            Self::VirtioOther => "virtio-other",
            Self::OtherPort => "other-port",
            Self::Mmio => "mmio",
            Self::Apic => "apic",
            Self::Msr => "msr",
            Self::Halt => "halt",
            Self::TripleFault => "triple-fault",
            Self::Stop => "stop",
            Self::InterruptWindow => "interrupt-window",
            Self::Kicked => "kicked",
        }
    }

    /// What `exit` was for.
    #[must_use]
    pub fn of(exit: &Exit) -> Self {
        match exit {
            Exit::Io(access) => Self::of_port(access),
            Exit::Mmio { .. } => Self::Mmio,
            Exit::Halt { .. } => Self::Halt,
            Exit::Msr { index, .. } if Apic::owns(*index) => Self::Apic,
            Exit::TaskPriority => Self::Apic,
            Exit::Msr { .. } => Self::Msr,
            Exit::TripleFault => Self::TripleFault,
            Exit::Kicked => Self::Kicked,
            Exit::InterruptWindow => Self::InterruptWindow,
        }
    }

    fn of_port(access: &PortAccess) -> Self {
        match access.port {
            TSC_PORT if !access.write => Self::Tsc,
            port if access.write && TscTrap::owns(port) => Self::Trap,
            0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1 => Self::Pic,
            port if Pit::owns(port) => Self::Pit,
            pm_timer::PORT => Self::PmTimer,
            console::PORT..0x400 => Self::Console,
            pci::ADDRESS_PORT | pci::DATA_PORT..0xd00 => Self::Pci,
            // Where the guest leaves the devices' registers as they are after reset.
            port if PCI_BARS.contains(&port) => match port % transport::BAR_BYTES {
                transport::NOTIFY => Self::VirtioNotify,
                transport::ISR => Self::VirtioIsr,
                _ => Self::VirtioOther,
            },
            _ => Self::OtherPort,
        }
    }
}

/// Counts of exits since the guest began to run on this host. A handle: clones share the counts.
///
/// One thread counts, the guest's, and others look: the counters need no atomic addition.
#[derive(Debug, Clone, Default)]
pub struct ExitTally(Arc<[AtomicU64; ExitKind::ALL.len()]>);

impl ExitTally {
    /// Counts one. For the guest's thread only.
    pub fn count(&self, kind: ExitKind) {
        let counter = &self.0[kind as usize];
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// The counts, in the order of [`ExitKind::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (ExitKind, u64)> + '_ {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        ExitKind::ALL.into_iter().zip(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_stand_at_their_numbers_and_have_names_of_their_own() {
        for (number, kind) in ExitKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
            let same = ExitKind::ALL.iter().filter(|k| k.name() == kind.name());
            assert_eq!(same.count(), 1, "{}", kind.name());
        }
    }

    #[test]
    fn ports_are_told_apart() {
        let port = |port, write| {
            ExitKind::of(&Exit::Io(PortAccess {
                port,
                write,
                size: 1,
                count: 1,
            }))
        };
        assert_eq!(port(TSC_PORT, false), ExitKind::Tsc);
        assert_eq!(port(0x20, true), ExitKind::Pic);
        assert_eq!(port(0x40, false), ExitKind::Pit);
        assert_eq!(port(0xc044, true), ExitKind::VirtioNotify);
        assert_eq!(port(0xc144, true), ExitKind::VirtioNotify);
        assert_eq!(port(0xc040, false), ExitKind::VirtioIsr);
        assert_eq!(port(0xc014, true), ExitKind::VirtioOther);
        assert_eq!(port(0xd044, true), ExitKind::OtherPort);
        assert_eq!(port(0xcfc, false), ExitKind::Pci);
    }

    #[test]
    fn the_local_apic_is_told_apart_from_other_registers() {
        let register = |index| ExitKind::of(&Exit::Msr { index, write: None });
        assert_eq!(register(0x80b), ExitKind::Apic);
        assert_eq!(register(0x10), ExitKind::Msr);
    }

    #[test]
    fn handles_share_the_counts() {
        let tally = ExitTally::default();
        tally.clone().count(ExitKind::Halt);
        tally.count(ExitKind::Halt);
        let counted: Vec<_> = tally.iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [(ExitKind::Halt, 2)]);
    }
}
