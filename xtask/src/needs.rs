//! What has to be on this machine, by what is to be done on it.

use guest_images::GuestImages;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// A guest with this initramfs is replicated between two hosts.
    Replication(&'static str),
    /// Parts of ftvm are measured on this machine.
    Micro,
    /// All guest images are made.
    Images,
    /// Everything but what takes the guest with a disk, whose image takes minutes.
    AllButDisk,
    /// Everything.
    All,
}

/// What hosts, their networks, and clients without programs of their own need; and the compiler, which Rust
/// links with too, for the programs in an initramfs.
const REPLICATION: &[&str] = &[
    "gcc",
    "iproute2",
    "iputils-ping",
    "libc6-dev",
    "qemu-system-x86",
];

/// The compiler, and the disk servers that ours is measured beside.
const MICRO: &[&str] = &["gcc", "libc6-dev", "nbdkit", "qemu-utils"];

/// What the images are made with.
const IMAGES: &[&str] = &[
    "binutils",
    "e2fsprogs",
    "gcc",
    "kmod",
    "libc6-dev",
    "mmdebstrap",
];

/// What the images, the testbed, the benchmark, and the tests of the disk server need.
const ALL: &[&str] = &[
    "binutils",
    "e2fsprogs",
    "fio",
    "gcc",
    "gdb",
    "iperf3",
    "iproute2",
    "iputils-ping",
    "kmod",
    "libc6-dev",
    "libnbd-bin",
    "mmdebstrap",
    "nbd-client",
    "openssl",
    "postgresql-client",
    "qemu-system-x86",
    "qemu-utils",
    "redis-tools",
];

impl Needs {
    /// Debian packages that have to be installed.
    pub(crate) fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Replication(_) => REPLICATION,
            Self::Micro => MICRO,
            Self::Images => IMAGES,
            Self::AllButDisk | Self::All => ALL,
        }
    }

    /// Whether the guest image of this name has to be there.
    pub(crate) fn has_image(self, name: &str) -> bool {
        match self {
            Self::Replication(initramfs) => [GuestImages::VMLINUX, initramfs].contains(&name),
            Self::Micro => false,
            Self::Images | Self::AllButDisk | Self::All => true,
        }
    }

    /// Whether Prometheus has to be there, which is only for tests.
    pub(crate) fn has_prometheus(self) -> bool {
        matches!(self, Self::All)
    }

    /// Whether there are hosts that are Debian, with packages of ftvm, which are only for tests.
    pub(crate) fn has_debian_hosts(self) -> bool {
        matches!(self, Self::All)
    }

    /// Whether the guest's disk image has to be there.
    pub(crate) fn has_disk(self) -> bool {
        matches!(self, Self::Images | Self::All)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_up_has_what_any_command_needs() {
        for packages in [REPLICATION, IMAGES] {
            assert!(packages.iter().all(|package| ALL.contains(package)));
        }
        let demo = Needs::Replication(GuestImages::REDIS);
        assert!(demo.has_image("redis.cpio") && demo.has_image("vmlinux"));
        assert!(!demo.has_image("load.cpio") && !demo.has_disk());
    }
}
