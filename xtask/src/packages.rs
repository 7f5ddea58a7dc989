//! Debian packages that have to be installed on this machine.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::needs::Needs;
use crate::steps::Steps;

/// Installs what is needed and missing, as a step.
pub(crate) fn provide(steps: &Steps, needs: Needs) -> Result<()> {
    let needed = needs.packages();
    let missing = missing(needed)?;
    if missing.is_empty() {
        return Ok(());
    }
    steps.step(&format!("installing {}", missing.join(", ")), || {
        install(needed, &missing)
    })
}

/// Those of the `needed` ones that are not installed.
fn missing<'a>(needed: &[&'a str]) -> Result<Vec<&'a str>> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${db:Status-Abbrev}\n"])
        .args(needed)
        .stderr(Stdio::null())
        .output()
        .context("cannot start dpkg-query: ftvm's testbed needs a Debian machine")?;
    let installed = String::from_utf8_lossy(&output.stdout);
    let is_installed = |name: &&str| {
        installed
            .lines()
            .any(|line| line.trim_end() == format!("{name} ii"))
    };
    let missing = needed.iter().copied().filter(|name| !is_installed(name));
    Ok(missing.collect())
}

/// Installs those of the `needed` packages that are `missing`, and what these need, without recommendations.
fn install(needed: &[&str], missing: &[&str]) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "only root can install packages; as root: apt-get install --no-install-recommends {}",
        missing.join(" ")
    );
    apt(&["update"])?;
    let mut wanted = missing.to_vec();
    loop {
        let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
        arguments.extend_from_slice(&wanted);
        apt(&arguments)?;
        // One that was there may have had to go: QEMU's packages of another release exclude each other.
        let still = self::missing(needed)?;
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
