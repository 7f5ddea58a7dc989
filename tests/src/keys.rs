//! The keys of a run: each host, the disk server and each operator have one, and trust all of these.

use std::fs;
use std::path::{Path, PathBuf};

use transport::{Endpoint, KeySet, Role, key_set};

use crate::error::{Error, Result};
use crate::host::Host;

/// The hosts for which there are keys, by their names.
const HOSTS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
/// What the disk server's key is called.
pub(crate) const DISK_SERVER: &str = "disk-server";
/// Operators for whom there are keys.
const OPERATORS: [&str; 3] = [TESTBED, "anna", "ben"];
/// The one for whatever a scenario does not do in somebody's name.
pub(crate) const TESTBED: &str = "testbed";

/// Where a host has its key.
const KEY: &str = "/tmp/key.pem";
/// Where an operator's is who works there.
const LENT: &str = "/tmp/operator.pem";
/// Where it has the list of those whom it trusts.
const TRUST: &str = "/tmp/trust.toml";

/// Keys of all machines and people in a run.
#[derive(Debug)]
pub struct Keys(KeySet);

impl Keys {
    /// Makes them, in a directory of this machine.
    pub(crate) fn make(directory: &Path) -> Result<Self> {
        let failed = |source| Error::File {
            path: directory.to_owned(),
            source,
        };
        fs::create_dir_all(directory).map_err(failed)?;
        let hosts = HOSTS.map(|name| (Role::Host, name));
        let operators = OPERATORS.map(|name| (Role::Operator, name));
        let members = [&hosts[..], &operators, &[(Role::DiskServer, DISK_SERVER)]].concat();
        let made = key_set(directory, &members);
        made.map(Self)
            .map_err(|error| failed(std::io::Error::other(error)))
    }

    /// How an operator of this name speaks on this machine.
    ///
    /// # Panics
    ///
    /// When there is no key of that name.
    #[must_use]
    pub fn operator(&self, name: &str) -> Endpoint {
        let endpoint = Endpoint::read(&self.0.key(name), &self.0.trust());
        endpoint.expect("its files were made with the run")
    }

    /// Gives a host its key.
    pub(crate) fn give(&self, host: &Host) -> Result<()> {
        self.put(host.name(), host, KEY)?;
        host.put(&self.0.trust(), TRUST)
    }

    /// Lets an operator of this name work on a host: what `ftvm` is told there then.
    ///
    /// # Errors
    ///
    /// When the key cannot be copied.
    pub fn lend(&self, name: &str, host: &Host) -> Result<[&'static str; 4]> {
        self.put(name, host, LENT)?;
        Ok(["--key", LENT, "--trust", TRUST])
    }

    fn put(&self, name: &str, host: &Host, path: &str) -> Result<()> {
        host.put(&self.0.key(name), path)?;
        host.check(&["chmod", "600", path]).map(drop)
    }
}

/// What a program on this machine is told of keys, that speaks with the one of this name.
pub(crate) fn on_this_machine(keys: Option<&Keys>, name: &str) -> Vec<String> {
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    match keys {
        None => vec!["--plain".to_owned()],
        Some(Keys(set)) => vec![
            "--key".to_owned(),
            text(set.key(name)),
            "--trust".to_owned(),
            text(set.trust()),
        ],
    }
}

/// What `ftvm` and `disk-server` are told on a host that has a key, or where all is plain.
pub(crate) fn on_host(is_plain: bool) -> &'static [&'static str] {
    match is_plain {
        true => &["--plain"],
        false => &["--key", KEY, "--trust", TRUST],
    }
}

/// The same in its daemon's configuration.
pub(crate) fn configuration(is_plain: bool) -> String {
    match is_plain {
        true => "plain = true\n".to_owned(),
        false => format!("key = \"{KEY}\"\ntrust = \"{TRUST}\"\n"),
    }
}
