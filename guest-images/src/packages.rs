//! Debian packages, as [`crate::lock`] pins them, unpacked below a directory of our own. Nothing is
//! installed.
//!
//! What was unpacked once needs no network and takes no time. A run that is interrupted leaves only
//! temporary directories behind.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use parking_lot::Mutex;

use crate::command::run;
use crate::error::PackageError;
use crate::lock::{Lock, Pin, Use};
use crate::mirror::Mirror;
use crate::renewal::Lists;

/// Unpacked packages below one directory.
#[derive(Debug)]
pub struct PackageStore {
    root: PathBuf,
    /// The archive's newest packages are taken in place of the pinned ones.
    renewal: Option<Renewal>,
    mirror: OnceLock<Mirror>,
}

/// The newest packages, and which of them were asked for.
#[derive(Debug)]
struct Renewal {
    bookworm: Lists,
    trixie: Lists,
    taken: Mutex<Lock>,
}

/// One unpacked package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    name: String,
    version: String,
    root: PathBuf,
    depends: Vec<String>,
}

impl PackageStore {
    /// The store below `root`, which is made when it is first needed.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            renewal: None,
            mirror: OnceLock::new(),
        }
    }

    /// The same, with the newest packages of Debian's archive, as its signed lists name them.
    ///
    /// # Errors
    ///
    /// When the lists cannot be had, or the store cannot be written.
    pub fn renewing(root: impl Into<PathBuf>) -> Result<Self, PackageError> {
        let store = Self::new(root);
        let mirror = store.mirror()?;
        let directory = store.root.join("lists");
        let lists = |purpose: Use| Lists::update(mirror, purpose.release(), &directory);
        // A snapshot is made four times a day: of what was new a moment ago, later.
        let snapshot =
            run(Command::new("date").args(["-u", "-d", "now + 12 hours", "+%Y%m%dT%H%M%SZ"]))?;
        let renewal = Renewal {
            bookworm: lists(Use::Bookworm)?,
            trixie: lists(Use::Trixie)?,
            taken: Mutex::new(Lock {
                snapshot: snapshot.trim().to_owned(),
                ..Lock::default()
            }),
        };
        Ok(Self {
            renewal: Some(renewal),
            ..store
        })
    }

    /// The packages that a renewing store was asked for so far.
    #[must_use]
    pub fn taken(&self) -> Option<Lock> {
        Some(self.renewal.as_ref()?.taken.lock().clone())
    }

    /// The package of Debian 12 called `name`, downloaded and unpacked.
    ///
    /// # Errors
    ///
    /// When it is not pinned or cannot be downloaded, or the store cannot be written.
    pub fn package(&self, name: &str) -> Result<Package, PackageError> {
        self.package_for(Use::Bookworm, name)
    }

    /// The same, if it is unpacked already: for a test, which needs no network.
    ///
    /// # Errors
    ///
    /// When it is not pinned, or the store cannot be read.
    pub fn at_hand(&self, name: &str) -> Result<Option<Package>, PackageError> {
        let pin = self.pin(Use::Bookworm, name)?;
        match self.place(&pin).is_dir() {
            true => self.package(name).map(Some),
            false => Ok(None),
        }
    }

    /// As [`PackageStore::package`], for some use.
    ///
    /// # Errors
    ///
    /// As [`PackageStore::package`].
    pub fn package_for(&self, purpose: Use, name: &str) -> Result<Package, PackageError> {
        let pin = self.pin(purpose, name)?;
        let root = self.place(&pin);
        if !root.is_dir() {
            self.unpack(&pin, &root)?;
        }
        let control = root.join("DEBIAN/control");
        let record =
            fs::read_to_string(&control).map_err(|source| self.store_error(&control, source))?;
        Ok(Package {
            name: name.to_owned(),
            version: pin.version,
            root,
            depends: dependencies(&record),
        })
    }

    fn pin(&self, purpose: Use, name: &str) -> Result<Pin, PackageError> {
        Ok(match &self.renewal {
            Some(renewal) => {
                let pin = renewal.lists(purpose).newest(name)?;
                renewal.take(purpose, [&pin]);
                pin
            }
            None => Lock::committed()?
                .pins
                .remove(&(purpose, name.to_owned()))
                .ok_or_else(|| PackageError::Unknown {
                    name: name.to_owned(),
                })?,
        })
    }

    /// Where a package is, once it is unpacked.
    fn place(&self, pin: &Pin) -> PathBuf {
        self.root.join(format!(
            "{}_{}_{}",
            pin.name,
            // It would separate entries of a library path.
            pin.version.replace(':', "%3a"),
            pin.architecture
        ))
    }

    /// The package that the metapackage `name` depends on and whose name
    /// begins with `prefix`: today's `linux-image-6.1.0-…-cloud-amd64` for
    /// `linux-image-cloud-amd64`.
    ///
    /// # Errors
    ///
    /// As [`PackageStore::package`]; also when there is no such dependency.
    pub fn behind(&self, name: &str, prefix: &str) -> Result<Package, PackageError> {
        self.behind_for(Use::Bookworm, name, prefix)
    }

    /// As [`PackageStore::behind`], for some use.
    ///
    /// # Errors
    ///
    /// As [`PackageStore::behind`].
    pub fn behind_for(
        &self,
        purpose: Use,
        name: &str,
        prefix: &str,
    ) -> Result<Package, PackageError> {
        let meta = self.package_for(purpose, name)?;
        let real = meta
            .depends()
            .find(|dependency| dependency.starts_with(prefix))
            .ok_or_else(|| PackageError::Unknown {
                name: format!("{prefix}…, wanted by {name}"),
            })?;
        self.package_for(purpose, real)
    }

    /// The packages of a disk image, which has these with all that they need, as files in
    /// `directory`.
    ///
    /// # Errors
    ///
    /// As [`PackageStore::package`].
    pub fn fetch_system(
        &self,
        purpose: Use,
        with: &[&str],
        directory: &Path,
    ) -> Result<Vec<Pin>, PackageError> {
        let pins = self.system(purpose, with)?;
        fs::create_dir_all(directory).map_err(|source| self.store_error(directory, source))?;
        self.fetch(&pins.iter().collect::<Vec<_>>(), directory)?;
        Ok(pins)
    }

    /// As [`PackageStore::fetch_system`], without the files.
    ///
    /// # Errors
    ///
    /// When one is not known.
    pub fn system(&self, purpose: Use, with: &[&str]) -> Result<Vec<Pin>, PackageError> {
        match &self.renewal {
            Some(renewal) => {
                let pins = renewal.lists(purpose).system(with)?;
                renewal.take(purpose, &pins);
                Ok(pins)
            }
            None => Ok(Lock::committed()?.of(purpose).cloned().collect()),
        }
    }

    /// The directory that the store is in.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn mirror(&self) -> Result<&Mirror, PackageError> {
        if let Some(mirror) = self.mirror.get() {
            return Ok(mirror);
        }
        let mirror = Mirror::configured()?;
        Ok(self.mirror.get_or_init(|| mirror))
    }

    fn fetch(&self, pins: &[&Pin], directory: &Path) -> Result<(), PackageError> {
        let snapshot = match self.taken() {
            Some(taken) => taken.snapshot,
            None => Lock::committed()?.snapshot,
        };
        self.mirror()?.fetch(pins, &snapshot, directory)
    }

    fn unpack(&self, pin: &Pin, target: &Path) -> Result<(), PackageError> {
        log::info!("downloading {} {}", pin.name, pin.version);
        fs::create_dir_all(&self.root).map_err(|source| self.store_error(&self.root, source))?;
        let scratch = tempfile::Builder::new()
            .prefix(".download-")
            .tempdir_in(&self.root)
            .map_err(|source| self.store_error(&self.root, source))?;
        self.fetch(&[pin], scratch.path())?;
        let archive = scratch.path().join(pin.file_name());
        let files = scratch.path().join("files");
        run(Command::new("dpkg-deb")
            .arg("--raw-extract")
            .arg(&archive)
            .arg(&files))?;
        match fs::rename(&files, target) {
            // Another run of ours was quicker with the same package.
            Err(_) if target.is_dir() => Ok(()),
            result => result.map_err(|source| self.store_error(target, source)),
        }
    }

    fn store_error(&self, path: &Path, source: io::Error) -> PackageError {
        PackageError::Store {
            path: path.to_owned(),
            source,
        }
    }
}

impl Renewal {
    fn lists(&self, purpose: Use) -> &Lists {
        match purpose {
            Use::Bookworm | Use::Disk | Use::Host => &self.bookworm,
            Use::Trixie => &self.trixie,
        }
    }

    fn take<'a>(&self, purpose: Use, pins: impl IntoIterator<Item = &'a Pin>) {
        let mut taken = self.taken.lock();
        for pin in pins {
            taken.pins.insert((purpose, pin.name.clone()), pin.clone());
        }
    }
}

impl Package {
    /// The package's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its version, in Debian's notation.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The directory it is unpacked in.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Names of the packages it depends on; of alternatives, all.
    pub fn depends(&self) -> impl Iterator<Item = &str> {
        self.depends.iter().map(String::as_str)
    }

    /// A file of the package by its path in the file system (without leading
    /// slash), symbolic links followed within the package.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<PathBuf> {
        let mut path = self.root.join(path);
        for _ in 0..8 {
            let Ok(target) = fs::read_link(&path) else {
                return path.is_file().then_some(path);
            };
            path = match target.strip_prefix("/") {
                Ok(absolute) => self.root.join(absolute),
                Err(_) => normalise(&path.parent()?.join(target)),
            };
        }
        None
    }

    /// As [`Package::find`], for a file that the package must have.
    ///
    /// # Errors
    ///
    /// When it has not.
    pub fn file(&self, path: &str) -> Result<PathBuf, PackageError> {
        self.find(path).ok_or_else(|| PackageError::MissingFile {
            package: self.name.clone(),
            version: self.version.clone(),
            file: path.to_owned(),
        })
    }
}

/// Removes `..` from a path by its letters alone.
fn normalise(path: &Path) -> PathBuf {
    let mut result = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                result.pop();
            }
            other => result.push(other),
        }
    }
    result
}

/// The packages that a package's control file says it depends on; of alternatives, all.
fn dependencies(control: &str) -> Vec<String> {
    let field = |name: &str| {
        control
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .map(str::trim)
    };
    let mut seen = BTreeSet::new();
    [field("Pre-Depends"), field("Depends")]
        .into_iter()
        .flatten()
        .flat_map(|list| list.split([',', '|']))
        .filter_map(|one| one.split([' ', '(', ':']).find(|word| !word.is_empty()))
        .filter(|name| seen.insert(*name))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_file_gives_dependencies() {
        let depends = dependencies(
            "Package: redis-server\nVersion: 5:7.0.15-1\nPre-Depends: init-system-helpers (>= 1.54~)\n\
             Depends: lsb-base (>= 3.2-14) | sysvinit-utils, redis-tools (= 5:7.0.15-1), python3:any\n",
        );
        let expected = [
            "init-system-helpers",
            "lsb-base",
            "sysvinit-utils",
            "redis-tools",
            "python3",
        ];
        assert_eq!(depends, expected);
        assert!(dependencies("").is_empty());
    }

    #[test]
    fn a_package_that_is_not_pinned_is_not_fetched() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = PackageStore::new(directory.path());
        let error = store.package("no-such-package").expect_err("not pinned");
        assert!(matches!(error, PackageError::Unknown { .. }), "{error}");
        // What is pinned for one use is not for another.
        let error = store.package_for(Use::Trixie, "redis-server");
        assert!(matches!(error, Err(PackageError::Unknown { .. })));
        assert_eq!(store.taken(), None);
    }

    #[test]
    fn links_are_followed_inside_the_package() {
        let store = tempfile::tempdir().expect("a temporary directory");
        let root = store.path().join("demo_1");
        fs::create_dir_all(root.join("usr/lib")).expect("a directory");
        fs::write(root.join("usr/lib/real.so"), b"x").expect("a file");
        for (target, link) in [
            ("real.so", "usr/lib/a.so"),
            ("/usr/lib/a.so", "b.so"),
            ("../usr/lib/real.so", "usr/c.so"),
            ("loop", "loop"),
        ] {
            std::os::unix::fs::symlink(target, root.join(link)).expect("a link");
        }
        let package = Package {
            name: "demo".to_owned(),
            version: "1".to_owned(),
            root,
            depends: Vec::new(),
        };
        for path in [
            "usr/lib/real.so",
            "usr/lib/a.so",
            "b.so",
            "usr/lib/../../b.so",
        ] {
            assert!(package.find(path).is_some(), "{path}");
        }
        for path in ["loop", "missing", "usr/lib"] {
            assert_eq!(package.find(path), None, "{path}");
        }
        assert!(matches!(
            package.file("missing"),
            Err(PackageError::MissingFile { .. })
        ));
    }
}
