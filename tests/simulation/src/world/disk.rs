//! The way to the disk, and what the disk must hold.

use std::ops::Range;
use std::time::Duration;

use super::World;
use crate::disk::guest::{Content, SECTORS};
use crate::disk::wire::Item;
use crate::event::Event;
use crate::guest::Guest;
use crate::message::ProcessId;
use crate::process::Role;

impl World {
    pub(super) fn check_disk(&mut self) {
        let wrong = self.env.wrong_read.take();
        let holder = self.disk_server.record.holder.as_ref();
        let wrong = wrong.filter(|(of, _)| holder == Some(&self.processes[*of].me));
        let wrong = wrong.map(|(of, wrong)| format!("process {of}: {wrong}"));
        let shared = std::mem::take(&mut self.env.shared_reads);
        let shared = shared.into_iter().find_map(|read| self.differs(read));
        if let Some(what) = wrong.or(shared).or_else(|| self.disk_lost()) {
            self.env.fail(what);
        }
    }

    /// What is wrong with what a backup reads, which may go on with the guest.
    fn differs(&self, (of, sectors, data): (ProcessId, Range<usize>, Vec<u8>)) -> Option<String> {
        let me = &self.processes[of].me;
        if self.env.disk_has_lost || self.disk_server.record.backup.as_ref() != Some(me) {
            return None;
        }
        let medium = &self.disk_server.disk.medium;
        let differ = sectors.zip(Content::all_of(&data));
        let mut differ = differ.filter(|(sector, content)| medium.read(*sector) != *content);
        let (sector, content) = differ.next()?;
        Some(format!(
            "process {of} reads the disk itself, and sector {sector} is not of request {} any more",
            content.id
        ))
    }

    /// The guest that runs by the disk server's record.
    pub(super) fn guest(&self) -> Option<&Guest> {
        let holder = self.disk_server.record.holder.as_ref();
        self.processes
            .iter()
            .rev()
            .find_map(|process| match &process.role {
                Role::Runs(runner) if process.alive && Some(&process.me) == holder => {
                    Some(&runner.guest)
                }
                _ => None,
            })
    }

    /// What the disk has lost that its guest has flushed, or would lose with its power.
    fn disk_lost(&self) -> Option<String> {
        let disk = &self.guest()?.rest.disk;
        (0..SECTORS).find_map(|sector| {
            let stable = disk.stable(sector);
            let mut may_be = self.disk_server.disk.medium.may_be(sector);
            let older = may_be.find(|content| content.id < stable)?;
            Some(format!(
                "flushed and lost: sector {sector} may be of request {} when the power fails, and \
                 {stable} is stable for the guest",
                older.id
            ))
        })
    }

    /// Something comes over a connection to the disk.
    pub(super) fn disk_packet(&mut self, wire: usize, item: Item) {
        let it = &self.env.wires[wire];
        let (of, host, to_server) = (it.of, it.host, item.is_to_server());
        let is_stuck = self.disk_way_is_stuck(host, to_server);
        let kept = &mut self.env.wires[wire].way(to_server).kept;
        if is_stuck || !kept.is_empty() {
            let first = kept.is_empty();
            kept.push_back(item);
            if first {
                self.plan_disk_again(wire, to_server);
            }
        } else if to_server {
            self.disk_server.hear_disk(wire, item, &mut self.env);
        } else {
            let again = Event::Disk {
                wire,
                item: item.clone(),
            };
            if let Some((process, env)) = self.running(of, again) {
                process.hear_disk(wire, item, env);
            }
        }
    }

    fn disk_way_is_stuck(&self, host: usize, to_server: bool) -> bool {
        let cut = self.disk_server.cut[host][usize::from(!to_server)] > 0;
        cut || self.disk_server.is_off() || !(to_server || self.hosts[host])
    }

    fn plan_disk_again(&mut self, wire: usize, to_server: bool) {
        let after = Duration::from_millis(200) + self.env.jitter(Duration::from_millis(600));
        self.env.after(after, Event::DiskAgain { wire, to_server });
    }

    pub(super) fn disk_again(&mut self, wire: usize, to_server: bool) {
        let it = &mut self.env.wires[wire];
        if it.is_dead {
            return;
        }
        let host = it.host;
        if self.disk_way_is_stuck(host, to_server) {
            return self.plan_disk_again(wire, to_server);
        }
        for item in std::mem::take(&mut self.env.wires[wire].way(to_server).kept) {
            self.disk_packet(wire, item);
        }
    }
}
