//! What a Debian host boots: the kernel of other hosts; an initramfs that gives its root that kernel's modules, its name,
//! and our agent as a unit of systemd's; and a disk that is a copy, block by block as it writes, of the image with
//! Debian ([`debian_host`]).
//!
//! The disk is its own for the run: a host that was killed and boots again finds what it had flushed.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use guest_images::{DebianKernel, PackageStore, debian_host, images};

use crate::error::Result;
use crate::image::{HOST_MODULES, file_error, image_error};
use crate::layout::HOST_AGENT;
use crate::netns::output;
use crate::network::Network;
use crate::plan::Plan;

/// Modules without which the root cannot be mounted.
const ROOT_MODULES: [&str; 2] = ["virtio_pci", "virtio_blk"];

const INIT: &str = include_str!("init/debian.sh");
const UNIT: &str = include_str!("init/agent.service");

/// Its files.
#[derive(Debug)]
pub(crate) struct DebianBoot {
    /// The compressed kernel.
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    /// In QEMU's own format.
    pub(crate) disk: PathBuf,
    /// What the kernel and the initramfs are told of the host.
    pub(crate) words: String,
}

impl DebianBoot {
    /// Finds or makes them, among the logs of the host's run.
    pub(crate) fn prepare(plan: &Plan<'_>) -> Result<Self> {
        let store = PackageStore::new(plan.layout.packages());
        let kernel = DebianKernel::unpack(&store).map_err(image_error)?;
        let initramfs = plan.logs.join("debian-initramfs");
        if !initramfs.exists() {
            let bytes = make_initramfs(plan, &store, &kernel)?;
            fs::write(&initramfs, bytes).map_err(|source| file_error(&initramfs, source))?;
        }
        let disk = plan.logs.join(format!("{}.qcow2", plan.name));
        if !disk.exists() {
            let image = plan.layout.images().join(debian_host::NAME);
            let mut create = Command::new("qemu-img");
            create.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]);
            output(create.arg(image).arg(&disk))?;
        }
        let address = Network::Management.host_address(plan.number);
        Ok(Self {
            kernel: kernel.bzimage().map_err(image_error)?,
            initramfs,
            disk,
            // Interfaces are called eth0 and so on, in the networks' order.
            words: format!(
                "net.ifnames=0 testbed.name={} testbed.address={address}/24",
                plan.name
            ),
        })
    }
}

fn make_initramfs(plan: &Plan<'_>, store: &PackageStore, kernel: &DebianKernel) -> Result<Vec<u8>> {
    let busybox = store.package("busybox-static").map_err(image_error)?;
    let mut archive = images::base(&busybox, INIT.as_bytes()).map_err(image_error)?;
    let modules = kernel.modules().map_err(image_error)?;
    modules
        .add_to(&mut archive, "modules", &ROOT_MODULES)
        .map_err(image_error)?;
    let of_the_root = [&HOST_MODULES[..], &ROOT_MODULES].concat();
    modules
        .add_tree(&mut archive, kernel.release(), &of_the_root)
        .map_err(image_error)?;
    let agent = plan.layout.program(HOST_AGENT)?;
    let agent = fs::read(&agent).map_err(|source| file_error(&agent, source))?;
    archive.file("testbed/host-agent", 0o755, agent);
    archive.file("testbed/agent.service", 0o644, UNIT);
    Ok(archive.to_bytes())
}
