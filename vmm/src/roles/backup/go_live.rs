//! A backup goes live.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use confinement::Calls;
use disk_server::views::WentLive;
use logging_channel::receiver::ReceiverHandle;

use crate::assembly::{AssemblyError, watchdog};
use crate::disk::DiskPort;
use crate::disk::counters::DiskCounters;
use crate::disk::followed::Followed;
use crate::disk::guest_disk::GuestDisk;
use crate::disk::serving::Serving;
use crate::engine::Role;
use crate::events::{Event, Events};
use crate::gates::{Committed, Unreleased};
use crate::io::Outlet;
use crate::ram::GuestRam;
use crate::roles::sessions::{SessionLog, Sessions};
use crate::sources::{
    ClockTrace, Lanes, LiveInputs, Pace, Recorder, StateCounters, StateKeeper, Verification, Waits,
};
use crate::state::Baseline;

/// What going live needs.
pub(super) struct GoLive {
    pub(super) live: Arc<AtomicBool>,
    pub(super) lanes: Lanes,
    pub(super) outlet: Outlet,
    pub(super) memory: GuestRam,
    pub(super) mac: [u8; 6],
    pub(super) unreleased: Unreleased,
    pub(super) pace: Pace,
    pub(super) sessions: Sessions,
    pub(super) state: Arc<StateCounters>,
    pub(super) holds: Waits,
    /// With what the server may still lose of it.
    pub(super) disk: Option<(GuestDisk, Followed)>,
    /// Backups read it themselves.
    pub(super) backup_reads: bool,
    pub(super) disk_counters: DiskCounters,
    pub(super) events: Events,
    pub(super) went_live: Box<dyn FnOnce(&Lanes)>,
}

impl GoLive {
    pub(super) fn take_over(
        self,
        baseline: Baseline,
        (epoch, lost_at): (u64, Instant),
        clock: &ClockTrace,
        receiver: &ReceiverHandle,
    ) -> Result<Role, AssemblyError> {
        let watchdog = watchdog(self.pace.latency)?;
        let sessions = self.sessions;
        sessions.go_alone();
        // First: its connection comes about while the rest is done. The server lets nothing of the
        // lost epoch write any more.
        let disk = self.disk.map(|(disk, followed)| {
            let serving = Serving {
                epoch: Some(epoch),
                counters: self.disk_counters,
                refused: sessions.standing().doubted_by_refusals(),
                log: Some(Arc::new(sessions.clone())),
                unflushed: followed.take(),
                backup_reads: self.backup_reads,
            };
            disk.serve(serving, &self.events, self.lanes.disk.pusher())
        });
        let port = disk.clone().map(|disk| Box::new(disk) as Box<dyn DiskPort>);
        self.live.store(true, Ordering::Release);
        let right = sessions.clone();
        self.outlet.announce(self.mac, move || right.may_announce());
        let again = self.unreleased.take(receiver.released());
        for frame in &again {
            self.outlet.perform(frame);
        }
        (self.went_live)(&self.lanes);
        let live = LiveInputs::new(clock.go_on(), self.lanes);
        let log = SessionLog::new(sessions.clone());
        let keeper = StateKeeper::new(baseline, self.pace, self.state);
        let mut recorder = Recorder::new(live, log, Verification::default(), self.memory);
        if let (true, Some(disk)) = (self.backup_reads, disk) {
            recorder = recorder.with_shared_reads(Box::new(disk));
        }
        let told = sessions.clone();
        let role = Role {
            source: Box::new(recorder.with_keeper(keeper).with_watchdog(watchdog)),
            gate: Box::new(Committed::new(self.outlet, port, sessions, self.holds)),
        };
        // Until now this thread may have read the disk, or what a cold backup has kept.
        confinement::narrow(&[Calls::Guest]);
        // Last: the guest runs when this is said.
        log::warn!(
            "LIVE in epoch {epoch}, unprotected; {} frames sent again",
            again.len()
        );
        let outage_ms = receiver.last_heard().elapsed().as_millis() as u64;
        told.went_live(WentLive { epoch, outage_ms });
        self.events.emit(&Event::Live {
            epoch,
            after_loss_ms: lost_at.elapsed().as_millis() as u64,
            outage_ms,
            resent_frames: again.len(),
        });
        Ok(role)
    }
}
