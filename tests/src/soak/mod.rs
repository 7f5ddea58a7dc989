//! One guest, replicated for a long time under mixed load, with nothing done to
//! it: whether its two copies stay equal, the backup keeps up, and the two VMMs
//! need no more memory in the end than at the beginning.

mod memory;
mod report;

use std::time::{Duration, Instant};

use guest_images::load::Load;

pub use self::memory::{Memory, Trend};
use self::report::Observations;
pub use self::report::{Distribution, Report, Sample};
use crate::Signal;
use crate::error::Result;
use crate::host::Host;
use crate::pair::{DiskServer, Guest, Side};
use crate::ping::Pinger;
use crate::protocol::Exit;
use crate::testbed::Testbed;
use crate::wait::{LIMIT, wait_until};
use crate::workload::{Client, LoadWatcher};

/// Between two samples.
const SAMPLE: Duration = Duration::from_secs(5);
/// How often it is looked whether all is well.
const LOOK: Duration = Duration::from_millis(200);
/// From one result of the load to the next.
const STALLED: Duration = Duration::from_secs(120);
/// What must not happen to either side.
const FAILURES: [&str; 8] = [
    "diverged",
    "backup-diverged",
    "refused",
    "peer-lost",
    "waiting",
    "live",
    "lost",
    "ended",
];

struct Pair {
    sides: [Side; 2],
    client: Client,
    load: LoadWatcher,
    pinger: Pinger,
}

/// Runs the guest for this long after its boot, and judges it. The hosts take each other for lost
/// after `heartbeat` of silence: more than usual if the machine has other work to do.
///
/// # Errors
///
/// When hosts or programs cannot be started, the guest does not boot, or a host
/// does not answer. What goes wrong after that is in the report.
pub fn soak(
    duration: Duration,
    heartbeat: Duration,
    mut progress: impl FnMut(&Sample),
) -> Result<Report> {
    let testbed = Testbed::new("soak")?;
    let [a, b] = testbed.start_hosts(["a", "b"])?;
    let disk_server = DiskServer::start(&testbed)?;
    let guest = Guest::load("soak", Load::Mixed);
    let heartbeat = heartbeat.as_millis().to_string();
    let primary = guest.primary(&a, &disk_server, &["--heartbeat-timeout", &heartbeat])?;
    let mut backup = guest.backup(&b, &a, &disk_server)?;
    backup.wait_for("role", LIMIT)?;
    let mut pair = Pair {
        sides: [primary, backup],
        client: Client::redis(testbed.client()),
        load: LoadWatcher::start(testbed.client(), Load::Mixed),
        pinger: Pinger::start(&testbed)?,
    };
    wait_until("the first reply and result", LIMIT, || {
        let up = pair.client.counter() > 0 && pair.load.results() > 0;
        Ok(up || pair.trouble().is_some())
    })?;

    let start = Instant::now();
    let mut seen = Observations::default();
    let mut stalled = (0, start);
    while start.elapsed() < duration {
        if let Some(trouble) = pair.trouble() {
            seen.troubles.push(trouble);
            break;
        }
        let results = pair.load.results();
        if results > stalled.0 {
            stalled = (results, Instant::now());
        } else if stalled.1.elapsed() > STALLED {
            seen.troubles
                .push(format!("no result of the load for {STALLED:?}"));
            break;
        }
        let next = SAMPLE * u32::try_from(seen.samples.len()).unwrap_or(u32::MAX);
        if start.elapsed() >= next {
            let sample = pair.sample(start, [&a, &b])?;
            progress(&sample);
            seen.samples.push(sample);
        }
        std::thread::sleep(LOOK);
    }
    pair.end(start, &mut seen)?;
    let report = Report::judge(&seen, start.elapsed().min(duration));
    if report.passed() {
        testbed.succeed();
    }
    Ok(report)
}

impl Pair {
    /// What is not as it should be, if anything is.
    fn trouble(&mut self) -> Option<String> {
        for (role, side) in ["primary", "backup"].into_iter().zip(&mut self.sides) {
            let ended = side.has_ended();
            let told = side.told();
            if let Some(event) = FAILURES.iter().find_map(|failure| told.event(failure)) {
                return Some(format!("the {role} told {event}"));
            }
            if ended {
                return Some(format!("the {role} ended: {}", told.errors));
            }
        }
        let client = self.client.trouble();
        client
            .map(|trouble| format!("the client: {trouble}"))
            .or_else(|| self.load.trouble())
    }

    fn sample(&mut self, start: Instant, hosts: [&Host; 2]) -> Result<Sample> {
        let [primary, backup] = &mut self.sides;
        Ok(Sample {
            seconds: start.elapsed().as_secs_f64(),
            counter: self.client.counter(),
            load_results: self.load.results(),
            primary: primary.told().stats,
            backup: backup.told().stats,
            memory: [Memory::of(hosts[0])?, Memory::of(hosts[1])?],
        })
    }

    /// Looks at everything once more, and ends the guest in order.
    fn end(self, start: Instant, seen: &mut Observations) -> Result<()> {
        let Self {
            sides,
            client,
            load,
            pinger,
        } = self;
        let well = seen.troubles.is_empty();
        let now = Instant::now();
        let pings = pinger.record();
        seen.pings = pings.answers(start, now);
        seen.pings_lost = pings.lost(start, now);

        let load = if well { load.finish() } else { load.abandon() };
        seen.load_results = load.results.len();
        seen.troubles
            .extend(load.wrong.into_iter().chain(load.trouble));
        let client = if well {
            client.finish()
        } else {
            client.abandon()
        };
        seen.acked = client.acked();
        seen.troubles.extend(client.trouble.clone());
        if client.irregular.is_some() || client.reconnects > 0 {
            seen.troubles.push(format!(
                "the client: {} reconnects, irregular reply (got, expected): {:?}",
                client.reconnects, client.irregular
            ));
        }
        if well && client.final_counter != Some(client.acked()) {
            seen.troubles.push(format!(
                "{} increments were acknowledged, and the counter is {:?}",
                client.acked(),
                client.final_counter
            ));
        }

        if well {
            sides[0].signal(Signal::SIGTERM)?;
        }
        for (index, side) in sides.into_iter().enumerate() {
            let role = ["primary", "backup"][index];
            if !well {
                // It is killed when it is dropped; what it told has its place in the log.
                let mut side = side;
                let told = side.told();
                seen.stats[index] = told.stats;
                seen.differences += differences(&told.events);
                continue;
            }
            let (exit, told) = side.end(LIMIT)?;
            seen.stats[index] = told.stats;
            seen.differences += differences(&told.events);
            if exit != Exit::Code(0) {
                seen.troubles
                    .push(format!("the {role} ended with {exit}: {}", told.errors));
            }
        }
        Ok(())
    }
}

/// How often a backup said that it differs.
fn differences(events: &[serde_json::Value]) -> usize {
    events
        .iter()
        .filter(|event| event["event"] == "diverged")
        .count()
}
