//! Joins that are not disturbed, and the failovers after them.

use std::time::{Duration, Instant};

use super::life::{Complete, Life};
use super::{Joins, LIMIT};
use crate::Signal;
use crate::error::{Error, Result};
use crate::pair::{Guest, Side, Told};
use crate::soak::Memory;
use crate::wait::wait_until;
use crate::workload::{Client, LoadWatcher};

/// Between two digests, in milliseconds: as often as they cost next to nothing.
const DIGESTS: &str = "100";
/// After a join, all of memory has been looked at in 16 digests; one may be under way before.
const ALL_OF_MEMORY: u64 = 17;

impl Joins {
    /// The guest; a new one boots if there is none.
    pub(super) fn life(&mut self) -> Result<Life> {
        if let Some(life) = self.life.take() {
            return Ok(life);
        }
        self.lives += 1;
        let name = format!("joins-{}", self.lives);
        let guest = match self.options.load {
            Some(load) => Guest::load(&name, load),
            None => Guest::redis(&name),
        };
        let mut guest = guest.quick();
        if let Some(mib) = self.options.memory_mib {
            guest.set_memory(mib);
        }
        let digests = ["--digest-interval", DIGESTS].map(str::to_owned);
        guest.options.extend(digests);
        let timeout = self.options.heartbeat_timeout.as_millis().to_string();
        let client = self.testbed.client();
        let life = Life {
            side: guest.primary_at_once(
                &self.hosts[self.on],
                &self.disk_server,
                &["--heartbeat-timeout", &timeout],
            )?,
            client: Client::redis_that(self.options.client_rests, client),
            load: self
                .options
                .load
                .map(|load| LoadWatcher::start(client, load)),
            guest,
        };
        life.goes_on("after the boot")?;
        wait_until("the load's first result", LIMIT, || {
            let load = life.load.as_ref();
            Ok(load.is_none_or(|load| load.results() > 0 || load.trouble().is_some()))
        })?;
        Ok(life)
    }

    /// Who may run the guest: epoch and holder.
    pub(super) fn record(&self, guest: &Guest) -> Result<(u64, String)> {
        let host = self.hosts.iter().find(|host| host.is_alive());
        self.disk_server
            .record(host.unwrap_or(&self.hosts[0]), &guest.name)
    }

    /// A backup joins and is not disturbed. All of both hosts' state is compared, which must be equal (not
    /// of a large guest: an emulated host takes minutes for that); then the process that runs the guest is killed, and the backup goes on.
    ///
    /// # Errors
    ///
    /// When it does not, something differs, or the client lost something.
    pub fn join_and_fail_over(&mut self) -> Result<Complete> {
        let mut life = self.life()?;
        let seen = life.side.told().events.len();
        let start = Instant::now();
        let [source, target] = [self.on, self.other()].map(|which| &self.hosts[which]);
        let mut backup = life.guest.backup(target, source, &self.disk_server)?;
        backup.wait_for("joined", LIMIT)?;
        let joined = life
            .side
            .wait_until("event `protected`", LIMIT, |told| told.joined(seen))?;
        self.took = start.elapsed();
        life.goes_on("of a guest with a backup")?;
        if self.options.memory_mib.is_none() {
            self.compare(&mut life, &mut backup)?;
        }
        // Of this session.
        let held_ms = |told: &Told| told.stats.map(|stats| stats.throttled_ms);
        let held_ms = held_ms(life.side.told()).unwrap_or_default();
        let longest_gap = life.client.longest_gap(start);
        let resident_kib = [
            Memory::of(source)?.resident_kib,
            Memory::of(target)?.resident_kib,
        ];
        let most = |mib: u32| u64::from(mib) * 1024 * 11 / 10;
        if let Some(most) = self.options.memory_mib.map(most)
            && resident_kib.iter().any(|kib| *kib > most)
        {
            return Err(Error::Wrong {
                what: format!("more than {most} KiB in memory"),
                seen: format!("source and target: {resident_kib:?} KiB"),
            });
        }
        self.fail_over(life, backup)?;
        Ok(Complete {
            took: self.took,
            joined,
            held: Duration::from_secs_f64(held_ms / 1e3),
            longest_gap,
            resident_kib,
        })
    }

    /// Waits until digests have compared all of the two copies.
    fn compare(&self, life: &mut Life, backup: &mut Side) -> Result<()> {
        let digests = |told: &Told| told.stats.map_or(0, |stats| stats.digests);
        let before = digests(backup.told());
        let told_before = life.side.told().events.len();
        wait_until("digests of all of memory", LIMIT, || {
            for (told, seen) in [(life.side.told(), told_before), (backup.told(), 0)] {
                let mut failures = ["diverged", "backup-diverged", "peer-lost"].into_iter();
                if failures.any(|kind| told.after(seen, kind).next().is_some()) {
                    return Err(Error::Wrong {
                        what: "a backup that joined differs, or is lost".to_owned(),
                        seen: format!("{told:?}"),
                    });
                }
            }
            Ok(digests(backup.told()) >= before + ALL_OF_MEMORY)
        })
    }

    /// The process that runs the guest is killed, and its backup goes on.
    pub(super) fn fail_over(&mut self, mut life: Life, mut backup: Side) -> Result<()> {
        let (epoch, _) = self.record(&life.guest)?;
        life.side.signal(Signal::SIGKILL)?;
        backup.wait_for("live", LIMIT)?;
        life.side.end(LIMIT)?;
        life.side = backup;
        self.on = self.other();
        life.goes_on("of the backup")?;
        self.is_run_by(&life.guest, epoch, self.on)?;
        self.life = Some(life);
        Ok(())
    }

    /// The guest is in an epoch after this one, which this host won.
    pub(super) fn is_run_by(&self, guest: &Guest, epoch: u64, host: usize) -> Result<()> {
        let (now, holder) = self.record(guest)?;
        let name = self.hosts[host].name();
        let is_held = holder.split('/').next() == Some(name);
        if now > epoch && is_held {
            return Ok(());
        }
        Err(Error::Wrong {
            what: format!("{} is not run by {name} after epoch {epoch}", guest.name),
            seen: format!("epoch {now}, {holder}"),
        })
    }
}
