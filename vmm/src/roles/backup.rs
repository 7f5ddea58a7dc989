//! The backup: replays the primary's log one entry behind, and goes live when the primary is lost.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use logging_channel::entry::{OutputChannel, Payload};
use logging_channel::receiver::{Next, Peek, Receiver, ReceiverHandle};
use logging_channel::{LossReason, Settings};

use super::claim::{ArbiterConfig, Rights};
use super::standing::{Standing, Verdict};
use super::watch::PeerWatch;
use super::{Halt, RoleError, stats};
use crate::assembly::{Guest, HostConfig};
use crate::config::VmConfig;
use crate::engine::{Ended, Interruption, Role, Step};
use crate::events::{Event, Events};
use crate::gates::{Direct, Suppressed, Unreleased};
use crate::io::{Outlet, announcement};
use crate::ram::GuestRam;
use crate::sources::{
    GuestClock, Head, Lanes, LiveInputs, LogSource, NoLog, Recorder, ReplayCounters, Replayer,
    Verification,
};

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
    let guest = Guest::assemble(vm, host, Verification::default())?;
    let rights = Arc::new(Rights::new(&options.arbiter, &vm.name)?);
    rights.check()?;
    let receiver = Receiver::connect(
        options.connect,
        &guest.identity,
        &options.channel,
        Instant::now() + options.connect_timeout,
        &AtomicBool::new(false),
    )?;
    let epoch = receiver.session().epoch;
    log::info!("{}: backup of {}, epoch {epoch}", vm.name, options.connect);
    events.emit(&Event::Role {
        role: "backup",
        epoch,
    });
    stats::report_receiver(events, &receiver.handle());

    let standing = Standing::default();
    let watch = PeerWatch {
        peer: "primary",
        lost: receiver.events(),
        epoch,
        rights: rights.clone(),
        standing: standing.clone(),
        events: events.clone(),
        halt,
    };
    // The guest's thread goes live by itself when it has replayed the rest of the log.
    watch.start(|_, _, _| {});

    let unreleased = Unreleased::default();
    let log = ChannelLog {
        handle: receiver.handle(),
        receiver,
        clock: ClockTrace::default(),
        standing: standing.clone(),
        next: Some(GoLive {
            live: guest.host.live.clone(),
            lanes: guest.host.lanes.clone(),
            outlet: guest.host.outlet.clone(),
            memory: guest.memory.clone(),
            mac: guest.mac,
            unreleased: unreleased.clone(),
            events: events.clone(),
            went_live: Box::new(went_live),
        }),
        forgotten: Instant::now(),
        unreleased: unreleased.clone(),
    };
    let source = Box::new(Replayer::new(
        log,
        guest.memory.clone(),
        Arc::new(ReplayCounters::default()),
    ));
    let gate = Box::new(Suppressed::keeping(unreleased));
    let ended = guest.into_engine(Role { source, gate }).run()?;
    let last_epoch = standing.last_epoch(epoch);
    if last_epoch != epoch {
        rights.stopped(last_epoch);
    }
    Ok(ended)
}

/// The last clock values of the log, for the clock to go on from.
#[derive(Default)]
struct ClockTrace {
    monotonic: Option<(Instant, u64)>,
    wall: Option<u64>,
}

impl ClockTrace {
    fn note(&mut self, payload: &Payload) {
        match payload {
            Payload::Tick(nanos) | Payload::Clock(nanos) | Payload::Tsc(nanos) => {
                self.monotonic = Some((Instant::now(), *nanos));
            }
            Payload::WallClock(nanos) => self.wall = Some(*nanos),
            _ => {}
        }
    }

    fn go_on(&self) -> GuestClock {
        let Some((heard, nanos)) = self.monotonic else {
            return GuestClock::starting_now();
        };
        GuestClock::going_on(
            heard,
            Duration::from_nanos(nanos),
            self.wall.map(Duration::from_nanos),
        )
    }
}

/// What going live needs.
struct GoLive {
    live: Arc<AtomicBool>,
    lanes: Lanes,
    outlet: Outlet,
    memory: GuestRam,
    mac: [u8; 6],
    unreleased: Unreleased,
    events: Events,
    went_live: Box<dyn FnOnce(&Lanes)>,
}

/// The logging channel as the replayer's log.
struct ChannelLog {
    receiver: Receiver,
    handle: ReceiverHandle,
    clock: ClockTrace,
    standing: Standing,
    next: Option<GoLive>,
    unreleased: Unreleased,
    forgotten: Instant,
}

impl LogSource for ChannelLog {
    fn head(&mut self) -> Step<Head<'_>> {
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
            self.clock.note(&entry.payload);
            self.receiver.executed(lsn);
            if matches!(entry.payload, Payload::Output(_)) && self.forgotten.elapsed() > PATIENCE {
                self.unreleased.forget(self.handle.released());
                self.forgotten = Instant::now();
            }
        }
    }

    fn after_end(&mut self) -> Interruption {
        if self.receiver.lost() == Some(LossReason::Orderly) {
            return Interruption::Failed(
                "the primary ended the log in order, but not the guest".into(),
            );
        }
        // The peer-watch thread asks for the right to run; it waits as long as it takes.
        let verdict = loop {
            if let Some(verdict) = self.standing.wait(PATIENCE) {
                break verdict;
            }
        };
        let (epoch, lost_at) = match verdict {
            Verdict::Won { epoch, lost_at } => (epoch, lost_at),
            Verdict::Lost(reason) => return Interruption::Halt(reason),
        };
        let Some(next) = self.next.take() else {
            return Interruption::Failed("the log ended twice".into());
        };
        Interruption::Handover(Box::new(next.take_over(
            epoch,
            lost_at,
            &self.clock,
            &self.handle,
        )))
    }
}

impl GoLive {
    fn take_over(
        self,
        epoch: u64,
        lost_at: Instant,
        clock: &ClockTrace,
        receiver: &ReceiverHandle,
    ) -> Role {
        self.live.store(true, Ordering::Release);
        self.outlet.perform(&crate::devices::Output {
            channel: OutputChannel::Net,
            bytes: announcement(self.mac),
        });
        let again = self.unreleased.take(receiver.released());
        for frame in &again {
            self.outlet.perform(frame);
        }
        log::warn!(
            "LIVE in epoch {epoch}, unprotected; {} frames sent again",
            again.len()
        );
        self.events.emit(&Event::Live {
            epoch,
            after_loss_ms: lost_at.elapsed().as_millis() as u64,
            resent_frames: again.len(),
        });
        (self.went_live)(&self.lanes);
        let live = LiveInputs::new(clock.go_on(), self.lanes);
        Role {
            source: Box::new(Recorder::new(
                live,
                NoLog,
                Verification::default(),
                self.memory,
            )),
            gate: Box::new(Direct(self.outlet)),
        }
    }
}
