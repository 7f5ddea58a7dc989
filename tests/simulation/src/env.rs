//! Virtual time, the queue of all that is to happen, chance, and the trace.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::time::{Duration, Instant};

use fastrand::Rng;
use ftvm_vmm::disk::serving::DiskSettings;
use logging_channel::Settings;
use logging_channel::heartbeat::Heartbeat;

use crate::checks::Checks;
use crate::clock::Clock;
use crate::defect::Defect;
use crate::disk::wire::{Item as DiskItem, Wire};
use crate::event::{Event, Timer};
use crate::faults::{HOSTS, Schedule};
use crate::guest::Reply;
use crate::message::{Asked, Item, ProcessId, Question, Stage};
use crate::network::{Line, Network};

#[derive(Debug)]
struct Queued {
    at: Duration,
    number: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// What processes have around them.
#[derive(Debug)]
pub(crate) struct Env {
    start: Instant,
    pub(crate) now: Duration,
    queue: BinaryHeap<Reverse<Queued>>,
    number: u64,
    pub(crate) rng: Rng,
    pub(crate) settings: Settings,
    pub(crate) network: Network,
    /// Each host's.
    pub(crate) clocks: [Clock; HOSTS],
    /// Connections to the disk, also those that are over.
    pub(crate) wires: Vec<Wire>,
    /// What the disk holds has changed, or what it has to hold.
    pub(crate) disk_changed: bool,
    /// What a process read that its guest has not written.
    pub(crate) wrong_read: Option<(ProcessId, String)>,
    pub(crate) to_disk_server: Duration,
    pub(crate) slow_replay: Duration,
    /// Backups that execute the log read the disk themselves.
    pub(crate) backup_reads: bool,
    /// The disk has lost something: what was read there may not be there any more.
    pub(crate) disk_has_lost: bool,
    /// What backups have to find there.
    pub(crate) shared_reads: Vec<(ProcessId, Range<usize>, Vec<u8>)>,
    /// How long a request to the disk is tried.
    pub(crate) disk_timeout: Duration,
    /// Backups come to protect the guest.
    pub(crate) may_protect: bool,
    /// The first guest waits for its backup.
    pub(crate) waits_for_backup: bool,
    /// Backups keep the log, and execute it when the primary is lost.
    pub(crate) cold: bool,
    pub(crate) checks: Checks,
    /// A process has ended.
    pub(crate) ended: bool,
    pub(crate) defect: Option<Defect>,
    trace: Option<Vec<String>>,
}

/// Over a network that is slower than the timeout no backup ever protects a guest.
fn may_protect(schedule: &Schedule) -> bool {
    schedule.heartbeat_timeout > schedule.latency * 4
}

impl Env {
    pub(crate) fn new(schedule: &Schedule, defect: Option<Defect>, trace: bool) -> Self {
        Self {
            // The machines count from it, and may look back.
            start: Instant::now() + Duration::from_secs(24 * 3600),
            now: Duration::ZERO,
            queue: BinaryHeap::new(),
            number: 0,
            rng: Rng::with_seed(schedule.seed ^ 0x5eed),
            settings: Settings {
                heartbeat_timeout: schedule.heartbeat_timeout,
                ..Settings::default()
            },
            network: Network::new(schedule.latency),
            clocks: Default::default(),
            wires: Vec::new(),
            disk_changed: false,
            wrong_read: None,
            to_disk_server: schedule.to_disk_server,
            slow_replay: Duration::ZERO,
            backup_reads: schedule.seed % 8 < 3,
            disk_has_lost: false,
            shared_reads: Vec::new(),
            disk_timeout: match schedule.seed % 5 {
                0 => Duration::from_secs(3),
                _ => DiskSettings::TIMEOUT,
            },
            waits_for_backup: schedule.seed % 4 == 3 && may_protect(schedule),
            may_protect: may_protect(schedule),
            cold: schedule.seed % 8 >= 6,
            checks: Checks::default(),
            ended: false,
            defect,
            trace: trace.then(Vec::new),
        }
    }

    /// The time, as the machines of a host have it.
    pub(crate) fn instant(&self, host: usize) -> Instant {
        self.start + self.clocks[host].shows(self.now)
    }

    /// The wall clock of a host, in nanoseconds.
    pub(crate) fn wall(&self, host: usize) -> u64 {
        self.clocks[host].wall(self.now)
    }

    pub(crate) fn after(&mut self, time: Duration, event: Event) {
        self.at(self.now + time, event);
    }

    pub(crate) fn at(&mut self, at: Duration, event: Event) {
        self.number += 1;
        let number = self.number;
        self.queue.push(Reverse(Queued { at, number, event }));
    }

    pub(crate) fn timer(&mut self, of: ProcessId, after: Duration, timer: Timer) {
        // A thread is not woken to the moment.
        let late = self.jitter(Duration::from_micros(400));
        self.after(after + late, Event::Timer { of, timer });
    }

    /// The next event, if there is one until then.
    pub(crate) fn next(&mut self, until: Duration) -> Option<Event> {
        let Reverse(next) = self.queue.peek()?;
        if next.at > until {
            return None;
        }
        let Reverse(next) = self.queue.pop()?;
        self.now = next.at;
        Some(next.event)
    }

    /// A time up to `most`.
    pub(crate) fn jitter(&mut self, most: Duration) -> Duration {
        Duration::from_micros(self.rng.u64(..=most.as_micros() as u64))
    }

    pub(crate) fn disk_server_latency(&mut self) -> Duration {
        self.to_disk_server + self.jitter(self.to_disk_server / 4)
    }

    /// Asks the disk server.
    pub(crate) fn ask(&mut self, by: ProcessId, host: usize, number: u64, question: Question) {
        let asked = Asked {
            by,
            host,
            number,
            question,
        };
        let (stage, after) = (Stage::Comes, self.disk_server_latency());
        self.after(
            after,
            Event::Asked {
                asked,
                stage,
                run: 0,
            },
        );
    }

    pub(crate) fn connect(&mut self, ends: [ProcessId; 2], hosts: [usize; 2]) -> usize {
        self.network.lines.push(Line::new(ends, hosts));
        self.network.lines.len() - 1
    }

    /// Sends to an end of a line, behind what was sent before.
    pub(crate) fn send(&mut self, line: usize, to: usize, item: Item) {
        let latency = self.network.latency;
        let at = self.now + latency + self.jitter(latency / 2);
        let last = &mut self.network.lines[line].last[to];
        let at = at.max(*last);
        *last = at;
        self.at(at, Event::Packet { line, to, item });
    }

    pub(crate) fn open_wire(&mut self, wire: Wire) -> usize {
        self.wires.push(wire);
        self.wires.len() - 1
    }

    /// Sends over a connection to the disk, behind what was sent before.
    pub(crate) fn send_disk(&mut self, wire: usize, item: DiskItem) {
        let at = self.now + self.disk_server_latency();
        let last = &mut self.wires[wire].way(item.is_to_server()).last;
        let at = at.max(*last);
        *last = at;
        self.at(at, Event::Disk { wire, item });
    }

    /// An end is closed by its process, or by the kernel of one that is gone.
    pub(crate) fn close(&mut self, line: usize, end: usize) {
        if std::mem::replace(&mut self.network.lines[line].open[end], false) {
            self.send(line, 1 - end, Item::Fin);
        }
    }

    pub(crate) fn send_beat(&mut self, from: usize, to: ProcessId, beat: Heartbeat) {
        let lost = self.rng.u32(..100) < self.network.loss;
        if !lost {
            let latency = self.network.latency;
            let after = latency + self.jitter(latency);
            self.after(after, Event::Datagram { to, from, beat });
        }
    }

    pub(crate) fn has(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    /// A line of the trace, where there is one.
    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let ms = self.now.as_secs_f64() * 1000.0;
            trace.push(format!("{ms:>10.3}  {}", line()));
        }
    }

    pub(crate) fn take_trace(&mut self) -> Vec<String> {
        self.trace.take().unwrap_or_default()
    }

    /// A reply leaves the host of a process that takes itself for the one of this epoch.
    pub(crate) fn leave(
        &mut self,
        (from, host): (ProcessId, usize),
        epoch: u64,
        reply: Reply,
        from_before: bool,
    ) {
        self.note(|| format!("{from}: out in epoch {epoch}: {reply:?}"));
        let by = (from, self.instant(host));
        if let Err(what) = self.checks.leaves(by, epoch, &reply, from_before) {
            self.fail(what);
        }
        let after = Duration::from_micros(200) + self.jitter(Duration::from_millis(1));
        self.after(after, Event::Reply { host, reply });
    }

    /// A promise was broken.
    pub(crate) fn fail(&mut self, what: String) {
        self.note(|| format!("BROKEN: {what}"));
        self.checks.broken.get_or_insert(what);
    }
}
