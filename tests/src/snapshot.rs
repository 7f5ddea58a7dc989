//! A host that has booted and waits for its name, as a snapshot: every host of the testbed is
//! restored from it, in a fraction of the time that a boot takes.
//!
//! Below `.ftvm/host`, for each size of host:
//!
//! ```text
//! memory    the host's memory; a restored host has a private copy, page by page as it writes
//! state     the state of its processors and devices, as QEMU migrates it
//! stamp     what they were made of, and for which machine
//! ```
//!
//! What is the same in all hosts of a snapshot, and must not be, is told to each when it is
//! restored (`init/host.sh`): name and addresses, the time, and a seed for its random numbers.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::host_kind::HostKind;
use crate::image::{HostImage, file_error, file_stamp, machine_program};
use crate::layout::Layout;
use crate::network::Fabric;
use crate::plan::{HostSize, Plan, console_log};
use crate::qemu::{Qemu, WORDS};
use crate::run_lock::RunLock;
use crate::wait::{LIMIT, wait_until};

/// How often a host is booted before it is given up.
const BOOTS: u32 = 3;
/// Another one after every boot of this machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A snapshot that is current, and stays it as long as this value lives.
#[derive(Debug)]
pub(crate) struct Snapshot {
    directory: PathBuf,
    _lock: File,
}

impl Snapshot {
    /// The snapshot of hosts of this size. It is made if something that it was made of has
    /// changed, which takes as long as a boot.
    pub(crate) fn current(layout: &Layout, size: HostSize) -> Result<Self> {
        let HostSize {
            memory_mib,
            processors,
        } = size;
        let directory = layout
            .host_snapshots()
            .join(format!("{memory_mib}MiB-{processors}"));
        let failed = |source| file_error(&directory, source);
        fs::create_dir_all(&directory).map_err(failed)?;
        let lock = File::create(directory.with_extension("lock")).map_err(failed)?;
        let image = HostImage::find(layout)?;
        let stamp = stamp(&image)?;
        let is_current =
            || fs::read(directory.join("stamp")).is_ok_and(|text| text == stamp.as_bytes());
        loop {
            lock.lock_shared().map_err(failed)?;
            if is_current() {
                return Ok(Self {
                    directory,
                    _lock: lock,
                });
            }
            // Somebody else may make it between the two locks.
            lock.unlock().map_err(failed)?;
            lock.lock().map_err(failed)?;
            if !is_current() {
                make(layout, &image, size, &directory)?;
                let path = directory.join("stamp");
                fs::write(&path, &stamp).map_err(|source| file_error(&path, source))?;
            }
            lock.unlock().map_err(failed)?;
        }
    }

    /// Where its files are.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }
}

/// Makes what hosts are restored from, if it is not there or something that it was made of has
/// changed.
///
/// # Errors
///
/// When something is not set up (`cargo xtask setup`), we are not root, or it does not boot.
pub fn prepare_hosts(layout: &Layout) -> Result<()> {
    Snapshot::current(layout, HostSize::USUAL).map(drop)
}

/// What makes a snapshot another one. The speed of a host's time stamp counter is this machine's,
/// and is measured when it boots: what was made before this machine's own boot may be of another
/// machine.
fn stamp(image: &HostImage) -> Result<String> {
    let boot =
        fs::read_to_string(BOOT_ID).map_err(|source| file_error(BOOT_ID.as_ref(), source))?;
    let qemu = file_stamp(&machine_program("qemu-system-x86_64")?)?;
    Ok(format!(
        "{boot}{qemu}{WORDS}{:?}\n{}",
        Qemu::HARDWARE,
        image.stamp()?
    ))
}

fn make(layout: &Layout, image: &HostImage, size: HostSize, directory: &Path) -> Result<()> {
    // A host that was restored from an old one goes on with the files that it has open.
    fs::remove_dir_all(directory)
        .and_then(|()| fs::create_dir_all(directory))
        .map_err(|source| file_error(directory, source))?;
    let initramfs = directory.join("initramfs");
    fs::write(&initramfs, image.initramfs()?).map_err(|source| file_error(&initramfs, source))?;

    let lock = RunLock::begin(&layout.live())?;
    let fabric = Fabric::create(lock.id())?;
    let plan = Plan {
        kind: HostKind::Qemu,
        name: "host",
        number: 0,
        fabric: &fabric,
        layout,
        size,
        processor: None,
        logs: directory,
        stays: false,
    };
    fabric.plug(plan.name, plan.kind)?;
    let kernel = image.kernel()?;
    let boot = || boot(&plan, directory, &kernel, &initramfs);
    // One in hundreds stands still, of emulated processors; why is not known, and nothing is tested here.
    let qemu = (1..BOOTS).find_map(|_| match boot() {
        Err(Error::Timeout { what, seen, .. }) => {
            eprintln!("once more: {what}; its last words:\n{seen}");
            None
        }
        result => Some(result),
    });
    let mut qemu = qemu.unwrap_or_else(boot)?;
    let console = console_log(plan.logs, plan.name);
    let said = fs::read_to_string(&console).map_err(|source| file_error(&console, source))?;
    if said.contains("unpacking failed") {
        let what = "a host has not the memory for its files".to_owned();
        return Err(Error::Wrong { what, seen: said });
    }
    qemu.save()?;
    qemu.kill();
    fs::remove_file(&initramfs).map_err(|source| file_error(&initramfs, source))
}

/// Boots a host up to where it waits for its name.
fn boot(plan: &Plan<'_>, directory: &Path, kernel: &Path, initramfs: &Path) -> Result<Qemu> {
    let mut qemu = Qemu::boot(plan, directory, kernel, initramfs)?;
    let waits = wait_until("the boot of a host", LIMIT / BOOTS, || {
        if !qemu.id().alive() {
            return Err(qemu.died(plan.name));
        }
        Ok(qemu.waits_for_its_name())
    });
    match waits {
        Ok(()) => Ok(qemu),
        Err(Error::Timeout { what, limit, .. }) => {
            let seen = qemu.last_words();
            qemu.kill();
            Err(Error::Timeout { what, limit, seen })
        }
        Err(error) => Err(error),
    }
}
