//! A guest, from its boot to its end, and its joins that are complete.

use std::time::{Duration, Instant};

use super::{Joins, LIMIT};
use crate::Signal;
use crate::error::{Error, Result};
use crate::pair::{Guest, Side};
use crate::workload::Client;

/// A guest that runs on one of the hosts.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) guest: Guest,
    /// What runs it.
    pub(super) side: Side,
    pub(super) client: Client,
}

impl Life {
    /// The client has further replies, and lost nothing.
    pub(super) fn goes_on(&self, when: &str) -> Result<()> {
        self.client.goes_on(when)?;
        match self.client.record().loss() {
            None => Ok(()),
            Some(seen) => Err(Error::Wrong {
                what: format!("the client lost something {when}"),
                seen,
            }),
        }
    }

    /// The client must find all that was acknowledged, and the guest ends in order.
    pub(super) fn end(self) -> Result<()> {
        let record = self.client.finish();
        let lost = record.final_counter != Some(record.acked());
        if lost || record.loss().is_some() {
            return Err(Error::Wrong {
                what: format!("the client, of {} acknowledged increments", record.acked()),
                seen: format!("{:?}, {:?}", record.loss(), record.final_counter),
            });
        }
        self.side.stop()
    }
}

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
        let guest = guest.quick();
        let timeout = self.options.heartbeat_timeout.as_millis().to_string();
        let life = Life {
            side: guest.primary_at_once(
                &self.hosts[self.on],
                &self.disk_server,
                &["--heartbeat-timeout", &timeout],
            )?,
            client: Client::redis(self.testbed.client()),
            guest,
        };
        life.goes_on("after the boot")?;
        Ok(life)
    }

    /// Who may run the guest: epoch and holder.
    pub(super) fn record(&self, guest: &Guest) -> Result<(u64, String)> {
        let host = self.hosts.iter().find(|host| host.is_alive());
        self.disk_server
            .record(host.unwrap_or(&self.hosts[0]), &guest.name)
    }

    /// A backup joins and is not disturbed. How long it took from the start of its process.
    fn join(&mut self, life: &mut Life) -> Result<(Side, Duration)> {
        let seen = life.side.told().events.len();
        let start = Instant::now();
        let [source, target] = [self.on, self.other()].map(|which| &self.hosts[which]);
        let mut backup = life.guest.backup(target, source, &self.disk_server)?;
        backup.wait_for("joined", LIMIT)?;
        life.side.wait_until("event `protected`", LIMIT, |told| {
            told.after(seen, "protected").next().map(drop)
        })?;
        Ok((backup, start.elapsed()))
    }

    /// A backup joins, and goes on with the guest when the process that runs it is killed.
    ///
    /// # Errors
    ///
    /// When it does not, or the client lost something.
    pub fn join_and_fail_over(&mut self) -> Result<()> {
        let mut life = self.life()?;
        let (backup, took) = self.join(&mut life)?;
        self.took = took;
        life.goes_on("of a guest with a backup")?;
        self.fail_over(life, backup)
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
        self.is_run_by(&life.guest, epoch + 1, self.on)?;
        self.life = Some(life);
        Ok(())
    }

    /// The guest is in this epoch, which this host won.
    pub(super) fn is_run_by(&self, guest: &Guest, epoch: u64, host: usize) -> Result<()> {
        let (now, holder) = self.record(guest)?;
        let name = self.hosts[host].name();
        let is_held = holder.split('/').next() == Some(name);
        if now == epoch && is_held {
            return Ok(());
        }
        Err(Error::Wrong {
            what: format!("{} is not run by {name} in epoch {epoch}", guest.name),
            seen: format!("epoch {now}, {holder}"),
        })
    }
}
