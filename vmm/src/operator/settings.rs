//! Where the service is, and who asks.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use disk_server::arbiter::{AddressError, HostName, ServerAddress};
use disk_server::views::Text;
use nix::unistd::{Uid, User};
use serde::Deserialize;

/// The environment variable that names the disk server.
pub const DISK_SERVER: &str = "FTVM_DISK_SERVER";

/// The configuration of the host's daemon.
pub const HOST_TOML: &str = "/etc/ftvm/host.toml";

/// Where the daemon has its sockets, if its configuration does not say.
const RUN: &str = "/run/ftvm";

/// Why it is not known where the service is.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Nothing says.
    #[error(
        "which disk server? name it: --disk-server HOST:PORT, {DISK_SERVER}=HOST:PORT, or disk_server in {}",
        path.display()
    )]
    Unnamed {
        /// The host's configuration, which is not there or has none.
        path: PathBuf,
    },
    /// The host's configuration cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// It is not TOML.
    #[error("{}: {reason}", path.display())]
    Parse {
        /// Its path.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// What it names is no address.
    #[error("{}: disk_server", path.display())]
    Address {
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: AddressError,
    },
}

/// What operators need of the host's configuration; the rest is the daemon's.
#[derive(Debug, Default, Deserialize)]
struct Host {
    disk_server: Option<String>,
    run: Option<PathBuf>,
}

impl Host {
    fn read(path: &Path) -> Result<Self, SettingsError> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            read => read.map_err(|source| SettingsError::Read {
                path: path.to_owned(),
                source,
            })?,
        };
        toml::from_str(&text).map_err(|error| SettingsError::Parse {
            path: path.to_owned(),
            reason: error.to_string(),
        })
    }
}

/// The disk server that was named, else the one of the host's configuration at `path`.
///
/// # Errors
/// See [`SettingsError`].
pub fn disk_server(
    named: Option<&ServerAddress>,
    path: &Path,
) -> Result<ServerAddress, SettingsError> {
    if let Some(named) = named {
        return Ok(named.clone());
    }
    let path = path.to_owned();
    match Host::read(&path)?.disk_server {
        None => Err(SettingsError::Unnamed { path }),
        Some(address) => {
            (address.parse()).map_err(|source| SettingsError::Address { path, source })
        }
    }
}

/// The socket at which this host's daemon tells what it knows.
#[must_use]
pub fn host_socket(path: &Path) -> PathBuf {
    let run = Host::read(path).unwrap_or_default().run;
    run.unwrap_or_else(|| RUN.into()).join("host.sock")
}

/// Who asks: the user, and this host's name. Behind sudo it is the user who called that.
#[must_use]
pub fn by() -> Text {
    let uid = Uid::current();
    let sudo = env::var("SUDO_USER").ok().filter(|_| uid.is_root());
    let user = || User::from_uid(uid).ok().flatten().map(|user| user.name);
    let user = sudo.or_else(user).unwrap_or_else(|| uid.to_string());
    Text::cut(&format!("{user}@{}", HostName::of_this_host()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_server_is_named_or_in_the_host_s_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("host.toml");
        let named = "192.0.2.1:7420".parse().unwrap();
        assert_eq!(disk_server(Some(&named), &path).unwrap(), named);
        let error = disk_server(None, &path).unwrap_err().to_string();
        assert!(error.contains("--disk-server HOST:PORT"), "{error}");
        assert_eq!(host_socket(&path), Path::new("/run/ftvm/host.sock"));

        fs::write(
            &path,
            "name = \"a\"\ndisk_server = \"192.0.2.1:7420\"\nrun = \"/tmp/r\"",
        )
        .unwrap();
        assert_eq!(disk_server(None, &path).unwrap(), named);
        assert_eq!(host_socket(&path), Path::new("/tmp/r/host.sock"));

        fs::write(&path, "disk_server = \"here\"").unwrap();
        assert!(disk_server(None, &path).is_err());
    }

    #[test]
    fn who_asks_has_a_host() {
        let by = by();
        let (user, host) = by.as_str().split_once('@').unwrap();
        assert!(!user.is_empty());
        assert_eq!(host, HostName::of_this_host().as_str());
    }
}
