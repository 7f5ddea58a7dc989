//! A host as a whole: each run of ftvm pings by itself, and operators see machines.

use std::collections::BTreeMap;

use disk_server::arbiter::{HostName, VmName};
use disk_server::fleet::{Placement, Reason, State, VmStatus};
use disk_server::views::{HostRecord, Paging, Role, Text, Unfit};

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSummary {
    /// Its name.
    pub host: HostName,
    /// Something of it pings: its daemon, if it has one.
    pub live: bool,
    /// A daemon looks after its guests.
    pub tended: bool,
    /// Memory for guests that is left, in MiB.
    pub memory_mib: u64,
    /// Its processor.
    pub processor: Text,
    /// Who translates addresses there.
    pub paging: Paging,
    /// An operator wants it empty.
    pub draining: bool,
    /// Guests that run there.
    pub primaries: Vec<VmName>,
    /// Guests whose backup is there.
    pub backups: Vec<VmName>,
    /// Guests that lack a backup: why it cannot be there.
    pub unfit: Vec<(VmName, Unfit)>,
}

/// The machines, in the order of names.
#[must_use]
pub fn summarise(records: &[HostRecord], vms: &[VmStatus]) -> Vec<HostSummary> {
    let mut hosts: BTreeMap<HostName, HostSummary> = BTreeMap::new();
    // The record that tells most comes last: a daemon's, and of two that of the run that lives.
    let mut records: Vec<&HostRecord> = records.iter().collect();
    records.sort_by_key(|record| (matches!(record.role, Role::Host(_)), record.live));
    for record in records {
        let host = record.host.host();
        let summary = HostSummary {
            host: host.clone(),
            live: record.live,
            tended: matches!(record.role, Role::Host(_)),
            memory_mib: record.carries.memory_mib,
            processor: record.carries.processor.clone(),
            paging: record.carries.paging,
            draining: record.unfit == Some(Unfit::Draining),
            primaries: Vec::new(),
            backups: Vec::new(),
            unfit: Vec::new(),
        };
        hosts.insert(host, summary);
    }
    for status in vms {
        let Placement { primary, backup } = &status.placement;
        if let Some(host) = primary.as_ref().and_then(|it| hosts.get_mut(&it.host)) {
            host.primaries.push(status.vm.clone());
        }
        if let Some(host) = backup.as_ref().and_then(|it| hosts.get_mut(&it.host)) {
            host.backups.push(status.vm.clone());
        }
        if let State::NotProtected(Reason::NoIdleHost { unfit })
        | State::NotRunning(Reason::NoIdleHost { unfit }) = &status.state
        {
            for (host, why) in unfit {
                if let Some(host) = hosts.get_mut(host) {
                    host.draining |= *why == Unfit::Draining;
                    host.unfit.push((status.vm.clone(), why.clone()));
                }
            }
        }
    }
    hosts.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::fake::{guest, host};

    #[test]
    fn a_host_is_what_the_run_of_its_daemon_says_that_lives() {
        let mut before = host("a");
        before.live = false;
        before.carries.memory_mib = 1;
        let mut drained = host("b");
        drained.unfit = Some(Unfit::Draining);
        let mut lacks = guest("wiki", "a", "b");
        lacks.placement.backup = None;
        lacks.state = State::NotProtected(Reason::NoIdleHost {
            unfit: vec![("b".parse().unwrap(), Unfit::Draining)],
        });
        let hosts = summarise(
            &[host("a"), before, drained],
            &[guest("db", "a", "b"), lacks],
        );
        let [a, b] = &hosts[..] else {
            panic!("{hosts:?}");
        };
        assert!(a.live && a.memory_mib > 1 && !a.draining && b.draining);
        let names = |vms: &[VmName]| vms.iter().map(VmName::to_string).collect::<Vec<_>>();
        assert_eq!(names(&a.primaries), ["db", "wiki"]);
        assert_eq!(names(&b.backups), ["db"]);
        assert_eq!(b.unfit, [("wiki".parse().unwrap(), Unfit::Draining)]);
    }
}
