//! `cargo xtask images`

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use guest_images::{GuestImages, PackageStore};

use crate::steps::Steps;
use testbed::Layout;

/// Arguments of `cargo xtask images`.
#[derive(Debug, Args)]
pub(crate) struct Images {
    /// Take the archive's newest packages instead of those of the last time.
    #[arg(long)]
    upgrade: bool,
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
        for image in images.images() {
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
