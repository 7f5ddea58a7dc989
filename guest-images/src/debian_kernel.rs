//! Debian's cloud kernel, and its modules.

use std::fs;
use std::path::PathBuf;

use crate::contents::Contents;
use crate::error::ImageError;
use crate::kernel::extract_vmlinux;
use crate::lock::Use;
use crate::modules::ModuleTree;
use crate::packages::{Package, PackageStore};

/// Debian's cloud kernel, unpacked.
#[derive(Debug)]
pub struct DebianKernel {
    pub(crate) package: Package,
    release: String,
}

impl DebianKernel {
    /// Unpacks the kernel that `linux-image-cloud-amd64` stands for.
    ///
    /// # Errors
    ///
    /// When the package cannot be had.
    pub fn unpack(store: &PackageStore) -> Result<Self, ImageError> {
        Self::unpack_of(store, Use::Bookworm)
    }

    /// As [`DebianKernel::unpack`], of another release.
    ///
    /// # Errors
    ///
    /// As [`DebianKernel::unpack`].
    pub fn unpack_of(store: &PackageStore, purpose: Use) -> Result<Self, ImageError> {
        let package = store.behind_for(purpose, "linux-image-cloud-amd64", "linux-image-")?;
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

    /// The uncompressed kernel.
    pub(crate) fn vmlinux(&self) -> Result<Contents, ImageError> {
        let path = self.bzimage()?;
        let bzimage = fs::read(&path).map_err(|source| ImageError::Read {
            path: path.clone(),
            source,
        })?;
        let vmlinux =
            extract_vmlinux(&bzimage).map_err(|source| ImageError::Kernel { path, source })?;
        Ok(Contents::new(vmlinux, [&self.package]))
    }

    /// The kernel's modules.
    ///
    /// # Errors
    ///
    /// When they cannot be listed.
    pub fn modules(&self) -> Result<ModuleTree, ImageError> {
        // Debian 13 has no files in `/lib` any more.
        let trees = ["lib/modules", "usr/lib/modules"]
            .map(|directory| self.package.root().join(directory).join(&self.release));
        let root = trees.iter().find(|root| root.is_dir()).unwrap_or(&trees[0]);
        Ok(ModuleTree::scan(root)?)
    }
}
