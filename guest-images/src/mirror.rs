//! Files of Debian's archive, from the mirror that this machine's apt is configured with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::run;
use crate::error::PackageError;
use crate::lock::Pin;

const SNAPSHOTS: &str = "http://snapshot.debian.org/archive";

/// Where Debian's archives are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mirror {
    /// Their addresses, without a slash at the end, by their names: `debian`, `debian-security`.
    archives: BTreeMap<&'static str, String>,
    /// The address below which all that they ever had is kept.
    snapshots: String,
}

impl Mirror {
    /// Those of this machine's apt.
    ///
    /// # Errors
    ///
    /// When apt has none.
    pub(crate) fn configured() -> Result<Self, PackageError> {
        let targets = || {
            run(Command::new("apt-get").args([
                "indextargets",
                "--format",
                "$(ORIGIN) $(CODENAME) $(COMPONENT) $(REPO_URI)",
                "Created-By: Packages",
            ]))
        };
        if let Some(found) = Self::parse(&targets()?) {
            return Ok(found);
        }
        // A fresh machine has no lists yet, which tell the origin.
        log::info!("updating the package lists");
        run(Command::new("apt-get").args(["-q", "update"]))?;
        Self::parse(&targets()?).ok_or(PackageError::NoSources)
    }

    /// Those of Debian among lines of origin, codename, component and address.
    fn parse(targets: &str) -> Option<Self> {
        let mut archives = BTreeMap::new();
        for target in targets.lines() {
            let fields: Vec<&str> = target.split(' ').collect();
            if let ["Debian", codename, "main", uri] = fields[..] {
                let archive = match codename.ends_with("-security") {
                    true => "debian-security",
                    false => "debian",
                };
                let uri = uri.trim_end_matches('/').to_owned();
                archives.entry(archive).or_insert(uri);
            }
        }
        archives.contains_key("debian").then(|| Self {
            archives,
            snapshots: SNAPSHOTS.to_owned(),
        })
    }

    /// Lines of a `sources.list` for a release, which must be signed by Debian.
    pub(crate) fn sources(&self, release: &str) -> String {
        let suites = |archive| match archive {
            "debian-security" => vec![format!("{release}-security")],
            _ => vec![release.to_owned(), format!("{release}-updates")],
        };
        let mut lines = String::new();
        for (archive, uri) in &self.archives {
            for suite in suites(*archive) {
                lines.push_str(&format!(
                    "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] \
                     {uri} {suite} main\n"
                ));
            }
        }
        lines
    }

    /// The path of a pin for an address, if that is on this mirror.
    pub(crate) fn path(&self, uri: &str) -> Option<String> {
        self.archives.iter().find_map(|(archive, base)| {
            let below = uri.strip_prefix(base.as_str())?.strip_prefix('/')?;
            Some(format!("{archive}/{}", below.replace("%2b", "+")))
        })
    }

    fn uri(&self, path: &str) -> Option<String> {
        let (archive, below) = path.split_once('/')?;
        Some(format!("{}/{below}", self.archives.get(archive)?))
    }

    /// Fetches pinned files into `directory`, by their own names. Those that are there and right
    /// stay; what the mirror has no more comes from snapshot.debian.org, as it was at `snapshot`.
    ///
    /// # Errors
    ///
    /// When one of them cannot be had.
    pub(crate) fn fetch(
        &self,
        pins: &[&Pin],
        snapshot: &str,
        directory: &Path,
    ) -> Result<(), PackageError> {
        let mut missing = missing(pins, directory)?;
        if missing.is_empty() {
            return Ok(());
        }
        let from_mirror = |pin: &Pin| self.uri(&pin.path);
        let from_snapshot = |pin: &Pin| {
            let (archive, below) = pin.path.split_once('/')?;
            Some(format!("{}/{archive}/{snapshot}/{below}", self.snapshots))
        };
        let mut said = String::new();
        for place in [&from_mirror as &dyn Fn(&Pin) -> _, &from_snapshot] {
            // It goes on after one that it cannot have; what counts is what is there then.
            if let Err(error) = download(&missing, place, directory) {
                said.push_str(&format!("\n{error}"));
            }
            missing = self::missing(&missing, directory)?;
            if missing.is_empty() {
                return Ok(());
            }
        }
        let names = missing
            .iter()
            .map(|pin| format!("{} {}", pin.name, pin.version));
        Err(PackageError::Gone {
            packages: names.collect::<Vec<_>>().join(", "),
            said,
        })
    }
}

fn download(
    pins: &[&Pin],
    place: &dyn Fn(&Pin) -> Option<String>,
    directory: &Path,
) -> Result<(), PackageError> {
    let mut command = Command::new("/usr/lib/apt/apt-helper");
    // The sandbox user may not enter our directory, and apt would warn of it.
    command.args([
        "-q",
        "-o",
        "APT::Sandbox::User=root",
        "-o",
        "Acquire::Retries=2",
        "download-file",
    ]);
    for pin in pins {
        let Some(uri) = place(pin) else { continue };
        command
            .arg(uri)
            .arg(directory.join(pin.file_name()))
            .arg(format!("SHA256:{}", pin.sha256));
    }
    run(&mut command)?;
    Ok(())
}

/// Those whose files are not in `directory`, or not as they should be.
fn missing<'a>(pins: &[&'a Pin], directory: &Path) -> Result<Vec<&'a Pin>, PackageError> {
    let mut missing = Vec::new();
    for &pin in pins {
        let path: PathBuf = directory.join(pin.file_name());
        // By coreutils: this program may be a debug build, which is slow at it.
        let is_right = path.is_file()
            && run(Command::new("sha256sum").arg(&path))?
                .trim_start_matches('\\')
                .starts_with(&pin.sha256);
        if !is_right {
            missing.push(pin);
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_machines_debian_sources_are_used_and_no_others() {
        let targets = "Someone stable main http://c.example/\n\
                       Debian bookworm main http://a.example/debian/\n\
                       Debian bookworm contrib http://a.example/debian/\n\
                       Debian bookworm-updates main http://a.example/debian/\n\
                       Debian bookworm-security main http://b.example/debian-security/\n";
        let mirror = Mirror::parse(targets).expect("sources");
        let sources = mirror.sources("trixie");
        let lines: Vec<&str> = sources
            .lines()
            .map(|line| line.split_once("] ").expect("signed").1)
            .collect();
        assert_eq!(
            lines,
            [
                "http://a.example/debian trixie main",
                "http://a.example/debian trixie-updates main",
                "http://b.example/debian-security trixie-security main",
            ]
        );
        let uri = "http://b.example/debian-security/pool/updates/main/l/a%2bb.deb";
        let path = mirror.path(uri).expect("it is on the mirror");
        assert_eq!(path, "debian-security/pool/updates/main/l/a+b.deb");
        assert_eq!(mirror.path("http://c.example/pool/a.deb"), None);
        assert_eq!(Mirror::parse("Someone stable main http://c.example/"), None);
        assert_eq!(Mirror::parse(""), None);
    }

    /// Mirror and snapshots in directories of this machine.
    #[test]
    fn a_pinned_file_is_taken_as_it_is_pinned_or_not_at_all() {
        let directory = tempfile::tempdir().expect("a directory");
        let place = |name: &str| {
            let place = directory.path().join(name);
            fs::create_dir_all(&place).expect("a directory");
            place
        };
        let [pool, old, store] = ["now/pool", "old/debian/then/pool", "store"].map(place);
        let uri = |name: &str| format!("file:{}/{name}", directory.path().display());
        let mirror = Mirror {
            archives: BTreeMap::from([("debian", uri("now"))]),
            snapshots: uri("old"),
        };
        let pin = |name: &str| Pin {
            name: name.to_owned(),
            version: "1".to_owned(),
            architecture: "all".to_owned(),
            path: format!("debian/pool/{name}.deb"),
            // Of `abc`.
            sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".to_owned(),
        };
        let (here, gone, changed) = (pin("here"), pin("gone"), pin("changed"));
        fs::write(pool.join("here.deb"), "abc").expect("a package");
        fs::write(old.join("gone.deb"), "abc").expect("a package");
        fs::write(pool.join("changed.deb"), "abd").expect("a package");

        let fetched = mirror.fetch(&[&gone, &here], "then", &store);
        fetched.expect("one from the mirror, one from the snapshot");
        for name in ["here.deb", "gone.deb"] {
            assert_eq!(fs::read(store.join(name)).expect("it"), b"abc");
        }

        let error = mirror
            .fetch(&[&here, &changed], "then", &store)
            .expect_err("another file under that name");
        assert!(matches!(error, PackageError::Gone { .. }), "{error}");
        let told = error.to_string();
        assert!(told.contains("changed 1"), "{told}");
        assert!(told.contains("--renew"), "{told}");
        assert!(!told.contains("here 1"), "{told}");
    }
}
