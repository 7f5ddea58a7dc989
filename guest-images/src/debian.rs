//! A disk image with a Debian root file system, for guests with a disk.
//!
//! `debian.raw` is an ext4 file system (no partitions) with systemd,
//! PostgreSQL, fio, a C compiler and an agent ([`crate::agent`]), made of
//! pinned Debian packages ([`crate::lock`]) by `mmdebstrap`; `disk.cpio` ([`crate::images`])
//! mounts it. It is the same, bit for bit, whenever the packages are: times are not after one
//! fixed day, identifiers are fixed, and what programs take for random is not
//! (`programs/still.c`).
//!
//! An image is made once: `debian-root.json` beside the unpacked packages
//! remembers of which recipe and packages. A guest writes to its disk: give it a
//! copy. The image has a fixed modification time, and one that was written to is
//! made again.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::command::run;
use crate::compiler;
use crate::error::DiskImageError;
use crate::files::write_atomically;
use crate::images::Image;
use crate::lock::{Pin, Use};
use crate::packages::PackageStore;

/// The image's name.
pub const NAME: &str = "debian.raw";

/// Its size in bytes; most of it is a hole.
pub const BYTES: u64 = 1536 << 20;

/// Memory that the guest needs, in MiB.
pub const MEMORY_MIB: u32 = 256;

/// The line on the console when PostgreSQL takes connections.
pub const POSTGRES_READY: &str = "ftvm-guest: postgres ready";

/// No time in the image is later: 1 January 2026, in seconds of Unix time.
const EPOCH: u64 = 1_767_225_600;

/// Packages that are installed, with what they need.
const PACKAGES: [&str; 12] = [
    "systemd-sysv",
    "postgresql",
    "fio",
    "gcc",
    "libc6-dev",
    "python3-minimal",
    "iproute2",
    "iputils-ping",
    "procps",
    "kmod",
    "e2fsprogs",
    "util-linux",
];

/// Files of packages that are left out: documentation, translations, and
/// PostgreSQL's compiler for expressions, which it goes without if it is not there.
const LEFT_OUT: [&str; 7] = [
    "/usr/share/man/*",
    "/usr/share/doc/*",
    "/usr/share/locale/*",
    "/usr/share/i18n/*",
    "/usr/lib/postgresql/*/lib/bitcode/*",
    "/usr/lib/postgresql/*/lib/llvmjit*",
    "/usr/lib/x86_64-linux-gnu/libLLVM*",
];

/// Arguments of mke2fs.
const FILE_SYSTEM: [&str; 9] = [
    "-q",
    "-t",
    "ext4",
    "-L",
    "ftvm",
    "-U",
    "6674766d-0000-4000-8000-000000000001",
    "-E",
    "hash_seed=6674766d-0000-4000-8000-000000000002,lazy_itable_init=0,lazy_journal_init=0",
];

const STILL: &str = include_str!("programs/still.c");

/// Files that the hooks of mmdebstrap are or need: name, mode, contents.
const FILES: [(&str, u32, &str); 8] = [
    ("agent.service", 0o644, include_str!("debian/agent.service")),
    ("agent.sh", 0o755, crate::agent::SCRIPT),
    ("agent.socket", 0o644, include_str!("debian/agent.socket")),
    ("before.sh", 0o755, include_str!("debian/before.sh")),
    ("customize.sh", 0o755, include_str!("debian/customize.sh")),
    (
        "console.service",
        0o644,
        include_str!("debian/console.service"),
    ),
    ("ready.service", 0o644, include_str!("debian/ready.service")),
    ("ready.sh", 0o755, include_str!("debian/ready.sh")),
];

/// What is remembered of an image.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Made {
    recipe: String,
    image: Image,
}

/// Makes the image in `directory`, unless it is there.
///
/// The packages' archives are kept in the store, for the next time.
///
/// # Errors
///
/// When this is not run as root on a Debian machine with mmdebstrap and
/// e2fsprogs, when a package cannot be had, or a file cannot be written.
pub fn build(store: &PackageStore, directory: &Path) -> Result<Image, DiskImageError> {
    let path = directory.join(NAME);
    let made_path = store.root().join("debian-root.json");
    let recipe = recipe(&store.system(&PACKAGES)?);
    if let Some(image) = made(&made_path, &recipe)
        && is_untouched(&path)
    {
        return Ok(image);
    }
    log::info!("making {}", path.display());
    let image = make(store, directory)?;
    let made = Made { recipe, image };
    let bytes = serde_json::to_vec_pretty(&made).expect("plain data");
    write_atomically(&made_path, &bytes).map_err(|source| file_error(&made_path, source))?;
    Ok(made.image)
}

/// Makes the image again, elsewhere, and compares it with the one in
/// `directory`: tells both digests.
///
/// # Errors
///
/// As [`build`].
pub fn check(store: &PackageStore, directory: &Path) -> Result<(Image, Image), DiskImageError> {
    let first = build(store, directory)?;
    let scratch = scratch(directory)?;
    let second = make(store, scratch.path())?;
    Ok((first, second))
}

fn made(path: &Path, recipe: &str) -> Option<Image> {
    let made: Made = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    (made.recipe == recipe).then_some(made.image)
}

fn is_untouched(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| {
        metadata.len() == BYTES && metadata.modified().is_ok_and(|time| time == epoch())
    })
}

fn epoch() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH)
}

/// A digest of everything that the image depends on.
fn recipe(pins: &[Pin]) -> String {
    let mut digest = Sha256::new();
    let lists = [&LEFT_OUT[..], &FILE_SYSTEM[..]].concat();
    let texts = FILES.iter().map(|(_, _, text)| *text);
    let packages = pins.iter().map(|pin| pin.sha256.as_str());
    for part in [STILL]
        .into_iter()
        .chain(lists)
        .chain(texts)
        .chain(packages)
    {
        digest.update(part.len().to_le_bytes());
        digest.update(part);
    }
    digest.update(BYTES.to_le_bytes());
    digest.update(EPOCH.to_le_bytes());
    format!("{:x}", digest.finalize())
}

fn make(store: &PackageStore, directory: &Path) -> Result<Image, DiskImageError> {
    let archives = store.root().join("debian-root-archives");
    fs::create_dir_all(directory).map_err(|source| file_error(directory, source))?;
    let scratch = scratch(store.root())?;
    let hooks = scratch.path().join("hooks");
    let root = scratch.path().join("root");
    let still = hooks.join("still.so");
    write_hooks(&hooks)?;
    let library = compiler::compile_library("still", STILL)?;
    fs::write(&still, library).map_err(|source| file_error(&still, source))?;

    let pins = store.fetch_system(&PACKAGES, &archives)?;
    let repository = scratch.path().join("repository");
    make_repository(&pins, &archives, &repository)?;
    install(&pins, &repository, &hooks, &root)?;
    let made_of = installed(&root)?;

    let image = tempfile::Builder::new()
        .prefix(".debian-")
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(directory)
        .map_err(|source| file_error(directory, source))?;
    image
        .as_file()
        .set_len(BYTES)
        .map_err(|source| file_error(image.path(), source))?;
    let mut mke2fs = Command::new("mke2fs");
    mke2fs
        .args(FILE_SYSTEM)
        .arg("-d")
        .arg(&root)
        .arg(image.path())
        .env("LD_PRELOAD", &still)
        .env("E2FSPROGS_FAKE_TIME", EPOCH.to_string());
    run(&mut mke2fs)?;
    image
        .as_file()
        .set_modified(epoch())
        .map_err(|source| file_error(image.path(), source))?;
    let sha256 = digest(image.path())?;
    let path = directory.join(NAME);
    image
        .persist(&path)
        .map_err(|error| file_error(&path, error.error))?;
    Ok(Image {
        name: NAME.to_owned(),
        bytes: BYTES,
        sha256,
        made_of,
    })
}

fn write_hooks(directory: &Path) -> Result<(), DiskImageError> {
    fs::create_dir(directory).map_err(|source| file_error(directory, source))?;
    for (name, mode, text) in FILES {
        let path = directory.join(name);
        fs::write(&path, text)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(mode)))
            .map_err(|source| file_error(&path, source))?;
    }
    Ok(())
}

/// Makes a repository of pinned packages, which are in `archives`, for apt.
fn make_repository(pins: &[Pin], archives: &Path, root: &Path) -> Result<(), DiskImageError> {
    let index = root.join(format!("dists/{}/main/binary-amd64", Use::Disk.release()));
    let pool = root.join("pool");
    for directory in [&index, &pool] {
        fs::create_dir_all(directory).map_err(|source| file_error(directory, source))?;
    }
    let mut packages = String::new();
    for pin in pins {
        let archive = archives.join(pin.file_name());
        let copy = pool.join(pin.file_name());
        let bytes = fs::hard_link(&archive, &copy)
            .and_then(|()| fs::metadata(&copy))
            .map_err(|source| file_error(&copy, source))?
            .len();
        let control = run(Command::new("dpkg-deb").arg("--field").arg(&archive))?;
        packages.push_str(&format!(
            "{control}Filename: pool/{}\nSize: {bytes}\nSHA256: {}\n\n",
            pin.file_name(),
            pin.sha256
        ));
    }
    let release = format!(
        "Suite: {suite}\nCodename: {suite}\nArchitectures: amd64\nComponents: main\n\
         SHA256:\n {:x} {} main/binary-amd64/Packages\n",
        Sha256::digest(&packages),
        packages.len(),
        suite = Use::Disk.release(),
    );
    let release_path = root.join(format!("dists/{}/Release", Use::Disk.release()));
    for (path, text) in [(index.join("Packages"), packages), (release_path, release)] {
        fs::write(&path, text).map_err(|source| file_error(&path, source))?;
    }
    Ok(())
}

fn install(
    pins: &[Pin],
    repository: &Path,
    hooks: &Path,
    root: &Path,
) -> Result<(), DiskImageError> {
    let hook = |name: &str| format!("{} \"$1\"", quoted(&hooks.join(name)));
    let names: Vec<&str> = pins.iter().map(|pin| pin.name.as_str()).collect();
    let mut command = Command::new("mmdebstrap");
    command
        .args([
            "--quiet",
            "--variant=minbase",
            "--mode=root",
            "--format=directory",
            "--architectures=amd64",
        ])
        .arg(format!("--include={}", names.join(",")))
        .arg("--dpkgopt=force-unsafe-io")
        .arg("--aptopt=APT::Sandbox::User \"root\"")
        .arg(format!("--essential-hook={}", hook("before.sh")))
        .arg(format!("--customize-hook={}", hook("customize.sh")))
        .env("SOURCE_DATE_EPOCH", EPOCH.to_string());
    for pattern in LEFT_OUT {
        command.arg(format!("--dpkgopt=path-exclude={pattern}"));
    }
    // The packages' digests were compared: nobody has to sign for them.
    let source = format!(
        "deb [trusted=yes] copy:{} {suite} main",
        repository.display(),
        suite = Use::Disk.release()
    );
    command.arg(Use::Disk.release()).arg(root).arg(source);
    run(&mut command)?;
    Ok(())
}

/// A path as a word of a shell command.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', r"'\''"))
}

/// The packages in a root, with their versions.
fn installed(root: &Path) -> Result<Vec<String>, DiskImageError> {
    let mut admin = OsString::from("--admindir=");
    admin.push(root.join("var/lib/dpkg"));
    let list = run(Command::new("dpkg-query").arg(admin).args([
        "--show",
        "--showformat",
        "${Package} ${Version}\n",
    ]))?;
    Ok(list.lines().map(str::to_owned).collect())
}

/// By coreutils: this program may be a debug build, which takes a minute for it.
fn digest(path: &Path) -> Result<String, DiskImageError> {
    let line = run(Command::new("sha256sum").arg(path))?;
    // A leading backslash says that the path is quoted.
    let digest = line.split(' ').next().unwrap_or_default();
    Ok(digest.trim_start_matches('\\').to_owned())
}

fn scratch(directory: &Path) -> Result<tempfile::TempDir, DiskImageError> {
    tempfile::Builder::new()
        .prefix(".debian-")
        .tempdir_in(directory)
        .map_err(|source| file_error(directory, source))
}

fn file_error(path: &Path, source: io::Error) -> DiskImageError {
    DiskImageError::File {
        path: PathBuf::from(path),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_was_written_to_is_not_taken() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(NAME);
        assert!(!is_untouched(&path));
        let image = fs::File::create(&path).expect("an image");
        image.set_len(BYTES).expect("its size");
        assert!(!is_untouched(&path));
        image.set_modified(epoch()).expect("its time");
        assert!(is_untouched(&path));
        std::os::unix::fs::FileExt::write_all_at(&image, b"x", 4096).expect("a write");
        drop(image);
        assert!(!is_untouched(&path));
    }

    #[test]
    fn an_image_of_another_recipe_does_not_count() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("made.json");
        let image = Image {
            name: NAME.to_owned(),
            bytes: BYTES,
            sha256: "0".repeat(64),
            made_of: vec!["fio 1".to_owned()],
        };
        let pin = Pin {
            name: "fio".to_owned(),
            version: "1".to_owned(),
            architecture: "amd64".to_owned(),
            path: "debian/pool/fio.deb".to_owned(),
            sha256: "1".repeat(64),
        };
        let other = Pin {
            sha256: "2".repeat(64),
            ..pin.clone()
        };
        let [recipe, other] = [pin, other].map(|pin| recipe(&[pin]));
        let was = Made {
            recipe: recipe.clone(),
            image: image.clone(),
        };
        fs::write(&path, serde_json::to_vec(&was).expect("JSON")).expect("it is remembered");
        assert_eq!(made(&path, &recipe), Some(image));
        assert_eq!(made(&path, &other), None);
    }

    #[test]
    fn paths_are_quoted_for_the_shell() {
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
