//! What the server tells those who watch it. docs/monitoring.md has the same list for people.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::connections::Connections;
use super::services::Ground;
use crate::arbiter::HostName;
use crate::export::{Exports, Operation};
use crate::fleet::{State, Turns, VmStatus};
use crate::monitoring::{Exposition, Health, Pulse, Watched, expose};
use crate::views::Role;

/// The states of guests by the names that metrics have for them.
const STATES: [&str; 4] = ["stopped", "not_running", "not_protected", "protected"];

/// The server as those see it who watch it.
#[derive(Debug)]
pub(super) struct Metrics {
    pub(super) ground: Ground,
    /// Of each service, by its name.
    pub(super) connections: Vec<(&'static str, Arc<Connections>)>,
    /// Of the thread that looks after the fleet.
    pub(super) pulse: Pulse,
}

impl Watched for Metrics {
    fn metrics(&self) -> String {
        let Ground {
            store,
            exports,
            fleet,
            guard,
        } = self.ground.clone();
        let guests = fleet.guests(&*store);
        let hosts = self.hosts();
        let denials: Vec<_> = guard.denials_by_action().collect();
        let connections = self.connections.iter();
        let connections: Vec<_> = (connections.map(|(name, open)| (*name, open.count()))).collect();
        expose(move |to| {
            of_guests(to, &guests)?;
            to.gauge(
                "ftvm_fleet_host_up",
                "Whether the pings of a host's daemon come.",
                (hosts.iter()).map(|(host, live)| ([("host", host.as_str())], truth(*live))),
            )?;
            to.gauge(
                "ftvm_connections",
                "Connections that are open, to each service.",
                (connections.iter()).map(|(service, open)| ([("service", *service)], *open as f64)),
            )?;
            to.counter(
                "ftvm_denials_total",
                "Requests that the caller's key does not allow, by what was asked; connect: no key that is trusted.",
                (denials.iter()).map(|(action, count)| ([("action", *action)], *count as f64)),
            )?;
            of_disks(to, &exports)
        })
    }

    fn health(&self, path: &str) -> Health {
        match path {
            "" => self.pulse.health(
                "guests were not looked after",
                "see whether the disk of --state hangs",
            ),
            _ => Health::Unknown,
        }
    }
}

impl Metrics {
    /// Whether the daemon of each host pings.
    fn hosts(&self) -> BTreeMap<HostName, bool> {
        let Ground { store, fleet, .. } = &self.ground;
        fleet.with_hosts(None, &**store, |records| {
            let mut hosts = BTreeMap::new();
            for record in records.filter(|record| matches!(record.role, Role::Host(_))) {
                // Of an earlier run the pings stay away.
                *hosts.entry(record.host.host()).or_insert(false) |= record.live;
            }
            hosts
        })
    }
}

fn of_guests(to: &mut Exposition<'_>, guests: &[(VmStatus, Turns)]) -> fmt::Result {
    let vms = || guests.iter().map(|(status, _)| status);
    to.gauge(
        "ftvm_fleet_vm_epoch",
        "The guest's epoch, which is the number of its view; 0 if it never ran.",
        vms().map(|it| ([("vm", it.vm.as_str())], it.view as f64)),
    )?;
    to.gauge(
        "ftvm_fleet_vm_state",
        "1 for the state that the guest is in, 0 for the others.",
        vms().flat_map(|it| {
            let is = state(&it.state);
            STATES.map(|state| {
                (
                    [("vm", it.vm.as_str()), ("state", state)],
                    truth(is == state),
                )
            })
        }),
    )?;
    to.gauge(
        "ftvm_fleet_vm_member",
        "On which host a guest is, and as what: 1 if that copy's pings come.",
        vms().flat_map(|it| {
            let placement = &it.placement;
            let primary = placement.primary.iter().map(|member| (member, "primary"));
            let members = primary.chain(placement.backup.iter().map(|member| (member, "backup")));
            members.map(|(member, role)| {
                let host = member.host.as_str();
                let labels = [("vm", it.vm.as_str()), ("host", host), ("role", role)];
                (labels, truth(member.live))
            })
        }),
    )?;
    to.counter(
        "ftvm_fleet_view_changes_total",
        "Views that the guest came to.",
        (guests.iter()).map(|(it, turns)| ([("vm", it.vm.as_str())], turns.views as f64)),
    )?;
    to.counter(
        "ftvm_fleet_failovers_total",
        "Views to which another host went live with the guest.",
        (guests.iter()).map(|(it, turns)| ([("vm", it.vm.as_str())], turns.failovers as f64)),
    )
}

fn of_disks(to: &mut Exposition<'_>, exports: &Exports) -> fmt::Result {
    let records: Vec<_> = exports.records(None).collect();
    to.gauge(
        "ftvm_disk_clients",
        "NBD connections that have the export open.",
        (records.iter()).map(|it| ([("export", it.name.as_str())], it.connections as f64)),
    )?;
    to.counter(
        "ftvm_disk_refusals_total",
        "What the fence kept from an export: requests and connections of an epoch that is over.",
        records.iter().flat_map(|it| {
            let kinds = [
                ("request", it.refused_requests),
                ("connection", it.refused_connections),
            ];
            kinds
                .map(|(kind, count)| ([("export", it.name.as_str()), ("kind", kind)], count as f64))
        }),
    )?;
    let operations = || {
        exports.iter().flat_map(|(name, export)| {
            Operation::ALL.map(|operation| {
                let labels = [("export", name.as_str()), ("operation", operation.name())];
                (labels, export.operations(operation))
            })
        })
    };
    to.histogram(
        "ftvm_disk_operation_seconds",
        "How long operations on an image took. A long request is several.",
        operations().map(|(labels, it)| (labels, &it.times)),
    )?;
    to.counter(
        "ftvm_disk_operation_bytes_total",
        "Bytes that operations on an image were about.",
        operations().map(|(labels, it)| (labels, it.bytes() as f64)),
    )?;
    to.counter(
        "ftvm_disk_operation_errors_total",
        "Operations on an image that failed.",
        operations().map(|(labels, it)| (labels, it.errors() as f64)),
    )?;
    to.gauge(
        "ftvm_disk_operations_running",
        "Operations that an image's storage is at.",
        operations().map(|(labels, it)| (labels, it.running() as f64)),
    )
}

fn state(state: &State) -> &'static str {
    match state {
        State::Stopped { .. } => "stopped",
        State::NotRunning(_) => "not_running",
        State::NotProtected(_) => "not_protected",
        State::Protected => "protected",
    }
}

fn truth(it: bool) -> f64 {
    f64::from(u8::from(it))
}
