//! What a person would ask about first, which is tried on real hosts too (`cargo xtask demo --matrix`).

use std::time::Duration;

use super::case::{Case, Cut, Link, Way};
use crate::place::Place::{Backup, Primary, Service};
use crate::world::Trouble;

const FROZEN: Duration = Duration::from_secs(5);

/// What happens, as both say it, and the case that it is here.
pub(super) fn asked() -> [(&'static str, Case); 12] {
    let cut = |one, other, way| Cut(Link(one, other), way);
    let logging = |way| Case::cuts(&[cut(Primary, Backup, way)]);
    let storage = |host| cut(host, Service, Way::Both);
    let cut_off = |host| Case::cuts(&[cut(Primary, Backup, Way::Both), storage(host)]);
    [
        ("the primary's host dies", Case::crashes(&[Primary])),
        ("the backup's host dies", Case::crashes(&[Backup])),
        ("the disk server is killed", Case::crashes(&[Service])),
        ("the logging link is cut", logging(Way::Both)),
        (
            "the logging link is cut from the primary to the backup",
            logging(Way::There),
        ),
        (
            "the logging link is cut from the backup to the primary",
            logging(Way::Back),
        ),
        (
            "the primary is cut off from the backup and the disk server",
            cut_off(Primary),
        ),
        (
            "the backup is cut off from the primary and the disk server",
            cut_off(Backup),
        ),
        (
            "the backup is cut off from the disk server",
            Case::cuts(&[storage(Backup)]),
        ),
        (
            "the primary's host is frozen",
            Case {
                held: FROZEN,
                ..Case::at_once(vec![Trouble::Freeze(Primary)])
            },
        ),
        (
            "the primary's host and the disk server die at once",
            Case::crashes(&[Primary, Service]),
        ),
        (
            "both hosts die that have the guest",
            Case::crashes(&[Primary, Backup]),
        ),
    ]
}
