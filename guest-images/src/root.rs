//! Disk images with a Debian root file system.
//!
//! An ext4 file system (no partitions) made of pinned Debian packages ([`crate::lock`]) by `mmdebstrap`. It is the
//! same, bit for bit, whenever the packages are: times are not after one fixed day, identifiers are fixed, and what
//! programs take for random is not (`programs/still.c`).
//!
//! An image is made once: a file beside the unpacked packages remembers of which recipe and packages. Who uses one
//! writes to it: give him a copy. The image has a fixed modification time, and one that was written to is made again.

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

/// No time in the image is later: 1 January 2026, in seconds of Unix time.
const EPOCH: u64 = 1_767_225_600;

/// What an image is made of.
#[derive(Debug)]
pub(crate) struct Root {
    /// The image's name.
    pub(crate) name: &'static str,
    /// Its size in bytes; most of it is a hole.
    pub(crate) bytes: u64,
    /// For what its packages are pinned.
    pub(crate) purpose: Use,
    /// Packages that are installed, with what they need.
    pub(crate) packages: &'static [&'static str],
    /// Files of packages that are left out.
    pub(crate) left_out: &'static [&'static str],
    /// Files that the hooks of mmdebstrap are or need: name, mode, contents. `before.sh` runs before the packages are
    /// set up, if it is there, and `customize.sh` afterwards.
    pub(crate) files: &'static [(&'static str, u32, &'static str)],
}

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

/// What is remembered of an image.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Made {
    recipe: String,
    image: Image,
}

impl Root {
    /// Makes the image in `directory`, unless it is there.
    ///
    /// The packages' archives are kept in the store, for the next time.
    ///
    /// # Errors
    ///
    /// When this is not run as root on a Debian machine with mmdebstrap and
    /// e2fsprogs, when a package cannot be had, or a file cannot be written.
    pub(crate) fn build(
        &self,
        store: &PackageStore,
        directory: &Path,
    ) -> Result<Image, DiskImageError> {
        let path = directory.join(self.name);
        let made_path = store.root().join(format!("{}.json", self.name));
        let recipe = self.recipe(&store.system(self.purpose, self.packages)?);
        if let Some(image) = made(&made_path, &recipe)
            && self.is_untouched(&path)
        {
            return Ok(image);
        }
        log::info!("making {}", path.display());
        let image = self.make(store, directory)?;
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
    /// As [`Root::build`].
    pub(crate) fn check(
        &self,
        store: &PackageStore,
        directory: &Path,
    ) -> Result<(Image, Image), DiskImageError> {
        let first = self.build(store, directory)?;
        let scratch = scratch(directory)?;
        let second = self.make(store, scratch.path())?;
        Ok((first, second))
    }

    fn is_untouched(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|metadata| {
            metadata.len() == self.bytes && metadata.modified().is_ok_and(|time| time == epoch())
        })
    }

    /// A digest of everything that the image depends on.
    fn recipe(&self, pins: &[Pin]) -> String {
        let mut digest = Sha256::new();
        let lists = [self.left_out, &FILE_SYSTEM[..]].concat();
        let texts = self.files.iter().map(|(_, _, text)| *text);
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
        digest.update(self.bytes.to_le_bytes());
        digest.update(EPOCH.to_le_bytes());
        format!("{:x}", digest.finalize())
    }

    fn make(&self, store: &PackageStore, directory: &Path) -> Result<Image, DiskImageError> {
        let archives = store.root().join("debian-root-archives");
        fs::create_dir_all(directory).map_err(|source| file_error(directory, source))?;
        let scratch = scratch(store.root())?;
        let hooks = scratch.path().join("hooks");
        let root = scratch.path().join("root");
        let still = hooks.join("still.so");
        self.write_hooks(&hooks)?;
        let library = compiler::compile_library("still", STILL)?;
        fs::write(&still, library).map_err(|source| file_error(&still, source))?;

        let pins = store.fetch_system(self.purpose, self.packages, &archives)?;
        let repository = scratch.path().join("repository");
        make_repository(self.purpose.release(), &pins, &archives, &repository)?;
        self.install(&pins, &repository, &hooks, &root)?;
        let made_of = installed(&root)?;

        let image = tempfile::Builder::new()
            .prefix(".debian-")
            .permissions(fs::Permissions::from_mode(0o644))
            .tempfile_in(directory)
            .map_err(|source| file_error(directory, source))?;
        image
            .as_file()
            .set_len(self.bytes)
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
        let path = directory.join(self.name);
        image
            .persist(&path)
            .map_err(|error| file_error(&path, error.error))?;
        Ok(Image {
            name: self.name.to_owned(),
            bytes: self.bytes,
            sha256,
            made_of,
        })
    }

    fn write_hooks(&self, directory: &Path) -> Result<(), DiskImageError> {
        fs::create_dir(directory).map_err(|source| file_error(directory, source))?;
        for (name, mode, text) in self.files {
            let path = directory.join(name);
            fs::write(&path, text)
                .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(*mode)))
                .map_err(|source| file_error(&path, source))?;
        }
        Ok(())
    }

    fn install(
        &self,
        pins: &[Pin],
        repository: &Path,
        hooks: &Path,
        root: &Path,
    ) -> Result<(), DiskImageError> {
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
            .env("SOURCE_DATE_EPOCH", EPOCH.to_string());
        for (hook, name) in [("essential", "before.sh"), ("customize", "customize.sh")] {
            let path = hooks.join(name);
            if path.is_file() {
                command.arg(format!("--{hook}-hook={} \"$1\"", quoted(&path)));
            }
        }
        for pattern in self.left_out {
            command.arg(format!("--dpkgopt=path-exclude={pattern}"));
        }
        let release = self.purpose.release();
        // The packages' digests were compared: nobody has to sign for them.
        let source = format!(
            "deb [trusted=yes] copy:{} {release} main",
            repository.display()
        );
        command.arg(release).arg(root).arg(source);
        run(&mut command)?;
        Ok(())
    }
}

fn made(path: &Path, recipe: &str) -> Option<Image> {
    let made: Made = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    (made.recipe == recipe).then_some(made.image)
}

fn epoch() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH)
}

/// Makes a repository of pinned packages, which are in `archives`, for apt.
fn make_repository(
    release: &str,
    pins: &[Pin],
    archives: &Path,
    root: &Path,
) -> Result<(), DiskImageError> {
    let index = root.join(format!("dists/{release}/main/binary-amd64"));
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
    let text = format!(
        "Suite: {suite}\nCodename: {suite}\nArchitectures: amd64\nComponents: main\n\
         SHA256:\n {:x} {} main/binary-amd64/Packages\n",
        Sha256::digest(&packages),
        packages.len(),
        suite = release,
    );
    let release_path = root.join(format!("dists/{release}/Release"));
    for (path, text) in [(index.join("Packages"), packages), (release_path, text)] {
        fs::write(&path, text).map_err(|source| file_error(&path, source))?;
    }
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

    const ROOT: Root = Root {
        name: "test.raw",
        bytes: 1 << 20,
        purpose: Use::Disk,
        packages: &[],
        left_out: &[],
        files: &[],
    };

    #[test]
    fn an_image_that_was_written_to_is_not_taken() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(ROOT.name);
        assert!(!ROOT.is_untouched(&path));
        let image = fs::File::create(&path).expect("an image");
        image.set_len(ROOT.bytes).expect("its size");
        assert!(!ROOT.is_untouched(&path));
        image.set_modified(epoch()).expect("its time");
        assert!(ROOT.is_untouched(&path));
        std::os::unix::fs::FileExt::write_all_at(&image, b"x", 4096).expect("a write");
        drop(image);
        assert!(!ROOT.is_untouched(&path));
    }

    #[test]
    fn an_image_of_another_recipe_does_not_count() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("made.json");
        let image = Image {
            name: ROOT.name.to_owned(),
            bytes: ROOT.bytes,
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
        let [recipe, other] = [pin, other].map(|pin| ROOT.recipe(&[pin]));
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
