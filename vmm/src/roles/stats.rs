//! Reports figures several times a second while a guest runs.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use logging_channel::codec::KindCounts;
use logging_channel::receiver::ReceiverHandle;
use logging_channel::sender::Sender;
use logging_channel::times::TimeFigures;
use parking_lot::Mutex;

use super::sessions::Sessions;
use crate::assembly::Guest;
use crate::disk::counters::DiskCounters;
use crate::engine::tally::ExitTally;
use crate::events::{Event, Events, KeptFigures, KindFigures, Stats};
use crate::sources::{StateCounters, Waits};
use crate::threads;

const INTERVAL: Duration = Duration::from_millis(200);

/// What every host has that runs a guest.
#[derive(Clone, Default)]
pub(super) struct Meters {
    /// The guest's exits.
    pub(super) exits: ExitTally,
    /// How long its inputs waited.
    pub(super) waits: Waits,
    /// How long its outputs waited.
    pub(super) holds: Waits,
    /// Its disk.
    pub(super) disk: DiskCounters,
    /// Its state as a whole.
    pub(super) state: Arc<StateCounters>,
}

impl Meters {
    /// Those of a guest on this host.
    pub(super) fn of(guest: &Guest) -> Self {
        Self {
            exits: guest.host.exits.clone(),
            waits: guest.host.lanes.waits.clone(),
            ..Self::default()
        }
    }
}

/// What is in a log that is a file. A handle.
#[derive(Clone, Default)]
pub(super) struct FileFigures(Arc<Mutex<KindCounts>>);

impl FileFigures {
    /// So much is in it now.
    pub(super) fn set(&self, kinds: KindCounts) {
        *self.0.lock() = kinds;
    }

    fn get(&self) -> KindCounts {
        *self.0.lock()
    }
}

/// Reports go on until this is dropped, with a backup and without.
#[must_use]
pub(super) struct Reporting {
    _going_on: Arc<()>,
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn millis_of(times: TimeFigures) -> [f64; 3] {
    [times.p50, times.p99, times.max].map(millis)
}

fn every_interval(
    events: &Events,
    mut figures: impl FnMut() -> Stats + Send + 'static,
) -> Reporting {
    let going_on = Arc::new(());
    let watch: Weak<()> = Arc::downgrade(&going_on);
    if events.wanted() {
        let events = events.clone();
        let report = move || {
            let started = Instant::now();
            while watch.strong_count() > 0 {
                let mut stats = figures();
                stats.guest_seconds = started.elapsed().as_secs_f64();
                events.emit(&Event::Stats(Box::new(stats)));
                thread::sleep(INTERVAL);
            }
        };
        threads::start("stats", &[], report).expect("a thread can be started");
    }
    Reporting {
        _going_on: going_on,
    }
}

impl Meters {
    /// What this host knows of its guest, whoever replays it.
    fn figures(&self) -> Stats {
        let disk = self.disk.figures();
        let [input_wait_ms_p50, input_wait_ms_p99, input_wait_ms_max] =
            millis_of(self.waits.figures());
        let [output_hold_ms_p50, output_hold_ms_p99, output_hold_ms_max] =
            millis_of(self.holds.figures());
        let stats = Stats {
            disk_reads: disk.reads,
            disk_read_bytes: disk.read_bytes,
            disk_shared_reads: disk.shared_reads,
            disk_writes: disk.writes,
            disk_written_bytes: disk.written_bytes,
            input_wait_ms_p50,
            input_wait_ms_p99,
            input_wait_ms_max,
            input_waits_us: self.waits.take_recent(),
            output_hold_ms_p50,
            output_hold_ms_p99,
            output_hold_ms_max,
            output_holds_us: self.holds.take_recent(),
            ..Stats::default()
        };
        with_state(with_exits(stats, &self.exits), &self.state)
    }
}

fn with_exits(mut stats: Stats, exits: &ExitTally) -> Stats {
    let counts = exits.iter().filter(|(_, count)| *count > 0);
    stats.exits = counts.map(|(kind, count)| (kind.name(), count)).collect();
    stats
}

fn with_kinds(mut stats: Stats, kinds: &KindCounts) -> Stats {
    for (kind, count) in kinds.iter().filter(|(_, count)| count.entries > 0) {
        let figures = KindFigures {
            entries: count.entries,
            bytes: count.bytes,
        };
        stats.log_kinds.insert(kind.name(), figures);
    }
    stats
}

fn with_state(stats: Stats, counters: &StateCounters) -> Stats {
    let figures = counters.figures();
    Stats {
        state_deltas: figures.deltas,
        state_delta_bytes: figures.delta_bytes,
        state_delta_ms: millis(figures.delta_cost),
        latency_bound_ms: millis(figures.stop_interval),
        digests: figures.digests,
        digest_ms: millis(figures.digest_cost),
        transfers: figures.transfers,
        transfer_bytes: figures.transfer_bytes,
        ..stats
    }
}

/// Reports the figures of a guest that runs on this host, and of its session, or the last one.
pub(super) fn report_sessions(events: &Events, sessions: &Sessions, meters: &Meters) -> Reporting {
    let (sessions, meters) = (sessions.clone(), meters.clone());
    every_interval(events, move || match sessions.latest() {
        Some(sender) => figures_of(&sender, &meters),
        None => meters.figures(),
    })
}

fn figures_of(sender: &Sender, meters: &Meters) -> Stats {
    let stats = sender.stats();
    let [lag_ms_p50, lag_ms_p99, lag_ms_max] = millis_of(stats.lags);
    // What is said of a backup that is gone is what it was last; now there is none.
    let now = |figure: f64| if sender.is_lost() { 0.0 } else { figure };
    let figures = Stats {
        log_entries: stats.entries,
        log_bytes: stats.bytes,
        lag_ms: now(millis(stats.lag)),
        lag_ms_p50,
        lag_ms_p99,
        lag_ms_max,
        lags_us: sender.take_lags(),
        round_trip_ms: now(stats.round_trip.map_or(0.0, millis)),
        stalled_ms: millis(stats.stalled),
        throttled_ms: millis(stats.throttled),
        ..meters.figures()
    };
    with_kinds(figures, &stats.kinds)
}

/// Reports the figures of a host that begins as the backup, and of its sessions when it runs the guest.
pub(super) fn report_receiver(
    events: &Events,
    receiver: &ReceiverHandle,
    sessions: &Sessions,
    meters: &Meters,
) -> Reporting {
    let (receiver, meters, sessions) = (receiver.clone(), meters.clone(), sessions.clone());
    every_interval(events, move || {
        if let Some(sender) = sessions.latest() {
            return figures_of(&sender, &meters);
        }
        let stats = receiver.stats();
        let kept = receiver.kept(Duration::ZERO);
        Stats {
            log_entries: stats.entries,
            log_bytes: stats.bytes,
            kept: kept.map(|kept| KeptFigures {
                kept_state_bytes: kept.generation.state_bytes,
                kept_log_bytes: kept.generation.log_bytes,
                replay_ms: millis(kept.replay),
            }),
            ..meters.figures()
        }
    })
}

/// Reports the figures of a guest without a backup, whose log goes to a file or nowhere.
pub(super) fn report_alone(events: &Events, meters: &Meters, log: FileFigures) -> Reporting {
    let meters = meters.clone();
    every_interval(events, move || {
        let kinds = log.get();
        let counts = || kinds.iter().map(|(_, count)| count);
        let figures = Stats {
            log_entries: counts().map(|count| count.entries).sum(),
            log_bytes: counts().map(|count| count.bytes).sum(),
            ..meters.figures()
        };
        with_kinds(figures, &kinds)
    })
}
