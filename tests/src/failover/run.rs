//! One failover, from a fresh guest to the verdict.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use guest_images::GuestImages;
use guest_images::load::{Load, MEMORY_MIB};

use super::client::{ClientRecord, CounterClient};
use super::kill_plan::KillPlan;
use super::load::LoadWatcher;
use super::progress::{Meter, Progress, State, Status};
use super::report::{Observations, Run};
use super::side::{Side, Stats};
use super::{Failovers, LIMIT, disk_server};
use crate::error::Result;
use crate::network::{GUEST, Network};
use crate::ping::Pinger;

/// How often it is looked how things are.
const POLL: Duration = Duration::from_millis(10);
/// A guest's boot, replicated, on an emulated host, on a busy machine.
const BOOT: Duration = Duration::from_secs(300);
/// From the kill to the first reply.
const FAILOVER: Duration = Duration::from_secs(60);
const LOG_PORT: u16 = 7000;

/// From one result of a load to the next.
const LOAD: Duration = Duration::from_secs(120);

/// How many results of a load must come after a failover: those that the guest
/// may have had before, not yet read by the watcher, and a whole round.
fn results_afterwards(load: Load) -> usize {
    load.kinds().len() + 2
}

/// What a run works with.
struct Scene<'a> {
    number: u32,
    primary: Option<Side>,
    backup: Side,
    client: CounterClient,
    pinger: Pinger,
    load: Option<LoadWatcher>,
    replies: Meter,
    log: Meter,
    names: [String; 2],
    progress: &'a mut dyn Progress,
}

/// Why a run goes no further.
struct Trouble(String);

impl Failovers {
    /// Boots a fresh guest on both hosts, kills the primary's host at a random
    /// moment, and tells what the client saw.
    ///
    /// A failover that does not go well is a run with the verdict FAIL.
    ///
    /// # Errors
    ///
    /// When a host does not boot or does not answer.
    pub fn run(&mut self, progress: &mut dyn Progress) -> Result<Run> {
        self.runs += 1;
        self.ready_hosts()?;
        let plan = KillPlan::next(&mut self.random, self.boot);
        let names = [&self.primary, &self.backup].map(|host| host.name().to_owned());
        let mut seen = Observations {
            number: self.runs,
            hosts: names.clone(),
            ..Observations::default()
        };
        let (primary, backup) = self.start_pair()?;
        let position = self.testbed.client();
        let mut scene = Scene {
            number: self.runs,
            primary: Some(primary),
            backup,
            client: CounterClient::start(position),
            pinger: Pinger::start(&self.testbed)?,
            load: self
                .options
                .load
                .map(|load| LoadWatcher::start(position, load)),
            replies: Meter::default(),
            log: Meter::default(),
            names,
            progress,
        };
        let outcome = self.fail_over(&mut scene, &plan, &mut seen);
        let Scene {
            client,
            backup,
            pinger,
            load,
            ..
        } = scene;
        seen.pings = pinger.record();
        let client: ClientRecord = match outcome {
            Ok(()) => {
                seen.load = load.map(LoadWatcher::finish);
                let record = client.finish();
                self.survivor = Some(backup);
                record
            }
            Err(Trouble(trouble)) => {
                seen.trouble = Some(trouble);
                seen.load = load.map(LoadWatcher::abandon);
                // A broken connection is worth its last look at the counter.
                if client.trouble().is_some() {
                    client.finish()
                } else {
                    client.abandon()
                }
            }
        };
        Ok(Run::judge(&seen, &client))
    }

    fn fail_over(
        &mut self,
        scene: &mut Scene<'_>,
        plan: &KillPlan,
        seen: &mut Observations,
    ) -> std::result::Result<(), Trouble> {
        scene.wait("primary and backup", LIMIT, &State::Starting, |scene| {
            scene.both_run()
        })?;
        let started = Instant::now();
        scene.wait("the first reply", BOOT, &State::Booting, |scene| {
            scene.client.first_reply().is_some()
                || plan
                    .after_start
                    .is_some_and(|after| started.elapsed() >= after)
        })?;
        if let Some((first, _)) = scene.client.first_reply() {
            self.boot = Some(first.saturating_duration_since(started));
            if plan.after_start.is_none() {
                let state = State::Replicated;
                scene.wait("the load's first result", BOOT, &state, |scene| {
                    scene.load.as_ref().is_none_or(|load| load.results() > 0)
                })?;
                let since = Instant::now();
                scene.wait("the kill", LIMIT, &state, |_| {
                    since.elapsed() >= plan.after_reply
                })?;
            }
        }

        seen.stats = scene.stats();
        let had_replies = scene.client.first_reply().is_some();
        let killed = Instant::now();
        self.primary.kill();
        seen.killed = Some(killed);
        scene.primary = None;

        let state = State::Killed(self.primary.name().to_owned());
        let limit = if had_replies { FAILOVER } else { BOOT };
        let live = scene.wait("the backup's going live", FAILOVER, &state, |scene| {
            scene.backup.look().live.is_some()
        });
        seen.noticed = scene.backup.look().peer_lost.as_ref().map(|(at, _)| *at);
        live?;
        let live = scene.backup.look().live.unwrap_or(killed);
        scene.wait("a reply of the other host", limit, &state, |scene| {
            scene.client.last_reply().is_some_and(|(at, _)| at > live)
        })?;
        let resumed = Instant::now();
        seen.resumed = Some(resumed);
        scene.wait("further replies", LIMIT, &State::Live, |_| {
            resumed.elapsed() >= plan.go_on
        })?;
        let wanted = self.options.load.map_or(0, results_afterwards);
        scene.wait("the load's next results", LOAD, &State::Live, |scene| {
            let load = scene.load.as_ref();
            load.is_none_or(|load| load.since(resumed) >= wanted)
        })
    }

    fn start_pair(&self) -> Result<(Side, Side)> {
        let name = format!("demo-{}", self.runs);
        let log = format!("{}:{LOG_PORT}", self.primary.address(Network::Logging));
        let timeout = self.options.heartbeat_timeout.as_millis().to_string();
        let primary = self.start_side("primary", &name, &["--listen", &log], &timeout)?;
        let backup = self.start_side("backup", &name, &["--connect", &log], &timeout)?;
        Ok((primary, backup))
    }

    fn start_side(
        &self,
        role: &'static str,
        name: &str,
        channel: &[&str],
        timeout: &str,
    ) -> Result<Side> {
        let host = if role == "primary" {
            &self.primary
        } else {
            &self.backup
        };
        let image = |other: &Option<PathBuf>, own| match other {
            Some(path) => host.provide(path, own),
            None => Ok(host.image(own)),
        };
        let kernel = image(&self.options.kernel, "vmlinux")?;
        let mut append = format!("quiet mitigations=off ftvm.ip={GUEST}/24");
        let initrd = match self.options.load {
            None => GuestImages::REDIS,
            Some(load) => {
                append.push_str(&format!(" {}", load.word()));
                GuestImages::LOAD
            }
        };
        let initrd = image(&self.options.initrd, initrd)?;
        let memory = MEMORY_MIB.to_string();
        let server = disk_server(&self.testbed);
        let mut argv = vec!["ftvm", role, "--name", name];
        argv.extend(["--kernel", &kernel, "--initrd", &initrd]);
        argv.extend(["--append", &append, "--tap", "tap0"]);
        argv.extend(["--disk-server", &server, "--events", "-"]);
        argv.extend(channel);
        if self.options.load.is_some() {
            argv.extend(["--memory", &memory]);
        }
        if role == "primary" {
            argv.extend(["--heartbeat-timeout", timeout]);
        }
        Side::start(host, role, &argv)
    }
}

impl Scene<'_> {
    /// Waits for a condition while both sides and the client are well.
    fn wait(
        &mut self,
        what: &str,
        limit: Duration,
        state: &State,
        mut condition: impl FnMut(&mut Self) -> bool,
    ) -> std::result::Result<(), Trouble> {
        let deadline = Instant::now() + limit;
        loop {
            self.check()?;
            self.show(state);
            if condition(self) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Trouble(format!("{what}: nothing within {limit:?}")));
            }
            std::thread::sleep(POLL);
        }
    }

    fn check(&mut self) -> std::result::Result<(), Trouble> {
        let replicated = self.primary.is_some();
        for side in self.primary.iter_mut().chain([&mut self.backup]) {
            if let Some(trouble) = side.trouble() {
                return Err(Trouble(trouble));
            }
            if replicated && let Some((_, reason)) = &side.look().peer_lost {
                return Err(Trouble(format!(
                    "a host was lost before the kill: {reason}"
                )));
            }
        }
        if let Some(trouble) = self.client.trouble() {
            return Err(Trouble(format!("the client: {trouble}")));
        }
        match self.load.as_ref().and_then(LoadWatcher::trouble) {
            Some(trouble) => Err(Trouble(trouble)),
            None => Ok(()),
        }
    }

    fn both_run(&mut self) -> bool {
        self.primary
            .iter_mut()
            .chain([&mut self.backup])
            .all(|side| side.look().ready.is_some())
    }

    /// The newest figures: the primary's, or the backup's if it has told none.
    fn stats(&mut self) -> Option<Stats> {
        let backup = self.backup.look().stats;
        let primary = self.primary.as_mut().and_then(|side| side.look().stats);
        let seconds = [primary, backup]
            .iter()
            .flatten()
            .map(|stats| stats.guest_seconds)
            .fold(0.0, f64::max);
        primary.or(backup).map(|stats| Stats {
            guest_seconds: seconds,
            ..stats
        })
    }

    fn show(&mut self, state: &State) {
        let now = Instant::now();
        let counter = self.client.counter();
        let stats = match self.primary {
            Some(_) => self.stats(),
            None => None,
        };
        let bytes = stats.map(|stats| self.log.count(now, stats.log_bytes));
        let (role, host) = match state {
            State::Live => ("alone", &self.names[1]),
            State::Killed(_) => ("backup", &self.names[1]),
            _ => ("primary", &self.names[0]),
        };
        let status = Status {
            run: self.number,
            role,
            host: host.clone(),
            state: state.clone(),
            counter,
            rate: self.replies.count(now, counter),
            lag_ms: stats.map(|stats| stats.lag_ms),
            log_mbit: bytes.map(|bytes| bytes * 8.0 / 1e6),
        };
        self.progress.update(&status);
    }
}
