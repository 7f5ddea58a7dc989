//! How much memory there is for a guest.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Where version 2 of memory cgroups is mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// What is left for programs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// How much.
    pub(crate) bytes: u64,
    /// The memory cgroup that has no more, if the host has.
    group: Option<PathBuf>,
}

impl Room {
    /// What this host has left of memory and swap (proc_meminfo(5)), or less if a memory cgroup that
    /// this process is in has less; what is not told is no limit.
    #[must_use]
    pub(crate) fn left() -> Self {
        Self::with(Some("SwapFree:"))
    }

    /// The same for what is to be locked: without swap, where that cannot go.
    #[must_use]
    pub(crate) fn left_to_lock() -> Self {
        Self::with(None)
    }

    /// So much, of a host.
    #[cfg(test)]
    pub(crate) fn of(bytes: u64) -> Self {
        Self { bytes, group: None }
    }

    fn with(swap: Option<&str>) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let host = Self {
            bytes: of_host(&read("/proc/meminfo"), swap).unwrap_or(u64::MAX),
            group: None,
        };
        let groups = groups(Path::new(CGROUPS), &read("/proc/self/cgroup"));
        let rooms = groups.into_iter().filter_map(|group| {
            Some(Self {
                bytes: of_group(&group)?,
                group: Some(group),
            })
        });
        rooms.fold(host, |least, room| match room.bytes < least.bytes {
            true => room,
            false => least,
        })
    }
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = self.bytes >> 20;
        match &self.group {
            None => write!(f, "this host has {mib} MiB left"),
            Some(group) => write!(
                f,
                "its memory cgroup {} has {mib} MiB left (memory.max, MemoryMax= of a systemd unit)",
                group.display()
            ),
        }
    }
}

/// Of memory, and of what has the name `swap`.
fn of_host(meminfo: &str, swap: Option<&str>) -> Option<u64> {
    let bytes = |name: &str| {
        let mut lines = meminfo.lines().map(|line| line.split_whitespace());
        let mut words = lines.find(|words| words.clone().next() == Some(name))?;
        let kib: u64 = words.nth(1)?.parse().ok()?;
        Some(kib << 10)
    };
    Some(bytes("MemAvailable:")? + swap.map_or(Some(0), bytes)?)
}

/// The directories of the cgroups that a process is in, by its `/proc/PID/cgroup`, innermost first.
fn groups(mount: &Path, cgroup: &str) -> Vec<PathBuf> {
    let mut lines = cgroup.lines();
    let Some(path) = lines.find_map(|line| line.strip_prefix("0::/")) else {
        return Vec::new();
    };
    let inside = Path::new(path).ancestors();
    inside.map(|group| mount.join(group)).collect()
}

/// What a memory cgroup has left, if it has a limit: files that it has in memory give way.
fn of_group(directory: &Path) -> Option<u64> {
    let read = |name| fs::read_to_string(directory.join(name)).ok();
    let number = |name| read(name)?.trim().parse::<u64>().ok();
    let (limit, used) = (number("memory.max")?, number("memory.current")?);
    let stat = read("memory.stat").unwrap_or_default();
    let files = stat.lines().filter_map(|line| {
        let (name, bytes) = line.split_once(' ')?;
        let is_file = matches!(name, "active_file" | "inactive_file");
        is_file.then(|| bytes.parse::<u64>().ok())?
    });
    Some(limit.saturating_sub(used.saturating_sub(files.sum())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_has_left_is_memory_and_swap() {
        let meminfo = "MemTotal: 900 kB\nMemFree: 10 kB\nMemAvailable:     300 kB\nSwapTotal: 9 kB\n\
                       SwapFree:          5 kB\nHugePages_Total: 0\n";
        assert_eq!(of_host(meminfo, Some("SwapFree:")), Some(305 << 10));
        assert_eq!(of_host(meminfo, None), Some(300 << 10), "locked memory");
        assert_eq!(of_host("MemTotal: 900 kB\n", None), None);
        assert!(Room::left().bytes > 0);
    }

    #[test]
    fn a_memory_cgroup_has_what_its_limit_leaves() {
        let mount = tempfile::tempdir().expect("a directory");
        let inner = mount.path().join("system.slice/ftvm.service");
        fs::create_dir_all(&inner).expect("a directory");
        let write = |name, text| fs::write(inner.join(name), text).expect("a file");
        let found = groups(mount.path(), "1:name=x:/y\n0::/system.slice/ftvm.service\n");
        assert_eq!(found.first(), Some(&inner));
        assert_eq!(
            (found.len(), found.last()),
            (3, Some(&mount.path().join("")))
        );
        assert_eq!(of_group(&inner), None, "there are no files");
        write("memory.current", "600\n");
        write("memory.max", "max\n");
        assert_eq!(of_group(&inner), None, "there is no limit");
        write("memory.max", "1000\n");
        write(
            "memory.stat",
            "anon 300\ninactive_file 100\nactive_file 50\nshmem 7\n",
        );
        assert_eq!(of_group(&inner), Some(550));
        write("memory.max", "400\n");
        assert_eq!(of_group(&inner), Some(0));
        assert!(groups(mount.path(), "4:memory:/only/version/1\n").is_empty());
    }
}
