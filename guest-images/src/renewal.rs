//! What the archive has now: package lists that Debian signed, in directories of their own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::run;
use crate::error::{CommandError, PackageError};
use crate::lock::Pin;
use crate::mirror::Mirror;

/// The package lists of one release, whatever release this machine has.
#[derive(Debug)]
pub(crate) struct Lists {
    mirror: Mirror,
    directory: PathBuf,
}

impl Lists {
    /// Fetches the lists of a release. They stay below `directory`.
    ///
    /// # Errors
    ///
    /// When apt cannot get them, or does not believe them.
    pub(crate) fn update(
        mirror: &Mirror,
        release: &str,
        directory: &Path,
    ) -> Result<Self, PackageError> {
        let directory = directory.join(release);
        let prepare = || -> io::Result<()> {
            fs::create_dir_all(directory.join("lists/partial"))?;
            fs::create_dir_all(directory.join("cache/archives/partial"))?;
            fs::write(directory.join("sources.list"), mirror.sources(release))?;
            // Nothing is installed.
            fs::write(directory.join("status"), "")
        };
        prepare().map_err(|source| PackageError::Store {
            path: directory.clone(),
            source,
        })?;
        let lists = Self {
            mirror: mirror.clone(),
            directory,
        };
        log::info!("updating the package lists of {release}");
        run(lists.apt().args(["--error-on=any", "update"]))?;
        Ok(lists)
    }

    fn apt(&self) -> Command {
        let mut apt = Command::new("apt-get");
        apt.arg("-q");
        let own = |name: &str| self.directory.join(name).display().to_string();
        for (key, value) in [
            ("Dir::State", own("")),
            ("Dir::State::status", own("status")),
            ("Dir::Cache", own("cache")),
            ("Dir::Etc::SourceList", own("sources.list")),
            ("Dir::Etc::SourceParts", "/dev/null".to_owned()),
            ("Dir::Etc::Preferences", "/dev/null".to_owned()),
            ("Dir::Etc::PreferencesParts", "/dev/null".to_owned()),
            ("APT::Architecture", "amd64".to_owned()),
            ("APT::Architectures", "amd64".to_owned()),
            ("APT::Sandbox::User", "root".to_owned()),
            ("Acquire::ForceHash", "SHA256".to_owned()),
            ("Acquire::Languages", "none".to_owned()),
        ] {
            apt.arg("-o").arg(format!("{key}={value}"));
        }
        apt
    }

    /// The newest version of a package.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub(crate) fn newest(&self, name: &str) -> Result<Pin, PackageError> {
        let unknown = || PackageError::Unknown {
            name: name.to_owned(),
        };
        let uris = run(self.apt().args(["download", "--print-uris", name]));
        let uris = uris.map_err(|error| match error {
            CommandError::Failed { .. } => unknown(),
            CommandError::Start { .. } => error.into(),
        })?;
        self.parse(&uris).pop().ok_or_else(unknown)
    }

    /// All packages of a system with these, and with what every system has.
    ///
    /// # Errors
    ///
    /// When apt does not know one of them.
    pub(crate) fn system(&self, with: &[&str]) -> Result<Vec<Pin>, PackageError> {
        let mut apt = self.apt();
        apt.args(["install", "--yes", "--no-install-recommends"])
            .args(["--print-uris", "?essential", "?priority(required)", "apt"])
            .args(with);
        Ok(self.parse(&run(&mut apt)?))
    }

    /// Reads lines as apt prints them: `'URI' NAME_VERSION_ARCHITECTURE.deb SIZE SHA256:DIGEST`.
    fn parse(&self, uris: &str) -> Vec<Pin> {
        let pin = |line: &str| {
            let (uri, rest) = line.strip_prefix('\'')?.split_once("' ")?;
            let mut rest = rest.split(' ');
            let mut parts = rest.next()?.strip_suffix(".deb")?.split('_');
            Some(Pin {
                name: parts.next()?.to_owned(),
                version: parts.next()?.replace("%3a", ":"),
                architecture: parts.next()?.to_owned(),
                path: self.mirror.path(uri)?,
                sha256: rest.next_back()?.strip_prefix("SHA256:")?.to_owned(),
            })
        };
        uris.lines().filter_map(pin).collect()
    }
}
