//! How fast this machine is just now: its processors may be another's too.

use std::fs;
use std::hint::black_box;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How the machine was during a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MachineState {
    /// Steps in a microsecond of a loop that is always the same, before and after: the mean.
    pub speed: f64,
    /// Part of its processors' time that others had meanwhile, as far as it is told (steal of
    /// `/proc/stat` in proc(5)).
    pub stolen: f64,
}

/// Where others had more than this part of the machine, a measurement says little of what is measured.
const SPOILED: f64 = 0.2;

impl MachineState {
    /// Whether others had so much of the machine that the measurement is to be made again at another
    /// time.
    #[must_use]
    pub fn is_spoiled(&self) -> bool {
        self.stolen > SPOILED
    }
}

/// The machine at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Glance {
    speed: f64,
    ticks: Option<Ticks>,
}

/// Processor time since the machine's boot, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticks {
    all: u64,
    stolen: u64,
}

/// Words of the loop's memory: more than a processor's innermost cache holds.
const WORDS: usize = 1 << 16;
/// How long it runs.
const LONG_ENOUGH: Duration = Duration::from_millis(50);
/// Steps between two looks at the clock.
const STEPS: u32 = 20_000;

/// Looks.
pub(super) fn glance() -> Glance {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    Glance {
        speed: speed(),
        ticks: ticks(&stat),
    }
}

impl Glance {
    /// How the machine was since an earlier look.
    pub(super) fn since(&self, before: &Self) -> MachineState {
        let stolen = before.ticks.zip(self.ticks).map(|(before, after)| {
            let all = after.all.saturating_sub(before.all).max(1);
            after.stolen.saturating_sub(before.stolen) as f64 / all as f64
        });
        MachineState {
            speed: f64::midpoint(before.speed, self.speed),
            stolen: stolen.unwrap_or(0.0),
        }
    }
}

/// Steps in a microsecond: each reads the word of which the last one tells, and changes it.
fn speed() -> f64 {
    let mut words: Vec<u32> = (0..WORDS as u32).collect();
    let (mut at, mut steps) = (0u32, 0u64);
    let since = Instant::now();
    while since.elapsed() < LONG_ENOUGH {
        for _ in 0..STEPS {
            let word = &mut words[at as usize % WORDS];
            // A step of a linear congruential generator (Numerical Recipes).
            at = at.wrapping_mul(1_664_525).wrapping_add(1_013_904_223) ^ *word;
            *word = word.rotate_left(1);
        }
        steps += u64::from(STEPS);
    }
    black_box(words);
    steps as f64 / since.elapsed().as_secs_f64() / 1e6
}

/// Of the first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal. What
/// comes then is part of the first two.
fn ticks(stat: &str) -> Option<Ticks> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = fields
        .split_whitespace()
        .take(8)
        .map_while(|field| field.parse().ok())
        .collect();
    Some(Ticks {
        all: fields.iter().sum(),
        stolen: *fields.get(7)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stolen_is_a_part_of_all() {
        let at = |stolen: u64, speed| Glance {
            speed,
            ticks: ticks(&format!(
                "cpu  100 0 50 {} 5 1 1 {stolen} 30 0\ncpu0 7\n",
                900 - stolen
            )),
        };
        assert_eq!(at(0, 1.0).ticks.expect("a line").all, 1057);
        let mut later = at(0, 3.0);
        later.ticks = ticks("cpu  150 0 50 900 5 1 1 50 30 0\n");
        let state = later.since(&at(0, 1.0));
        assert_eq!((state.speed, state.stolen), (2.0, 0.5));
    }

    #[test]
    fn an_older_kernel_tells_of_nothing_stolen() {
        assert_eq!(ticks("cpu  1 2 3 4\n"), None);
        assert_eq!(ticks(""), None);
    }

    #[test]
    fn a_machine_has_a_speed() {
        let glance = glance();
        assert!(glance.speed > 0.0 && glance.speed.is_finite());
    }
}
