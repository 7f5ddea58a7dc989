//! What a host is, in one TOML file.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use disk_server::arbiter::{HostName, ServerAddress};
use serde::{Deserialize, Deserializer};
use toml::Spanned;
use transport::configuration::{self, Fault, FaultKind, Faults};
use transport::{Endpoint, EndpointError, KEY_FILE, TRUST_FILE, ip_address, socket_address};

use crate::config::{self, MEMORY_MIB};

/// Where it is if nothing else is said.
pub const CONFIG_FILE: &str = "/etc/ftvm/host.toml";

/// The port on which a host gives the consoles of its guests, if nothing else is said.
pub const CONSOLE_PORT: u16 = 7422;

/// The least that a file says, for who has none yet.
const LEAST: &str = "disk_server = \"10.0.2.9:7420\" and logging_address = \"10.0.1.1\"";

/// A host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Its name: unique among the hosts of one disk server.
    pub name: HostName,
    /// The disk server.
    pub disk_server: ServerAddress,
    /// The bridge of the network in which guests are reached.
    pub bridge: String,
    /// This host's address in the network of the log.
    pub logging_address: IpAddr,
    /// The first port for a guest's log there; the others follow.
    pub ports: u16,
    /// Where it gives the consoles of its guests.
    pub console: SocketAddr,
    /// Where those who watch it are told metrics, in the clear; `None` for nowhere.
    pub metrics: Option<SocketAddr>,
    /// The most memory that its guests take, in MiB; `None` for what there is.
    pub memory_mib: Option<u64>,
    /// Go on where the processor translates the guests' addresses by itself (nested paging).
    pub allow_nested_paging: bool,
    /// Directory for what guests say, which is to stay.
    pub state: PathBuf,
    /// Directory for what is about running processes, and is gone after a boot.
    pub run: PathBuf,
    /// With which key it speaks to others; `None`: plain, without keys.
    pub keys: Option<Keys>,
}

/// Where a host's key is, and the list of those who are trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// Its key.
    pub key: PathBuf,
    /// The list.
    pub trust: PathBuf,
}

/// The same as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: Option<HostName>,
    #[serde(deserialize_with = "parsed")]
    disk_server: ServerAddress,
    #[serde(default = "default_bridge")]
    bridge: String,
    #[serde(deserialize_with = "ip")]
    logging_address: IpAddr,
    #[serde(default = "default_ports")]
    ports: u16,
    #[serde(default, deserialize_with = "socket")]
    console: Option<SocketAddr>,
    #[serde(default, deserialize_with = "socket")]
    metrics: Option<SocketAddr>,
    #[serde(default, deserialize_with = "enough_for_a_guest")]
    memory_mib: Option<u64>,
    #[serde(default)]
    allow_nested_paging: bool,
    #[serde(default = "default_state", deserialize_with = "absolute")]
    state: PathBuf,
    #[serde(default = "default_run", deserialize_with = "absolute")]
    run: PathBuf,
    #[serde(default, deserialize_with = "some_absolute")]
    key: Option<PathBuf>,
    #[serde(default, deserialize_with = "some_absolute")]
    trust: Option<PathBuf>,
    plain: Option<Spanned<bool>>,
}

/// Why a host's configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is none.
    #[error("there is no {}: write it, with at least {LEAST}", path.display())]
    Missing {
        /// Its path.
        path: PathBuf,
    },
    /// The file cannot be read, or is not what it should be.
    #[error(transparent)]
    File(config::ConfigError),
}

impl Config {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        config::read_with(path, Self::parse).map_err(|error| match error {
            config::ConfigError::Read { path, source }
                if source.kind() == io::ErrorKind::NotFound =>
            {
                ConfigError::Missing { path }
            }
            error => ConfigError::File(error),
        })
    }

    /// Reads what such a file says.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Faults> {
        let file: File = configuration::parse(text)?;
        let keys = (file.keys()).map_err(|(place, reason)| {
            Faults::from(Fault::at(text, place, FaultKind::Value, reason))
        })?;
        Ok(Self {
            name: file.name.unwrap_or_else(HostName::of_this_host),
            disk_server: file.disk_server,
            bridge: file.bridge,
            logging_address: file.logging_address,
            ports: file.ports,
            console: (file.console)
                .unwrap_or_else(|| SocketAddr::new(file.logging_address, CONSOLE_PORT)),
            metrics: file.metrics,
            memory_mib: file.memory_mib,
            allow_nested_paging: file.allow_nested_paging,
            state: file.state,
            run: file.run,
            keys,
        })
    }

    /// With which this host speaks to others.
    ///
    /// # Errors
    /// [`EndpointError`]: a file is missing, or is none.
    pub fn endpoint(&self) -> Result<Endpoint, EndpointError> {
        match &self.keys {
            Some(keys) => Endpoint::read(&keys.key, &keys.trust),
            None => Ok(Endpoint::plain()),
        }
    }
}

impl File {
    /// What it says of keys, or at which byte what is wrong about that.
    fn keys(&self) -> Result<Option<Keys>, (usize, &'static str)> {
        match &self.plain {
            Some(plain) if *plain.get_ref() => match self.key.is_some() || self.trust.is_some() {
                true => Err((
                    plain.span().start,
                    "plain = true does without keys: leave out either it or `key` and `trust`",
                )),
                false => Ok(None),
            },
            _ => Ok(Some(Keys {
                key: self.key.clone().unwrap_or_else(|| KEY_FILE.into()),
                trust: self.trust.clone().unwrap_or_else(|| TRUST_FILE.into()),
            })),
        }
    }
}

fn default_bridge() -> String {
    "br0".into()
}

fn default_ports() -> u16 {
    7430
}

fn default_state() -> PathBuf {
    "/var/lib/ftvm".into()
}

fn default_run() -> PathBuf {
    "/run/ftvm".into()
}

fn parsed<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: std::fmt::Display>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

fn ip<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpAddr, D::Error> {
    ip_address(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

fn socket<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let address = socket_address(&String::deserialize(deserializer)?);
    address.map(Some).map_err(serde::de::Error::custom)
}

fn absolute<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    match path.is_absolute() {
        true => Ok(path),
        false => Err(serde::de::Error::custom(format!(
            "{} is not an absolute path",
            path.display()
        ))),
    }
}

fn some_absolute<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    absolute(deserializer).map(Some)
}

fn enough_for_a_guest<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let mib = u64::deserialize(deserializer)?;
    match mib < *MEMORY_MIB.start() {
        true => Err(serde::de::Error::custom(format!(
            "{mib} MiB is room for no guest: give at least {}, or leave it out for what there is",
            MEMORY_MIB.start()
        ))),
        false => Ok(Some(mib)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SMALL: &str = "disk_server = \"10.0.2.9:7420\"\nlogging_address = \"10.0.1.1\"\n";

    #[test]
    fn two_lines_are_enough() {
        let config = Config::parse(SMALL).expect("it is right");
        assert_eq!(config.name, HostName::of_this_host());
        assert_eq!(config.console, "10.0.1.1:7422".parse().expect("an address"));
        assert_eq!((config.bridge.as_str(), config.ports), ("br0", 7430));
        assert_eq!(config.run, Path::new("/run/ftvm"));
        assert_eq!(config.state, Path::new("/var/lib/ftvm"));
        assert_eq!((config.memory_mib, config.metrics), (None, None));
        assert!(!config.allow_nested_paging);
        let keys = config.keys.expect("nobody said plain");
        assert_eq!(keys.key, Path::new("/etc/ftvm/key.pem"));
        let plain = Config::parse(&format!("{SMALL}plain = true")).expect("it is right");
        assert_eq!(plain.keys, None);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_file_its_line_and_its_key() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("host.toml");
        let error = Config::read(&path).expect_err("there is none").to_string();
        assert!(error.contains("disk_server =") && error.contains("host.toml"));
        for (line, words) in [
            ("brigde = \"br1\"", ["`bridge`?", "toml:3:1: "]),
            (
                "memory_mib = 1",
                ["1 MiB is room for no guest", "toml:3:14: "],
            ),
            ("run = \"ftvm\"", ["not an absolute path", "toml:3:7: "]),
            ("name = \"a/b\"", ["a host name", "toml:3:8: "]),
            ("ports = 70000", ["70000", "toml:3:9: "]),
            ("plain = true\nkey = \"/k\"", ["`key`", "toml:3:9: "]),
            ("trust = \"/t\"\nplain = true", ["`trust`", "toml:4:9: "]),
            ("console = \"here\"", ["is not IP:PORT", "toml:3:11: "]),
            ("metrics = 9100", ["expected a string", "toml:3:11: "]),
        ] {
            fs::write(&path, format!("{SMALL}{line}\n")).expect("a file");
            let error = Config::read(&path).expect_err(line).to_string();
            let named = words.iter().all(|word| error.contains(word));
            assert!(named && error.contains("host.toml"), "{line}: {error}");
        }
        fs::write(&path, "disk_server = \"here\"\n").expect("a file");
        let error = Config::read(&path).expect_err("no address").to_string();
        assert!(error.contains("HOST:PORT"), "{error}");
        let named = "disk_server = \"d:1\"\nlogging_address = \"a.example\"\n";
        fs::write(&path, named).expect("a file");
        let error = Config::read(&path).expect_err("a name").to_string();
        assert!(
            error.contains("toml:2:19: \"a.example\" is not an IP"),
            "{error}"
        );
        fs::write(&path, "disk_server = \"d:1\"\n").expect("a file");
        let error = Config::read(&path).expect_err("no address").to_string();
        assert!(error.contains("logging_address"), "{error}");
    }
}
