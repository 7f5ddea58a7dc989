//! What a maintainer needs of a guest that is in trouble, in one archive (`ftvm report`).
//!
//! No key is in it, and of a guest's data no more than the log of its process has, which is registers and an
//! instruction where a copy differed: what goes in is named here, one by one, and a guest's console, memory and disk,
//! and keys, are not among it. What cannot be had is left out, with the reason: a report
//! is made where something does not work.

mod archive;
mod paper;

use std::path::Path;
use std::process::Command;

use disk_server::arbiter::VmName;
use disk_server::arbiter::protocol;
use logging_channel::codec;
use serde_json::{Value, json};

pub use self::archive::{ArchiveError, write};
use self::paper::first;
pub use self::paper::{Missing, Paper, Report};
use crate::host::{Config, papers};
use crate::operator::client::Client;
use crate::operator::settings::socket_of_daemon;
use crate::operator::{json, local};

/// So many entries of the history, the latest.
const HISTORY: usize = 1000;

/// So many lines of the daemon's log, the latest.
const DAEMON_LINES: &str = "--lines=2000";

/// What the machine says of itself: under which name it goes in, and where it is.
const OF_MACHINE: [(&str, &str); 8] = [
    ("kernel.txt", "/proc/version"),
    ("kernel-command-line.txt", "/proc/cmdline"),
    ("memory.txt", "/proc/meminfo"),
    ("load.txt", "/proc/loadavg"),
    ("uptime.txt", "/proc/uptime"),
    ("system.txt", "/etc/os-release"),
    ("ept.txt", "/sys/module/kvm_intel/parameters/ept"),
    ("npt.txt", "/sys/module/kvm_amd/parameters/npt"),
];

/// Where all of it is.
pub struct Sources<'a> {
    /// The service, or why it cannot be asked.
    pub service: Result<Client, String>,
    /// The host's configuration.
    pub config: &'a Path,
    /// What the doctor says of this host, in JSON.
    pub doctor: &'a dyn Fn() -> String,
}

/// Collects what there is about a guest, and about this host.
#[must_use]
pub fn collect(vm: &VmName, sources: &Sources<'_>) -> Report {
    let mut report = Report::default();
    report.put("versions.json", Ok(versions()));
    of_service(vm, &sources.service, &mut report);
    of_host(vm, sources.config, &mut report);
    for (name, path) in OF_MACHINE {
        report.put_file(name, Path::new(path));
    }
    report.put("processor.txt", first("/proc/cpuinfo"));
    report.put("doctor.json", Ok((sources.doctor)()));
    report
}

fn versions() -> String {
    json!({
        "ftvm": env!("CARGO_PKG_VERSION"),
        "logging_protocol": codec::VERSIONS.to_string(),
        "arbiter_protocol": protocol::VERSIONS.to_string(),
    })
    .to_string()
}

fn of_service(vm: &VmName, service: &Result<Client, String>, report: &mut Report) {
    let ask = |question: &dyn Fn(&Client) -> Result<String, anyhow::Error>| {
        let client = service.as_ref().map_err(Clone::clone)?;
        question(client).map_err(|error| format!("{error:#}"))
    };
    let status = ask(&|client| Ok(json!(json::guest(&client.status(vm)?)).to_string()));
    report.put("status.json", status);
    let definition = ask(&|client| Ok(serde_json::to_string(&client.definition(vm)?)?));
    report.put("definition.json", definition);
    let hosts = ask(&|client| {
        let hosts = client.hosts(&client.list()?)?;
        let hosts: Vec<_> = hosts.iter().map(json::host).collect();
        Ok(json!({ "hosts": hosts }).to_string())
    });
    report.put("hosts.json", hosts);
    let history = ask(&|client| {
        let mut left = HISTORY;
        let mut entries = client.history(None, |_| {
            left = left.saturating_sub(1);
            left > 0
        })?;
        entries.reverse();
        let lines = entries.iter().map(json::entry);
        Ok(lines.map(|entry: Value| format!("{entry}\n")).collect())
    });
    report.put("history.jsonl", history);
}

fn of_host(vm: &VmName, path: &Path, report: &mut Report) {
    report.put_file("host.toml", path);
    let known = socket_of_daemon(path).ok_or_else(|| "the host's configuration is none".to_owned());
    let known = known.and_then(|socket| {
        let known = local::ask(&socket).map_err(anyhow::Error::from);
        let known = known.map_err(|error| format!("{error:#}"))?;
        let guests = known.guests();
        let guests: Vec<_> = guests.iter().map(json::guest).collect();
        Ok(json!({ "host": known.host, "vms": guests }).to_string())
    });
    report.put("daemon.json", known);
    report.put("daemon.log", daemon_log());
    let config = Config::read(path).map_err(|error| format!("{error:#}"));
    match config.and_then(|config| papers(&config, vm).map_err(|error| error.to_string())) {
        Ok(papers) => {
            for (folder, path) in papers {
                let name = path.file_name().unwrap_or_default();
                report.put_foreign_file(&name.to_string_lossy(), &folder, &path);
            }
        }
        Err(reason) => report.put("log", Err(reason)),
    }
}

/// The daemon logs to the system's journal.
fn daemon_log() -> Result<String, String> {
    let mut command = Command::new("journalctl");
    command.args([
        "--unit=ftvm-host",
        DAEMON_LINES,
        "--no-pager",
        "--output=short-iso",
    ]);
    let output = command
        .output()
        .map_err(|error| format!("journalctl: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("journalctl: {}", output.status)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use transport::{Role, key_set};

    use super::*;

    const CONSOLE: &str = "of the guest's console";

    /// A host's directory, with a guest `db` that has said everything.
    fn host() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a directory");
        let path = |name: &str| folder.path().join(name);
        let keys = key_set(folder.path(), &[(Role::Host, "a")]).expect("keys");
        let text = format!(
            "disk_server = \"192.0.2.1:7420\"\nlogging_address = \"192.0.2.2\"\nrun = \"{0}/run\"\n\
             state = \"{0}/state\"\nkey = \"{1}\"\ntrust = \"{2}\"\n",
            folder.path().display(),
            keys.key("a").display(),
            keys.trust().display(),
        );
        fs::write(path("host.toml"), text).expect("a file");
        for (file, text) in [
            ("run/guests/db/guest.toml", "name = \"db\"\n"),
            ("run/guests/db/process.json", "{}"),
            ("state/guests/db/log", "the log\n"),
            ("state/guests/db/log.1", "the log before\n"),
            ("state/guests/db/events", "{\"event\":\"protected\"}\n"),
            ("state/guests/db/console", CONSOLE),
            ("state/guests/db/console.1", CONSOLE),
        ] {
            let path = path(file);
            fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
            fs::write(path, text).expect("a file");
        }
        folder
    }

    fn collected(folder: &Path) -> Report {
        let vm = "db".parse().expect("a name");
        collect(
            &vm,
            &Sources {
                service: Err("no service here".to_owned()),
                config: &folder.join("host.toml"),
                doctor: &|| "{\"verdict\":\"fit\"}".to_owned(),
            },
        )
    }

    #[test]
    fn what_a_host_says_of_a_guest_is_in_it() {
        let folder = host();
        let report = collected(folder.path());
        let papers: BTreeMap<&str, &str> = (report.papers.iter())
            .map(|paper| (&*paper.name, &*paper.text))
            .collect();
        assert_eq!(papers["log"], "the log\n");
        assert_eq!(papers["log.1"], "the log before\n");
        assert!(papers["events"].contains("protected"));
        assert!(papers["guest.toml"].contains("db") && papers["host.toml"].contains("192.0.2.1"));
        assert!(papers["doctor.json"].contains("fit"));
        assert!(papers["versions.json"].contains(env!("CARGO_PKG_VERSION")));
        assert!(papers["kernel.txt"].contains("Linux"));
        let processors = papers["processor.txt"].matches("processor").count();
        assert!(processors >= 1, "{}", papers["processor.txt"]);
        let why = |name: &str| {
            let missing = report.missing.iter().find(|missing| missing.name == name);
            missing.map(|missing| missing.why.as_str())
        };
        assert_eq!(why("status.json"), Some("no service here"));
        assert!(why("daemon.json").is_some_and(|why| why.contains("ftvm host")));
    }

    #[test]
    fn nothing_of_a_key_or_of_a_guest_s_console_is_in_it() {
        let folder = host();
        let key = fs::read_to_string(folder.path().join("a.pem")).expect("a key");
        let secret = key.lines().nth(1).expect("it has one").to_owned();
        assert!(key.contains("PRIVATE KEY") && secret.len() > 20);
        let path = folder.path().join("report.tar");
        write(&path, "db", &collected(folder.path())).expect("an archive");
        let archive = fs::read(&path).expect("it is there");
        for forbidden in ["PRIVATE KEY", &secret, CONSOLE] {
            let found = memchr::memmem::find(&archive, forbidden.as_bytes());
            assert_eq!(found, None, "{forbidden}");
        }
        assert!(memchr::memmem::find(&archive, b"the log before").is_some());
    }
}
