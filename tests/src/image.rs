//! What hosts boot: Debian's cloud kernel, and an initramfs with its modules, busybox, `ip` and
//! `tc`, ftvm's own programs, and the guest images.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use guest_images::error::ImageError;
use guest_images::libraries::{MachineLibraries, add_programs};
use guest_images::{DebianKernel, GuestImages, Package, PackageStore, images};

use crate::error::{Error, Result};
use crate::layout::{HOST_AGENT, Layout};
use crate::netns::output;

/// Modules of a host; what they depend on comes along.
pub(crate) const HOST_MODULES: [&str; 10] = [
    "virtio_pci",
    "virtio_net",
    "tun",
    "bridge",
    "sch_netem",
    "sch_prio",
    "cls_u32",
    "irqbypass",
    "kvm_amd",
    "nbd",
];

/// Programs of this machine that hosts need.
const MACHINE_PROGRAMS: [&str; 2] = ["ip", "tc"];
/// Programs of the workspace that hosts need.
const PROGRAMS: [&str; 3] = [HOST_AGENT, "ftvm", "disk-server"];

const INIT: &str = include_str!("init/host.sh");
const INITTAB: &str = include_str!("init/inittab");

/// What goes into a host, as it is on this machine now.
#[derive(Debug)]
pub(crate) struct HostImage {
    kernel: DebianKernel,
    busybox: Package,
    /// Their places in the host, and their files here.
    programs: Vec<(String, PathBuf)>,
    guests: Vec<(String, PathBuf)>,
}

impl HostImage {
    /// Finds all of it.
    pub(crate) fn find(layout: &Layout) -> Result<Self> {
        let store = PackageStore::new(layout.packages());
        let guests = GuestImages::open(&layout.images()).map_err(image_error)?;
        let mut programs = Vec::new();
        for name in PROGRAMS {
            programs.push((format!("usr/bin/{name}"), layout.program(name)?));
        }
        for name in MACHINE_PROGRAMS {
            programs.push((format!("usr/sbin/{name}"), machine_program(name)?));
        }
        Ok(Self {
            kernel: DebianKernel::unpack(&store).map_err(image_error)?,
            busybox: store.package("busybox-static").map_err(image_error)?,
            programs,
            guests: guests
                .images()
                .iter()
                .map(|image| (format!("images/{}", image.name), guests.path(&image.name)))
                .collect(),
        })
    }

    /// The compressed kernel.
    pub(crate) fn kernel(&self) -> Result<PathBuf> {
        self.kernel.bzimage().map_err(image_error)
    }

    /// A text that is another one when something of it has changed: sizes and times of files, not
    /// their contents, so that it costs next to nothing.
    pub(crate) fn stamp(&self) -> Result<String> {
        let mut stamp = format!("{HOST_MODULES:?}\n{INIT}\n{INITTAB}\n");
        let packages = [self.kernel()?, self.busybox.root().to_owned()];
        let files = self.programs.iter().chain(&self.guests);
        for path in packages.iter().chain(files.map(|(_, path)| path)) {
            stamp += &file_stamp(path)?;
        }
        Ok(stamp)
    }

    /// Makes the initramfs.
    pub(crate) fn initramfs(&self) -> Result<Vec<u8>> {
        let mut archive = images::base(&self.busybox, INIT.as_bytes()).map_err(image_error)?;
        archive.file("etc/inittab", 0o644, INITTAB);
        self.kernel
            .modules()
            .map_err(image_error)?
            .add_to(&mut archive, "modules", &HOST_MODULES)
            .map_err(image_error)?;
        let copies = tempfile::tempdir().map_err(|source| file_error(Path::new("/tmp"), source))?;
        let programs = (self.programs.iter().enumerate()).map(|(number, (place, path))| {
            let copy = copies.path().join(number.to_string());
            // What debuggers read is four fifths of a program, and hosts have their files in memory.
            let mut strip = Command::new("strip");
            output(strip.arg("--strip-debug").arg("-o").arg(&copy).arg(path))?;
            Ok((place.as_str(), copy))
        });
        let programs: Vec<(&str, PathBuf)> = programs.collect::<Result<_>>()?;
        add_programs(&mut archive, &programs, &mut MachineLibraries).map_err(image_error)?;
        for (place, path) in &self.guests {
            let contents = fs::read(path).map_err(|source| file_error(path, source))?;
            archive.file(place, 0o644, contents);
        }
        Ok(archive.to_bytes())
    }
}

/// Size and time of a file, with its path: a line, which is another one when somebody has written to it.
///
/// # Errors
///
/// When there is no such file.
pub fn file_stamp(path: &Path) -> Result<String> {
    let metadata = fs::metadata(path).map_err(|source| file_error(path, source))?;
    Ok(format!(
        "{} {} {}.{:09}\n",
        path.display(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec()
    ))
}

/// Finds a program of this machine.
pub(crate) fn machine_program(name: &str) -> Result<PathBuf> {
    ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        .into_iter()
        .map(|directory| Path::new(directory).join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| Error::MissingProgram {
            program: name.to_owned(),
            path: Path::new("/usr/sbin").join(name),
        })
}

pub(crate) fn image_error(error: impl Into<ImageError>) -> Error {
    Error::Image(error.into())
}

pub(crate) fn file_error(path: &Path, source: std::io::Error) -> Error {
    Error::File {
        path: path.to_owned(),
        source,
    }
}
