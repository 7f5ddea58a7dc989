//! A guest from its start to its end, with its failovers.

use std::time::{Duration, Instant};

use super::daemons::Daemons;
use super::judge::{Beside, End, Observations};
use super::kill_plan::Plan;
use super::progress::{Meter, Watcher};
use super::report::Run;
use super::scene::{Outcome, Scene, ServerFault, Trouble};
use super::{Failovers, Fault, Standby};
use crate::error::Result;
use crate::fleet::side_of;
use crate::host::Host;
use crate::pair::{Guest, Side};
use crate::ping::Pinger;
use crate::workload::{Client, Committed, LoadWatcher};

/// As long as a join takes where nothing is known of that.
const UNKNOWN_JOIN: Duration = Duration::from_secs(5);

impl Failovers {
    /// Boots a fresh guest on both hosts, kills or freezes the primary's host at a random
    /// moment, and tells what the client saw.
    ///
    /// A failover that does not go well is a run with the judgement FAIL.
    ///
    /// # Errors
    ///
    /// When a host does not boot or does not answer.
    pub fn run(&mut self, watcher: &mut dyn Watcher) -> Result<Run> {
        let mut runs = self.live(1, false, watcher)?;
        Ok(runs.pop().expect("one was asked for"))
    }

    /// As [`Failovers::run`], so often with one guest and one client: after each failover the host that
    /// was killed boots again, and a backup joins there. From the third time on the host of a backup
    /// that joins is killed as well, once in the middle of the join. The first failover that does not
    /// go well is the last one.
    ///
    /// # Errors
    ///
    /// As [`Failovers::run`].
    pub fn successive(&mut self, failovers: u32, watcher: &mut dyn Watcher) -> Result<Vec<Run>> {
        self.live(failovers, true, watcher)
    }

    fn live(&mut self, failovers: u32, joins: bool, watcher: &mut dyn Watcher) -> Result<Vec<Run>> {
        self.ready_hosts()?;
        let first = self.plans.runs + 1;
        let pinger = Pinger::start(&self.testbed)?;
        // A host looks after hot backups only.
        let tended = joins && self.options.standby == Standby::Hot;
        let mut scene = self.scene(tended, watcher)?;
        let mut runs = Vec::new();
        let (mut seen, outcome) = scene.live(failovers, joins, &pinger, &mut runs);
        let Scene {
            client,
            load,
            sides,
            primary,
            ..
        } = scene;
        self.primary = primary;
        let (client, load) = match &outcome {
            Ok(()) => {
                let load = load.map(LoadWatcher::finish);
                let record = client.finish();
                self.running = in_order(sides, primary).filter(|_| !tended);
                (record, load)
            }
            Err(Trouble(trouble)) => {
                seen.trouble = Some(trouble.clone());
                let load = load.map(LoadWatcher::abandon);
                if self.options.fault != Fault::Kill {
                    // One may stand still yet, and is to answer in the next run, or to `--keep`.
                    self.hosts().try_for_each(Host::thaw)?;
                }
                // A broken connection is worth its last look at what is there.
                let record = match client.trouble() {
                    Some(_) => client.finish(),
                    None => client.abandon(),
                };
                (record, load)
            }
        };
        let end = self.look_at_the_disk()?;
        let beside = Beside {
            client: &client,
            pings: &pinger.record(),
            load: load.as_ref(),
            end: Some(&end),
        };
        let run = Run::judge(&seen, &beside);
        self.leave_the_disk(first, &run)?;
        watcher.run(&run);
        runs.push(run);
        Ok(runs)
    }

    /// A fresh guest on both hosts, and its client.
    fn scene<'a>(&'a mut self, tended: bool, watcher: &'a mut dyn Watcher) -> Result<Scene<'a>> {
        let first = self.plans.runs + 1;
        let guest = self.guest(first)?;
        let sides = match tended {
            true => self.have_it_tended(&guest)?,
            false => self.start_pair(&guest)?,
        };
        let position = self.testbed.client();
        Ok(Scene {
            number: first,
            options: &self.options,
            testbed: &self.testbed,
            plans: &mut self.plans,
            hosts: &mut self.hosts,
            primary: self.primary,
            sides,
            protected: Some([0; 2]),
            before_join: 0,
            join: UNKNOWN_JOIN,
            guest,
            disk_server: &mut self.disk_server,
            daemons: self.daemons.as_mut().filter(|_| tended),
            server_fault: None,
            client: match &self.disk {
                Some(disk) => Client::postgres(position, first, disk.committed().to_vec()),
                None => Client::redis_that(self.options.client_rests, position),
            },
            load: self
                .options
                .load
                .map(|load| LoadWatcher::start(position, load)),
            replies: Meter::default(),
            log: Meter::default(),
            watcher,
        })
    }

    fn look_at_the_disk(&mut self) -> Result<End> {
        let fsck = match &self.disk {
            Some(disk) => Some(disk.check(&mut self.disk_server)?),
            None => None,
        };
        Ok(End { fsck })
    }

    /// The next guest uses the disk as this one left it, if all is well with it. The client of this
    /// one called its rows those of run `first`.
    fn leave_the_disk(&mut self, first: u32, run: &Run) -> Result<()> {
        let Some(disk) = &mut self.disk else {
            return Ok(());
        };
        match run.final_counter.filter(|_| run.passed()) {
            Some(rows) => {
                disk.keep(Committed { run: first, rows });
                Ok(())
            }
            None => {
                // Nobody may go on to write to it.
                self.running = None;
                disk.renew(run.number)
            }
        }
    }

    /// A guest of its own, with its images where the hosts find them.
    fn guest(&mut self, number: u32) -> Result<Guest> {
        let name = format!("demo-{number}");
        let guest = match (&self.disk, self.options.load) {
            (Some(disk), _) => {
                let exports = vec![disk.export(&name)];
                self.disk_server.offer(&self.testbed, exports)?;
                let mut guest = Guest::debian(&name, &disk.uri(&self.disk_server));
                guest.options.push("--console".to_owned());
                guest
            }
            (None, None) => Guest::redis(&name),
            (None, Some(load)) => Guest::load(&name, load),
        };
        let mut guest = guest.boots(self.options.boot);
        for host in &self.hosts {
            self.options.provide_images(host, &mut guest)?;
        }
        Ok(guest)
    }

    /// A guest that the hosts' daemons look after, and what its processes tell.
    fn have_it_tended(&mut self, guest: &Guest) -> Result<[Option<Side>; 2]> {
        let Self {
            testbed,
            disk_server,
            hosts,
            options,
            ..
        } = self;
        let daemons = self
            .daemons
            .get_or_insert_with(|| Daemons::new(testbed, disk_server));
        for (which, host) in hosts.iter().enumerate() {
            daemons.start(which, host, disk_server)?;
        }
        self.primary = daemons.run(guest, hosts, options.heartbeat_timeout)?;
        let side = |host| side_of(host, &guest.name).map(Some);
        Ok([side(&hosts[0])?, side(&hosts[1])?])
    }

    /// On each host its side.
    fn start_pair(&self, guest: &Guest) -> Result<[Option<Side>; 2]> {
        let timeout = self.options.heartbeat_timeout.as_millis().to_string();
        let allow = self.options.paging.options();
        let options = [&["--heartbeat-timeout", &timeout], allow].concat();
        let own = self.options.backup();
        let [primary, backup] = [self.primary, 1 - self.primary];
        let host = |which: usize| &self.hosts[which];
        let mut sides = [None, None];
        sides[primary] = Some(guest.primary(host(primary), &self.disk_server, &options)?);
        sides[backup] =
            Some(guest.backup_with(host(backup), host(primary), &self.disk_server, &own)?);
        Ok(sides)
    }
}

/// The primary, and its backup if it has one.
fn in_order(sides: [Option<Side>; 2], primary: usize) -> Option<(Side, Option<Side>)> {
    let [first, second] = sides;
    match primary {
        0 => Some((first?, second)),
        _ => Some((second?, first)),
    }
}

impl Scene<'_> {
    /// All failovers of the guest, one after the other. Those that went well and are not the last one
    /// are judged and told; what was seen of the other one, and its outcome, is given back.
    fn live(
        &mut self,
        failovers: u32,
        joins: bool,
        pinger: &Pinger,
        runs: &mut Vec<Run>,
    ) -> (Observations, Outcome) {
        let mut begin = None;
        loop {
            let plan = self.plans.next(runs.is_empty());
            self.number = plan.number;
            let fault = self.options.restart_disk_server;
            self.server_fault = fault.then(|| ServerFault::new(plan.server));
            let mut seen = Observations {
                number: plan.number,
                hosts: self.names(),
                begin,
                ..Observations::default()
            };
            let outcome = self.run(&plan, joins, &mut seen);
            begin = Some(Instant::now());
            seen.end = begin;
            if outcome.is_err() || runs.len() + 1 == failovers as usize {
                return (seen, outcome);
            }
            let run = self.judge(&seen, pinger);
            if let Some(reason) = run.reason {
                return (seen, Err(Trouble(reason)));
            }
            self.watcher.run(&run);
            runs.push(run);
        }
    }

    /// The judgement of a run that is over, while the guest goes on.
    fn judge(&self, seen: &Observations, pinger: &Pinger) -> Run {
        let load = self.load.as_ref().map(LoadWatcher::record);
        let beside = Beside {
            client: &self.client.record(),
            pings: &pinger.record(),
            load: load.as_deref(),
            end: None,
        };
        Run::judge(seen, &beside)
    }

    fn run(&mut self, plan: &Plan, joins: bool, seen: &mut Observations) -> Outcome {
        if seen.begin.is_none() {
            self.boot(&plan.kill)?;
        }
        self.fail_over(&plan.kill, seen)?;
        match joins {
            true => self.protect_again(plan, seen),
            false => Ok(()),
        }
    }
}
