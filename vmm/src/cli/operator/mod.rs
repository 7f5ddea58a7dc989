//! What an operator asks of the service.

pub(super) mod guests;
pub(super) mod history;
pub(super) mod hosts;
pub(super) mod notify;
mod order;
mod output;
pub(super) mod protection;
pub(super) mod report;
pub(super) mod top;

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use clap::Args;
use disk_server::arbiter::{HostName, ServerAddress, VmName};

use crate::cli::keys::KeyArgs;
use crate::host::{CONFIG_FILE, Config};
use crate::operator::client::{Client, ClientError};
use crate::operator::console::{ConsoleError, Place};
use crate::operator::settings::{self, DISK_SERVER};

/// Where the service is.
#[derive(Args)]
pub(super) struct ServiceArgs {
    /// The disk server, whose service knows guests and hosts. If not given, disk_server of
    /// /etc/ftvm/host.toml.
    #[arg(long, value_name = "HOST:PORT", env = DISK_SERVER, hide_env_values = true)]
    disk_server: Option<ServerAddress>,
    #[command(flatten)]
    keys: KeyArgs,
}

impl ServiceArgs {
    /// The service's client, in the name of who runs this.
    fn client(&self) -> anyhow::Result<Client> {
        let server = settings::disk_server(self.disk_server.as_ref(), Path::new(CONFIG_FILE))?;
        let endpoint = self.keys.of_person(server.is_plain)?;
        Ok(Client::new(server.address, endpoint, settings::by()))
    }

    /// The service's client in the name of this host, which is called so.
    fn client_of_host(&self) -> anyhow::Result<(Client, HostName)> {
        let config = Config::read(Path::new(CONFIG_FILE))
            .context("without a name it is this host that is meant")?;
        let endpoint = self.keys.of_configured(&config)?;
        let named = self.disk_server.clone();
        let server = named.unwrap_or(config.disk_server);
        Ok((Client::new(server, endpoint, settings::by()), config.name))
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Where the console of a guest is at the moment.
fn locate(client: &Client, vm: &VmName) -> Result<Place, ConsoleError> {
    let nowhere =
        |error: ClientError| ConsoleError::Nowhere(format!("{:#}", anyhow::Error::from(error)));
    let status = client.status(vm).map_err(nowhere)?;
    let Some(primary) = status.placement.primary else {
        return Err(ConsoleError::Nowhere(format!(
            "{vm} does not run: {}",
            status.state
        )));
    };
    let address = primary.console.ok_or_else(|| {
        let host = &primary.host;
        ConsoleError::Nowhere(format!(
            "{vm} runs on {host}, where no daemon gives its console: is `ftvm host` running there?"
        ))
    })?;
    Ok(Place {
        host: primary.host,
        address,
    })
}
