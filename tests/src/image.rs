//! The initramfs that hosts boot: Debian's cloud kernel's modules, busybox,
//! `ip` and `tc`, ftvm's own programs, and the guest images.

use std::fs;
use std::path::{Path, PathBuf};

use guest_images::libraries::{MachineLibraries, add_programs};
use guest_images::{DebianKernel, GuestImages, PackageStore, files, images};

use crate::error::{Error, Result};
use crate::layout::Layout;

/// Modules of a host; what they depend on comes along.
const HOST_MODULES: [&str; 10] = [
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

/// What a host boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostImage {
    /// The compressed kernel.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initrd: PathBuf,
}

impl HostImage {
    /// Makes the image from the programs and guest images that are there now.
    /// A file that is as it should be is not written again.
    ///
    /// # Errors
    ///
    /// When a package or program is missing, or a file cannot be written.
    pub fn build(layout: &Layout) -> Result<Self> {
        let store = PackageStore::new(layout.packages());
        let guests = GuestImages::build(&store, &layout.images())?;
        let kernel = DebianKernel::unpack(&store)?;
        let busybox = store.package("busybox-static").map_err(images_error)?;

        let mut archive = images::base(&busybox, include_bytes!("init/host.sh"))?;
        archive.file("etc/inittab", 0o644, include_bytes!("init/inittab"));
        kernel
            .modules()?
            .add_to(&mut archive, "modules", &HOST_MODULES)
            .map_err(images_error)?;

        let mut programs = vec![("usr/bin/host-agent", layout.program("host-agent")?)];
        for (place, name) in [
            ("usr/bin/ftvm", "ftvm"),
            ("usr/bin/disk-server", "disk-server"),
        ] {
            match layout.program(name) {
                Ok(path) => programs.push((place, path)),
                Err(error) => log::warn!("hosts will be without {name}: {error}"),
            }
        }
        let machine: Vec<(String, PathBuf)> = MACHINE_PROGRAMS
            .into_iter()
            .map(|name| Ok((format!("usr/sbin/{name}"), machine_program(name)?)))
            .collect::<Result<_>>()?;
        programs.extend(
            machine
                .iter()
                .map(|(place, path)| (place.as_str(), path.clone())),
        );
        add_programs(&mut archive, &programs, &mut MachineLibraries).map_err(images_error)?;

        for image in guests.images() {
            let path = guests.path(&image.name);
            let contents = fs::read(&path).map_err(|source| file_error(&path, source))?;
            archive.file(&format!("images/{}", image.name), 0o644, contents);
        }
        let initrd = layout.host_initrd();
        files::write_if_different(&initrd, &archive.to_bytes())
            .map_err(|source| file_error(&initrd, source))?;
        Ok(Self {
            kernel: kernel.bzimage()?,
            initrd,
        })
    }
}

fn images_error(error: impl Into<guest_images::error::ImageError>) -> Error {
    Error::Image(error.into())
}

fn file_error(path: &Path, source: std::io::Error) -> Error {
    Error::File {
        path: path.to_owned(),
        source,
    }
}

/// Finds a program of this machine.
fn machine_program(name: &str) -> Result<PathBuf> {
    ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        .into_iter()
        .map(|directory| Path::new(directory).join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| Error::MissingProgram {
            program: name.to_owned(),
            path: Path::new("/usr/sbin").join(name),
        })
}
