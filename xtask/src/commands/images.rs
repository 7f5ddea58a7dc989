//! `cargo xtask images`

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Args;
use guest_images::{GuestImages, Image, PackageStore, debian};

use crate::steps::Steps;
use testbed::Layout;

/// Arguments of `cargo xtask images`.
#[derive(Debug, Args)]
pub(crate) struct Images {
    /// Take the archive's newest packages instead of those of the last time.
    #[arg(long)]
    upgrade: bool,
    /// Make every image a second time, and fail if one is not the same.
    #[arg(long)]
    check: bool,
}

impl Images {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let layout = Layout::find();
        let store = PackageStore::new(layout.packages());
        if self.upgrade {
            store.forget()?;
        }
        let mut steps = Steps::new();
        let images = make(&mut steps, &layout)?;
        let disk = make_disk(&mut steps, &layout)?;
        for image in images.images().iter().chain([&disk]) {
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
            let disks = steps.step("disk image again", || {
                Ok(debian::check(&store, &layout.images())?)
            })?;
            if disks.0 != disks.1 {
                differing.push(disks);
            }
            for (first, second) in &differing {
                eprintln!(
                    "{} was {} and is {} now: {}",
                    first.name,
                    first.sha256,
                    second.sha256,
                    if first.made_of == second.made_of {
                        "the same packages give different images"
                    } else {
                        "the archive has other packages by now; try again with --upgrade"
                    }
                );
            }
            ensure!(differing.is_empty(), "images are not the same every time");
            println!("made a second time, every image is the same");
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Makes the guest images as one step.
pub(crate) fn make(steps: &mut Steps, layout: &Layout) -> Result<GuestImages> {
    let store = PackageStore::new(layout.packages());
    steps.step("guest images", || {
        Ok(GuestImages::build(&store, &layout.images())?)
    })
}

/// Makes the disk image as one step.
pub(crate) fn make_disk(steps: &mut Steps, layout: &Layout) -> Result<Image> {
    let store = PackageStore::new(layout.packages());
    steps.step("disk image", || {
        Ok(debian::build(&store, &layout.images())?)
    })
}
