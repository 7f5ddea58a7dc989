//! The disk of the guest that measures it: an ext4 file system with fio, a file to read and write,
//! and an init that runs the one on the other.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use guest_images::PackageStore;
use guest_images::error::PackageError;
use guest_images::libraries::{LibrarySource, MachineLibraries, closure};

use crate::error::Error;
use crate::layout::Layout;

/// The machine's own.
const FIO: &str = "/usr/bin/fio";
/// Where Debian's libraries are.
const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu";
/// Bytes of the file that fio works on.
const DATA: u64 = 64 << 20;
/// Size of the file system, for mkfs: fio with its libraries takes 90 MiB.
const SIZE: &str = "256M";

/// This machine's libraries. fio comes with engines for storage that we do not have, whose
/// libraries are in directories of their own; their RUNPATH says so.
struct Libraries;

impl LibrarySource for Libraries {
    fn find(&mut self, soname: &str, wanted_by: &Path) -> Result<Option<PathBuf>, PackageError> {
        if let Some(file) = MachineLibraries.find(soname, wanted_by)? {
            return Ok(Some(file));
        }
        let own =
            |entry: fs::DirEntry| Some(entry.path().join(soname)).filter(|path| path.is_file());
        let directories = fs::read_dir(LIBRARIES).into_iter().flatten().flatten();
        Ok(directories.into_iter().find_map(own))
    }
}

/// Makes the image in a directory.
pub(super) fn make(layout: &Layout, directory: &Path) -> Result<PathBuf, Error> {
    let root = directory.join("fio-root");
    fill(layout, &root)?;
    let image = directory.join("fio.raw");
    let mut mkfs = Command::new("mkfs.ext4");
    mkfs.args([
        "-q",
        "-F",
        "-b",
        "4096",
        "-E",
        "root_owner=0:0,lazy_itable_init=0",
        "-d",
    ])
    .args([&root, &image])
    .arg(SIZE);
    let output = mkfs.output().map_err(|source| Error::Start {
        command: format!("{mkfs:?}"),
        source,
    })?;
    if !output.status.success() {
        return Err(Error::Command {
            command: format!("{mkfs:?}"),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        });
    }
    fs::remove_dir_all(&root).map_err(at(&root))?;
    Ok(image)
}

/// The files that shall be in it.
fn fill(layout: &Layout, root: &Path) -> Result<(), Error> {
    for name in ["bin", "sbin", "usr/bin", "proc", "sys", "dev", "tmp", "run"] {
        let path = root.join(name);
        fs::create_dir_all(&path).map_err(at(&path))?;
    }
    let busybox = PackageStore::new(layout.packages())
        .package("busybox-static")
        .and_then(|package| package.file("bin/busybox"))
        .map_err(|error| Error::Image(error.into()))?;
    let libraries = closure(&[PathBuf::from(FIO)], &mut Libraries)
        .map_err(|error| Error::Image(error.into()))?;
    let files = libraries
        .into_iter()
        .chain([(FIO.to_owned(), PathBuf::from(FIO))])
        .chain([("bin/busybox".to_owned(), busybox)]);
    for (place, file) in files {
        let path = root.join(place.trim_start_matches('/'));
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(at(parent))?;
        }
        fs::copy(&file, &path).map_err(at(&path))?;
    }
    let init = root.join("sbin/init");
    fs::write(&init, include_bytes!("init.sh")).map_err(at(&init))?;
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&init, executable).map_err(at(&init))?;

    // Written, not just allocated: a first write to what is only allocated is another measurement.
    let data = root.join("data");
    let mut bytes = vec![0; 1 << 20];
    let mut random = fastrand::Rng::with_seed(0);
    let mut file = File::create(&data).map_err(at(&data))?;
    for _ in 0..DATA / bytes.len() as u64 {
        random.fill(&mut bytes);
        std::io::Write::write_all(&mut file, &bytes).map_err(at(&data))?;
    }
    Ok(())
}

fn at(path: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    move |source| Error::File {
        path: path.to_owned(),
        source,
    }
}
