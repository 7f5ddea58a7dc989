//! Reports figures several times a second while a replicated guest runs.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use logging_channel::receiver::ReceiverHandle;
use logging_channel::sender::Sender;

use crate::disk::service::DiskCounters;
use crate::events::{Event, Events, Stats};
use crate::sources::{InputWaits, StateCounters};

const INTERVAL: Duration = Duration::from_millis(200);

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn every_interval(events: &Events, mut figures: impl FnMut() -> Option<Stats> + Send + 'static) {
    if !events.wanted() {
        return;
    }
    let events = events.clone();
    thread::Builder::new()
        .name("stats".into())
        .spawn(move || {
            let started = Instant::now();
            while let Some(mut stats) = figures() {
                stats.guest_seconds = started.elapsed().as_secs_f64();
                events.emit(&Event::Stats(stats));
                thread::sleep(INTERVAL);
            }
        })
        .expect("a thread can be started");
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

/// Reports a primary's figures until the session is over.
pub(super) fn report_sender(
    events: &Events,
    sender: &Sender,
    counters: &Arc<StateCounters>,
    disk: &DiskCounters,
    waits: &InputWaits,
) {
    let (sender, counters, disk) = (sender.clone(), counters.clone(), disk.clone());
    let waits = waits.clone();
    every_interval(events, move || {
        let stats = sender.stats();
        let disk = disk.figures();
        let waits = waits.figures();
        let stats = Stats {
            disk_reads: disk.reads,
            disk_read_bytes: disk.read_bytes,
            disk_writes: disk.writes,
            disk_written_bytes: disk.written_bytes,
            log_entries: stats.entries,
            log_bytes: stats.bytes,
            lag_ms: millis(stats.lag),
            lag_ms_p50: millis(stats.lag_p50),
            lag_ms_p99: millis(stats.lag_p99),
            stalled_ms: millis(stats.stalled),
            throttled_ms: millis(stats.throttled),
            input_wait_ms_p50: millis(waits.p50),
            input_wait_ms_p99: millis(waits.p99),
            input_wait_ms_max: millis(waits.max),
            ..Stats::default()
        };
        (!sender.is_lost()).then(|| with_state(stats, &counters))
    });
}

/// Reports a backup's figures until the session is over.
pub(super) fn report_receiver(
    events: &Events,
    receiver: &ReceiverHandle,
    counters: &Arc<StateCounters>,
) {
    let (receiver, counters) = (receiver.clone(), counters.clone());
    every_interval(events, move || {
        let stats = receiver.stats();
        let stats = Stats {
            log_entries: stats.entries,
            log_bytes: stats.bytes,
            ..Stats::default()
        };
        let going_on = receiver.lost().is_none();
        going_on.then(|| with_state(stats, &counters))
    });
}
