//! A guest replicated on two hosts, started by hand and looked at closely: for
//! scenarios that need more than a failover from end to end.
//!
//! ```no_run
//! # use std::time::Duration;
//! # fn main() -> testbed::Result<()> {
//! use testbed::Testbed;
//! use testbed::pair::{DiskServer, Guest};
//!
//! const LIMIT: Duration = Duration::from_secs(60);
//! let testbed = Testbed::new("pair")?;
//! let [mut a, b] = testbed.start_hosts(["a", "b"])?;
//! let disk_server = DiskServer::start(&testbed)?;
//! let guest = Guest::redis("example");
//! let primary = guest.primary(&a, &disk_server, &[])?;
//! let mut backup = guest.backup(&b, &a, &disk_server)?;
//! backup.wait_for("role", LIMIT)?;
//! a.kill();
//! backup.wait_for("live", LIMIT)?;
//! testbed.succeed();
//! # Ok(())
//! # }
//! ```

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError};
use guest_images::GuestImages;
use guest_images::load::{Load, MEMORY_MIB};
use serde::Deserialize as _;
use serde_json::Value;

use crate::client::Source;
use crate::error::{Error, Result};
use crate::failover::Stats;
use crate::host::Host;
use crate::network::{GUEST, Network};
use crate::process::{HostProcess, Line, LocalProcess};
use crate::protocol::Exit;
use crate::testbed::Testbed;
use crate::wait::wait_until;
use crate::{Output, Signal};

const DISK_SERVER_PORT: u16 = 7070;
const LOG_PORT: u16 = 7000;
/// For what will never happen.
const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// The disk server, which can be killed and started again on the same state.
#[derive(Debug)]
pub struct DiskServer {
    address: String,
    state: PathBuf,
    process: LocalProcess,
}

impl DiskServer {
    /// Starts it, with a fresh state, and waits until it takes connections.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start(testbed: &Testbed) -> Result<Self> {
        let address = format!("{}:{DISK_SERVER_PORT}", testbed.disk().address());
        let state = testbed.logs().join("disk-server-state");
        let process = serve(testbed, &address, &state)?;
        Ok(Self {
            address,
            state,
            process,
        })
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same state.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn restart(&mut self, testbed: &Testbed) -> Result<()> {
        self.kill();
        self.process = serve(testbed, &self.address, &self.state)?;
        Ok(())
    }

    /// Its address, for `--disk-server`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Epoch and holder of a guest, as `disk-server status` on a host has them.
    ///
    /// # Errors
    ///
    /// When it does not answer, or does not know the guest.
    pub fn record(&self, host: &Host, vm: &str) -> Result<(u64, String)> {
        let table = host.check(&["disk-server", "status", "--server", &self.address])?;
        table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .find_map(|words| match words[..] {
                [name, epoch, holder] if name == vm => {
                    Some((epoch.parse().ok()?, holder.to_owned()))
                }
                _ => None,
            })
            .ok_or_else(|| Error::Refused {
                host: host.name().to_owned(),
                reason: format!("the disk server does not know {vm}:\n{table}"),
            })
    }
}

fn serve(testbed: &Testbed, address: &str, state: &Path) -> Result<LocalProcess> {
    let state = state.to_string_lossy();
    let process = testbed.start_disk_server(&["--listen", address, "--state", &state])?;
    wait_until("the disk server", LIMIT, || {
        let disk = testbed.disk();
        Ok(disk
            .connect(disk.address(), DISK_SERVER_PORT, Duration::from_secs(1))
            .is_ok())
    })?;
    Ok(process)
}

/// A guest that can be replicated.
#[derive(Debug, Clone)]
pub struct Guest {
    /// Its name.
    pub name: String,
    /// A kernel in the hosts: the name of an image, or an absolute path.
    pub kernel: String,
    /// The name of its initramfs, an image.
    pub initrd: String,
    /// Words for its kernel.
    pub words: String,
    /// Further options that make it what it is.
    pub options: Vec<String>,
}

impl Guest {
    /// A guest with a Redis server at [`GUEST`].
    #[must_use]
    pub fn redis(name: &str) -> Self {
        Self {
            initrd: "redis.cpio".to_owned(),
            words: format!("quiet mitigations=off ftvm.ip={GUEST}/24"),
            options: ["--tap", "tap0"].map(str::to_owned).to_vec(),
            ..Self::tiny(name, "")
        }
    }

    /// A guest with a Redis server at [`GUEST`], and something that computes
    /// beside it.
    #[must_use]
    pub fn load(name: &str, load: Load) -> Self {
        let mut guest = Self::redis(name);
        guest.initrd = GuestImages::LOAD.to_owned();
        guest.words.push_str(&format!(" {}", load.word()));
        let memory = MEMORY_MIB.to_string();
        guest.options.extend(["--memory".to_owned(), memory]);
        guest
    }

    /// A guest that does what `words` say.
    #[must_use]
    pub fn tiny(name: &str, words: &str) -> Self {
        Self {
            name: name.to_owned(),
            kernel: "vmlinux".to_owned(),
            initrd: "tiny.cpio".to_owned(),
            words: format!("quiet mitigations=off {words}"),
            options: Vec::new(),
        }
    }

    /// Starts `ftvm primary` on a host, with further options.
    ///
    /// # Errors
    ///
    /// When the host does not answer.
    pub fn primary(&self, host: &Host, disk: &DiskServer, options: &[&str]) -> Result<Side> {
        self.primary_at(host, disk, &log_address(host), options)
    }

    /// As [`Guest::primary`], with its logging channel at another address.
    ///
    /// # Errors
    ///
    /// When the host does not answer.
    pub fn primary_at(
        &self,
        host: &Host,
        disk: &DiskServer,
        log: &str,
        options: &[&str],
    ) -> Result<Side> {
        let mut argv = self.argv("primary", host, disk);
        argv.extend(["--listen", log].map(str::to_owned));
        argv.extend(options.iter().map(|&option| option.to_owned()));
        Side::start(host, &argv)
    }

    /// Starts `ftvm backup` on a host, for the primary on another one.
    ///
    /// # Errors
    ///
    /// When the host does not answer.
    pub fn backup(&self, host: &Host, primary: &Host, disk: &DiskServer) -> Result<Side> {
        self.backup_with(host, primary, disk, &[])
    }

    /// As [`Guest::backup`], with further options.
    ///
    /// # Errors
    ///
    /// When the host does not answer.
    pub fn backup_with(
        &self,
        host: &Host,
        primary: &Host,
        disk: &DiskServer,
        options: &[&str],
    ) -> Result<Side> {
        let mut argv = self.argv("backup", host, disk);
        argv.extend(["--connect", &log_address(primary)].map(str::to_owned));
        argv.extend(options.iter().map(|&option| option.to_owned()));
        Side::start(host, &argv)
    }

    fn argv(&self, role: &str, host: &Host, disk: &DiskServer) -> Vec<String> {
        let kernel = match self.kernel.strip_prefix('/') {
            Some(_) => self.kernel.clone(),
            None => host.image(&self.kernel),
        };
        let mut argv: Vec<String> = [
            "ftvm",
            role,
            "--name",
            &self.name,
            "--kernel",
            &kernel,
            "--initrd",
            &host.image(&self.initrd),
            "--append",
            &self.words,
            "--disk-server",
            disk.address(),
            "--events",
            "-",
        ]
        .map(str::to_owned)
        .to_vec();
        argv.extend_from_slice(&self.options);
        argv
    }
}

/// Where the primary on a host has its logging channel.
#[must_use]
pub fn log_address(host: &Host) -> String {
    format!("{}:{LOG_PORT}", host.address(Network::Logging))
}

/// `ftvm` on a host, as primary or backup, and what it has told. It is killed
/// when this value is dropped.
#[derive(Debug)]
pub struct Side {
    host: String,
    process: HostProcess,
    lines: Receiver<Line>,
    told: Told,
}

/// What an `ftvm` has told.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// Its events, without the figures.
    pub events: Vec<Value>,
    /// Its newest figures.
    pub stats: Option<Stats>,
    /// Lines on its standard output that are no events: the guest's console, with `--console`.
    pub console: Vec<Line>,
    /// Its standard error.
    pub errors: String,
}

impl Told {
    fn line(&mut self, line: &Line) {
        if line.source == Source::Stderr {
            self.errors.push_str(&line.text);
            self.errors.push('\n');
            return;
        }
        match serde_json::from_str(&line.text) {
            Ok(event @ Value::Object(_)) if event["event"] == "stats" => {
                self.stats = Stats::deserialize(&event).ok().or(self.stats);
            }
            Ok(event @ Value::Object(_)) => self.events.push(event),
            _ => self.console.push(line.clone()),
        }
    }

    /// The first event of a kind.
    #[must_use]
    pub fn event(&self, kind: &str) -> Option<&Value> {
        self.events.iter().find(|event| event["event"] == kind)
    }

    /// Whether there was an event of a kind.
    #[must_use]
    pub fn has(&self, kind: &str) -> bool {
        self.event(kind).is_some()
    }
}

impl Side {
    fn start(host: &Host, argv: &[String]) -> Result<Self> {
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let process = host.spawn(&argv)?;
        Ok(Self {
            host: host.name().to_owned(),
            lines: process.lines().clone(),
            process,
            told: Told::default(),
        })
    }

    /// What it has told up to now.
    pub fn told(&mut self) -> &Told {
        self.look();
        &self.told
    }

    /// Takes in what it has told; whether it can still tell more.
    fn look(&mut self) -> bool {
        loop {
            match self.lines.try_recv() {
                Ok(line) => self.told.line(&line),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Waits for an event of a kind (the first one, if there were several).
    ///
    /// # Errors
    ///
    /// When it ends or `limit` passes before.
    pub fn wait_for(&mut self, kind: &str, limit: Duration) -> Result<Value> {
        self.wait_until(&format!("event `{kind}`"), limit, |told| {
            told.event(kind).cloned()
        })
    }

    /// Waits until its standard error contains a text.
    ///
    /// # Errors
    ///
    /// When it ends or `limit` passes before.
    pub fn wait_for_error(&mut self, text: &str, limit: Duration) -> Result<()> {
        self.wait_until(&format!("`{text}`"), limit, |told| {
            told.errors.contains(text).then_some(())
        })
    }

    /// Waits until it has told what `condition` looks for; `what` names that.
    ///
    /// # Errors
    ///
    /// When it ends or `limit` passes before.
    pub fn wait_until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        condition: impl Fn(&Told) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            let goes_on = self.look();
            if let Some(found) = condition(&self.told) {
                return Ok(found);
            }
            if !goes_on || Instant::now() > deadline {
                return Err(Error::Timeout {
                    what: format!("{what} of `ftvm` on host {}", self.host),
                    limit,
                    seen: format!("{:?}\n{}", self.told.events, self.told.errors),
                });
            }
            std::thread::sleep(POLL);
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        !self.look()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// When its host does not answer.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Waits for its end, and gives its exit status and all that it has told.
    ///
    /// # Errors
    ///
    /// When it does not end within `limit`, or its host is gone.
    pub fn end(self, limit: Duration) -> Result<(Exit, Told)> {
        let Self {
            process,
            lines,
            mut told,
            ..
        } = self;
        let exit = process.wait(limit);
        lines.iter().for_each(|line| told.line(&line));
        match exit {
            Ok(exit) => Ok((exit, told)),
            Err(Error::Timeout { what, limit, .. }) => Err(Error::Timeout {
                what,
                limit,
                seen: format!("{:?}\n{}", told.events, told.errors),
            }),
            Err(error) => Err(error),
        }
    }
}

/// Which of two sides goes on alone, and what the other one did.
#[derive(Debug)]
pub struct Outcome {
    /// The side that runs the guest.
    pub winner: Side,
    /// Whether that is the first of the two.
    pub first_won: bool,
    /// How the other one ended.
    pub loser: Exit,
    /// What the other one told.
    pub loser_told: Told,
}

/// Waits until one of two sides has gone live and the other one has ended.
///
/// # Errors
///
/// When that does not happen within `limit`.
pub fn one_goes_on(mut first: Side, mut second: Side, limit: Duration) -> Result<Outcome> {
    wait_until("that one goes on and the other ends", limit, || {
        let lives = [&mut first, &mut second].map(|side| side.told().has("live"));
        let ends = [&mut first, &mut second].map(Side::has_ended);
        Ok((lives[0] && ends[1]) || (lives[1] && ends[0]))
    })?;
    let first_won = !first.has_ended();
    let (winner, loser) = if first_won {
        (first, second)
    } else {
        (second, first)
    };
    let (loser, loser_told) = loser.end(limit)?;
    Ok(Outcome {
        winner,
        first_won,
        loser,
        loser_told,
    })
}

/// A command whose refusal is looked at: it must fail without a panic.
///
/// # Panics
///
/// When it did not fail as it should, with `text` on its standard error.
pub fn assert_refused(what: &str, output: &Output, text: &str) {
    let context = format!("{what}: {output:?}");
    assert!(
        matches!(output.exit, Exit::Code(1..)),
        "a failure expected, {context}"
    );
    assert!(output.stderr.contains(text), "`{text}` expected, {context}");
    assert!(
        !output.stderr.contains("panicked"),
        "no panic expected, {context}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_kept_and_of_the_figures_the_newest() {
        let mut told = Told::default();
        let line = |source, text: &str| Line {
            source,
            text: text.to_owned(),
            at: Instant::now(),
        };
        told.line(&line(Source::Stdout, r#"{"event":"stats","lag_ms":1.0}"#));
        told.line(&line(Source::Stdout, r#"{"event":"live","epoch":2}"#));
        told.line(&line(Source::Stdout, "noise"));
        told.line(&line(Source::Stderr, "ftvm: no"));
        assert_eq!(told.events.len(), 1);
        assert_eq!(told.stats.expect("told").lag_ms, 1.0);
        assert_eq!(told.event("live").expect("told")["epoch"], 2);
        assert!(!told.has("lost"));
        assert_eq!(told.errors, "ftvm: no\n");
    }
}
