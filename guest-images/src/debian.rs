//! A disk image with a Debian root file system, for guests with a disk.
//!
//! `debian.raw` (see `root.rs`) has systemd, PostgreSQL, fio, a C compiler and an agent ([`crate::agent`]);
//! `disk.cpio` ([`crate::images`]) mounts it.

use std::path::Path;

use crate::error::DiskImageError;
use crate::images::Image;
use crate::lock::Use;
use crate::packages::PackageStore;
use crate::root::Root;

/// The image's name.
pub const NAME: &str = "debian.raw";

/// Its size in bytes; most of it is a hole.
pub const BYTES: u64 = 1536 << 20;

/// Memory that the guest needs, in MiB.
pub const MEMORY_MIB: u32 = 256;

/// The line on the console when PostgreSQL takes connections.
pub const POSTGRES_READY: &str = "ftvm-guest: postgres ready";

/// Packages that are installed, with what they need.
const PACKAGES: [&str; 12] = [
    "systemd-sysv",
    "postgresql",
    "fio",
    "gcc",
    "libc6-dev",
    "python3-minimal",
    "iproute2",
    "iputils-ping",
    "procps",
    "kmod",
    "e2fsprogs",
    "util-linux",
];

/// Files of packages that are left out: documentation, translations, and
/// PostgreSQL's compiler for expressions, which it goes without if it is not there.
const LEFT_OUT: [&str; 7] = [
    "/usr/share/man/*",
    "/usr/share/doc/*",
    "/usr/share/locale/*",
    "/usr/share/i18n/*",
    "/usr/lib/postgresql/*/lib/bitcode/*",
    "/usr/lib/postgresql/*/lib/llvmjit*",
    "/usr/lib/x86_64-linux-gnu/libLLVM*",
];

/// Files that the hooks of mmdebstrap are or need: name, mode, contents.
const FILES: [(&str, u32, &str); 8] = [
    ("agent.service", 0o644, include_str!("debian/agent.service")),
    ("agent.sh", 0o755, crate::agent::SCRIPT),
    ("agent.socket", 0o644, include_str!("debian/agent.socket")),
    ("before.sh", 0o755, include_str!("debian/before.sh")),
    ("customize.sh", 0o755, include_str!("debian/customize.sh")),
    (
        "console.service",
        0o644,
        include_str!("debian/console.service"),
    ),
    ("ready.service", 0o644, include_str!("debian/ready.service")),
    ("ready.sh", 0o755, include_str!("debian/ready.sh")),
];

const ROOT: Root = Root {
    name: NAME,
    bytes: BYTES,
    purpose: Use::Disk,
    packages: &PACKAGES,
    left_out: &LEFT_OUT,
    files: &FILES,
};

/// Makes the image in `directory`, unless it is there.
///
/// # Errors
///
/// When this is not run as root on a Debian machine with mmdebstrap and
/// e2fsprogs, when a package cannot be had, or a file cannot be written.
pub fn build(store: &PackageStore, directory: &Path) -> Result<Image, DiskImageError> {
    ROOT.build(store, directory)
}

/// Makes the image again, elsewhere, and compares it with the one in
/// `directory`: tells both digests.
///
/// # Errors
///
/// As [`build`].
pub fn check(store: &PackageStore, directory: &Path) -> Result<(Image, Image), DiskImageError> {
    ROOT.check(store, directory)
}
