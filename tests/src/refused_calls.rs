//! System calls that the kernels of hosts refused our programs (seccomp(2)): one that is missing among those that they
//! are allowed (crate `confinement`) fails, and may do so where nothing else shows it.

use std::fs;
use std::path::Path;

use crate::plan::is_console_log;

/// How the kernel's log begins to tell of one (`linux/audit.h`).
const REFUSED: &str = "type=1326 ";

/// What the consoles of hosts have of it, in a run's logs.
pub(crate) fn of(logs: &Path) -> Vec<String> {
    let files = fs::read_dir(logs).into_iter().flatten().flatten();
    let consoles = files
        .map(|file| file.path())
        .filter(|path| is_console_log(path));
    let said = consoles.filter_map(|path| fs::read(path).ok());
    said.flat_map(|said| in_log(&String::from_utf8_lossy(&said)))
        .collect()
}

fn in_log(said: &str) -> Vec<String> {
    let is_ours = |line: &&str| {
        let program = line.split_once("exe=\"").map(|(_, path)| path);
        let program = program.and_then(|path| path.split('"').next());
        program.is_some_and(|path| path.ends_with("ftvm") || path.ends_with("disk-server"))
    };
    let refused = said.lines().filter(|line| line.contains(REFUSED));
    refused.filter(is_ours).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_of_our_programs_are_found_in_a_run_s_logs() {
        let folder = tempfile::tempdir().unwrap();
        let call = |exe: &str| {
            format!(
                "[   12.3] audit: type=1326 audit(1796012900.1:2): auid=0 uid=0 pid=71 comm=\"vcpu\" exe=\"{exe}\" \
                 sig=0 arch=c000003e syscall=27 compat=0 code=0x50000\n"
            )
        };
        let said = [
            "/bin/ftvm",
            "/usr/lib/systemd/systemd-udevd",
            "/bin/sabotaged-ftvm",
        ]
        .map(call);
        fs::write(folder.path().join("a-console.log"), said.concat()).unwrap();
        fs::write(folder.path().join("a-0-ftvm.log"), call("/bin/ftvm")).unwrap();
        let found = of(folder.path());
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[1].contains("syscall=27"), "{found:?}");
    }
}
