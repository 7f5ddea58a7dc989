//! What `disk-server status` prints.

use std::fmt::Write as _;

use serde::Serialize;

use crate::arbiter::Claimant;
use crate::arbiter::protocol::{ExportRecord, VmRecord};

/// What a server knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The machines that were ever claimed.
    pub vms: Vec<VmRecord>,
    /// The disks.
    pub exports: Vec<ExportRecord>,
}

impl Status {
    /// For people: a table of machines, and one of exports if there are any.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = machines(&self.vms);
        if !self.exports.is_empty() {
            text.push('\n');
            text.push_str(&exports(&self.exports));
        }
        text
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
    use super::*;
    use crate::arbiter::Record;
    use crate::arbiter::protocol::Owner;

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
            vms,
            exports: vec![export, tools],
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
            vms: Vec::new(),
            exports: Vec::new(),
        };
        assert!(status.text().contains("no virtual machine"));
    }
}
