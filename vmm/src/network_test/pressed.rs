//! Whether a processor held a stage up, and not the network.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use disk_server::views::Text;
use serde::{Deserialize, Serialize};

/// The thread of this process that wanted a processor for most of a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Pressed {
    /// Its name.
    pub(super) thread: Text,
    /// The share of the stage, 0 to 1, in which it had a processor or waited for one.
    pub(super) share: f64,
}

/// From this share on a thread is what held the stage up.
const PRESSED: f64 = 0.75;

impl Pressed {
    /// Whether the stage could not have gone faster with more network.
    pub(super) fn is_bound(&self) -> bool {
        self.share >= PRESSED
    }
}

/// The threads of this process when a stage began.
#[derive(Debug)]
pub(super) struct Watch {
    since: Instant,
    threads: BTreeMap<String, Thread>,
}

#[derive(Debug)]
struct Thread {
    name: String,
    /// How long it had a processor, and waited for one.
    wanted: Duration,
}

impl Watch {
    pub(super) fn begin() -> Self {
        Self {
            since: Instant::now(),
            threads: threads(),
        }
    }

    /// The one that wanted most since; `None` if this kernel does not tell.
    pub(super) fn end(&self) -> Option<Pressed> {
        let time = self.since.elapsed().as_secs_f64();
        let wanted = threads().into_iter().map(|(id, thread)| {
            let before = self.threads.get(&id).map_or(Duration::ZERO, |it| it.wanted);
            (thread.wanted.saturating_sub(before), thread.name)
        });
        let (wanted, thread) = wanted.max()?;
        Some(Pressed {
            thread: Text::cut(&thread),
            share: (wanted.as_secs_f64() / time).min(1.0),
        })
    }
}

/// The threads of this process, by their numbers.
fn threads() -> BTreeMap<String, Thread> {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else {
        return BTreeMap::new();
    };
    let thread = |folder: fs::DirEntry| {
        let read = |name| fs::read_to_string(folder.path().join(name)).ok();
        let thread = Thread {
            name: read("comm")?.trim_end().to_owned(),
            wanted: wanted(&read("schedstat")?)?,
        };
        Some((folder.file_name().into_string().ok()?, thread))
    };
    tasks.flatten().filter_map(thread).collect()
}

/// What a thread had of a processor, and waited for one, both in nanoseconds (the kernel's
/// Documentation/scheduler/sched-stats.rst).
fn wanted(schedstat: &str) -> Option<Duration> {
    let mut nanos = schedstat.split_whitespace().map(str::parse);
    let (had, waited): (u64, u64) = (nanos.next()?.ok()?, nanos.next()?.ok()?);
    Some(Duration::from_nanos(had) + Duration::from_nanos(waited))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_waits_for_a_processor_wants_one() {
        let wanted = wanted("2000000000 500000000 17\n");
        assert_eq!(wanted, Some(Duration::from_millis(2500)));
        assert_eq!(super::wanted("0\n"), None);
    }

    /// Others of this process may be as busy for a while, and not for ever.
    #[test]
    fn the_busiest_thread_is_named() {
        const NAME: &str = "spins";
        let spin = || {
            let watch = Watch::begin();
            let is_busiest = |it: Pressed| it.thread.as_str() == NAME && it.share > 0.0;
            // A kernel without these figures names none.
            while !watch.end().is_none_or(is_busiest) {
                std::hint::spin_loop();
            }
        };
        let spinning = std::thread::Builder::new().name(NAME.into()).spawn(spin);
        spinning.expect("a thread").join().expect("no panic");
    }
}
