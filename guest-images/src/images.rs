//! The guest images themselves.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::agent;
use crate::archive::Archive;
use crate::clock;
use crate::compiler;
use crate::contents::Contents;
use crate::count;
use crate::debian_kernel::DebianKernel;
use crate::disk;
use crate::error::ImageError;
use crate::files::{write_atomically, write_if_different};
use crate::libraries::{PackageLibraries, add_programs, read};
use crate::load;
use crate::lock::Use;
use crate::micro::{self, MicroGuest};
use crate::packages::{Package, PackageStore};
use crate::selftest;

/// Modules that a guest loads: virtio over PCI.
const GUEST_MODULES: [&str; 3] = ["virtio_pci", "virtio_net", "virtio_blk"];

/// Tells what the images are.
const MANIFEST: &str = "manifest.json";

/// What busybox init keeps running in the guests with Redis.
const INITTAB: &str = include_str!("init/inittab");

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
    /// Name of the ELF file of Debian 13's kernel, which the same initramfs images go with.
    pub const VMLINUX_DEBIAN_13: &str = "vmlinux-debian13";
    /// Name of the initramfs with Redis.
    pub const REDIS: &str = "redis.cpio";
    /// Name of the initramfs with Redis, loads ([`crate::load`]) and tools ([`crate::agent`]).
    pub const LOAD: &str = "load.cpio";
    /// Name of the initramfs for quick tests.
    pub const TINY: &str = "tiny.cpio";

    /// Name of the initramfs that mounts a disk: see [`crate::debian`].
    pub const DISK: &str = "disk.cpio";
    /// Name of the initramfs of `ftvm selftest`: a mixed load (`programs/mix.c`), and a C compiler.
    pub const SELFTEST: &str = "selftest.cpio";

    /// Makes all images in `directory` from packages of `store`. Files that
    /// are as they should be are not written again.
    ///
    /// # Errors
    ///
    /// When a package cannot be had, the kernel is not as expected, or a file
    /// cannot be written.
    pub fn build(store: &PackageStore, directory: &Path) -> Result<Self, ImageError> {
        Self::build_those(store, directory, |_| true)
    }

    /// As [`GuestImages::build`], only those whose names are `wanted`. Others that were made before
    /// stay as they are.
    ///
    /// # Errors
    ///
    /// As [`GuestImages::build`].
    pub fn build_those(
        store: &PackageStore,
        directory: &Path,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Self, ImageError> {
        let mut images = Self {
            directory: directory.to_owned(),
            images: Vec::new(),
        };
        let earlier = Self::open(directory).map_or_else(|_| Vec::new(), |earlier| earlier.images);
        for image in earlier {
            if is_known(&image.name) && images.path(&image.name).is_file() {
                images.add(image);
            }
        }
        let recipes: Vec<_> = RECIPES.iter().filter(|(name, _)| wanted(name)).collect();
        if !recipes.is_empty() {
            let ingredients = Ingredients::unpack(store)?;
            for (name, make) in recipes {
                images.write(name, make(&ingredients)?)?;
            }
        }
        for guest in MicroGuest::all().filter(|guest| wanted(&guest.image())) {
            let contents = Contents {
                bytes: guest.build()?,
                made_of: vec![micro::binutils()?],
            };
            images.write(&guest.image(), contents)?;
        }

        let path = directory.join(MANIFEST);
        let manifest = serde_json::to_vec_pretty(&images.images).expect("images are plain data");
        write_atomically(&path, &manifest).map_err(|source| ImageError::Write { path, source })?;
        Ok(images)
    }

    /// Makes the images again, elsewhere, and gives those that are not the same: as they are in
    /// `directory`, and as they were made again.
    ///
    /// # Errors
    ///
    /// As [`GuestImages::build`].
    pub fn check(
        store: &PackageStore,
        directory: &Path,
    ) -> Result<Vec<(Image, Image)>, ImageError> {
        let first = Self::build(store, directory)?;
        let scratch = tempfile::tempdir_in(directory).map_err(|source| ImageError::Write {
            path: directory.to_owned(),
            source,
        })?;
        let second = Self::build(store, scratch.path())?;
        let pairs = first.images.into_iter().zip(second.images);
        Ok(pairs.filter(|(first, second)| first != second).collect())
    }

    /// The images that are in `directory`: they were made before.
    ///
    /// # Errors
    ///
    /// When they were not.
    pub fn open(directory: &Path) -> Result<Self, ImageError> {
        let path = directory.join(MANIFEST);
        let images = fs::read(&path).and_then(|json| Ok(serde_json::from_slice(&json)?));
        Ok(Self {
            directory: directory.to_owned(),
            images: images.map_err(|source| ImageError::NotMade { path, source })?,
        })
    }

    fn write(
        &mut self,
        name: &str,
        Contents { bytes, made_of }: Contents,
    ) -> Result<(), ImageError> {
        let path = self.directory.join(name);
        write_if_different(&path, &bytes).map_err(|source| ImageError::Write { path, source })?;
        self.add(Image {
            name: name.to_owned(),
            bytes: bytes.len() as u64,
            sha256: format!("{:x}", Sha256::digest(&bytes)),
            made_of,
        });
        Ok(())
    }

    /// Adds an image, in place of an earlier one of its name.
    fn add(&mut self, image: Image) {
        match self
            .images
            .binary_search_by(|other| other.name.cmp(&image.name))
        {
            Ok(place) => self.images[place] = image,
            Err(place) => self.images.insert(place, image),
        }
    }

    /// The images, by name.
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

/// How an image is made.
type Recipe = fn(&Ingredients<'_>) -> Result<Contents, ImageError>;

/// All images but the micro-guests.
const RECIPES: [(&str, Recipe); 7] = [
    (GuestImages::VMLINUX, |made_of| made_of.kernel.vmlinux()),
    (GuestImages::VMLINUX_DEBIAN_13, |made_of| {
        made_of.newer.vmlinux()
    }),
    (GuestImages::TINY, |made_of| made_of.tiny()),
    (GuestImages::DISK, |made_of| made_of.disk()),
    (GuestImages::REDIS, |made_of| made_of.redis()),
    (GuestImages::LOAD, |made_of| made_of.load()),
    (GuestImages::SELFTEST, |made_of| made_of.selftest()),
];

/// Whether an image of this name is made today.
fn is_known(name: &str) -> bool {
    RECIPES.iter().any(|(known, _)| *known == name)
        || MicroGuest::all().any(|guest| guest.image() == name)
}

/// What several images are made of.
struct Ingredients<'a> {
    store: &'a PackageStore,
    kernel: DebianKernel,
    newer: DebianKernel,
    busybox: Package,
}

impl<'a> Ingredients<'a> {
    fn unpack(store: &'a PackageStore) -> Result<Self, ImageError> {
        Ok(Self {
            store,
            kernel: DebianKernel::unpack(store)?,
            newer: DebianKernel::unpack_of(store, Use::Trixie)?,
            busybox: store.package("busybox-static")?,
        })
    }

    /// What every initramfs is made of.
    fn packages(&self) -> [&Package; 3] {
        [&self.kernel.package, &self.newer.package, &self.busybox]
    }

    /// What an initramfs of ours begins with, and the modules of both kernels.
    fn base(&self, init: &[u8]) -> Result<Archive, ImageError> {
        let mut archive = base(&self.busybox, init)?;
        for kernel in [&self.kernel, &self.newer] {
            let directory = format!("modules/{}", kernel.release());
            let modules = kernel.modules()?;
            modules.add_to(&mut archive, &directory, &GUEST_MODULES)?;
        }
        Ok(archive)
    }

    fn tiny(&self) -> Result<Contents, ImageError> {
        let mut tiny = self.base(include_bytes!("init/tiny.sh"))?;
        tiny.file("bin/clock", 0o755, clock::program()?);
        tiny.file("bin/disk", 0o755, disk::program()?);
        tiny.file("bin/count", 0o755, count::SCRIPT);
        let mut contents = Contents::new(tiny.to_bytes(), self.packages());
        contents
            .made_of
            .push(format!("cc {}", compiler::version()?));
        Ok(contents)
    }

    fn disk(&self) -> Result<Contents, ImageError> {
        let mut disk = self.base(include_bytes!("init/disk.sh"))?;
        for kernel in [&self.kernel, &self.newer] {
            let modules = kernel.modules()?;
            modules.add_tree(&mut disk, kernel.release(), &GUEST_MODULES)?;
        }
        Ok(Contents::new(disk.to_bytes(), self.packages()))
    }

    fn redis(&self) -> Result<Contents, ImageError> {
        self.redis_with(Archive::new(), INITTAB, &[])
    }

    fn load(&self) -> Result<Contents, ImageError> {
        let mut files = Archive::new();
        let tsc = compiler::compile("tsc", include_str!("programs/tsc.c"))?;
        files
            .file("usr/bin/tsc", 0o755, tsc)
            .file("usr/bin/load", 0o755, load::SCRIPT)
            .file("usr/bin/agent", 0o755, agent::SCRIPT)
            .file("usr/bin/agent-server", 0o755, agent::SERVER);
        let inittab = format!("{INITTAB}::once:/usr/bin/load\n::respawn:/usr/bin/agent-server\n");
        let tools = ["iperf3", "openssl", "stress-ng"];
        let mut contents = self.redis_with(files, &inittab, &tools)?;
        contents
            .made_of
            .push(format!("cc {}", compiler::version()?));
        Ok(contents)
    }

    fn selftest(&self) -> Result<Contents, ImageError> {
        const LIBRARY: &str = "usr/lib/x86_64-linux-gnu/tcc/libtcc1.a";
        let mut image = self.base(include_bytes!("init/selftest.sh"))?;
        image.file("bin/mix", 0o755, selftest::program()?).file(
            "usr/src/compiled.c",
            0o644,
            selftest::COMPILED,
        );
        let tcc = self.store.package("tcc")?;
        let library = tcc.file(LIBRARY)?;
        image.file(LIBRARY, 0o644, read(&library)?);
        let programs = [("usr/bin/tcc", tcc.file("usr/bin/tcc")?)];
        let mut libraries = PackageLibraries::new(self.store, vec![tcc]);
        add_programs(&mut image, &programs, &mut libraries)?;
        let packages = self.packages().into_iter().chain(libraries.packages());
        let mut contents = Contents::new(image.to_bytes(), packages);
        contents
            .made_of
            .push(format!("cc {}", compiler::version()?));
        Ok(contents)
    }

    /// An initramfs with Redis, with `files`, and with the programs of the
    /// same name of other packages.
    fn redis_with(
        &self,
        files: Archive,
        inittab: &str,
        others: &[&str],
    ) -> Result<Contents, ImageError> {
        let mut redis = self.base(include_bytes!("init/redis.sh"))?;
        redis
            .file("etc/inittab", 0o644, inittab)
            .file("etc/redis.conf", 0o644, include_bytes!("init/redis.conf"))
            .file("etc/announce", 0o755, include_bytes!("init/announce.sh"))
            .merge(files);
        let server = self.store.package("redis-server")?;
        let tools = self.store.package("redis-tools")?;
        // Debian's `redis-server` is a link to this program of redis-tools,
        // which looks at the name that it is called by.
        let mut programs = vec![(
            "usr/bin/redis-server".to_owned(),
            tools.file("usr/bin/redis-check-rdb")?,
        )];
        let mut packages = vec![server, tools];
        for name in others {
            let package = self.store.package(name)?;
            let place = format!("usr/bin/{name}");
            programs.push((place.clone(), package.file(&place)?));
            packages.push(package);
        }
        let programs: Vec<(&str, PathBuf)> = programs
            .iter()
            .map(|(place, file)| (place.as_str(), file.clone()))
            .collect();
        let mut libraries = PackageLibraries::new(self.store, packages);
        add_programs(&mut redis, &programs, &mut libraries)?;
        let packages = self.packages().into_iter().chain(libraries.packages());
        Ok(Contents::new(redis.to_bytes(), packages))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_that_are_not_wanted_stay() {
        let directory = tempfile::tempdir().expect("a directory");
        // These guests are made without packages.
        let store = PackageStore::new(directory.path().join("packages"));
        let build = |wanted: &str| {
            let made = GuestImages::build_those(&store, directory.path(), |name| name == wanted);
            let images = made.expect("images").images;
            images
                .into_iter()
                .map(|image| image.name)
                .collect::<Vec<_>>()
        };
        assert_eq!(build("micro/tsc.elf"), ["micro/tsc.elf"]);
        let both = ["micro/fpu-sse.elf", "micro/tsc.elf"];
        assert_eq!(build("micro/fpu-sse.elf"), both);
        assert_eq!(build("micro/tsc.elf"), both);
        fs::remove_file(directory.path().join("micro/tsc.elf")).expect("it was made");
        assert_eq!(build("micro/fpu-sse.elf"), ["micro/fpu-sse.elf"]);
    }
}
