//! What goes wrong on real hosts, of what the simulator's matrix has.

use std::time::Duration;

use crate::network::Network;

/// Longer than every timeout.
const HELD: Duration = Duration::from_secs(10);
const FROZEN: Duration = Duration::from_secs(5);

/// A host of the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Member {
    Primary,
    Backup,
}

/// Something that goes wrong until it is healed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The host has no power, and boots again.
    NoPower(Member),
    /// The disk server is killed, and started again.
    NoDiskServer,
    /// Nothing gets from the host to a network, or from there.
    Cut(Member, Network),
    /// What the host sends to the logging network does not arrive.
    Mute(Member),
    /// The host stands still.
    Frozen(Member),
}

/// What a person asks about.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// What happens, in the simulator's words.
    pub name: &'static str,
    pub(super) troubles: &'static [Trouble],
    pub(super) held: Duration,
}

impl Case {
    /// All of them. The last one ends the guest.
    pub const ALL: [Self; 12] = {
        use Member::{Backup, Primary};
        use Trouble::{Cut, Frozen, Mute, NoDiskServer, NoPower};
        [
            case("the primary's host loses its power", &[NoPower(Primary)]),
            case("the backup's host loses its power", &[NoPower(Backup)]),
            case("the disk server is killed", &[NoDiskServer]),
            case(
                "the backup's logging link is cut",
                &[Cut(Backup, Network::Logging)],
            ),
            case(
                "what the primary sends to the logging network is lost",
                &[Mute(Primary)],
            ),
            case(
                "what the backup sends to the logging network is lost",
                &[Mute(Backup)],
            ),
            case(
                "the backup's storage link is cut",
                &[Cut(Backup, Network::Storage)],
            ),
            case(
                "the primary's logging and storage links are cut",
                &[
                    Cut(Primary, Network::Logging),
                    Cut(Primary, Network::Storage),
                ],
            ),
            case(
                "the backup's logging and storage links are cut",
                &[Cut(Backup, Network::Logging), Cut(Backup, Network::Storage)],
            ),
            Self {
                held: FROZEN,
                ..case(
                    "the primary's host stands still for 5 s",
                    &[Frozen(Primary)],
                )
            },
            case(
                "the primary's host loses its power, and the disk server is killed",
                &[NoDiskServer, NoPower(Primary)],
            ),
            case(
                "both hosts of the pair lose their power",
                &[NoPower(Primary), NoPower(Backup)],
            ),
        ]
    };

    /// Whether both hosts are lost that have the guest.
    pub(super) fn ends_the_guest(&self) -> bool {
        [Member::Primary, Member::Backup]
            .iter()
            .all(|member| self.troubles.contains(&Trouble::NoPower(*member)))
    }
}

const fn case(name: &'static str, troubles: &'static [Trouble]) -> Case {
    Case {
        name,
        troubles,
        held: HELD,
    }
}
