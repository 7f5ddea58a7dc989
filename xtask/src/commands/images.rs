//! `cargo xtask images`

use std::fs;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use guest_images::{GuestImages, Image, Lock, PackageStore, debian, debian_host};

use crate::needs::Needs;
use crate::packages;
use crate::steps::Steps;
use testbed::Layout;

/// Arguments of `cargo xtask images`.
#[derive(Debug, Args)]
pub(crate) struct Images {
    /// Take the archive's newest packages, and pin them in guest-images/packages.lock.
    #[arg(long)]
    renew: bool,
    /// Make every image a second time, and fail if one is not the same.
    #[arg(long)]
    check: bool,
}

impl Images {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let layout = Layout::find();
        let steps = Steps::new();
        packages::provide(&steps, Needs::Images)?;
        let store = if self.renew {
            steps.step("Debian's package lists", || {
                Ok(PackageStore::renewing(layout.packages())?)
            })?
        } else {
            PackageStore::new(layout.packages())
        };
        let images = make(&steps, &store, &layout)?;
        let disks = make_disks(&steps, &store, &layout)?;
        if let Some(lock) = renewed(&steps, &store)? {
            pin(&lock, &layout)?;
        }
        for image in images.images().iter().chain(&disks) {
            println!(
                "{}  {} ({} KiB)",
                image.sha256,
                image.name,
                image.bytes / 1024
            );
            for package in &image.made_of {
                println!("    {package}");
            }
        }
        if self.check {
            let mut differing = steps.step("guest images again", || {
                Ok(GuestImages::check(&store, &layout.images())?)
            })?;
            let disks = steps.step("disk images again", || {
                let directory = layout.images();
                let guests = debian::check(&store, &directory)?;
                Ok([guests, debian_host::check(&store, &directory)?])
            })?;
            differing.extend(disks.into_iter().filter(|(first, second)| first != second));
            for (first, second) in &differing {
                eprintln!(
                    "{} was {} and is {} now: the same packages give different images",
                    first.name, first.sha256, second.sha256
                );
            }
            ensure!(differing.is_empty(), "images are not the same every time");
            println!("made a second time, every image is the same");
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The package with Prometheus, which watches hosts, and promtool, which checks metrics and alert rules. Installed, it
/// would run a server of this machine's.
const PROMETHEUS: &str = "prometheus";

/// What a renewing store took.
fn renewed(steps: &Steps, store: &PackageStore) -> Result<Option<Lock>> {
    if store.taken().is_none() {
        return Ok(None);
    }
    // No image has them: the benchmark takes pgbench out of one, and tests take Prometheus out of the other.
    steps.step("further packages", || {
        store.behind("postgresql", "postgresql-")?;
        Ok(store.package(PROMETHEUS)?)
    })?;
    Ok(store.taken())
}

/// Writes the list of pinned packages, and tells what is new.
fn pin(lock: &Lock, layout: &Layout) -> Result<()> {
    let path = layout.root().join("guest-images/packages.lock");
    let before = fs::read_to_string(&path).unwrap_or_default();
    let before = Lock::parse(&before).unwrap_or_default();
    for (key, pin) in &lock.pins {
        let was = before.pins.get(key);
        if was.is_none_or(|was| was.sha256 != pin.sha256) {
            let was = was.map_or("nothing", |was| &was.version);
            eprintln!("{}: {} {was} → {}", key.0, pin.name, pin.version);
        }
    }
    for (key, pin) in &before.pins {
        if !lock.pins.contains_key(key) {
            eprintln!("{}: {} {} → nothing", key.0, pin.name, pin.version);
        }
    }
    fs::write(&path, lock.to_string()).with_context(|| format!("cannot write {}", path.display()))
}

/// Makes those that are needed, without a word.
pub(crate) fn make_needed(layout: &Layout, needs: Needs) -> Result<()> {
    let store = PackageStore::new(layout.packages());
    GuestImages::build_those(&store, &layout.images(), |name| needs.has_image(name))?;
    if needs.has_prometheus() {
        store.package(PROMETHEUS)?;
    }
    if needs.has_disk() {
        debian::build(&store, &layout.images())?;
    }
    if needs.has_debian_hosts() {
        debian_host::build(&store, &layout.images())?;
    }
    Ok(())
}

/// Makes the guest images as one step.
fn make(steps: &Steps, store: &PackageStore, layout: &Layout) -> Result<GuestImages> {
    steps.step("guest images", || {
        Ok(GuestImages::build(store, &layout.images())?)
    })
}

/// Makes the disk images as one step.
fn make_disks(steps: &Steps, store: &PackageStore, layout: &Layout) -> Result<[Image; 2]> {
    steps.step("disk images", || {
        let directory = layout.images();
        let guests = debian::build(store, &directory)?;
        Ok([guests, debian_host::build(store, &directory)?])
    })
}
