//! One failover, from a fresh guest to the judgement.

use super::judge::Observations;
use super::kill_plan::{KillPlan, ServerPlan};
use super::progress::{Meter, Status};
use super::report::Run;
use super::scene::{Scene, ServerFault, Trouble};
use super::{Failovers, Fault, disk};
use crate::error::Result;
use crate::pair::{Guest, Side};
use crate::ping::Pinger;
use crate::workload::{Client, ClientRecord, Committed, LoadWatcher};

impl Failovers {
    /// Boots a fresh guest on both hosts, kills or freezes the primary's host at a random
    /// moment, and tells what the client saw.
    ///
    /// The `watcher` is told many times a second how it goes.
    ///
    /// A failover that does not go well is a run with the judgement FAIL.
    ///
    /// # Errors
    ///
    /// When a host does not boot or does not answer.
    pub fn run(&mut self, watcher: &mut dyn FnMut(&Status)) -> Result<Run> {
        self.runs += 1;
        self.ready_hosts()?;
        let plan = KillPlan::next(&mut self.random, self.runs, self.boot);
        let server_plan = ServerPlan::next(&mut self.server_random);
        let names = [&self.primary, &self.backup].map(|host| host.name().to_owned());
        let mut seen = Observations {
            number: self.runs,
            hosts: names.clone(),
            ..Observations::default()
        };
        let guest = self.guest()?;
        let (primary, backup) = self.start_pair(&guest)?;
        let pinger = Pinger::start(&self.testbed)?;
        let position = self.testbed.client();
        let mut scene = Scene {
            number: self.runs,
            options: &self.options,
            testbed: &self.testbed,
            host: &mut self.primary,
            disk_server: &mut self.disk_server,
            server_fault: self
                .options
                .restart_disk_server
                .then(|| ServerFault::new(server_plan)),
            primary: Some(primary),
            backup,
            client: match &self.disk {
                Some(disk) => Client::postgres(position, self.runs, disk.committed().to_vec()),
                None => Client::redis(position),
            },
            load: self
                .options
                .load
                .map(|load| LoadWatcher::start(position, load)),
            replies: Meter::default(),
            log: Meter::default(),
            names,
            watcher,
        };
        let outcome = scene.fail_over(&plan, &mut self.boot, &mut seen);
        let Scene {
            client,
            backup,
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
                if self.options.fault != Fault::Kill {
                    // It may stand still yet, and is to answer in the next run, or to `--keep`.
                    self.primary.thaw()?;
                }
                // A broken connection is worth its last look at what is there.
                if client.trouble().is_some() {
                    client.finish()
                } else {
                    client.abandon()
                }
            }
        };
        self.look_at_the_disk(&mut seen)?;
        let run = Run::judge(&seen, &client);
        self.leave_the_disk(&run)?;
        Ok(run)
    }

    fn look_at_the_disk(&mut self, seen: &mut Observations) -> Result<()> {
        if let Some(disk) = &self.disk {
            seen.fsck = Some(disk.check(&mut self.disk_server)?);
        }
        Ok(())
    }

    /// The next run uses the disk as this one left it, if all is well with it.
    fn leave_the_disk(&mut self, run: &Run) -> Result<()> {
        let Some(disk) = &mut self.disk else {
            return Ok(());
        };
        match run.final_counter.filter(|_| run.passed()) {
            Some(rows) => {
                disk.keep(Committed {
                    run: run.number,
                    rows,
                });
                Ok(())
            }
            None => {
                // Nobody may go on to write to it.
                self.survivor = None;
                disk.renew(run.number)
            }
        }
    }

    /// The next run's guest, with its images where the hosts find them.
    fn guest(&mut self) -> Result<Guest> {
        let name = format!("demo-{}", self.runs);
        let mut guest = match (&self.disk, self.options.load) {
            (Some(disk), _) => {
                let exports = vec![disk.export(&name)];
                self.disk_server.offer(&self.testbed, exports)?;
                Guest::debian(&name, &self.disk_server.uri(disk::EXPORT))
            }
            (None, None) => Guest::redis(&name),
            (None, Some(load)) => Guest::load(&name, load),
        };
        for host in [&self.primary, &self.backup] {
            // They have the same path in both hosts.
            if let Some(kernel) = &self.options.kernel {
                guest.kernel = host.provide(kernel, "vmlinux")?;
            }
            if let Some(initrd) = &self.options.initrd {
                guest.initrd = host.provide(initrd, "initrd")?;
            }
        }
        Ok(guest)
    }

    fn start_pair(&self, guest: &Guest) -> Result<(Side, Side)> {
        let timeout = self.options.heartbeat_timeout.as_millis().to_string();
        let allow = self.options.paging.options();
        let options = [&["--heartbeat-timeout", &timeout], allow].concat();
        let (primary, backup) = (&self.primary, &self.backup);
        let primary = guest.primary(primary, &self.disk_server, &options)?;
        let backup = guest.backup_with(backup, &self.primary, &self.disk_server, allow)?;
        Ok((primary, backup))
    }
}
