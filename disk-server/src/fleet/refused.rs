//! Why what an operator asks for is not granted, in words that help.

use super::definition::DefinitionError;
use super::intents::{MAX_DRAINED, MAX_GUESTS};
use super::status::State;
use crate::arbiter::{HostName, VmName};
use crate::views::{Text, Unfit};

/// Why what an operator asks for is not granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The definition is none.
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    /// There is no such guest.
    #[error(
        "{0} is not defined: `ftvm vm define FILE` describes a guest, `ftvm vm list` shows those that are"
    )]
    NotDefined(VmName),
    /// The guest runs, or may.
    #[error("{vm} is not stopped ({state}): `ftvm vm stop {vm}` first")]
    Runs {
        /// The guest.
        vm: VmName,
        /// How it is.
        state: State,
    },
    /// The guest runs, or may, with what is to change.
    #[error(
        "{vm} is not stopped ({state}), and cannot change {} while it runs: `ftvm vm stop {vm}` first",
        fields.join(", ")
    )]
    ChangesAtAStart {
        /// The guest.
        vm: VmName,
        /// How it is.
        state: State,
        /// What is to change.
        fields: Vec<&'static str>,
    },
    /// A host that could not speak for it any more would be left to wait when it loses its peer.
    #[error(
        "{host} runs {vm}, or is its backup, and is not among `hosts`: name it too, or stop {vm} first"
    )]
    LeavesOut {
        /// The guest.
        vm: VmName,
        /// The host.
        host: HostName,
    },
    /// Two guests with one Ethernet address would be one host to their network.
    #[error("{other} has the Ethernet address {mac} already: give {vm} another one (`mac`)")]
    SameMac {
        /// The guest.
        vm: VmName,
        /// Who has it.
        other: VmName,
        /// The address.
        mac: String,
    },
    /// Two guests on one disk would destroy each other's files.
    #[error("{other} has the disk {disk} already: give {vm} another one")]
    SameDisk {
        /// The guest.
        vm: VmName,
        /// Who has it.
        other: VmName,
        /// The disk.
        disk: String,
    },
    /// There are as many as there may be.
    #[error(
        "{MAX_GUESTS} guests are defined, which is the most: `ftvm vm undefine` those that are not needed"
    )]
    TooManyGuests,
    /// There are as many as there may be.
    #[error(
        "{MAX_DRAINED} hosts are drained, which is the most: `ftvm host undrain` those that are gone"
    )]
    TooManyDrained,
    /// It has no backup that could go on.
    #[error(
        "{vm} is not protected, and nobody could go on with it ({state}): `ftvm vm status {vm}` says why"
    )]
    NotProtected {
        /// The guest.
        vm: VmName,
        /// How it is.
        state: State,
    },
    /// It is not to run.
    #[error("{vm} does not run ({state}): `ftvm vm start {vm}` first")]
    DoesNotRun {
        /// The guest.
        vm: VmName,
        /// How it is.
        state: State,
    },
    /// It has no backup.
    #[error("{vm} has no backup: {state}")]
    NoBackup {
        /// The guest.
        vm: VmName,
        /// How it is.
        state: State,
    },
    /// Its backup cannot be where its primary is.
    #[error(
        "{vm} runs on {host}: `ftvm migrate --primary` moves it, and `ftvm failover` hands it over to its backup"
    )]
    RunsThere {
        /// The guest.
        vm: VmName,
        /// The host.
        host: HostName,
    },
    /// It is to have no backup.
    #[error("{by} has suspended the protection of {vm}: `ftvm resume-protection {vm}` first")]
    Suspended {
        /// The guest.
        vm: VmName,
        /// Who.
        by: Text,
    },
    /// No daemon of that name.
    #[error(
        "no host of the name {host} is known: is `ftvm host` running there? Known are: {}",
        names(known)
    )]
    NoSuchHost {
        /// The host.
        host: HostName,
        /// Some that are.
        known: Vec<HostName>,
    },
    /// The host cannot be its backup.
    #[error("{host} cannot have {vm}: it {unfit}")]
    Unfit {
        /// The guest.
        vm: VmName,
        /// The host.
        host: HostName,
        /// Why.
        unfit: Unfit,
    },
    /// The service started a moment ago, and pings tell it the rest.
    #[error(
        "the disk server has just started, and has not heard yet how guests and hosts are: ask again in a few seconds"
    )]
    TooEarly,
    /// It asks for no change.
    #[error("that changes nothing")]
    NoChange,
}

fn names(hosts: &[HostName]) -> String {
    let names: Vec<&str> = hosts.iter().map(HostName::as_str).collect();
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    }
}
