//! With which key a command speaks to others.

use std::path::{Path, PathBuf};

use clap::Args;
use transport::{Endpoint, EndpointError, KEY_FILE, OWN_KEY_HINT, TRUST_FILE, key_of_person};

use crate::host::Config;

/// Who this is to others, and who they are.
#[derive(Args)]
pub(super) struct KeyArgs {
    /// The key of this host, or of who asks. If not given, /etc/ftvm/key.pem, or what is asked of the disk server
    /// with ~/.config/ftvm/key.pem, if that is there.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Whose keys are trusted.
    #[arg(long, value_name = "FILE", default_value = TRUST_FILE)]
    trust: PathBuf,
    /// Do without keys: nothing is authenticated or encrypted. Every side has to say so.
    #[arg(long, conflicts_with_all = ["key", "trust"])]
    plain: bool,
}

impl KeyArgs {
    /// As this host.
    pub(super) fn of_host(&self) -> Result<Endpoint, EndpointError> {
        let endpoint = self.endpoint(Path::new(KEY_FILE))?;
        endpoint.tell_if_plain();
        Ok(endpoint)
    }

    /// The files of a host's key, and of whose keys are trusted.
    pub(super) fn files_of_host(&self) -> Option<(&Path, &Path)> {
        let key = self.key.as_deref().unwrap_or(Path::new(KEY_FILE));
        (!self.plain).then_some((key, &self.trust))
    }

    /// As the host that this configuration is of, if no other key is named.
    pub(super) fn of_configured(&self, host: &Config) -> Result<Endpoint, EndpointError> {
        let endpoint = match self.plain || self.key.is_some() {
            true => self.endpoint(Path::new(KEY_FILE))?,
            false => host.endpoint()?,
        };
        endpoint.tell_if_plain();
        Ok(endpoint)
    }

    /// As the person who runs this, if it has a key of its own, and as this host otherwise. Without keys where the
    /// host has none, and none is named.
    pub(super) fn of_person(&self, host_is_plain: bool) -> anyhow::Result<Endpoint> {
        let endpoint = match host_is_plain && self.key.is_none() {
            true => Ok(Endpoint::plain()),
            false => self.endpoint(&key_of_person()),
        };
        let endpoint = endpoint.map_err(|error| match error {
            EndpointError::Key(_) if self.key.is_none() => {
                anyhow::Error::from(error).context(OWN_KEY_HINT)
            }
            error => error.into(),
        })?;
        endpoint.tell_if_plain();
        Ok(endpoint)
    }

    fn endpoint(&self, default: &Path) -> Result<Endpoint, EndpointError> {
        match self.plain {
            true => Ok(Endpoint::plain()),
            false => Endpoint::read(self.key.as_deref().unwrap_or(default), &self.trust),
        }
    }
}
