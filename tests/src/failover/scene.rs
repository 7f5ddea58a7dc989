//! One failover under way: who takes part, what happens to them, and whether all of them are well.

use std::time::{Duration, Instant};

use guest_images::load::Load;

use super::daemons::Daemons;
use super::judge::Observations;
use super::kill_plan::{KillPlan, Plans, ServerPlan};
use super::progress::{Meter, State, Status, Watcher};
use super::{Fault, Options};
use crate::error::Error;
use crate::host::Host;
use crate::pair::{DiskServer, Guest, ReportedStats, Side, Told};
use crate::protocol::Exit;
use crate::testbed::Testbed;
use crate::wait::LIMIT;
use crate::workload::{Client, LoadWatcher, Workload};

/// How often it is looked how things are.
const POLL: Duration = Duration::from_millis(10);
/// What an `ftvm` says that found no disk server at its start.
const UNANSWERED: &str = "ftvm: the disk server did not answer";
/// ftvm's exit status when it lost the right to run the guest.
const LOST: i32 = 3;

/// How many results of a load must come after a failover: those that the guest
/// may have had before, not yet read by the watcher, and a whole round.
fn results_afterwards(load: Load) -> usize {
    load.kinds().len() + 2
}

/// Why a run goes no further.
pub(super) struct Trouble(pub(super) String);

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self(error.to_string())
    }
}

pub(super) type Outcome = Result<(), Trouble>;

/// The disk server's fault of a run.
pub(super) struct ServerFault {
    plan: ServerPlan,
    down: Duration,
    /// When it will be killed, once that is known.
    due: Option<Instant>,
    /// When it was killed.
    killed: Option<Instant>,
    /// When it was started again.
    over: Option<Instant>,
}

impl ServerFault {
    pub(super) fn new((plan, down): (ServerPlan, Duration)) -> Self {
        Self {
            plan,
            down,
            due: None,
            killed: None,
            over: None,
        }
    }
}

/// What the failovers of a guest work with.
pub(super) struct Scene<'a> {
    /// The run.
    pub(super) number: u32,
    pub(super) options: &'a Options,
    pub(super) testbed: &'a Testbed,
    pub(super) plans: &'a mut Plans,
    pub(super) hosts: &'a mut [Host; 2],
    /// On which host the guest runs, as far as is known.
    pub(super) primary: usize,
    /// What runs on each host.
    pub(super) sides: [Option<Side>; 2],
    /// How many events each had told when the guest had its backup; none if it has none.
    pub(super) protected: Option<[usize; 2]>,
    /// How many events the process that runs the guest had told before the newest join.
    pub(super) before_join: usize,
    /// How long the quickest join took, from the start of the process that joined.
    pub(super) join: Duration,
    pub(super) guest: Guest,
    pub(super) disk_server: &'a mut DiskServer,
    /// Those that look after the guest, where nobody else does.
    pub(super) daemons: Option<&'a mut Daemons>,
    pub(super) server_fault: Option<ServerFault>,
    pub(super) client: Client,
    pub(super) load: Option<LoadWatcher>,
    pub(super) replies: Meter,
    pub(super) log: Meter,
    pub(super) watcher: &'a mut dyn Watcher,
}

impl Scene<'_> {
    /// From two processes that begin to replicate a guest to the client's first reply, or to the kill
    /// if that comes before.
    pub(super) fn boot(&mut self, plan: &KillPlan) -> Outcome {
        self.wait("primary and backup", LIMIT, &State::Starting, |scene| {
            scene.both_run()
        })?;
        let started = Instant::now();
        if let Some(after) = plan.after_start {
            self.schedule(started, after);
        }
        let limit = self.options.workload.boot();
        self.wait("the first reply", limit, &State::Booting, |scene| {
            scene.client.first_reply().is_some()
                || plan
                    .after_start
                    .is_some_and(|after| started.elapsed() >= after)
        })?;
        if let Some((first, _)) = self.client.first_reply() {
            self.plans.boot = Some(first.saturating_duration_since(started));
        }
        Ok(())
    }

    /// From a guest with a backup to the client's replies of that.
    pub(super) fn fail_over(&mut self, plan: &KillPlan, seen: &mut Observations) -> Outcome {
        let had_replies = self.client.first_reply().is_some();
        if had_replies && plan.after_start.is_none() {
            let state = State::Replicated;
            self.wait("the load's first result", LIMIT, &state, |scene| {
                scene.load.as_ref().is_none_or(|load| load.results() > 0)
            })?;
            let since = Instant::now();
            self.schedule(since, plan.after_reply);
            self.wait("the kill", LIMIT, &state, |_| {
                since.elapsed() >= plan.after_reply
            })?;
        }

        seen.stats = self.stats();
        let [victim, _] = self.names();
        let killed = Instant::now();
        let asleep = self.strike()?;
        seen.killed = Some(killed);
        let state = match asleep {
            None => State::Killed(victim),
            Some(_) => State::Frozen(victim),
        };
        let limit = match had_replies {
            true => LIMIT,
            false => self.options.workload.boot(),
        };
        let live = self.wait("the backup's going live", LIMIT, &state, |scene| {
            scene.told().has("live")
        });
        let replay = self
            .told()
            .event("replaying")
            .map(|event| &event["replay_ms"]);
        seen.replay = replay.and_then(|ms| ms.as_u64()).map(Duration::from_millis);
        seen.noticed = self.told().when("peer-lost");
        seen.live = self.told().when("live");
        live?;
        let live = seen.live.unwrap_or(killed);
        self.wait("a reply of the other host", limit, &state, |scene| {
            scene.client.last_reply().is_some_and(|(at, _)| at > live)
        })?;
        let resumed = Instant::now();
        seen.resumed = Some(resumed);
        self.go_on(plan)?;
        let wanted = self.options.load.map_or(0, results_afterwards);
        self.wait("the load's next results", LIMIT, &State::Live, |scene| {
            let load = scene.load.as_ref();
            load.is_none_or(|load| load.since(resumed) >= wanted)
        })?;
        if let Some(asleep) = asleep {
            self.wake(asleep, killed)?;
            self.go_on(plan)?;
        }
        seen.server_restarted = self.server_is_back()?;
        if seen.server_restarted.is_some() {
            self.go_on(plan)?;
        }
        Ok(())
    }

    /// The disk server's fault is over: when it was killed, if it was to be.
    pub(super) fn server_is_back(&mut self) -> Result<Option<Instant>, Trouble> {
        self.wait("the disk server's restart", LIMIT, &State::Live, |scene| {
            let fault = scene.server_fault.as_ref();
            fault.is_none_or(|fault| fault.over.is_some())
        })?;
        Ok(self.server_fault.take().and_then(|fault| fault.killed))
    }

    /// The client goes on for a while, and has replies.
    fn go_on(&mut self, plan: &KillPlan) -> Outcome {
        let since = Instant::now();
        self.wait("further replies", LIMIT, &State::Live, |scene| {
            since.elapsed() >= plan.go_on
                && scene.client.last_reply().is_some_and(|(at, _)| at > since)
        })
    }

    /// What happens to the primary's host: the other one is to run the guest. What runs on a frozen
    /// one is given back, to be woken up later.
    fn strike(&mut self) -> Result<Option<Side>, Trouble> {
        let victim = self.primary;
        let side = self.sides[victim].take();
        self.protected = None;
        self.primary = self.other();
        if let Some(fault) = &mut self.server_fault
            && let ServerPlan::After(after) = fault.plan
        {
            fault.due = Some(Instant::now() + after);
        }
        match self.options.fault {
            Fault::Kill => {
                self.kill(victim);
                Ok(None)
            }
            Fault::Freeze(_) => {
                self.hosts[victim].freeze()?;
                Ok(side)
            }
        }
    }

    /// As by a power failure.
    pub(super) fn kill(&mut self, victim: usize) {
        self.hosts[victim].kill();
        if let Some(daemons) = &mut self.daemons {
            daemons.killed(victim);
        }
    }

    /// Wakes the frozen host up: its `ftvm` must find that it lost, and halt.
    fn wake(&mut self, mut asleep: Side, since: Instant) -> Outcome {
        let Fault::Freeze(time) = self.options.fault else {
            return Ok(());
        };
        let limit = LIMIT + time;
        self.wait("the awakening", limit, &State::Live, |_| {
            since.elapsed() >= time
        })?;
        // Its daemon does not wait to be told that it may have the backup.
        self.before_join = self.told().events.len();
        self.hosts[self.other()].thaw()?;
        if self.daemons.is_some() {
            let what = "the end of the one that slept";
            return self.wait(what, LIMIT, &State::Live, |_| asleep.told().has("lost"));
        }
        self.wait("the end of the one that slept", LIMIT, &State::Live, |_| {
            asleep.has_ended()
        })?;
        let (exit, told) = asleep.end(LIMIT)?;
        if exit != Exit::Code(LOST) || !told.has("lost") || told.has("live") {
            let words = told.last_words();
            return Err(Trouble(format!(
                "the host that slept should have halted because it lost: {exit}{words}"
            )));
        }
        Ok(())
    }

    /// Has the disk server go in the join that began then.
    pub(super) fn disturb_the_join(&mut self, began: Instant, plan: (ServerPlan, Duration)) {
        let mut fault = ServerFault::new(plan);
        if let ServerPlan::Joining(part) = fault.plan {
            fault.due = Some(began + self.join.mul_f64(part));
        }
        self.server_fault = Some(fault);
    }

    /// Fixes the moment of the disk server's fault, if it shall come before that of the host,
    /// which is so long after `since`.
    fn schedule(&mut self, since: Instant, until: Duration) {
        if let Some(fault) = &mut self.server_fault
            && let ServerPlan::Before(part) = fault.plan
        {
            fault.due = Some(since + until.mul_f64(part));
        }
    }

    /// Kills the disk server when its time has come, and starts it again.
    fn disturb_the_disk_server(&mut self) -> Outcome {
        let Some(fault) = &mut self.server_fault else {
            return Ok(());
        };
        let now = Instant::now();
        match (fault.due, fault.killed, fault.over) {
            (Some(due), None, None) if due <= now => {
                self.disk_server.kill();
                fault.killed = Some(now);
            }
            (_, Some(killed), None) if killed + fault.down <= now => {
                self.disk_server.restart(self.testbed)?;
                fault.over = Some(now);
            }
            _ => {}
        }
        Ok(())
    }

    /// Waits for a condition while both sides and the client are well.
    pub(super) fn wait(
        &mut self,
        what: &str,
        limit: Duration,
        state: &State,
        mut condition: impl FnMut(&mut Self) -> bool,
    ) -> Outcome {
        let deadline = Instant::now() + limit;
        loop {
            self.check()?;
            self.disturb_the_disk_server()?;
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

    fn check(&mut self) -> Outcome {
        let fault = self.server_fault.as_ref();
        let joins_without_disk_server =
            self.protected.is_none() && fault.is_some_and(|fault| fault.killed.is_some());
        let other = self.other();
        for (which, kept) in self.sides.iter_mut().enumerate() {
            let Some(side) = kept else { continue };
            if let Some(trouble) = side.trouble() {
                // It ends at once, and is to be started again.
                let found_none = trouble.contains(UNANSWERED);
                if joins_without_disk_server && which == other && found_none {
                    *kept = None;
                    continue;
                }
                return Err(Trouble(trouble));
            }
            if let Some(seen) = self.protected
                && let Some((_, lost)) = side.told().after(seen[which], "peer-lost").next()
            {
                let reason = &lost["reason"];
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

    /// Whether the guest runs, which it does not before its backup has joined.
    fn both_run(&mut self) -> bool {
        self.told().has("protected")
    }

    /// The host on which the guest does not run.
    pub(super) fn other(&self) -> usize {
        1 - self.primary
    }

    /// The host on which the guest runs, and the other one.
    pub(super) fn names(&self) -> [String; 2] {
        [self.primary, self.other()].map(|which| self.hosts[which].name().to_owned())
    }

    /// What the process has told that runs the guest.
    pub(super) fn told(&mut self) -> &Told {
        let side = self.sides[self.primary].as_mut();
        side.expect("its host is not killed").told()
    }

    /// The newest figures: the primary's, or the backup's if it has told none.
    fn stats(&mut self) -> Option<ReportedStats> {
        let [primary, backup] = [self.primary, self.other()].map(|which| {
            self.sides[which]
                .as_mut()
                .and_then(|side| side.told().stats)
        });
        let seconds = [primary, backup]
            .iter()
            .flatten()
            .map(|stats| stats.guest_seconds)
            .fold(0.0, f64::max);
        primary.or(backup).map(|stats| ReportedStats {
            guest_seconds: seconds,
            ..stats
        })
    }

    pub(super) fn show(&mut self, state: &State) {
        let now = Instant::now();
        let counter = self.client.counter();
        let stats = match self.protected {
            Some(_) => self.stats(),
            None => None,
        };
        let bytes = stats.map(|stats| self.log.count(now, stats.log_bytes));
        let role = match state {
            State::Starting | State::Booting | State::Replicated => "primary",
            State::Killed(_) | State::Frozen(_) => "backup",
            State::Live | State::Returning(_) | State::Joining(_) | State::JoinCut(_) => "alone",
        };
        let [host, _] = self.names();
        let status = Status {
            run: self.number,
            role,
            host,
            state: state.clone(),
            counts: match self.options.workload {
                Workload::Redis => "counter",
                Workload::Postgres => "commits",
            },
            counter,
            rate: self.replies.count(now, counter),
            lag_ms: stats.map(|stats| stats.lag_ms),
            log_mbit: bytes.map(|bytes| bytes * 8.0 / 1e6),
            join: match state {
                State::Joining(_) => self.join_progress(),
                _ => None,
            },
        };
        self.watcher.status(&status);
    }
}
