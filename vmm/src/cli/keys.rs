//! With which key a command speaks to others.

use std::env;
use std::path::{Path, PathBuf};

use clap::Args;
use transport::{Endpoint, EndpointError, KEY_FILE, TRUST_FILE};

/// Where the key of a person is, below the home directory.
const OWN_KEY: &str = ".config/ftvm/key.pem";

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

    /// As the person who runs this, if it has a key of its own, and as this host otherwise.
    pub(super) fn of_person(&self) -> Result<Endpoint, EndpointError> {
        let own = env::var_os("HOME").map(|home| Path::new(&home).join(OWN_KEY));
        match own.filter(|key| key.exists()) {
            Some(key) => self.endpoint(&key),
            None => self.endpoint(Path::new(KEY_FILE)),
        }
    }

    fn endpoint(&self, default: &Path) -> Result<Endpoint, EndpointError> {
        match self.plain {
            true => Ok(Endpoint::plain()),
            false => Endpoint::read(self.key.as_deref().unwrap_or(default), &self.trust),
        }
    }
}
