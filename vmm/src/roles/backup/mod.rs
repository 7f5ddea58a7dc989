//! The backup: replays the primary's log one entry behind, and goes live when the primary is lost.

mod cold;
mod go_live;
mod meeting;
mod source;

use std::cell::Cell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use confinement::Confinement;
use disk_server::arbiter::Claimant;
use disk_server::views::{Condition, Wanted};
use logging_channel::session::Listener;
use logging_channel::{LossReason, Settings};
use parking_lot::Mutex;

use self::cold::{Cold, Then};
use self::go_live::GoLive;
use self::meeting::Applicant;
use self::source::ChannelSource;
use super::claim::{ArbiterConfig, ClaimFailure, Rights};
use super::member::{Following, Member};
use super::peer_report::{StopNaming, have_nested_paging};
use super::pinging::{Pinging, needs};
use super::sessions::{Door, Sessions};
use super::stats::Meters;
use super::tenure::Tenure;
use super::{
    Halt, NotLive, RoleError, after_departure, peer_report, stats, storage, tie_to_server,
};
use crate::assembly::{Guest, HostConfig, Parts, watchdog};
use crate::config::VmConfig;
use crate::control::{Asked, ControlSocket};
use crate::disk::guest_disk::GuestDisk;
use crate::elsewhere::DroppedElsewhere;
use crate::engine::{Ended, EngineError, Role};
use crate::events::{Event, Events};
use crate::gates::{Suppressed, Unreleased};
use crate::protocol::follower::Follower;
#[cfg(feature = "sabotage")]
use crate::sources::sabotage::{Plan, Saboteur};
use crate::sources::{
    ClockTrace, Lanes, Pace, REPLAY_WATCH, Repairs, Replayer, StateFollower, Verification,
};

/// How this host is the backup.
pub struct BackupOptions {
    /// Where the primary listens. If not given, the view service proposes one, sooner or later.
    pub connect: Option<SocketAddr>,
    /// How long to try that.
    pub connect_timeout: Duration,
    /// The disk server.
    pub arbiter: ArbiterConfig,
    /// Where it is asked how it is, and what it is to do.
    pub control: Option<PathBuf>,
    /// The logging channel.
    pub channel: Settings,
    /// Where this host takes a backup when it has gone live; if not given, at its address towards the
    /// primary, and the same port.
    pub listen: Option<SocketAddr>,
    /// How often the guest's state is taken then.
    pub pace: Pace,
    /// Whether its backups that execute the log read the guest's disk themselves then.
    pub backup_reads: bool,
    /// What this process may do, before and after its start.
    pub confinement: Confinement,
    /// Set when a cold backup ([`Settings::keep`]) is to execute the log from then on.
    pub turn_hot: Arc<AtomicBool>,
    /// **Breaks the replay**: for the tests that show that it is found.
    #[cfg(feature = "sabotage")]
    pub sabotage: Plan,
}

/// Connects to the primary, or waits until it is proposed to one, and replays its log; goes live when the
/// primary is lost, which `went_live` is told, with whom to ask for the guest.
///
/// # Errors
/// [`RoleError`].
pub fn run_backup(
    vm: &VmConfig,
    host: &HostConfig,
    options: &BackupOptions,
    events: &Events,
    halt: Halt,
    went_live: impl FnOnce(&Lanes, Box<dyn Asked>) + 'static,
) -> Result<Ended, RoleError> {
    let control = options.control.as_deref();
    let control = control.map(ControlSocket::bind).transpose()?;
    let endpoint = &options.arbiter.endpoint;
    let listener = options
        .listen
        .map(|listen| Listener::bind(listen, endpoint));
    let listener = listener.transpose()?;
    let rights = Arc::new(Rights::new(&options.arbiter, &vm.name)?);
    let parts = Parts::open(vm, host)?;
    // The guest's disk is there as well. An idle host waits for a proposal all the same.
    let patience = options.connect.map(|_| options.connect_timeout);
    rights.wait_for_server(patience, |reason| {
        log::warn!("waiting for the disk server: {reason}");
        events.emit(&Event::Waiting {
            reason: reason.to_owned(),
        });
    })?;
    let mut guest = Guest::of_parts(parts, vm, host, Verification::default())?;
    guest.open_counter();
    options.confinement.has_started();
    let is_cold = options.channel.keep.is_some();
    tie_to_server(&mut guest, &rights)?;
    let needs = needs(&guest, vm);
    let starting = disk_server::views::Role::Backup {
        vm: rights.vm().clone(),
        epoch: 0,
        condition: Condition::default(),
    };
    let pinging = Pinging::starting(&options.arbiter, &rights, needs.clone(), starting);
    if let Some(socket) = control {
        let answers = pinging.answer_at(socket, &guest);
        answers.map_err(RoleError::Thread)?;
    }
    let mut applicant = Applicant {
        guest: &mut guest,
        channel: &options.channel,
        endpoint,
        rights: &rights,
        listener,
        baseline: None,
    };
    let mut receiver = match options.connect {
        Some(address) => applicant.meet(address, options.connect_timeout)?,
        None => {
            let idle = pinging.be_idle(rights.vm().clone());
            idle.map_err(RoleError::Thread)?;
            applicant.wait(&pinging, events)
        }
    };
    let Applicant {
        listener, baseline, ..
    } = applicant;
    let listener = listener.expect("it was opened before the primary was met");
    let epoch = receiver.session().epoch;
    let kind = if is_cold { "cold backup" } else { "backup" };
    let peer = receiver.session().peer_in_words();
    log::info!("{}: {kind} of {peer}, epoch {epoch}", vm.name);
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
    let departure = guest.host.outlet.departure();
    let halt = after_departure(departure.clone(), halt);
    let tenure = Tenure::follow(rights.clone(), held, receiver.events(), events, halt);
    let standing = tenure.standing();
    let look = guest.host.lanes.look.clone();
    let sessions = Sessions::following(standing.clone(), look, events);
    if let Some(departure) = departure {
        sessions.depart_by(departure);
    }
    let _reporting = stats::report_receiver(events, &receiver.handle(), &sessions, &meters);
    let door = Door {
        identity: guest.identity.clone(),
        host_report: guest.host_report.clone(),
        settings: Settings {
            // As before the failover.
            heartbeat_timeout: receiver.session().heartbeat_timeout,
            keep: None,
            ..options.channel.clone()
        },
        rights,
        events: events.clone(),
        hosts: vm.hosts.clone(),
    };
    let bound = door.settings.output_timeout();
    let protocol: Arc<Mutex<Follower>> = Arc::default();
    pinging.be_member(Member {
        vm: door.rights.vm().clone(),
        sessions: sessions.clone(),
        wanted: Wanted {
            address: listener.local_addr(),
            needs,
        },
        following: Some(Following {
            receiver: receiver.handle(),
            protocol: protocol.clone(),
            is_cold,
        }),
        control: guest.host.lanes.control.clone(),
        log: Mutex::default(),
        handed_over: Mutex::default(),
    });
    door.keep(listener, sessions.clone());

    if guest.disk.is_some() {
        storage::report(&options.arbiter, receiver.handle()).map_err(RoleError::Thread)?;
        let arbiter = options.arbiter.clone();
        let backup_reads = options.backup_reads;
        sessions.when_protected(move |sender| {
            storage::watch(&arbiter, sender.clone(), bound, backup_reads)
        });
    }
    let refuse = |unfit: NotLive| {
        standing.refuse();
        events.emit(&Event::Refused {
            reason: unfit.to_string(),
        });
        RoleError::NotLive(unfit)
    };
    let followed = guest.disk.as_ref().map(GuestDisk::followed);
    let unreleased = Unreleased::default();
    let mut clock = ClockTrace::default();
    let baseline = match baseline {
        Some(baseline) => baseline,
        None => {
            let then = Cold::new(events, &options.turn_hot).hold(&receiver, &protocol);
            match then.map_err(&refuse)? {
                Then::Ended(ended) => {
                    tenure.end();
                    return Ok(ended);
                }
                Then::Replay(kept) => {
                    clock = Cold::clocks(&kept);
                    if let Some(disk) = &followed {
                        Cold::tell_disk(&kept, disk);
                    }
                }
            }
            guest.baseline()?
        }
    };
    let cut = Rc::new(Cell::new(false));
    let receiver_handle = receiver.handle();
    let follower = StateFollower::new(baseline, meters.state.clone());
    receiver
        .begin_replay(follower.memory_taker().as_taker())
        .map_err(|reason| refuse(NotLive::NotKept(reason)))?;
    let asked = pinging.asked();
    let log = ChannelSource {
        handle: receiver.handle(),
        receiver: DroppedElsewhere::new(receiver),
        clock,
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
            backup_reads: options.backup_reads,
            disk_counters: meters.disk,
            events: events.clone(),
            went_live: Box::new(move |lanes| went_live(lanes, asked)),
        }),
        baseline: None,
        is_cold,
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
        let failure = handle.kept(Duration::ZERO).and_then(|kept| kept.failure);
        let unfit = match error {
            EngineError::Diverged(_) | EngineError::Source(_) if failure.is_some() => {
                NotLive::NotKept(failure.unwrap_or_default())
            }
            EngineError::Diverged(_) | EngineError::Source(_) if cut.get() => match handle.lost() {
                Some(LossReason::Orderly) | None => NotLive::Ended,
                Some(reason) => NotLive::NotJoined(reason.to_string()),
            },
            EngineError::Diverged(divergence) => NotLive::Diverged(divergence),
            other => return other.into(),
        };
        refuse(unfit)
    });
    // Before the session ends with the engine: that would be taken for the loss of the primary.
    match ended {
        Ok(_) => tenure.end(),
        Err(_) => drop(tenure),
    }
    ended
}
