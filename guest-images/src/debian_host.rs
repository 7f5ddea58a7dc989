//! A disk image with a Debian root file system, for hosts of the testbed: what a machine has that was just installed.
//!
//! `debian-host.raw` (see `root.rs`) has systemd, udev, ifupdown and apt, nothing of ftvm's, and no kernel: who boots
//! it brings one, with its modules.

use std::path::Path;

use crate::error::DiskImageError;
use crate::images::Image;
use crate::lock::Use;
use crate::packages::PackageStore;
use crate::root::Root;

/// The image's name.
pub const NAME: &str = "debian-host.raw";

/// Packages that are installed, with what they need.
const PACKAGES: [&str; 8] = [
    "systemd-sysv",
    "udev",
    "ifupdown",
    "iproute2",
    "iputils-ping",
    "kmod",
    "procps",
    "wget",
];

/// Files of packages that are left out; what is installed in a host later has its own.
const LEFT_OUT: [&str; 4] = [
    "/usr/share/man/*",
    "/usr/share/doc/*",
    "/usr/share/locale/*",
    "/usr/share/i18n/*",
];

const ROOT: Root = Root {
    name: NAME,
    bytes: 1536 << 20,
    purpose: Use::Host,
    packages: &PACKAGES,
    left_out: &LEFT_OUT,
    files: &[(
        "customize.sh",
        0o755,
        include_str!("debian/customize-host.sh"),
    )],
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
