//! The primary: runs the guest, logs its inputs, and lets outputs out when the backup has the log.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use confinement::{Calls, Confinement};
use disk_server::views::{Condition, Role, Wanted};
use logging_channel::session::Listener;
use logging_channel::{Seed, Settings};
use parking_lot::Mutex;

use super::claim::{ArbiterConfig, Rights};
use super::member::Member;
use super::pinging::{Pinging, needs};
use super::sessions::{Door, SessionLog, Sessions};
use super::stats::Meters;
use super::tenure::Tenure;
use super::{Halt, RoleError, after_departure, stats, storage, tie_to_server};
use crate::assembly::{AssemblyError, Guest, HostConfig, watchdog};
use crate::config::VmConfig;
use crate::control::{Asked, ControlSocket};
use crate::disk::DiskPort;
use crate::disk::serving::Serving;
use crate::doctor::has_counter;
#[cfg(feature = "sabotage")]
use crate::engine::OutputGate;
use crate::engine::{self, Ended};
use crate::events::{Event, Events};
use crate::gates::Committed;
#[cfg(feature = "sabotage")]
use crate::gates::Direct;
use crate::sources::{GuestClock, LiveInputs, Pace, Recorder, StateKeeper, Verification};
use crate::state::Baseline;

/// How this host is the primary.
pub struct PrimaryOptions {
    /// Where the backup connects.
    pub listen: SocketAddr,
    /// The disk server.
    pub arbiter: ArbiterConfig,
    /// Where it is asked how it is, and what it is to do.
    pub control: Option<PathBuf>,
    /// The logging channel.
    pub channel: Settings,
    /// Whether the guest waits for a backup with its first instruction.
    pub wait_for_backup: bool,
    /// Whether backups that execute the log read the guest's disk themselves.
    pub backup_reads: bool,
    /// How often the guest's state is taken.
    pub pace: Pace,
    /// What this process may do, before and after its start.
    pub confinement: Confinement,
    /// **Leaves a backup that differs as it is**: for the test of a failover in that window.
    #[cfg(feature = "sabotage")]
    pub never_repair: bool,
    /// **Breaks the Output Rule**: outputs leave at once. For the test that shows what the rule is
    /// for.
    #[cfg(feature = "sabotage")]
    pub break_output_rule: bool,
}

/// Runs the guest to its end: alone until a backup joins, or after it has waited for one. `cancel` ends
/// a wait for the disk server; `prepared` is called before it begins, with whom to ask for the guest.
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
    prepared: impl FnOnce(&Guest, Box<dyn Asked>),
) -> Result<Ended, RoleError> {
    let control = options.control.as_deref();
    let control = control.map(ControlSocket::bind).transpose()?;
    let listener = Listener::bind(options.listen, &options.arbiter.endpoint)?;
    let mut guest = Guest::assemble(vm, host, Verification::default())?;
    // A host without room for it claims nothing, and takes no backup.
    let baseline = guest.baseline()?;
    guest.open_counter();
    options.confinement.has_started();
    let rights = Arc::new(Rights::new(&options.arbiter, &vm.name)?);
    tie_to_server(&mut guest, &rights)?;
    let needs = needs(&guest, vm);
    let starting = Role::Primary {
        vm: rights.vm().clone(),
        epoch: 0,
        wants: None,
        condition: Condition::default(),
    };
    let pinging = Pinging::starting(&options.arbiter, &rights, needs.clone(), starting);
    if let Some(socket) = control {
        let answers = pinging.answer_at(socket, &guest);
        answers.map_err(RoleError::Thread)?;
    }
    prepared(&guest, pinging.asked());
    let epoch = rights.start(cancel)?;
    let departure = guest.host.outlet.departure();
    let halt = after_departure(departure.clone(), halt);
    let tenure = Tenure::hold(rights.clone(), epoch, events, halt);
    if let Some(disk) = &guest.disk {
        disk.require_writer(epoch).map_err(AssemblyError::from)?;
    }
    let look = guest.host.lanes.look.clone();
    let sessions = Sessions::alone(tenure.standing(), look, events);
    if let Some(departure) = departure {
        sessions.depart_by(departure);
    }
    pinging.be_member(Member {
        vm: rights.vm().clone(),
        sessions: sessions.clone(),
        wanted: Wanted {
            address: listener.local_addr(),
            needs,
        },
        following: None,
        control: guest.host.lanes.control.clone(),
        log: Mutex::default(),
        handed_over: Mutex::default(),
    });
    let door = Door {
        identity: guest.identity.clone(),
        host_report: guest.host_report.clone(),
        settings: options.channel.clone(),
        rights,
        events: events.clone(),
        hosts: vm.hosts.clone(),
    };
    let address = listener.local_addr();
    if options.wait_for_backup {
        log::info!(
            "{}: epoch {epoch}; waiting for a backup at {address}",
            vm.name
        );
    } else {
        log::warn!(
            "{}: epoch {epoch}; running alone, NOT PROTECTED until a backup joins at {address}",
            vm.name
        );
    }
    if has_counter(&guest.host_report) {
        guest.count_stops(events);
    }
    events.emit(&Event::Role {
        role: "primary",
        epoch,
    });
    guest.seed(Seed::random())?;
    door.keep(listener, sessions.clone());
    let ended = run_here(guest, baseline, options, events, &sessions);
    // Before the session ends with its last handle: that would be taken for the loss of the backup.
    match ended {
        Ok(_) => tenure.end(),
        Err(_) => drop(tenure),
    }
    ended
}

/// Runs the guest to its end, with the backup of each session for as long as there is one.
fn run_here(
    mut guest: Guest,
    baseline: Baseline,
    options: &PrimaryOptions,
    events: &Events,
    sessions: &Sessions,
) -> Result<Ended, RoleError> {
    let meters = Meters::of(&guest);
    let _reporting = stats::report_sessions(events, sessions, &meters);
    if guest.disk.is_some() {
        let (arbiter, bound) = (options.arbiter.clone(), options.channel.output_timeout());
        let backup_reads = options.backup_reads;
        sessions.when_protected(move |sender| {
            storage::watch(&arbiter, sender.clone(), bound, backup_reads)
        });
    }
    let disk = guest.disk.take().map(|disk| {
        let serving = Serving {
            epoch: Some(sessions.epoch()),
            log: Some(Arc::new(sessions.clone())),
            backup_reads: options.backup_reads,
            counters: meters.disk.clone(),
            refused: sessions.standing().doubted_by_refusals(),
            ..Serving::default()
        };
        disk.serve(serving, events, guest.host.lanes.disk.pusher())
    });
    let port = disk.clone().map(|disk| Box::new(disk) as Box<dyn DiskPort>);
    guest.host.live.store(true, Ordering::Release);
    let outlet = guest.host.outlet.clone();
    let (watch, holds) = (sessions.clone(), meters.holds.clone());
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
    #[cfg_attr(
        not(feature = "sabotage"),
        expect(unused_mut, reason = "the feature sets a field")
    )]
    let mut log = SessionLog::new(sessions.clone());
    #[cfg(feature = "sabotage")]
    {
        log.never_repair = options.never_repair;
    }
    let keeper = StateKeeper::new(baseline, options.pace, meters.state.clone());
    let mut recorder = Recorder::new(live, log, Verification::default(), guest.memory.clone());
    if let (true, Some(disk)) = (options.backup_reads, disk) {
        recorder = recorder.with_shared_reads(Box::new(disk));
    }
    recorder = recorder
        .with_keeper(keeper)
        .with_watchdog(watchdog(options.pace.latency)?);
    if options.wait_for_backup {
        recorder = recorder.waiting_for_protection();
    }
    let source = Box::new(recorder);
    confinement::narrow(&[Calls::Guest]);
    Ok(guest.into_engine(engine::Role { source, gate }).run()?)
}
