//! `pgbench`, on PostgreSQL in the guest.

use std::fs;
use std::path::{Path, PathBuf};

use guest_images::PackageStore;
use guest_images::error::PackageError;
use testbed::{Error, GUEST, Layout, Result};

use super::{Driver, Rates, command, senseless};
use crate::sample::Latency;
use crate::statistics::quantiles;

/// The database of the image, and its user.
const DATABASE: &str = "ftvm";
const USER: &str = "postgres";
/// How the files begin in which `pgbench` notes every transaction.
const LOG: &str = "pgbench-transactions";

pub(super) fn answers(driver: &Driver<'_>) -> bool {
    let address = GUEST.to_string();
    let arguments = ["--quiet", "--host", &address, "--timeout", "2"];
    command::run(driver, "pg_isready", &arguments).is_ok()
}

/// Makes the tables (scale 1: 100,000 accounts).
pub(super) fn prepare(driver: &Driver<'_>) -> Result<u64> {
    pgbench(driver, &["--initialize", "--quiet"]).map(|_| 0)
}

pub(super) fn run(driver: &Driver<'_>) -> Result<Rates> {
    // Of an earlier measurement that failed.
    take_transactions(driver.scratch)?;
    let prefix = driver.scratch.join(LOG);
    let (prefix, seconds) = (prefix.to_string_lossy(), driver.seconds());
    let clients = driver.clients.to_string();
    #[rustfmt::skip]
    let text = pgbench(driver, &[
        "--no-vacuum", "--client", &clients, "--time", &seconds,
        "--log", "--log-prefix", &prefix,
    ])?;
    let micros = take_transactions(driver.scratch)?;
    let rate = rate(&text).ok_or_else(|| senseless("pgbench", &text))?;
    Ok((Some(rate), latency(&micros)))
}

fn pgbench(driver: &Driver<'_>, arguments: &[&str]) -> Result<String> {
    let address = GUEST.to_string();
    let mut all = vec!["--host", &address, "--username", USER];
    all.extend(arguments);
    all.push(DATABASE);
    let program = program().map_err(|error| Error::Image(error.into()))?;
    command::run(driver, &program.to_string_lossy(), &all)
}

/// `pgbench` itself. Debian has it in the server's package, which is not to be installed on this
/// machine: the program is taken out of it.
fn program() -> std::result::Result<PathBuf, PackageError> {
    let store = PackageStore::new(Layout::find().packages());
    let server = store.behind("postgresql", "postgresql-")?;
    let version = server.name().trim_start_matches("postgresql-");
    server.file(&format!("usr/lib/postgresql/{version}/bin/pgbench"))
}

/// Transactions in a second.
fn rate(text: &str) -> Option<f64> {
    let mut lines = text.lines();
    let rate = lines.find_map(|line| line.strip_prefix("tps = "))?;
    rate.split(' ').next()?.parse().ok()
}

/// Reads and removes the logs: how long each transaction took, in microseconds.
fn take_transactions(directory: &Path) -> Result<Vec<u64>> {
    let failed = |path: &Path| {
        let path: PathBuf = path.to_owned();
        move |source| Error::File { path, source }
    };
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed(directory))? {
        let path = entry.map_err(failed(directory))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy());
        if name.is_some_and(|name| name.starts_with(LOG)) {
            let text = fs::read_to_string(&path).map_err(failed(&path))?;
            // `client transaction time script seconds microseconds`
            let time = |line: &str| line.split(' ').nth(2)?.parse::<u64>().ok();
            all.extend(text.lines().filter_map(time));
            fs::remove_file(&path).map_err(failed(&path))?;
        }
    }
    Ok(all)
}

fn latency(micros: &[u64]) -> Option<Latency> {
    let times = micros.iter().map(|micros| (*micros, 1));
    let (count, [p50, p99, p999]) = quantiles(times, [0.5, 0.99, 0.999])?;
    Some(Latency {
        p50,
        p99,
        // Of fewer it would be the longest.
        p999: (count >= 1000).then_some(p999),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_and_its_log_are_read() {
        let text = "number of failed transactions: 0 (0.000%)\nlatency average = 11.013 ms\n\
                    tps = 90.800512 (without initial connection time)\n";
        assert_eq!(rate(text), Some(90.800512));
        assert_eq!(rate("pgbench: error"), None);

        let directory = tempfile::tempdir().expect("a temporary directory");
        let log = directory.path().join(format!("{LOG}.123"));
        let lines = "0 1 1000 0 175 12\n0 2 1001 0 175 13\n0 3 2000 0 175 14\n";
        fs::write(&log, lines).expect("a log");
        let micros = take_transactions(directory.path()).expect("transactions");
        let latency = latency(&micros).expect("three");
        assert_eq!((latency.p50, latency.p99, latency.p999), (1.001, 2.0, None));
        assert!(!log.exists());
    }
}
