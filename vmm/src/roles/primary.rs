//! The primary: runs the guest, logs its inputs, and lets outputs out when the backup has the log.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use logging_channel::entry::{Entry, Lsn};
use logging_channel::sender::{Finish, Permit, Release, Sender};
use logging_channel::session::{AcceptError, Listener};
use logging_channel::{LossReason, Settings};

use super::claim::{ArbiterConfig, Rights};
use super::peer_report::StopNaming;
use super::stats::Meters;
use super::tenure::{Standing, Tenure, Verdict};
use super::{Halt, RoleError, peer_report, stats, storage, tie_to_server};
use crate::assembly::{AssemblyError, Guest, HostConfig, watchdog};
use crate::config::VmConfig;
use crate::disk::DiskPort;
use crate::disk::progress::{LogProgress, Reached};
use crate::disk::serving::Serving;
#[cfg(feature = "sabotage")]
use crate::engine::OutputGate;
use crate::engine::{Ended, Role, Step};
use crate::events::{Event, Events};
use crate::gates::Committed;
#[cfg(feature = "sabotage")]
use crate::gates::Direct;
use crate::gates::committed::{CommitWatch, Outlook};
use crate::sources::{
    BackupReads, GuestClock, LiveInputs, LogSink, Pace, Recorder, StateKeeper, Verification,
};
use crate::state::Baseline;

/// How long a backup may take to acknowledge the end of an orderly log.
const FINISH_TIMEOUT: Duration = Duration::from_secs(30);

/// How this host is the primary.
pub struct PrimaryOptions {
    /// Where the backup connects.
    pub listen: SocketAddr,
    /// The disk server.
    pub arbiter: ArbiterConfig,
    /// The logging channel.
    pub channel: Settings,
    /// Whether the backup reads the guest's disk itself.
    pub backup_reads: bool,
    /// How often the guest's state is taken.
    pub pace: Pace,
    /// **Leaves a backup that differs as it is**: for the test of a failover in that window.
    #[cfg(feature = "sabotage")]
    pub never_repair: bool,
    /// **Breaks the Output Rule**: outputs leave at once. For the test that shows what the rule is
    /// for.
    #[cfg(feature = "sabotage")]
    pub break_output_rule: bool,
}

/// Waits for a backup, then runs the guest to its end. `cancel` ends the wait; `prepared` is called
/// before it begins.
///
/// # Errors
/// [`RoleError`].
pub fn run_primary(
    vm: &VmConfig,
    host: &HostConfig,
    options: &PrimaryOptions,
    events: &Events,
    halt: Halt,
    cancel: &AtomicBool,
    prepared: impl FnOnce(&Guest),
) -> Result<Ended, RoleError> {
    let mut listener = Listener::bind(options.listen)?;
    let mut guest = Guest::assemble(vm, host, Verification::default())?;
    // A host without room for it claims nothing, and takes no backup.
    let baseline = guest.baseline()?;
    let rights = Arc::new(Rights::new(&options.arbiter, &vm.name)?);
    tie_to_server(&mut guest, &rights)?;
    prepared(&guest);
    let epoch = rights.start(cancel)?;
    let tenure = Tenure::hold(rights.clone(), epoch, events, halt);
    if let Some(disk) = &guest.disk {
        disk.require_writer(epoch).map_err(AssemblyError::from)?;
    }
    log::info!(
        "{}: epoch {epoch}; waiting for a backup at {}",
        vm.name,
        listener.local_addr()
    );

    let sender = listener
        .accept_backup(
            &guest.identity,
            &guest.host_report,
            &rights.title(epoch),
            &options.channel,
            cancel,
            || rights.confirm(epoch),
        )
        .inspect_err(|error| {
            if let AcceptError::NotEntitled(reason) = error {
                let reason = reason.clone();
                events.emit(&Event::Lost { reason });
            }
        })?;
    tenure.pair_with(sender.events());
    let standing = tenure.standing();
    let ended = run_with_backup(
        guest, baseline, &vm.name, options, events, &sender, standing,
    );
    // Before the session ends with its last handle: that would be taken for the loss of the backup.
    match ended {
        Ok(_) => tenure.end(),
        Err(_) => drop(tenure),
    }
    ended
}

/// Runs the guest to its end, with the backup of this session for as long as there is one.
fn run_with_backup(
    mut guest: Guest,
    baseline: Baseline,
    name: &str,
    options: &PrimaryOptions,
    events: &Events,
    sender: &Sender,
    standing: Standing,
) -> Result<Ended, RoleError> {
    let epoch = sender.session().epoch;
    log::info!(
        "{name}: primary, with the backup at {}",
        sender.session().peer
    );
    events.emit(&Event::Role {
        role: "primary",
        epoch,
    });
    let peer_host = &sender.session().peer_host;
    if peer_report::compare(events, &guest.host_report, peer_host) == StopNaming::Counter {
        guest.count_stops(events);
    }
    guest.seed(sender.session().seed)?;
    let meters = Meters::of(&guest);
    let _reporting = stats::report_sender(events, sender, &meters);

    if guest.disk.is_some() {
        let bound = options.channel.output_timeout();
        storage::watch(
            &options.arbiter,
            sender.clone(),
            bound,
            options.backup_reads,
        );
    }
    let disk = guest.disk.take().map(|disk| {
        let progress = ChannelProgress {
            sender: sender.clone(),
            standing: standing.clone(),
        };
        let serving = Serving {
            epoch: Some(epoch),
            log: Some(Arc::new(progress)),
            backup_reads: options.backup_reads,
            counters: meters.disk.clone(),
            refused: standing.doubted_by_refusals(),
            ..Serving::default()
        };
        disk.serve(serving, events, guest.host.lanes.disk.pusher())
    });
    let port = disk.clone().map(|disk| Box::new(disk) as Box<dyn DiskPort>);
    guest.host.live.store(true, Ordering::Release);
    let outlet = guest.host.outlet.clone();
    let watch = ChannelWatch {
        sender: sender.clone(),
        standing: standing.clone(),
    };
    let holds = meters.holds.clone();
    let committed = |outlet, port| Box::new(Committed::new(outlet, port, watch, holds));
    #[cfg(not(feature = "sabotage"))]
    let gate = committed(outlet, port);
    #[cfg(feature = "sabotage")]
    let gate: Box<dyn OutputGate> = if options.break_output_rule {
        log::warn!("THE OUTPUT RULE IS BROKEN ON PURPOSE: clients can see what a failover undoes");
        Box::new(Direct::new(outlet, port))
    } else {
        committed(outlet, port)
    };
    let live = LiveInputs::new(GuestClock::starting_now(), guest.host.lanes.clone());
    let log = ChannelSink {
        sender: sender.clone(),
        standing,
        events: events.clone(),
        #[cfg(feature = "sabotage")]
        never_repair: options.never_repair,
    };
    let keeper = StateKeeper::new(baseline, options.pace, meters.state.clone());
    let mut recorder = Recorder::new(live, log, Verification::default(), guest.memory.clone());
    if let (true, Some(disk)) = (options.backup_reads, disk) {
        recorder = recorder.with_backup_reads(BackupReads::Disk(Box::new(disk)));
    }
    let recorder = recorder
        .with_keeper(keeper)
        .with_watchdog(watchdog(options.pace.latency)?);
    let source = Box::new(recorder);
    Ok(guest.into_engine(Role { source, gate }).run()?)
}

/// The logging channel as the recorder's log.
struct ChannelSink {
    sender: Sender,
    standing: Standing,
    events: Events,
    #[cfg(feature = "sabotage")]
    never_repair: bool,
}

impl LogSink for ChannelSink {
    fn append(&mut self, entry: Entry) -> Step<Lsn> {
        Ok(self.sender.append(entry))
    }

    fn flush(&mut self) {
        self.sender.flush();
    }

    fn throttle(&mut self) {
        self.sender.throttle();
    }

    fn is_replayed(&self) -> bool {
        !self.sender.is_lost()
    }

    fn state_wanted(&mut self) -> Option<Lsn> {
        let lsn = self.sender.state_wanted()?;
        self.events.emit(&Event::BackupDiverged { lsn: lsn.0 });
        #[cfg(feature = "sabotage")]
        if self.never_repair {
            return None;
        }
        Some(lsn)
    }

    fn takes_counts(&self) -> bool {
        self.sender.takes_counts()
    }

    fn is_unprotected(&mut self, divergences: usize, wait: Duration) {
        self.events.emit(&Event::Unprotected {
            divergences,
            repair_in_ms: wait.as_millis() as u64,
        });
    }

    fn state_sent(&mut self) {
        self.events.emit(&Event::StateSent);
    }

    fn finish(&mut self) -> Step<()> {
        self.standing.guest_ended();
        match self.sender.finish(FINISH_TIMEOUT) {
            Finish::Orderly => log::info!("the backup has the whole log"),
            Finish::TimedOut => log::warn!("the backup did not acknowledge the guest's end"),
            Finish::PeerLost(reason) => log::info!("the guest ended without a backup ({reason})"),
        }
        // Before the end of the guest is told, which depends on it.
        if let Some(reason) = self.sender.lost() {
            self.standing.session_over(&reason);
        }
        Ok(())
    }
}

/// How far the backup has acknowledged.
struct ChannelWatch {
    sender: Sender,
    standing: Standing,
}

impl CommitWatch for ChannelWatch {
    fn on_commit(&mut self, release: Release) {
        self.sender.release_with(release);
    }

    fn permit(&self) -> Permit {
        match self.outlook(Duration::ZERO) {
            Outlook::Alone => Permit::EVERYTHING,
            Outlook::Open | Outlook::Never => self.sender.permit(),
        }
    }

    fn released(&self, lsn: Lsn) {
        self.sender.released(lsn);
    }

    fn outlook(&self, timeout: Duration) -> Outlook {
        if timeout.is_zero() && !self.sender.is_lost() {
            return Outlook::Open;
        }
        // Without a backup the right to run alone commits what is left.
        match self.standing.wait(timeout) {
            Some(Verdict::Won { .. }) => Outlook::Alone,
            Some(Verdict::Lost(_)) => Outlook::Never,
            None if self.sender.lost() == Some(LossReason::Orderly) => Outlook::Alone,
            None => Outlook::Open,
        }
    }
}

/// How far the backup has acknowledged and executed, for the guest's disk.
struct ChannelProgress {
    sender: Sender,
    standing: Standing,
}

impl LogProgress for ChannelProgress {
    fn now(&self) -> Reached {
        let reached = Reached::UpTo {
            committed: self.sender.acked(),
            executed: self.sender.executed(),
        };
        if !self.sender.is_lost() {
            return reached;
        }
        // Without a backup, the right to run alone commits what is left.
        match self.standing.wait(Duration::ZERO) {
            Some(Verdict::Won { epoch, .. }) => Reached::Alone { epoch: Some(epoch) },
            Some(Verdict::Lost(_)) => Reached::Never,
            None if self.sender.lost() == Some(LossReason::Orderly) => {
                Reached::Alone { epoch: None }
            }
            None => reached,
        }
    }

    fn wait(&self, timeout: Duration, arrived: &mut dyn FnMut(Lsn, Lsn) -> bool) {
        if self.sender.is_lost() {
            self.standing.wait(timeout);
        } else {
            self.sender.wait_acknowledged(timeout, arrived);
        }
    }
}
