//! `pgbench`, on PostgreSQL in the guest.

use std::path::{Path, PathBuf};
use std::{fs, io};

use guest_images::PackageStore;
use guest_images::error::PackageError;
use testbed::{Error, GUEST, Layout, Result};

use super::command;
use super::driver::{Driver, Rates, senseless};
use crate::figures::quantiles;

/// The database of the image, and its user.
const DATABASE: &str = "ftvm";
const USER: &str = "postgres";

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
    // Where `pgbench` notes every transaction, and did at the last measurement.
    let directory = driver.scratch.join("pgbench");
    let failed = |source| Error::File {
        path: directory.clone(),
        source,
    };
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir(&directory).map_err(failed)?;
    let prefix = directory.join("transactions");
    let (prefix, seconds) = (prefix.to_string_lossy(), driver.seconds());
    let clients = driver.clients.to_string();
    #[rustfmt::skip]
    let text = pgbench(driver, &[
        "--no-vacuum", "--client", &clients, "--time", &seconds,
        "--log", "--log-prefix", &prefix,
    ])?;
    let rate = rate(&text).ok_or_else(|| senseless("pgbench", &text))?;
    let micros = transactions(&directory).map_err(failed)?;
    let micros = micros.into_iter().map(|micros| (micros, 1));
    Ok((rate, quantiles(micros, [0.5, 0.99])))
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

/// How long each transaction took, in microseconds, by the logs in a directory.
fn transactions(directory: &Path) -> io::Result<Vec<u64>> {
    // `client transaction time script seconds microseconds`
    let time = |line: &str| line.split(' ').nth(2)?.parse::<u64>().ok();
    let mut all = Vec::new();
    for entry in fs::read_dir(directory)? {
        all.extend(fs::read_to_string(entry?.path())?.lines().filter_map(time));
    }
    Ok(all)
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
        let lines = "0 1 1000 0 175 12\n0 2 1001 0 175 13\n0 3 2000 0 175 14\n";
        fs::write(directory.path().join("transactions.123"), lines).expect("a log");
        let micros = transactions(directory.path()).expect("transactions");
        assert_eq!(micros, [1000, 1001, 2000]);
    }
}
