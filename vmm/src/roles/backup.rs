//! The backup: replays the primary's log one entry behind, and goes live when the primary is lost.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use disk_server::arbiter::Claimant;
use logging_channel::entry::{DiskOutcome, Lsn, Payload};
use logging_channel::receiver::{Next, Peek, Receiver, ReceiverHandle};
use logging_channel::session::{ConnectError, Listener};
use logging_channel::{LossReason, Settings};

use super::claim::{ArbiterConfig, ClaimFailure, Rights};
use super::peer_report::{StopNaming, have_nested_paging, likely_cause};
use super::sessions::{Door, SessionLog, Sessions};
use super::stats::Meters;
use super::tenure::{Standing, Tenure, Verdict};
use super::{Halt, NotLive, RoleError, peer_report, stats, storage, tie_to_server};
use crate::assembly::{AssemblyError, Guest, HostConfig, watchdog};
use crate::config::VmConfig;
use crate::disk::DiskPort;
use crate::disk::counters::DiskCounters;
use crate::disk::followed::Followed;
use crate::disk::guest_disk::GuestDisk;
use crate::disk::serving::Serving;
use crate::elsewhere::DroppedElsewhere;
use crate::engine::{Difference, Divergence, Ended, EngineError, Interruption, Role, Step};
use crate::events::{Event, Events};
use crate::gates::{Committed, Suppressed, Unreleased};
use crate::io::Outlet;
use crate::protocol::follower::{AtEnd, Follower};
use crate::ram::GuestRam;
#[cfg(feature = "sabotage")]
use crate::sources::sabotage::{Plan, Saboteur};
use crate::sources::{
    ClockTrace, Head, Lanes, LiveInputs, LogSource, MANY, Pace, REPLAY_WATCH, Recorder, Repairs,
    Replayer, StateCounters, StateFollower, StateKeeper, Verification, Waits,
};
use crate::state::Baseline;

/// How long to wait for the next entry before looking around.
const PATIENCE: Duration = Duration::from_millis(200);

/// How this host is the backup.
pub struct BackupOptions {
    /// Where the primary listens.
    pub connect: SocketAddr,
    /// How long to try.
    pub connect_timeout: Duration,
    /// The disk server.
    pub arbiter: ArbiterConfig,
    /// The logging channel.
    pub channel: Settings,
    /// Where this host takes a backup when it has gone live.
    pub listen: SocketAddr,
    /// How often the guest's state is taken then.
    pub pace: Pace,
    /// **Breaks the replay**: for the tests that show that it is found.
    #[cfg(feature = "sabotage")]
    pub sabotage: Plan,
}

/// Connects to the primary and replays its log; goes live when the primary is lost.
///
/// # Errors
/// [`RoleError`].
pub fn run_backup(
    vm: &VmConfig,
    host: &HostConfig,
    options: &BackupOptions,
    events: &Events,
    halt: Halt,
    went_live: impl FnOnce(&Lanes) + 'static,
) -> Result<Ended, RoleError> {
    let listener = Listener::bind(options.listen)?;
    let mut guest = Guest::assemble(vm, host, Verification::default())?;
    // A host without room for it must not begin a session: the primary's guest would lose its backup.
    let baseline = guest.baseline()?;
    let rights = Arc::new(Rights::new(&options.arbiter, &vm.name)?);
    rights.check()?;
    tie_to_server(&mut guest, &rights)?;
    let receiver = Receiver::connect(
        options.connect,
        &guest.identity,
        &guest.host_report,
        &options.channel,
        Instant::now() + options.connect_timeout,
        &AtomicBool::new(false),
        |title| rights.vouch_for(title),
    )?;
    let epoch = receiver.session().epoch;
    log::info!("{}: backup of {}, epoch {epoch}", vm.name, options.connect);
    events.emit(&Event::Role {
        role: "backup",
        epoch,
    });
    let peer_host = &receiver.session().peer_host;
    if peer_report::compare(events, &guest.host_report, peer_host) == StopNaming::Counter {
        guest.count_stops(events);
    }
    let nested_paging = have_nested_paging(&guest.host_report, peer_host);
    let meters = Meters::of(&guest);
    let holder: Result<Claimant, _> = receiver.session().holder.parse();
    let held = (epoch, holder.map_err(ClaimFailure::from)?);
    let tenure = Tenure::follow(rights.clone(), held, receiver.events(), events, halt);
    let standing = tenure.standing();
    let look = guest.host.lanes.look.clone();
    let sessions = Sessions::following(epoch, standing.clone(), look, events);
    let _reporting = stats::report_receiver(events, &receiver.handle(), &sessions, &meters);
    let door = Door {
        identity: guest.identity.clone(),
        host_report: guest.host_report.clone(),
        settings: Settings {
            // As before the failover.
            heartbeat_timeout: receiver.session().heartbeat_timeout,
            ..options.channel.clone()
        },
        rights,
        events: events.clone(),
    };
    let bound = door.settings.output_timeout();
    door.keep(listener, sessions.clone());

    if guest.disk.is_some() {
        storage::report(&options.arbiter, receiver.handle());
        let arbiter = options.arbiter.clone();
        sessions.when_protected(move |sender| {
            storage::watch(&arbiter, sender.clone(), bound, false);
        });
    }
    let unreleased = Unreleased::default();
    let protocol = Rc::new(RefCell::new(Follower::default()));
    let cut = Rc::new(Cell::new(false));
    let followed = guest.disk.as_ref().map(GuestDisk::followed);
    let receiver_handle = receiver.handle();
    let log = ChannelSource {
        handle: receiver.handle(),
        receiver: DroppedElsewhere::new(receiver),
        clock: ClockTrace::default(),
        standing: standing.clone(),
        next: Some(GoLive {
            live: guest.host.live.clone(),
            lanes: guest.host.lanes.clone(),
            outlet: guest.host.outlet.clone(),
            memory: guest.memory.clone(),
            mac: guest.mac,
            unreleased: unreleased.clone(),
            pace: options.pace,
            sessions,
            state: meters.state.clone(),
            holds: meters.holds.clone(),
            disk: guest.disk.clone().zip(followed.clone()),
            disk_counters: meters.disk,
            events: events.clone(),
            went_live: Box::new(went_live),
        }),
        baseline: None,
        protocol: protocol.clone(),
        cut: cut.clone(),
        reading: None,
        forgotten: Instant::now(),
        began: Instant::now(),
        repairs: Repairs::default(),
        nested_paging,
        unreleased: unreleased.clone(),
        followed: followed.clone(),
        events: events.clone(),
    };
    let follower = StateFollower::new(baseline, meters.state);
    let address = options.connect;
    receiver_handle
        .read_memory(&follower.memory_taker().as_taker())
        .map_err(|source| ConnectError::Start { address, source })?;
    #[cfg(feature = "sabotage")]
    let saboteur = Saboteur::new(options.sabotage.clone());
    #[cfg(feature = "sabotage")]
    let log = saboteur.log(log);
    let mut replayer = Replayer::new(log, guest.memory.clone(), Arc::default());
    if let Some(disk) = &guest.disk {
        replayer = replayer.with_shared_disk(Box::new(disk.reader()));
    }
    let replayer = replayer
        .with_state(follower)
        .with_watchdog(watchdog(REPLAY_WATCH)?);
    #[cfg(not(feature = "sabotage"))]
    let source = Box::new(replayer);
    #[cfg(feature = "sabotage")]
    let source = Box::new(saboteur.source(replayer, guest.memory.clone()));
    let gate = Box::new(Suppressed::keeping(unreleased).following(followed));
    let mut engine = guest.into_engine(Role { source, gate });
    let handle = receiver_handle;
    let ended = engine.run().map_err(|error| {
        let unfit = match error {
            EngineError::Diverged(_) | EngineError::Source(_) if cut.get() => match handle.lost() {
                Some(LossReason::Orderly) | None => NotLive::Ended,
                Some(reason) => NotLive::NotJoined(reason.to_string()),
            },
            EngineError::Diverged(divergence) => NotLive::Diverged(divergence),
            other => return other.into(),
        };
        standing.refuse();
        events.emit(&Event::Refused {
            reason: unfit.to_string(),
        });
        RoleError::NotLive(unfit)
    });
    // Before the session ends with the engine: that would be taken for the loss of the primary.
    match ended {
        Ok(_) => tenure.end(),
        Err(_) => drop(tenure),
    }
    ended
}

/// What is told of the `divergences`th divergence in ten minutes: also why, where it is one of many, or
/// where that was to be expected.
fn told(divergence: &Divergence, divergences: usize, nested_paging: bool) -> Event {
    let many = divergences >= MANY;
    let likely_cause = (many || nested_paging).then(|| likely_cause(divergence, nested_paging));
    if let Some(cause) = &likely_cause {
        log::error!("the likely cause: {cause}");
    }
    if many {
        log::error!(
            "that is the {divergences}th time in ten minutes: the primary spaces repairs out, and the \
             pair is not protected in between"
        );
    }
    Event::Diverged {
        lsn: divergence.lsn.0,
        difference: divergence.to_string(),
        divergences,
        likely_cause,
    }
}

/// Whether the replay of this entry reads the shared disk.
fn reads_the_disk(payload: &Payload) -> bool {
    matches!(
        payload,
        Payload::DiskDone {
            outcome: DiskOutcome::Shared { .. },
            ..
        }
    )
}

/// What going live needs.
struct GoLive {
    live: Arc<AtomicBool>,
    lanes: Lanes,
    outlet: Outlet,
    memory: GuestRam,
    mac: [u8; 6],
    unreleased: Unreleased,
    pace: Pace,
    sessions: Sessions,
    state: Arc<StateCounters>,
    holds: Waits,
    /// With what the server may still lose of it.
    disk: Option<(GuestDisk, Followed)>,
    disk_counters: DiskCounters,
    events: Events,
    went_live: Box<dyn FnOnce(&Lanes)>,
}

/// The logging channel as the replayer's log.
struct ChannelSource {
    receiver: DroppedElsewhere<Receiver>,
    handle: ReceiverHandle,
    clock: ClockTrace,
    standing: Standing,
    next: Option<GoLive>,
    /// What this host's guest is compared with, once the log has ended.
    baseline: Option<Baseline>,
    /// Whether this host may go on with the guest.
    protocol: Rc<RefCell<Follower>>,
    /// The log, or the guest, ended before this host had joined.
    cut: Rc<Cell<bool>>,
    /// The entry whose part of the shared disk is being read.
    reading: Option<Lsn>,
    unreleased: Unreleased,
    followed: Option<Followed>,
    forgotten: Instant,
    began: Instant,
    repairs: Repairs,
    /// One of the two hosts has it.
    nested_paging: bool,
    events: Events,
}

impl LogSource for ChannelSource {
    fn head(&mut self) -> Step<Head<'_>> {
        if let Some(lsn) = self.reading.take() {
            self.receiver.executed(lsn);
        }
        loop {
            match self.receiver.peek(PATIENCE) {
                Peek::Entry(..) => break,
                Peek::Ended(_) => return Ok(Head::Ended),
                Peek::TimedOut => {}
            }
        }
        match self.receiver.peek(Duration::ZERO) {
            Peek::Entry(lsn, entry) => Ok(Head::Entry(lsn, entry)),
            Peek::TimedOut | Peek::Ended(_) => {
                Err(Interruption::Failed("the log's head vanished".into()))
            }
        }
    }

    fn advance(&mut self) {
        if let Next::Entry(lsn, entry) = self.receiver.next(Duration::ZERO) {
            let arrived = self.receiver.arrived();
            self.clock
                .note(&entry.payload, arrived.unwrap_or_else(Instant::now));
            if let (Some(disk), Payload::DiskDone { id, outcome }) =
                (&self.followed, &entry.payload)
            {
                let failed = matches!(outcome, DiskOutcome::Failed | DiskOutcome::Unsupported);
                disk.completed(*id, !failed);
            }
            if reads_the_disk(&entry.payload) {
                // The primary lets that part of the disk change when this entry is executed, and
                // it is not before the disk was read: when the log is looked at again.
                self.reading = Some(lsn);
            } else {
                self.receiver.executed(lsn);
            }
            if matches!(entry.payload, Payload::Protected { .. }) {
                self.protocol.borrow_mut().protect();
                log::info!("this host goes on with the guest if the primary is lost");
                self.events.emit(&Event::Joined);
            }
            if matches!(entry.payload, Payload::Output(_)) && self.forgotten.elapsed() > PATIENCE {
                self.unreleased.forget(self.handle.released());
                self.forgotten = Instant::now();
            }
        }
    }

    fn after_end(&mut self) -> Interruption {
        let reason = self.receiver.lost().unwrap_or(LossReason::Closed);
        let failed = |reason: &str| Interruption::Failed(reason.into());
        match self.protocol.borrow().at_end(&reason) {
            AtEnd::Claim => {}
            AtEnd::Discard => {
                self.cut.set(true);
                return failed("the log ended before this backup had joined");
            }
            AtEnd::Refuse => return failed("the log ended while this backup differed"),
            AtEnd::End => return failed("the primary ended the log in order, but not the guest"),
        }
        // Only a backup that has replayed everything without a difference may ask for the right to
        // run. The wait for an answer takes as long as it takes.
        self.standing.ready();
        let verdict = loop {
            if let Some(verdict) = self.standing.wait(PATIENCE) {
                break verdict;
            }
        };
        let (epoch, lost_at) = match verdict {
            Verdict::Won { epoch, lost_at } => (epoch, lost_at),
            Verdict::Lost(reason) => return Interruption::Halt(reason),
        };
        let (Some(next), Some(baseline)) = (self.next.take(), self.baseline.take()) else {
            return Interruption::Failed("the log ended twice".into());
        };
        match next.take_over(baseline, (epoch, lost_at), &self.clock, &self.handle) {
            Ok(role) => Interruption::Handover(Box::new(role)),
            Err(error) => Interruption::Failed(error.to_string()),
        }
    }

    fn keep_state(&mut self, state: StateFollower) {
        self.baseline = Some(state.into_baseline());
    }

    fn differs(&mut self, divergence: &Divergence) -> bool {
        if !self.protocol.borrow().is_protecting() && self.is_over() {
            self.cut.set(true);
            return false;
        }
        log::error!(
            "this backup {} the primary, {divergence}; it must not go live until the primary has \
             sent it the whole state",
            if divergence.difference.is_of_counter() {
                "cannot follow"
            } else {
                "differs from"
            }
        );
        let divergences = self.repairs.diverged(self.began.elapsed());
        self.events
            .emit(&told(divergence, divergences, self.nested_paging));
        let uncounted = matches!(divergence.difference, Difference::CounterLost(_));
        self.protocol.borrow_mut().differ();
        self.receiver.need_state(divergence.lsn, uncounted);
        true
    }

    fn is_repaired(&mut self) {
        log::info!("this backup has the primary's state");
        let mut protocol = self.protocol.borrow_mut();
        protocol.take_over();
        match &self.followed {
            Some(disk) if protocol.is_protecting() => disk.repaired(),
            Some(disk) => disk.joined(),
            None => {}
        }
        self.events.emit(&Event::Repaired);
    }
}

impl ChannelSource {
    /// Nothing more comes for a backup that joins.
    fn is_over(&mut self) -> bool {
        match self.receiver.peek(Duration::ZERO) {
            Peek::Ended(_) => true,
            Peek::Entry(_, entry) => matches!(entry.payload, Payload::Shutdown(_)),
            Peek::TimedOut => false,
        }
    }
}

impl GoLive {
    fn take_over(
        self,
        baseline: Baseline,
        (epoch, lost_at): (u64, Instant),
        clock: &ClockTrace,
        receiver: &ReceiverHandle,
    ) -> Result<Role, AssemblyError> {
        let watchdog = watchdog(self.pace.latency)?;
        let sessions = self.sessions;
        sessions.go_alone(epoch);
        // First: its connection comes about while the rest is done. The server lets nothing of the
        // lost epoch write any more.
        let disk = self.disk.map(|(disk, followed)| {
            let serving = Serving {
                epoch: Some(epoch),
                counters: self.disk_counters,
                refused: sessions.standing().doubted_by_refusals(),
                log: Some(Arc::new(sessions.clone())),
                unflushed: followed.take(),
                ..Serving::default()
            };
            let completed = self.lanes.disk.pusher();
            Box::new(disk.serve(serving, &self.events, completed)) as Box<dyn DiskPort>
        });
        self.live.store(true, Ordering::Release);
        self.outlet.announce(self.mac);
        let again = self.unreleased.take(receiver.released());
        for frame in &again {
            self.outlet.perform(frame);
        }
        (self.went_live)(&self.lanes);
        let live = LiveInputs::new(clock.go_on(), self.lanes);
        let log = SessionLog::new(sessions.clone());
        let keeper = StateKeeper::new(baseline, self.pace, self.state);
        let recorder = Recorder::new(live, log, Verification::default(), self.memory);
        let role = Role {
            source: Box::new(recorder.with_keeper(keeper).with_watchdog(watchdog)),
            gate: Box::new(Committed::new(self.outlet, disk, sessions, self.holds)),
        };
        // Last: the guest runs when this is said.
        log::warn!(
            "LIVE in epoch {epoch}, unprotected; {} frames sent again",
            again.len()
        );
        self.events.emit(&Event::Live {
            epoch,
            after_loss_ms: lost_at.elapsed().as_millis() as u64,
            resent_frames: again.len(),
        });
        Ok(role)
    }
}

#[cfg(test)]
mod tests {
    use logging_channel::entry::ExecutionPoint;

    use super::*;
    use crate::engine::StateDifference;

    /// A host that flips a bit once is no cause that stays.
    #[test]
    fn the_third_divergence_names_its_cause() {
        let divergence = Divergence {
            point: ExecutionPoint::at_exit(5000),
            lsn: Lsn(900),
            difference: Difference::State(Box::new(StateDifference {
                pages: vec![7],
                ..StateDifference::default()
            })),
        };
        let mut repairs = Repairs::default();
        let causes: Vec<Option<String>> = (0..4)
            .map(|minute| {
                let count = repairs.diverged(Duration::from_secs(60 * minute));
                let event =
                    serde_json::to_value(told(&divergence, count, false)).expect("plain data");
                assert_eq!(
                    (&event["event"], &event["lsn"]),
                    (&"diverged".into(), &900.into())
                );
                assert_eq!(event["divergences"], count);
                event["likely_cause"].as_str().map(str::to_owned)
            })
            .collect();
        let cause = Some(divergence.likely_cause());
        assert_eq!(causes, [None, None, cause.clone(), cause]);

        // Where it was to be expected, so does the first one.
        let event = serde_json::to_value(told(&divergence, 1, true)).expect("plain data");
        let cause = event["likely_cause"].as_str().expect("a cause");
        assert!(cause.starts_with("nested paging"), "{cause}");
    }
}
