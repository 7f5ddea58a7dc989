//! The machine on which it was measured.

use std::fs;

use serde::{Deserialize, Serialize};

use testbed::Host;
use testbed::HostKind;
use testbed::Position;

/// What the figures depend on. A reader of a report must know it, and a comparison of two records
/// says where they differ.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MachineDescription {
    /// The processor's name.
    pub processor: String,
    /// How many of them.
    pub processors: usize,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// Release of the kernel.
    pub kernel: String,
    /// What the hosts are.
    pub hosts: String,
    /// The kernel of the hosts.
    pub host_kernel: String,
    /// TCP congestion control of the clients. The hosts', and the guests', is their kernels' own.
    pub clients_tcp: String,
    /// The first line of `qemu-system-x86_64 --version`, here: hosts have the same.
    pub qemu: String,
    /// The first line of `ftvm --version` in a host.
    pub ftvm: String,
    /// The commit that is checked out, with `+` if files were changed.
    pub commit: String,
}

impl MachineDescription {
    /// Looks. What cannot be found out stays empty.
    pub(super) fn find(host: &Host, client: &Position) -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let in_host = |argv: &[&str]| first_line(&host.check(argv).unwrap_or_default());
        let here = |argv: &[&str]| {
            let output = std::process::Command::new(argv[0])
                .args(&argv[1..])
                .output();
            let text = output.map(|output| output.stdout).unwrap_or_default();
            first_line(&String::from_utf8_lossy(&text))
        };
        let changed = here(&["git", "status", "--porcelain", "--untracked-files=no"]);
        let commit = here(&["git", "rev-parse", "--short=12", "HEAD"]);
        Self {
            processor: field(&text("/proc/cpuinfo"), "model name"),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: field(&text("/proc/meminfo"), "MemTotal")
                .trim_end_matches(" kB")
                .parse()
                .map_or(0, |kib: u64| kib / 1024),
            kernel: first_line(&text("/proc/sys/kernel/osrelease")),
            hosts: match host.kind() {
                HostKind::Qemu => "QEMU TCG, one emulated AMD processor each (cargo xtask host)",
                HostKind::Namespace => "network namespaces of this machine",
            }
            .to_owned(),
            host_kernel: in_host(&["uname", "-r"]),
            clients_tcp: client.namespace().congestion_control().unwrap_or_default(),
            qemu: here(&["qemu-system-x86_64", "--version"]),
            ftvm: in_host(&["ftvm", "--version"]),
            commit: match changed.is_empty() {
                true => commit,
                false => format!("{commit}+"),
            },
        }
    }

    /// Names and values of all that is known.
    pub fn lines(&self) -> impl Iterator<Item = (&'static str, String)> {
        let number = |number: u64| match number {
            0 => String::new(),
            number => number.to_string(),
        };
        [
            ("processor", self.processor.clone()),
            ("processors", number(self.processors as u64)),
            ("memory, MiB", number(self.memory_mib)),
            ("kernel", self.kernel.clone()),
            ("hosts", self.hosts.clone()),
            ("hosts' kernel", self.host_kernel.clone()),
            ("clients' TCP", self.clients_tcp.clone()),
            ("QEMU", self.qemu.clone()),
            ("ftvm", self.ftvm.clone()),
            ("commit", self.commit.clone()),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// The first value of `name: value` lines.
fn field(text: &str, name: &str) -> String {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(key, _)| key.trim() == name);
    found.map_or(String::new(), |(_, value)| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "model\t\t: 1\nmodel name\t: A Processor @ 2 GHz\nMemTotal:  24 kB\n";
        assert_eq!(field(text, "model name"), "A Processor @ 2 GHz");
        assert_eq!(field(text, "MemTotal"), "24 kB");
        assert_eq!(field(text, "name"), "");
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let machine = MachineDescription {
            processors: 2,
            ..MachineDescription::default()
        };
        let lines: Vec<_> = machine.lines().collect();
        assert_eq!(lines, [("processors", "2".to_owned())]);
    }
}
