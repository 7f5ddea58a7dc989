//! Reports figures several times a second while a replicated guest runs.

use std::thread;
use std::time::{Duration, Instant};

use logging_channel::receiver::ReceiverHandle;
use logging_channel::sender::Sender;

use crate::events::{Event, Events, Stats};

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

/// Reports a primary's figures until the session is over.
pub(super) fn report_sender(events: &Events, sender: &Sender) {
    let sender = sender.clone();
    every_interval(events, move || {
        let stats = sender.stats();
        sender.lost().is_none().then(|| Stats {
            log_entries: stats.entries,
            log_bytes: stats.bytes,
            lag_ms: millis(stats.lag),
            lag_ms_p50: millis(stats.lag_p50),
            lag_ms_p99: millis(stats.lag_p99),
            stalled_ms: millis(stats.stalled),
            throttled_ms: millis(stats.throttled),
            ..Stats::default()
        })
    });
}

/// Reports a backup's figures until the session is over.
pub(super) fn report_receiver(events: &Events, receiver: &ReceiverHandle) {
    let receiver = receiver.clone();
    every_interval(events, move || {
        let stats = receiver.stats();
        receiver.lost().is_none().then(|| Stats {
            log_entries: stats.entries,
            log_bytes: stats.bytes,
            ..Stats::default()
        })
    });
}
