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
            .all(|member| self.has(Trouble::NoPower(*member)))
    }

    /// The guest must go on before anything is healed: the pair is whole, or one of it can talk to the disk
    /// server. Where it need not, nobody may answer: who is alone could not ask whether it may run.
    pub(super) fn must_go_on(&self) -> bool {
        let members = [Member::Primary, Member::Backup];
        let is_whole = members
            .iter()
            .all(|member| self.is_up(*member) && self.is_heard(*member, Network::Logging));
        let reaches_the_disk_server = |member: &Member| {
            self.is_up(*member)
                && self.is_heard(*member, Network::Storage)
                && !self.has(Trouble::NoDiskServer)
        };
        is_whole || members.iter().any(reaches_the_disk_server)
    }

    fn has(&self, trouble: Trouble) -> bool {
        self.troubles.contains(&trouble)
    }

    /// Its host does something.
    fn is_up(&self, member: Member) -> bool {
        !self.has(Trouble::NoPower(member)) && !self.has(Trouble::Frozen(member))
    }

    /// What it sends there arrives, and it hears others.
    fn is_heard(&self, member: Member, network: Network) -> bool {
        let is_mute = network == Network::Logging && self.has(Trouble::Mute(member));
        !is_mute && !self.has(Trouble::Cut(member, network))
    }
}

const fn case(name: &'static str, troubles: &'static [Trouble]) -> Case {
    Case {
        name,
        troubles,
        held: HELD,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Layout;

    #[test]
    fn a_guest_must_go_on_where_somebody_can_be_asked() {
        let need_not = Case::ALL.iter().filter(|case| !case.must_go_on());
        let names: Vec<&str> = need_not.map(|case| case.name).collect();
        let expected = [
            "the primary's host loses its power, and the disk server is killed",
            "both hosts of the pair lose their power",
        ];
        assert_eq!(names, expected);
        const PARTED: [Trouble; 3] = [
            Trouble::Cut(Member::Primary, Network::Logging),
            Trouble::Cut(Member::Primary, Network::Storage),
            Trouble::Cut(Member::Backup, Network::Storage),
        ];
        assert!(!case("all links that matter are cut", &PARTED).must_go_on());
        assert!(
            case("two of them", &PARTED[1..]).must_go_on(),
            "the pair is whole"
        );
    }

    #[test]
    fn the_simulator_has_the_same_cases() {
        let page = std::fs::read_to_string(Layout::find().root().join("docs/matrix.md"));
        let page = page.expect("the page");
        for case in &Case::ALL {
            let row = format!("| {} |", case.name);
            assert!(page.lines().any(|line| line.starts_with(&row)), "{row}");
        }
    }
}
