//! The guest images themselves.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::archive::Archive;
use crate::error::ImageError;
use crate::files::{write_atomically, write_if_different};
use crate::kernel::extract_vmlinux;
use crate::libraries::{PackageLibraries, add_programs};
use crate::micro::{self, MicroGuest};
use crate::modules::ModuleTree;
use crate::packages::{Package, PackageStore};

/// Modules that a guest loads: virtio over PCI.
const GUEST_MODULES: [&str; 3] = ["virtio_pci", "virtio_net", "virtio_blk"];

/// Debian's cloud kernel, unpacked.
#[derive(Debug)]
pub struct DebianKernel {
    package: Package,
    release: String,
}

impl DebianKernel {
    /// Unpacks the kernel that `linux-image-cloud-amd64` stands for.
    ///
    /// # Errors
    ///
    /// When the package cannot be had.
    pub fn unpack(store: &PackageStore) -> Result<Self, ImageError> {
        let package = store.behind("linux-image-cloud-amd64", "linux-image-")?;
        let release = package.name().trim_start_matches("linux-image-").to_owned();
        Ok(Self { package, release })
    }

    /// The kernel's release, as `uname -r` prints it.
    #[must_use]
    pub fn release(&self) -> &str {
        &self.release
    }

    /// The compressed kernel, as QEMU boots it.
    ///
    /// # Errors
    ///
    /// When the package lacks it.
    pub fn bzimage(&self) -> Result<PathBuf, ImageError> {
        Ok(self
            .package
            .file(&format!("boot/vmlinuz-{}", self.release))?)
    }

    /// The kernel's modules.
    ///
    /// # Errors
    ///
    /// When they cannot be listed.
    pub fn modules(&self) -> Result<ModuleTree, ImageError> {
        let root = self.package.root().join("lib/modules").join(&self.release);
        Ok(ModuleTree::scan(&root)?)
    }
}

/// A file made for guests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its name below the images' directory.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its contents, in hexadecimal.
    pub sha256: String,
    /// What it is made of, or with: packages with versions.
    pub made_of: Vec<String>,
}

/// All the images, below one directory, with `manifest.json` telling what
/// they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestImages {
    directory: PathBuf,
    images: Vec<Image>,
}

impl GuestImages {
    /// Name of the kernel's ELF file.
    pub const VMLINUX: &str = "vmlinux";
    /// Name of the initramfs with Redis.
    pub const REDIS: &str = "redis.cpio";
    /// Name of the initramfs for quick tests.
    pub const TINY: &str = "tiny.cpio";

    /// Makes the images in `directory` from packages of `store`. Files that
    /// are as they should be are not written again.
    ///
    /// # Errors
    ///
    /// When a package cannot be had, the kernel is not as expected, or a file
    /// cannot be written.
    pub fn build(store: &PackageStore, directory: &Path) -> Result<Self, ImageError> {
        let kernel = DebianKernel::unpack(store)?;
        let modules = kernel.modules()?;
        let busybox = store.package("busybox-static")?;
        let mut images = Self {
            directory: directory.to_owned(),
            images: Vec::new(),
        };

        let path = kernel.bzimage()?;
        let bzimage = fs::read(&path).map_err(|source| ImageError::Read {
            path: path.clone(),
            source,
        })?;
        let vmlinux =
            extract_vmlinux(&bzimage).map_err(|source| ImageError::Kernel { path, source })?;
        images.add(Self::VMLINUX, &vmlinux, [&kernel.package])?;

        let mut tiny = base(&busybox, include_bytes!("init/tiny.sh"))?;
        modules.add_to(&mut tiny, "guest", &GUEST_MODULES)?;
        images.add(Self::TINY, &tiny.to_bytes(), [&kernel.package, &busybox])?;

        let server = store.package("redis-server")?;
        let tools = store.package("redis-tools")?;
        let mut redis = base(&busybox, include_bytes!("init/redis.sh"))?;
        modules.add_to(&mut redis, "guest", &GUEST_MODULES)?;
        redis
            .file("etc/inittab", 0o644, include_bytes!("init/inittab"))
            .file("etc/redis.conf", 0o644, include_bytes!("init/redis.conf"))
            .file("etc/announce", 0o755, include_bytes!("init/announce.sh"));
        // Debian's `redis-server` is a link to this program of redis-tools,
        // which looks at the name that it is called by.
        let program = tools.file("usr/bin/redis-check-rdb")?;
        let mut libraries = PackageLibraries::new(store, vec![server, tools]);
        add_programs(
            &mut redis,
            &[("usr/bin/redis-server", program)],
            &mut libraries,
        )?;
        let packages = [&kernel.package, &busybox]
            .into_iter()
            .chain(libraries.packages());
        images.add(Self::REDIS, &redis.to_bytes(), packages)?;

        let binutils = micro::binutils()?;
        for guest in MicroGuest::all() {
            images.write(&guest.image(), &guest.build()?, vec![binutils.clone()])?;
        }

        let path = directory.join("manifest.json");
        let manifest = serde_json::to_vec_pretty(&images.images).expect("images are plain data");
        write_atomically(&path, &manifest).map_err(|source| ImageError::Write { path, source })?;
        Ok(images)
    }

    fn add<'a>(
        &mut self,
        name: &str,
        contents: &[u8],
        packages: impl IntoIterator<Item = &'a Package>,
    ) -> Result<(), ImageError> {
        let made_of = packages
            .into_iter()
            .map(|package| format!("{} {}", package.name(), package.version()))
            .collect();
        self.write(name, contents, made_of)
    }

    fn write(
        &mut self,
        name: &str,
        contents: &[u8],
        made_of: Vec<String>,
    ) -> Result<(), ImageError> {
        let path = self.directory.join(name);
        write_if_different(&path, contents).map_err(|source| ImageError::Write { path, source })?;
        self.images.push(Image {
            name: name.to_owned(),
            bytes: contents.len() as u64,
            sha256: format!("{:x}", Sha256::digest(contents)),
            made_of,
        });
        Ok(())
    }

    /// The images, in the order they were made.
    #[must_use]
    pub fn images(&self) -> &[Image] {
        &self.images
    }

    /// The directory they are in.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The path of the image called `name`.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// Busybox and an `/init`: what every initramfs of ours begins with.
///
/// Only a few applets get a link: Debian's static busybox finds the others by
/// itself when its own shell runs them.
///
/// # Errors
///
/// When the package lacks busybox.
pub fn base(busybox: &Package, init: &[u8]) -> Result<Archive, ImageError> {
    let path = busybox.file("bin/busybox")?;
    let program = fs::read(&path).map_err(|source| ImageError::Read {
        path: path.clone(),
        source,
    })?;
    let mut archive = Archive::new();
    archive
        .file("bin/busybox", 0o755, program)
        .file("init", 0o755, init);
    for link in [
        "bin/sh",
        "bin/cat",
        "sbin/init",
        "sbin/poweroff",
        "sbin/reboot",
    ] {
        archive.symlink(link, "/bin/busybox");
    }
    for directory in ["proc", "sys", "dev", "tmp", "root", "run"] {
        archive.directory(directory);
    }
    archive.char_device("dev/console", 0o600, 5, 1);
    archive.char_device("dev/null", 0o666, 1, 3);
    Ok(archive)
}
