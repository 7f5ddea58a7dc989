//! Where the service is, and who asks.

use std::env;
use std::path::{Path, PathBuf};

use disk_server::arbiter::{HostName, ServerAddress};
use disk_server::views::Text;
use nix::unistd::{Uid, User};

use crate::host::{Config, ConfigError, host_socket};

/// The environment variable that names the disk server.
pub const DISK_SERVER: &str = "FTVM_DISK_SERVER";

/// Why it is not known where the service is.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Nothing says.
    #[error(
        "which disk server? name it: --disk-server HOST:PORT, {DISK_SERVER}=HOST:PORT, or disk_server in {}",
        path.display()
    )]
    Unnamed {
        /// The host's configuration, which is not there.
        path: PathBuf,
    },
    /// The host's configuration is none.
    #[error(transparent)]
    Host(ConfigError),
}

/// A disk server, as far as settings say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskServer {
    /// Where it is.
    pub address: ServerAddress,
    /// The host's configuration says that nobody has keys.
    pub is_plain: bool,
}

/// The disk server that was named, else the one of the host's configuration at `path`.
///
/// # Errors
/// See [`SettingsError`].
pub fn disk_server(
    named: Option<&ServerAddress>,
    path: &Path,
) -> Result<DiskServer, SettingsError> {
    if let Some(named) = named {
        return Ok(DiskServer {
            address: named.clone(),
            is_plain: false,
        });
    }
    match Config::read(path) {
        Ok(config) => Ok(DiskServer {
            address: config.disk_server,
            is_plain: config.keys.is_none(),
        }),
        Err(ConfigError::Missing { path }) => Err(SettingsError::Unnamed { path }),
        Err(error) => Err(SettingsError::Host(error)),
    }
}

/// The socket at which this host's daemon tells what it knows; `None` if its configuration at `path` cannot be
/// read.
#[must_use]
pub fn socket_of_daemon(path: &Path) -> Option<PathBuf> {
    let config = Config::read(path).ok()?;
    Some(host_socket(&config.run))
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
    use std::fs;

    use super::*;

    #[test]
    fn the_disk_server_is_named_or_in_the_host_s_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("host.toml");
        let address: ServerAddress = "192.0.2.1:7420".parse().unwrap();
        let known = |is_plain| DiskServer {
            address: address.clone(),
            is_plain,
        };
        assert_eq!(disk_server(Some(&address), &path).unwrap(), known(false));
        let error = disk_server(None, &path).unwrap_err().to_string();
        assert!(error.contains("--disk-server HOST:PORT"), "{error}");
        assert_eq!(socket_of_daemon(&path), None);

        let text =
            "disk_server = \"192.0.2.1:7420\"\nlogging_address = \"192.0.2.2\"\nrun = \"/tmp/r\"";
        fs::write(&path, text).unwrap();
        assert_eq!(disk_server(None, &path).unwrap(), known(false));
        let socket = socket_of_daemon(&path);
        assert_eq!(socket.as_deref(), Some(Path::new("/tmp/r/host.sock")));

        fs::write(&path, format!("{text}\nplain = true")).unwrap();
        assert_eq!(disk_server(None, &path).unwrap(), known(true));
        assert_eq!(disk_server(Some(&address), &path).unwrap(), known(false));

        fs::write(&path, text.replace(":7420", "")).unwrap();
        assert!(matches!(
            disk_server(None, &path),
            Err(SettingsError::Host(_))
        ));
    }

    #[test]
    fn who_asks_has_a_host() {
        let by = by();
        let (user, host) = by.as_str().split_once('@').unwrap();
        assert!(!user.is_empty());
        assert_eq!(host, HostName::of_this_host().as_str());
    }
}
