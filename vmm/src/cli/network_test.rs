//! `ftvm network-test`.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use clap::{ArgGroup, Args};
use indicatif::{ProgressBar, ProgressStyle};
use logging_channel::session::Listener;
use transport::socket_address;

use super::keys::KeyArgs;
use super::number::number;
use super::outcome;
use crate::host::CONFIG_FILE;
use crate::network_test::{self, NetworkTestError};
use crate::operator::{local, settings};

#[derive(Args)]
#[command(group = ArgGroup::new("side").args(["listen", "connect"]).required(true))]
pub(super) struct NetworkTestArgs {
    /// Wait here for tests, one after the other, until SIGINT or SIGTERM (TCP, and UDP for heartbeats).
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = socket_address)]
    listen: Option<SocketAddr>,
    /// Test the network with the side that listens there, and print what came of it.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = socket_address)]
    connect: Option<SocketAddr>,
    /// How long a test takes, about. The side that listens decides.
    #[arg(long, value_name = "N", default_value_t = 20, conflicts_with = "connect", value_parser = number(1..=3600))]
    seconds: u64,
    /// Print one JSON object.
    #[arg(long, conflicts_with = "listen")]
    json: bool,
    #[command(flatten)]
    keys: KeyArgs,
}

pub(super) fn network_test(args: &NetworkTestArgs) -> anyhow::Result<()> {
    let endpoint = args.keys.of_host()?;
    warn_of_guests();
    if let Some(address) = args.listen {
        let cancel = outcome::cancel_on_signals()?;
        let mut listener = Listener::bind(address, &endpoint).map_err(NetworkTestError::from)?;
        let address = listener.local_addr();
        let (to, hint) = match address.ip().is_unspecified() {
            true => {
                let hint = ", with this one's address in the logging network";
                (format!("ADDRESS:{}", address.port()), hint)
            }
            false => (address.to_string(), ""),
        };
        log::info!(
            "waits for network tests: start `ftvm network-test --connect {to}` on the other machine{hint}"
        );
        let time = Duration::from_secs(args.seconds);
        return Ok(network_test::serve(&mut listener, time, &cancel)?);
    }
    let Some(address) = args.connect else {
        unreachable!("one of the two is given");
    };
    // On a terminal alone, and beside what is printed for programs.
    let line = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed}  {msg}") {
        line.set_style(style);
    }
    line.set_message(format!("waits for {address}"));
    line.enable_steady_tick(Duration::from_millis(100));
    let report = network_test::test(address, &endpoint, |stage| line.set_message(stage.words()));
    line.finish_and_clear();
    let report = report?;
    let text = match args.json {
        true => report.to_json() + "\n",
        false => report.to_string(),
    };
    Ok(io::stdout().write_all(text.as_bytes())?)
}

/// Where this host has a daemon: guests that it has processes of share their network with the test.
fn warn_of_guests() {
    let socket = settings::socket_of_daemon(Path::new(CONFIG_FILE));
    let Some(Ok(known)) = socket.map(|socket| local::ask(&socket)) else {
        return;
    };
    let names: Vec<&str> = (known.guests.iter())
        .map(|process| process.vm.as_str())
        .collect();
    if !names.is_empty() {
        log::warn!(
            "a test takes all that the network carries, and guests are on this host: {}; their logs are held up \
             meanwhile, and they may lose their backups: `ftvm suspend-protection` them first",
            names.join(", ")
        );
    }
}
