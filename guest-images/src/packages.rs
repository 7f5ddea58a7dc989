//! Debian packages, downloaded and verified by apt, unpacked below a directory
//! of our own. Nothing is installed.
//!
//! A package that was unpacked once is *pinned* (`<name>.json` next to its
//! directory), so that later runs give the same images, need no network and
//! take no time. [`PackageStore::forget`] drops the pins. A run that is
//! interrupted leaves only temporary directories behind.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use crate::error::PackageError;

/// Unpacked packages below one directory.
#[derive(Debug)]
pub struct PackageStore {
    root: PathBuf,
    /// Whether the package lists were updated: once is enough.
    updated: AtomicBool,
}

/// One unpacked package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    name: String,
    root: PathBuf,
    pin: Pin,
}

/// What is remembered of an unpacked package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Pin {
    version: String,
    /// Packages it depends on, alternatives one after the other.
    depends: Vec<String>,
}

impl PackageStore {
    /// The store below `root`, which is made when it is first needed.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            updated: AtomicBool::new(false),
        }
    }

    /// The package called `name`: the pinned version, or the one that apt
    /// would install, downloaded and unpacked.
    ///
    /// # Errors
    ///
    /// When apt does not know the package or cannot download it, or the store
    /// cannot be written.
    pub fn package(&self, name: &str) -> Result<Package, PackageError> {
        if let Some(package) = self.pinned(name) {
            return Ok(package);
        }
        match self.fetch(name) {
            // The lists may be missing (a fresh machine) or out of date (the
            // archive dropped the version that they name).
            Err(PackageError::Unknown { .. } | PackageError::Command { .. })
                if !self.updated.swap(true, Ordering::Relaxed) =>
            {
                self.update()?;
                self.fetch(name)
            }
            result => result,
        }
    }

    /// The package that the metapackage `name` depends on and whose name
    /// begins with `prefix`: today's `linux-image-6.1.0-…-cloud-amd64` for
    /// `linux-image-cloud-amd64`.
    ///
    /// # Errors
    ///
    /// As [`PackageStore::package`]; also when there is no such dependency.
    pub fn behind(&self, name: &str, prefix: &str) -> Result<Package, PackageError> {
        let meta = self.package(name)?;
        let real = meta
            .depends()
            .find(|dependency| dependency.starts_with(prefix))
            .ok_or_else(|| PackageError::Unknown {
                name: format!("{prefix}…, wanted by {name}"),
            })?;
        self.package(real)
    }

    /// Has apt update its package lists.
    ///
    /// # Errors
    ///
    /// When apt cannot.
    pub fn update(&self) -> Result<(), PackageError> {
        log::info!("updating the package lists");
        run(Command::new("apt-get").args(["-q", "update"]))?;
        Ok(())
    }

    /// The directory that the store is in.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Drops every pin: the next call gets the archive's newest versions.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn forget(&self) -> Result<(), PackageError> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(self.store_error(&self.root, source)),
        };
        for entry in entries {
            let path = entry
                .map_err(|source| self.store_error(&self.root, source))?
                .path();
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                fs::remove_file(&path).map_err(|source| self.store_error(&path, source))?;
            }
        }
        Ok(())
    }

    fn pinned(&self, name: &str) -> Option<Package> {
        let pin = fs::read(self.pin_path(name)).ok()?;
        let pin: Pin = serde_json::from_slice(&pin).ok()?;
        let root = self.directory(name, &pin.version);
        root.is_dir().then(|| Package {
            name: name.to_owned(),
            root,
            pin,
        })
    }

    fn fetch(&self, name: &str) -> Result<Package, PackageError> {
        let pin = candidate(name)?;
        let directory = self.directory(name, &pin.version);
        if !directory.is_dir() {
            self.unpack(name, &pin.version, &directory)?;
        }
        let path = self.pin_path(name);
        let bytes = serde_json::to_vec_pretty(&pin).expect("a pin is plain data");
        crate::files::write_atomically(&path, &bytes)
            .map_err(|source| self.store_error(&path, source))?;
        Ok(Package {
            name: name.to_owned(),
            root: directory,
            pin,
        })
    }

    fn unpack(&self, name: &str, version: &str, target: &Path) -> Result<(), PackageError> {
        log::info!("downloading {name} {version}");
        fs::create_dir_all(&self.root).map_err(|source| self.store_error(&self.root, source))?;
        let scratch = tempfile::Builder::new()
            .prefix(".download-")
            .tempdir_in(&self.root)
            .map_err(|source| self.store_error(&self.root, source))?;
        // The sandbox user may not enter our directory, and apt would warn of it.
        run(Command::new("apt-get")
            .args(["-q", "-o", "APT::Sandbox::User=root", "download"])
            .arg(format!("{name}={version}"))
            .current_dir(scratch.path()))?;
        let archive = fs::read_dir(scratch.path())
            .and_then(|mut entries| entries.next().transpose())
            .map_err(|source| self.store_error(scratch.path(), source))?
            .ok_or_else(|| PackageError::Unknown {
                name: name.to_owned(),
            })?
            .path();
        let files = scratch.path().join("files");
        run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&files))?;
        match fs::rename(&files, target) {
            // Another run of ours was quicker with the same package.
            Err(_) if target.is_dir() => Ok(()),
            result => result.map_err(|source| self.store_error(target, source)),
        }
    }

    /// Where a version of a package is unpacked. A colon (of an epoch) is
    /// replaced: it would separate entries of a library path.
    fn directory(&self, name: &str, version: &str) -> PathBuf {
        self.root
            .join(format!("{name}_{}", version.replace(':', "%3a")))
    }

    fn pin_path(&self, name: &str) -> PathBuf {
        self.root.join(format!("{name}.json"))
    }

    fn store_error(&self, path: &Path, source: io::Error) -> PackageError {
        PackageError::Store {
            path: path.to_owned(),
            source,
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
        &self.pin.version
    }

    /// The directory it is unpacked in.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Names of the packages it depends on; of alternatives, all.
    pub fn depends(&self) -> impl Iterator<Item = &str> {
        self.pin.depends.iter().map(String::as_str)
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
            version: self.pin.version.clone(),
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

/// Asks apt which version it would install.
fn candidate(name: &str) -> Result<Pin, PackageError> {
    let unknown = || PackageError::Unknown {
        name: name.to_owned(),
    };
    let record = run(Command::new("apt-cache").args(["show", "--no-all-versions", name])).map_err(
        |error| match error {
            PackageError::Command { .. } => unknown(),
            other => other,
        },
    )?;
    parse_record(&record).ok_or_else(unknown)
}

/// Version and dependencies out of a package's record.
fn parse_record(record: &str) -> Option<Pin> {
    let field = |name: &str| {
        record
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .map(str::trim)
    };
    let mut seen = BTreeSet::new();
    let depends = [field("Pre-Depends"), field("Depends")]
        .into_iter()
        .flatten()
        .flat_map(|list| list.split([',', '|']))
        .filter_map(|one| one.split([' ', '(', ':']).find(|word| !word.is_empty()))
        .filter(|name| seen.insert(*name))
        .map(str::to_owned)
        .collect();
    Some(Pin {
        version: field("Version")?.to_owned(),
        depends,
    })
}

fn run(command: &mut Command) -> Result<String, PackageError> {
    let line = format!("{command:?}");
    let output = command
        .env("LC_ALL", "C.UTF-8")
        .output()
        .map_err(|source| PackageError::Start {
            command: line.clone(),
            source,
        })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(PackageError::Command {
        command: line,
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_gives_version_and_dependencies() {
        let pin = parse_record(
            "Package: redis-server\nVersion: 5:7.0.15-1\nPre-Depends: init-system-helpers (>= 1.54~)\n\
             Depends: lsb-base (>= 3.2-14) | sysvinit-utils, redis-tools (= 5:7.0.15-1), python3:any\n",
        );
        assert_eq!(
            pin,
            Some(Pin {
                version: "5:7.0.15-1".to_owned(),
                depends: [
                    "init-system-helpers",
                    "lsb-base",
                    "sysvinit-utils",
                    "redis-tools",
                    "python3"
                ]
                .map(str::to_owned)
                .to_vec(),
            })
        );
        assert_eq!(parse_record(""), None);
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
            root,
            pin: Pin {
                version: "1".to_owned(),
                depends: Vec::new(),
            },
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
