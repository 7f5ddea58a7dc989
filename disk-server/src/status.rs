//! What `disk-server status` prints.

use std::fmt::Write as _;

use crate::arbiter::protocol::VmRecord;

/// The records as a table for people.
#[must_use]
pub fn table(records: &[VmRecord]) -> String {
    if records.is_empty() {
        return "no virtual machine has claimed an epoch yet\n".to_owned();
    }
    let width = records.iter().map(|r| r.vm.as_str().len()).max();
    let width = width.unwrap_or(0).max(2);
    let mut table = format!("{:<width$}  {:>8}  HOLDER\n", "VM", "EPOCH");
    for VmRecord { vm, epoch, holder } in records {
        let holder = holder.as_ref().map_or("-", |holder| holder.as_str());
        // Writing to a string does not fail.
        let _ = writeln!(table, "{vm:<width$}  {epoch:>8}  {holder}");
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let record = |vm: &str, epoch, holder: &str| VmRecord {
            vm: vm.parse().unwrap(),
            epoch,
            holder: Some(holder.parse().unwrap()),
        };
        let records = [record("db", 3, "a/1"), record("webserver", 12, "b/2")];
        let expected = "\
VM            EPOCH  HOLDER
db                3  a/1
webserver        12  b/2
";
        assert_eq!(table(&records), expected);
        assert!(table(&[]).contains("no virtual machine"));
    }
}
