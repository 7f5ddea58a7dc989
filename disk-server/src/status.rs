//! What `disk-server status` prints.

use std::fmt::Write as _;

use serde::Serialize;

use crate::arbiter::protocol::{ExportRecord, VmRecord};
use crate::arbiter::{Claimant, VmName};
use crate::views::{HostRecord, Role};

/// What a server knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Nobody is asked for a key.
    pub plain: bool,
    /// The machines that were ever claimed.
    pub vms: Vec<VmRecord>,
    /// The disks.
    pub exports: Vec<ExportRecord>,
    /// The hosts that ping.
    pub hosts: Vec<HostRecord>,
}

impl Status {
    /// For people: a table of machines; one of hosts if there are any, and who is to be the backup of
    /// those machines that want one; and one of exports if there are any.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = machines(&self.vms);
        if !self.hosts.is_empty() {
            text.push('\n');
            text.push_str(&hosts(&self.hosts));
            for it in &self.vms {
                text.push_str(&self.wanted(it).unwrap_or_default());
            }
        }
        if !self.exports.is_empty() {
            text.push('\n');
            text.push_str(&exports(&self.exports));
        }
        if self.plain {
            text.push_str("\nplain, without keys: whoever can connect may do everything\n");
        }
        text
    }

    /// Who is to be the backup of a machine whose primary wants one, or why nobody is.
    fn wanted(&self, it: &VmRecord) -> Option<String> {
        let VmRecord { vm, record } = it;
        let wants = |host: &HostRecord| match &host.role {
            Role::Primary { epoch, wants, .. } => *epoch == record.epoch && wants.is_some(),
            _ => false,
        };
        let of_vm = || self.hosts.iter().filter(|host| host.role.vm() == Some(vm));
        let primary = of_vm().find(|host| record.holder.as_ref() == Some(&host.host))?;
        if !primary.live || !wants(primary) {
            return None;
        }
        let others = || of_vm().filter(|host| host.host != primary.host);
        let unfit: Vec<String> = others()
            .filter_map(|host| Some(format!("{} {}", host.host, host.unfit.as_ref()?)))
            .collect();
        let fit = others().find(|host| host.unfit.is_none());
        let who = match (others().find(|host| host.proposed), fit) {
            (Some(proposed), _) => format!("{} is proposed", proposed.host),
            (None, Some(fit)) => format!("{} is about to be proposed", fit.host),
            (None, None) if unfit.is_empty() => self.of_daemons(vm),
            (None, None) => format!("no host fits: {}", unfit.join("; ")),
        };
        Some(format!("{vm} wants a backup: {who}\n"))
    }

    /// What is to be said where no run of ftvm waits for that guest alone.
    fn of_daemons(&self, vm: &VmName) -> String {
        let daemons = || {
            self.hosts
                .iter()
                .filter(|host| matches!(host.role, Role::Host(_)))
        };
        match daemons().find(|host| host.proposed) {
            Some(proposed) => format!("{} is asked for one", proposed.host),
            None if daemons().next().is_some() => {
                format!("`ftvm vm status {vm}` says why it has none")
            }
            None => "no host is idle".to_owned(),
        }
    }

    /// For programs: one JSON object in a line.
    ///
    /// # Panics
    /// Never: plain data with text for keys can be serialised.
    #[must_use]
    pub fn json(&self) -> String {
        let mut line = serde_json::to_string(self).expect("plain data can be serialised");
        line.push('\n');
        line
    }
}

fn machines(records: &[VmRecord]) -> String {
    if records.is_empty() {
        return "no virtual machine has claimed an epoch yet\n".to_owned();
    }
    let width = records.iter().map(|r| r.vm.as_str().len()).max();
    let width = width.unwrap_or(0).max(2);
    let name = |who: &Option<Claimant>| who.as_ref().map_or("-", Claimant::as_str).to_owned();
    let holders = records.iter().map(|it| name(&it.record.holder).len()).max();
    let holders = holders.unwrap_or(0).max(6);
    let mut table = format!(
        "{:<width$}  {:>8}  {:<holders$}  BACKUP\n",
        "VM", "EPOCH", "HOLDER"
    );
    for VmRecord { vm, record } in records {
        let (epoch, holder, backup) = (record.epoch, name(&record.holder), name(&record.backup));
        let joins = record.backup.is_some() && !record.acknowledged;
        let joins = if joins { " (joins)" } else { "" };
        // Writing to a string does not fail.
        let _ = writeln!(
            table,
            "{vm:<width$}  {epoch:>8}  {holder:<holders$}  {backup}{joins}"
        );
    }
    table
}

/// MEMORY is what a host has left, in MiB. A daemon has several guests, or none.
fn hosts(records: &[HostRecord]) -> String {
    let vm = |record: &HostRecord| {
        let mut vms: Vec<&str> = record.role.vm().map(VmName::as_str).into_iter().collect();
        if let Role::Host(tended) = &record.role {
            vms.extend(tended.processes.keys().map(VmName::as_str));
        }
        match vms.is_empty() {
            true => "-".to_owned(),
            false => vms.join(","),
        }
    };
    let names = records.iter().map(|r| r.host.as_str().len()).max();
    let names = names.unwrap_or(0).max(4);
    let vms = records.iter().map(|r| vm(r).len()).max();
    let vms = vms.unwrap_or(0).max(2);
    let mut table = format!(
        "{:<names$}  STATE  {:<7}  {:<vms$}  {:>8}  {:>8}  PAGING\n",
        "HOST", "ROLE", "VM", "EPOCH", "MEMORY"
    );
    for record in records {
        let (role, epoch) = match &record.role {
            Role::Host(_) => ("host", None),
            Role::Idle { .. } => ("idle", None),
            Role::Primary { epoch, .. } => ("primary", Some(epoch)),
            Role::Backup { epoch, .. } => ("backup", Some(epoch)),
        };
        let epoch = epoch.map_or_else(|| "-".to_owned(), ToString::to_string);
        let _ = writeln!(
            table,
            "{:<names$}  {:<5}  {role:<7}  {:<vms$}  {epoch:>8}  {:>8}  {}",
            record.host,
            if record.live { "live" } else { "dead" },
            vm(record),
            record.carries.memory_mib,
            record.carries.paging,
        );
    }
    table
}

/// REFUSED is requests, and AWAY connections that were turned away.
fn exports(records: &[ExportRecord]) -> String {
    let owner = |record: &ExportRecord| match &record.owner {
        None => ["-".to_owned(), "-".to_owned()],
        Some(owner) => [owner.vm.to_string(), owner.epoch.to_string()],
    };
    let names = records.iter().map(|r| r.name.as_str().len()).max();
    let names = names.unwrap_or(0).max(6);
    let vms = records.iter().map(|r| owner(r)[0].len()).max();
    let vms = vms.unwrap_or(0).max(2);
    let mut table = format!(
        "{:<names$}  {:>14}  {:<vms$}  {:>8}  {:>7}  {:>7}  {:>7}  PATH\n",
        "EXPORT", "BYTES", "VM", "EPOCH", "CLIENTS", "REFUSED", "AWAY"
    );
    for record in records {
        let [vm, epoch] = owner(record);
        let read_only = if record.read_only { " (read-only)" } else { "" };
        let path = record.path.as_deref().unwrap_or("-");
        let _ = writeln!(
            table,
            "{:<names$}  {:>14}  {vm:<vms$}  {epoch:>8}  {:>7}  {:>7}  {:>7}  {path}{read_only}",
            record.name,
            record.size,
            record.connections,
            record.refused_requests,
            record.refused_connections,
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::arbiter::Record;
    use crate::arbiter::protocol::Owner;
    use crate::views::{Capabilities, Condition, Paging, Text, Unfit, Wanted};

    fn record(vm: &str, epoch: u64, holder: &str) -> VmRecord {
        VmRecord {
            vm: vm.parse().unwrap(),
            record: Record::held(epoch, holder.parse().unwrap()),
        }
    }

    #[test]
    fn columns_line_up() {
        let mut vms = vec![record("db", 3, "a/1"), record("webserver", 12, "hostb/2")];
        vms[0].record.backup = Some("b/2".parse().unwrap());
        let export = ExportRecord {
            name: "db".parse().unwrap(),
            path: Some("/srv/db.img".to_owned()),
            size: 2 << 30,
            read_only: false,
            owner: Some(Owner {
                vm: "db".parse().unwrap(),
                epoch: 3,
                runs: true,
            }),
            connections: 2,
            refused_requests: 17,
            refused_connections: 1,
        };
        let tools = ExportRecord {
            name: "tools-2026".parse().unwrap(),
            path: None,
            read_only: true,
            owner: None,
            ..export.clone()
        };
        let status = Status {
            plain: false,
            vms,
            exports: vec![export, tools],
            hosts: Vec::new(),
        };
        let expected = "\
VM            EPOCH  HOLDER   BACKUP
db                3  a/1      b/2 (joins)
webserver        12  hostb/2  -

EXPORT               BYTES  VM     EPOCH  CLIENTS  REFUSED     AWAY  PATH
db              2147483648  db         3        2       17        1  /srv/db.img
tools-2026      2147483648  -          -        2       17        1  - (read-only)
";
        assert_eq!(status.text(), expected);
        let json: serde_json::Value = serde_json::from_str(&status.json()).unwrap();
        assert_eq!(json["vms"][1]["epoch"], 12);
        assert_eq!(json["exports"][0]["refused_requests"], 17);
        assert_eq!(json["exports"][0]["owner"]["vm"], "db");
        assert!(json["exports"][1]["owner"].is_null());
    }

    #[test]
    fn a_server_without_machines_says_so() {
        let status = Status {
            plain: false,
            vms: Vec::new(),
            exports: Vec::new(),
            hosts: Vec::new(),
        };
        assert!(status.text().contains("no virtual machine"));
    }

    fn host(name: &str, memory_mib: u64, role: Role) -> HostRecord {
        HostRecord {
            host: name.parse().unwrap(),
            live: true,
            carries: capabilities(memory_mib),
            role,
            proposed: false,
            unfit: None,
        }
    }

    fn capabilities(memory_mib: u64) -> Capabilities {
        Capabilities {
            memory_mib,
            processor: Text::cut("a processor"),
            instructions: 1,
            paging: Paging::Shadow,
            exports: BTreeSet::new(),
        }
    }

    #[test]
    fn who_is_to_be_a_backup_is_told_or_why_nobody_is() {
        let db = || "db".parse().unwrap();
        let wants = Some(Wanted {
            address: "10.0.0.1:7421".parse().unwrap(),
            needs: capabilities(1024),
        });
        let idle = || Role::Idle {
            vm: db(),
            declined: None,
        };
        let primary = Role::Primary {
            vm: db(),
            epoch: 3,
            wants,
            condition: Condition::default(),
        };
        let mut status = Status {
            plain: false,
            vms: vec![record("db", 3, "a/1")],
            exports: Vec::new(),
            hosts: vec![host("a/1", 2048, primary)],
        };
        let told = |status: &Status, last: &str| {
            let text = status.text();
            assert_eq!(text.lines().last(), Some(last), "{text}");
        };
        told(&status, "db wants a backup: no host is idle");
        status.hosts.push(host("hostb/2", 512, idle()));
        status.hosts.push(host("c/3", 8192, idle()));
        told(
            &status,
            "db wants a backup: hostb/2 is about to be proposed",
        );
        status.hosts[1].unfit = Some(Unfit::Memory {
            has: 512,
            needs: 1024,
        });
        status.hosts[2].proposed = true;
        told(&status, "db wants a backup: c/3 is proposed");
        status.hosts[2] = HostRecord {
            live: false,
            unfit: Some(Unfit::Dead),
            ..host("c/3", 8192, idle())
        };
        let expected = "\
VM     EPOCH  HOLDER  BACKUP
db         3  a/1     -

HOST     STATE  ROLE     VM     EPOCH    MEMORY  PAGING
a/1      live   primary  db         3      2048  shadow
hostb/2  live   idle     db         -       512  shadow
c/3      dead   idle     db         -      8192  shadow
db wants a backup: no host fits: hostb/2 has 512 MiB of memory of 1024; c/3 is dead: its pings stay away
";
        assert_eq!(status.text(), expected);
        let json: serde_json::Value = serde_json::from_str(&status.json()).unwrap();
        assert_eq!(json["hosts"][1]["unfit"]["memory"]["has"], 512);
        assert_eq!(json["hosts"][0]["role"]["primary"]["epoch"], 3);
        // It has one now, or is not the primary any more.
        status.vms[0].record.epoch = 4;
        assert!(!status.text().contains("wants"), "{}", status.text());
    }
}
