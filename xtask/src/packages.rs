//! Debian packages that have to be installed on this machine.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// What the images, the testbed, the demo, the benchmark, and the tests of the disk server run on
/// this machine.
const NEEDED: [&str; 18] = [
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

/// Those that are not installed.
pub(crate) fn missing() -> Result<Vec<&'static str>> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${db:Status-Abbrev}\n"])
        .args(NEEDED)
        .stderr(Stdio::null())
        .output()
        .context("cannot start dpkg-query: ftvm's testbed needs a Debian machine")?;
    let installed = String::from_utf8_lossy(&output.stdout);
    let is_installed = |name: &&str| {
        installed
            .lines()
            .any(|line| line.trim_end() == format!("{name} ii"))
    };
    Ok(NEEDED
        .into_iter()
        .filter(|name| !is_installed(name))
        .collect())
}

/// Installs packages and what they need, without recommendations.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "only root can install packages; as root: apt-get install --no-install-recommends {}",
        packages.join(" ")
    );
    apt(&["update"])?;
    let mut wanted = packages.to_vec();
    loop {
        let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
        arguments.extend_from_slice(&wanted);
        apt(&arguments)?;
        // One that was there may have had to go: QEMU's packages of another release exclude each other.
        let still = missing()?;
        if still.is_empty() {
            return Ok(());
        }
        ensure!(
            still != wanted,
            "`apt-get install` did not install {}",
            still.join(" ")
        );
        wanted = still;
    }
}

fn apt(arguments: &[&str]) -> Result<()> {
    let output = Command::new("apt-get")
        .arg("-q")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output()
        .context("cannot start apt-get")?;
    ensure!(
        output.status.success(),
        "`apt-get {}` failed:\n{}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
